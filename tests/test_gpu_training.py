"""Whole trainings on a GPU. With `cpu`, the same tests show that they run, and that a CPU does what a GPU must."""

import json
from pathlib import Path

import pytest
import torch
from forked import run_python
from killed import resume_until_done
from test_resuming import equal_weights

from e2evit.training import (
    AugmentationArguments,
    DataArguments,
    TargetArguments,
    TrainArguments,
    compiled,
    loop,
    train,
)

ROOT = Path(__file__).parents[1]
DEVICES = [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pixel_hidden_size": 8}
SMALL |= {"log_mass": True, "mass_loss": "quantile"}
MODELS = {
    "xcit": SMALL | {"drop_path_rate": 0.3, "pixel_features": True},
    "linearvit": {"hidden_sizes": [16], "depths": [2], "num_attention_heads": [2], "mlp_ratios": [2]},
    "hitvit": SMALL,
}


@pytest.fixture
def run(jets_dir, tmp_path):
    """A function that trains where this process does (see conftest.py), and returns model and history."""

    def start(name, device, model_type="xcit", config=None, **overrides):
        model = MODELS[model_type] | {"model_type": model_type} | (config or {})
        (tmp_path / "model.json").write_text(json.dumps(model))
        settings = {"num_train_epochs": 2, "per_device_batch_size": 16, "ema_decay": 0.9, "optimizer": "muon"}
        settings |= {"mixed_precision": "no", "report_to": "none", "overwrite_output_dir": True, "logging_steps": 3}
        trained = train(
            tmp_path / "model.json",
            DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache")),
            TrainArguments(output_dir=str(tmp_path / name), **(settings | overrides)),
            targets=TargetArguments(mass_column="jet_mass"),
            augmentation=AugmentationArguments(dead_crystals=0.1),
        )
        hardware = json.loads((tmp_path / name / "run_info.json").read_text())["hardware"]
        assert hardware["device"].startswith(device)
        return trained.model, trained.history

    return start


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def losses(history):
    return [entry[name] for entry in history.epochs for name in ("loss", "validation_loss")]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model_type", ["xcit", "hitvit"])
@pytest.mark.usefixtures("deterministic")
def test_resuming_gives_the_same_bits(run, monkeypatch, device, model_type):
    own = {"device": device, "model_type": model_type, "save_steps": 3, "device_data": "yes"}
    whole, history = run("whole", **own)
    resumed, again = resume_until_done(lambda: run("parts", resume_from_checkpoint=True, **own), monkeypatch)
    assert equal_weights(whole, resumed)
    assert losses(again) == losses(history)


@pytest.mark.gpu
@pytest.mark.parametrize("model_type", ["xcit", "hitvit"])
def test_resuming_with_any_algorithms(run, monkeypatch, model_type):
    own = {"device": "cuda", "model_type": model_type, "save_steps": 3}
    whole, history = run("whole", **own)
    resumed, again = resume_until_done(lambda: run("parts", resume_from_checkpoint=True, **own), monkeypatch)
    assert losses(again) == pytest.approx(losses(history), rel=1e-4)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("model_type", "device_data"), [("xcit", "yes"), ("xcit", "no"), ("hitvit", "yes")])
def test_no_step_waits_for_the_device(run, monkeypatch, device, model_type, device_data):
    """From the second step on, when constants are there. HitViT waits for the number of occupied pixels."""
    step, done = loop.train_step, []

    def watched(*arguments):
        is_watched = device == "cuda" and done and model_type != "hitvit"
        torch.cuda.set_sync_debug_mode("error") if is_watched else None
        try:
            done.append(step(*arguments))
        finally:
            torch.cuda.set_sync_debug_mode("default") if is_watched else None
        return done[-1]

    monkeypatch.setattr(loop, "train_step", watched)
    run("run", device, model_type, device_data=device_data)
    assert len(done) > 10
    assert {terms.device.type for terms in done} == {device}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of inductor
def test_a_graph_trains_as_single_kernels_do(run, monkeypatch):
    own = {"config": {"drop_path_rate": 0.0}}  # inductor draws other random numbers
    eager, history = run("eager", "cuda", torch_compile=False, **own)
    monkeypatch.setattr(compiled, "MIN_IMAGES", 1)
    calls, compile_with = [], torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda *args, **kwargs: calls.append(kwargs) or compile_with(*args, **kwargs)
    )
    graph, other = run("graph", "cuda", **own)
    assert calls == [{"mode": "reduce-overhead", "dynamic": False}]
    assert losses(other) == pytest.approx(losses(history), rel=0.02)
    with torch.no_grad():
        images = torch.rand(4, 8, 125, 125, device="cuda")
        torch.testing.assert_close(graph(images).logits, eager(images).logits, rtol=0.1, atol=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("model_type", MODELS)
def test_float16_stays_finite(run, model_type):
    _, history = run("run", "cuda", model_type, mixed_precision="fp16")
    assert all(value == value for value in losses(history))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("config", ["several_gpus", "fsdp2"])
def test_processes_with_a_gpu_each(config, jets_dir, tmp_path):
    """As many as there are, at most two."""
    number = min(2, torch.cuda.device_count())
    (tmp_path / "model.json").write_text(json.dumps(MODELS["xcit"] | {"model_type": "xcit"}))
    command = ["-m", "accelerate.commands.launch", "--config_file", ROOT / f"recipes/accelerate/{config}.yaml"]
    command += ["--num_processes", number, "scripts/train.py", "--data_dir", jets_dir, "--mass_column", "jet_mass"]
    command += ["--model_config", tmp_path / "model.json", "--output_dir", tmp_path / "run", "--num_train_epochs", 2]
    command += ["--per_device_batch_size", 8, "--report_to", "none", "--cache_dir", tmp_path / "cache"]
    done = run_python(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "run/run_info.json").read_text())
    assert record["hardware"]["num_processes"] == number
    assert record["hardware"]["device"].startswith("cuda")
