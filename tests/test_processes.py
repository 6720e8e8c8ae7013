"""How a run starts; two processes train as one does with twice the batch."""

import json
import platform
import resource
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from forked import run_python

from e2evit.data import load_e2e
from e2evit.results.record import Result
from e2evit.training.process import keep_freed_memory

ROOT = Path(__file__).parents[1]
LAUNCH = ("-m", "accelerate.commands.launch", "--config_file")
NUMBER = 96  # jets: full batches for one process and for two

# BatchNorm depends on its process's batch; with per-image norms instead, everything must agree
CODE = f"""
import json, sys
from pathlib import Path
from accelerate.utils import set_seed
from torch import nn
from e2evit.data import find_schema, load_e2e
from e2evit.training import (
    AugmentationArguments, Recipe, TargetArguments, TrainArguments, loop, new_model, rewind, start_accelerator
)

jets, folder, how = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
if how:
    rewind.DEFERRED = {{"cpu"}}  # as on GPUs
accelerator = start_accelerator("no")
batch_size = 16 // accelerator.num_processes
set_seed(0)
with accelerator.main_process_first():
    dataset = load_e2e("simulated", jets, cache_dir=folder / "cache")
dataset["train"] = dataset["train"].select(range({NUMBER}))
settings = TrainArguments(output_dir=str(folder / f"run{{accelerator.num_processes}}{{how}}"), num_train_epochs=3,
                          per_device_batch_size=batch_size, ema_decay=0.9, report_to="none")
augmentation = AugmentationArguments(flips=False)
recipe = Recipe(targets=TargetArguments("jet_mass"), augmentation=augmentation, training=settings)
model, processor = new_model(folder / "model.json", find_schema("simulated", jets), dataset["train"], "jet_mass")
for module in list(model.modules()):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(1, child.num_features))
    if isinstance(module, nn.ModuleList):
        for number, child in enumerate(module):
            if isinstance(child, nn.BatchNorm2d):
                module[number] = nn.GroupNorm(1, child.num_features)
settings.logging_steps, seen = 4, []
if how == "sick" and accelerator.process_index:
    forward, known = model.forward, []
    def sick(**batch):
        known.append(seen[-1]) if seen[-1] not in known else None
        outputs = forward(**batch)
        if known.index(seen[-1]) >= 3:  # however often it is repeated
            outputs.loss = outputs.loss * float("nan")
        return outputs
    model.forward = sick
step = loop.train_step
def record(run, epoch, batch, waits):
    seen.append([epoch, *batch["rows"].tolist()])
    return step(run, epoch, batch, waits)
loop.train_step = record
history = loop.fit(accelerator, model, dataset, processor, recipe)
name = f"{{accelerator.num_processes}}{{how}}_{{accelerator.process_index}}.json"
(folder / name).write_text(json.dumps({{"epochs": history.epochs, "seen": seen}}))
accelerator.end_training()
"""


@pytest.fixture(scope="module")
def runs(jets_dir, tmp_path_factory):
    """What each process of a run with one and of a run with two wrote."""
    folder = tmp_path_factory.mktemp("runs")
    model = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    (folder / "model.json").write_text(json.dumps(model))
    (folder / "script.py").write_text(CODE)
    for config, how in (("one_process", ""), ("two_cpu_processes", ""), ("two_cpu_processes", "later")):
        done = run_python(
            *LAUNCH, ROOT / f"recipes/accelerate/{config}.yaml", folder / "script.py", jets_dir, folder, how
        )
        assert not done.returncode, done.stderr[-3000:]
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("[12]*_*.json")} | {"folder": folder}


@pytest.mark.slow
@pytest.mark.distributed
def test_losses_that_processes_read_later(runs, jets_dir):
    """They are the same; one that is not finite is found, whichever process it is in."""
    assert runs["2_0"]["seen"] == runs["2later_0"]["seen"]
    for epoch, later in zip(runs["2_0"]["epochs"], runs["2later_0"]["epochs"], strict=True):
        assert epoch["loss"] == later["loss"]
    folder = runs["folder"]
    config = ROOT / "recipes/accelerate/two_cpu_processes.yaml"
    done = run_python(*LAUNCH, config, folder / "script.py", jets_dir, folder, "sick")
    assert done.returncode
    assert "The loss is nan in step 4 of epoch 1" in done.stderr
    assert (folder / "run2sick/not_finite_process_1/model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_the_losses_agree(runs):
    """Within 0.1 %: the order of summation differs, and Adam magnifies that where gradients vanish."""
    for one, two in zip(runs["1_0"]["epochs"], runs["2_0"]["epochs"], strict=True):
        for name in ("loss", "classification_loss", "mass_loss", "validation_loss", "validation_mass_mae_gev"):
            assert one[name] == pytest.approx(two[name], rel=1e-3), name
        assert one["validation_accuracy"] == two["validation_accuracy"]


@pytest.mark.slow
@pytest.mark.distributed
def test_no_jet_is_lost_or_seen_twice(runs):
    for epoch in range(3):
        seen = [
            [row for number, *rows in runs[name]["seen"] if number == epoch for row in rows]
            for name in ("1_0", "2_0", "2_1")
        ]
        assert sorted(seen[0]) == sorted(seen[1] + seen[2]) == list(range(NUMBER))
    orders = [rows for number, *rows in runs["1_0"]["seen"]]
    assert orders[0] != orders[NUMBER // 16]


@pytest.mark.slow
@pytest.mark.distributed
def test_validation_counts_each_jet_once(runs, jets_dir, tmp_path):
    """Two processes with batches of eight pad twelve jets to sixteen; the padding is not measured."""
    masses = np.array(load_e2e("simulated", jets_dir, split="validation", cache_dir=tmp_path / "cache")["jet_mass"])
    assert len(masses) % 16
    one, two = (runs[name]["epochs"][0]["validation_mass_response_low"] for name in ("1_0", "2_0"))
    assert one == pytest.approx(two, rel=1e-3)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_and_then_evaluate(jets_dir, tmp_path):
    """From Python: they leave their group after training and find each other again."""
    code = """
import sys, e2evit
jets, folder = sys.argv[1:]
settings = e2evit.TrainArguments(output_dir=f"{folder}/run", num_train_epochs=1, report_to="none")
config = e2evit.XCiTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
data = e2evit.DataArguments(data_dir=jets, cache_dir=f"{folder}/cache")
trained = e2evit.train(config, data, settings, targets=e2evit.TargetArguments(mass_column="jet_mass"))
result = e2evit.evaluate(trained, data)
assert (result is not None) == trained.is_main_process
if result is not None:
    result.to_json(f"{folder}/result.json")
"""
    (tmp_path / "script.py").write_text(code)
    command = [*LAUNCH, ROOT / "recipes/accelerate/two_cpu_processes.yaml", tmp_path / "script.py", jets_dir, tmp_path]
    done = run_python(*command)
    assert not done.returncode, done.stderr[-3000:]
    result = Result.from_json(tmp_path / "result.json")
    assert result.hardware["num_processes"] == 2
    assert len(pq.read_table(tmp_path / "result.parquet")) == result.data["test"]["rows"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="The setting is glibc's.")
def test_tensors_reuse_freed_memory():
    """64 MiB are 16 384 pages, which by default glibc returns and the kernel zeroes again."""
    keep_freed_memory()
    values = torch.rand(2**24, requires_grad=True)
    page_faults = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        values.sin().sin().sin().sin().sum().backward()
        values.grad = None
        page_faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert sum(page_faults[3:]) / 3 < 65_536  # 196 620 by default; not 0, because the heap gets holes
