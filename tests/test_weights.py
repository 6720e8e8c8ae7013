"""The running mean of weights, and sharded weights: FSDP2 in two CPU processes, with gloo instead of NCCL."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import merge_fsdp_weights
from e2evit.modeling import XCiTForImageClassification
from forked import run_python
from safetensors.torch import load_file

from e2evit.training.state import latest_state
from e2evit.training.weights import RunningMean, measure_batch_norms

ROOT = Path(__file__).parents[1]
MODEL = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
STOP_AFTER = 13  # steps: the middle of the second epoch

CODE = f"""
import json, sys
from pathlib import Path
from e2evit.cli.train import main
from e2evit.training import loop
from e2evit.training.weights import local_weights

_, stops, *arguments = sys.argv
load_whole, asked = loop.load_whole, []
def record(accelerator, model, weights):
    here = sum(tensor.numel() for tensor in local_weights(model).values())
    everywhere = sum(tensor.numel() for tensor in model.state_dict().values())
    path = Path(arguments[arguments.index("--output_dir") + 1]) / f"share_{{accelerator.process_index}}.json"
    path.write_text(json.dumps([here, everywhere]))
    load_whole(accelerator, model, weights)
def agreed(self, accelerator):
    asked.append(None)
    return stops == "stop" and len(asked) == {STOP_AFTER}
loop.load_whole, loop.StopRequest.agreed = record, agreed
main(arguments)
"""


@pytest.fixture(scope="module")
def folder(jets_dir, tmp_path_factory):
    """Runs with all weights in each process (`copied`), sharded (`sharded`), and sharded with a stop (`stopped`)."""
    folder = tmp_path_factory.mktemp("sharding")
    (folder / "model.json").write_text(json.dumps(MODEL))
    (folder / "script.py").write_text(CODE)

    def launch(name, config, *launcher, stop=False):
        command = ["-m", "accelerate.commands.launch"]
        command += ["--config_file", ROOT / f"recipes/accelerate/{config}.yaml", *launcher]
        command += [folder / "script.py", "stop" if stop else "finish", "--output_dir", folder / name]
        command += ["--data_dir", jets_dir, "--cache_dir", folder / "cache", "--model_config", folder / "model.json"]
        command += ["--mass_column", "jet_mass", "--num_train_epochs", 3, "--per_device_batch_size", 8]
        command += ["--ema_decay", 0.9, "--mixed_precision", "no", "--report_to", "none", "--resume_from_checkpoint"]
        done = run_python(*command)
        assert bool(done.returncode) == stop, done.stderr[-3000:]

    launch("copied", "two_cpu_processes")
    launch("sharded", "two_cpu_processes_fsdp2")
    in_pieces = ("--fsdp_state_dict_type", "SHARDED_STATE_DICT")
    launch("stopped", "two_cpu_processes_fsdp2", *in_pieces, stop=True)
    assert latest_state(folder / "stopped/state").name.startswith("epoch-00001")
    launch("stopped", "two_cpu_processes_fsdp2", *in_pieces)
    return folder


def test_the_average_is_the_mean_of_the_weights():
    """Computed by hand, with its faster start; BatchNorm statistics are averaged, the counter is not."""
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(1))
    average, expected = RunningMean(Accelerator(cpu=True), model, 0.5), None
    for step in range(12):
        value = float(step**2)
        model[0].weight.data.fill_(value)
        model[0].running_mean.fill_(value)
        model[0].num_batches_tracked += 1
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    with average.in_model():
        assert model[0].weight.item() == pytest.approx(expected)
        assert model[0].running_mean.item() == pytest.approx(expected)
        assert model[0].num_batches_tracked == 12
    assert model[0].weight.item() == value


class OneNorm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)

    def forward(self, pixel_values):
        return self.norm(pixel_values)


def test_batch_norms_get_the_means_of_all_batches():
    """All batches count equally, earlier statistics do not count, and nothing else changes."""
    model, batches = OneNorm().eval(), torch.randn(4, 10, 3).mul(3).add(5)
    loader = [{"pixel_values": batch, "rows": torch.arange(10)} for batch in batches]
    measure_batch_norms(Accelerator(cpu=True), model, loader)
    torch.testing.assert_close(model.norm.running_mean, batches.mean((0, 1)))
    torch.testing.assert_close(model.norm.running_var, batches.var(1).mean(0))
    assert not model.training
    assert model.norm.momentum == 0.1
    assert model.norm.weight.tolist() == [1.0] * 3


def test_a_model_without_batch_norms_reads_no_batch():
    def batches():
        raise AssertionError
        yield

    measure_batch_norms(Accelerator(cpu=True), torch.nn.LayerNorm(3), batches())


def epochs(folder: Path) -> list[dict]:
    return json.loads((folder / "run_info.json").read_text())["epochs"]


@pytest.mark.slow
@pytest.mark.distributed
def test_each_process_holds_half(folder):
    for process in range(2):
        here, everywhere = json.loads((folder / f"sharded/share_{process}.json").read_text())
        assert 0.4 * everywhere < here < 0.6 * everywhere
        here, everywhere = json.loads((folder / f"copied/share_{process}.json").read_text())
        assert here == everywhere


@pytest.mark.slow
@pytest.mark.distributed
def test_losses_are_those_without_sharding(folder):
    """Within 0.01 %: gradients are summed in another order."""
    for copied, sharded in zip(epochs(folder / "copied"), epochs(folder / "sharded"), strict=True):
        for name in ("loss", "classification_loss", "mass_loss", "validation_loss", "validation_mass_mae_gev"):
            assert sharded[name] == pytest.approx(copied[name], rel=1e-4), name


@pytest.mark.slow
@pytest.mark.distributed
def test_the_checkpoint_is_whole(folder):
    model, report = XCiTForImageClassification.from_pretrained(folder / "sharded", output_loading_info=True)
    assert not any(report.values())
    expected = load_file(folder / "sharded/state/epoch-00003-batch-000000/best.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    config = json.loads((folder / "sharded/config.json").read_text())
    assert config["architectures"] == ["XCiTForImageClassification"]
    files = [{path.name for path in (folder / name).iterdir()} for name in ("copied", "sharded")]
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_sharded_state_resumes_to_the_same_weights(folder):
    """Bit for bit, running mean included, although its states are written in shards and the other run's whole."""
    expected, found = (load_file(folder / name / "model.safetensors") for name in ("sharded", "stopped"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.slow
@pytest.mark.distributed
def test_a_sharded_state_is_merged_into_one_file(folder):
    state = "state/epoch-00003-batch-000000"
    merge_fsdp_weights(str(folder / "stopped" / state / "pytorch_model_fsdp_0"), str(folder / "merged"))
    merged = load_file(folder / "merged/model.safetensors")
    whole = torch.load(folder / "sharded" / state / "pytorch_model_fsdp.bin", weights_only=True)
    assert merged.keys() == whole.keys()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in whole.items())
