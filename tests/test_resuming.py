"""Nothing is lost: states, signals, kills, full disks, dead processes. benchmarks/chaos.py is the long version."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from killed import resume_until_done
from safetensors.torch import load_file

from e2evit.training import (
    AugmentationArguments,
    DataArguments,
    Preempted,
    TargetArguments,
    TrainArguments,
    loop,
    train,
)
from e2evit.training.state import RunState, StopRequest, fixed_settings, latest_state

ROOT = Path(__file__).parents[1]
MODEL = {
    "model_type": "xcit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "drop_path_rate": 0.3,
}


@pytest.fixture
def model_json(tmp_path):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(MODEL))
    return path


@pytest.fixture
def run(jets_dir, model_json, tmp_path):
    """A function that trains in this process, using everything that has state, and returns model and history."""

    def start(name, **overrides):
        settings = {"num_train_epochs": 2, "per_device_batch_size": 16, "ema_decay": 0.9, "save_steps": 1}
        settings |= {"optimizer": "muon", "mixed_precision": "no", "report_to": "none", "overwrite_output_dir": True}
        trained = train(
            model_json,
            DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache")),
            TrainArguments(output_dir=str(tmp_path / name), **(settings | overrides)),
            targets=TargetArguments(mass_column="jet_mass"),
            augmentation=AugmentationArguments(dead_crystals=0.1),
        )
        return trained.model, trained.history

    return start


def equal_weights(first, second):
    return all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resuming_after_any_step_gives_the_same_weights(run, monkeypatch, accumulation):
    settings = {"gradient_accumulation_steps": accumulation, "logging_steps": 1}
    whole, history = run("whole", **settings)
    settings["resume_from_checkpoint"] = True
    resumed, again = resume_until_done(lambda: run("parts", **settings), monkeypatch)
    assert equal_weights(whole, resumed)
    for first, second in zip(history.epochs, again.epochs, strict=True):
        assert [first[key] for key in first if "second" not in key] == [
            second[key] for key in second if "second" not in key
        ]
    assert again.images_seen == history.images_seen
    assert again.curve == history.curve
    last, by_epoch = history.curve[-1], [point["loss"] for point in history.curve[: len(history.curve) // 2]]
    assert last["images_seen"] >= history.images_seen
    assert np.mean(by_epoch) == pytest.approx(history.epochs[0]["loss"])


def test_states_that_are_kept(run, tmp_path):
    run("run", keep_states=2, save_steps=3)
    states = sorted(path.name for path in (tmp_path / "run/state").iterdir())
    assert states[-1] == "epoch-00002-batch-000000"
    assert len(states) == 2
    assert not (latest_state(tmp_path / "run/state") / "custom_checkpoint_0.pkl").exists()
    run("run", num_train_epochs=1, keep_states=2, save_steps=0)
    assert [path.name for path in (tmp_path / "run/state").iterdir()] == ["epoch-00001-batch-000000"]


def test_a_run_with_other_settings_is_not_resumed(run, model_json, tmp_path):
    run("run", save_steps=3)
    with pytest.raises(ValueError, match=r"settings: learning_rate \(was 0.001, is 0.1\)\. Resume with the same"):
        run("run", learning_rate=0.1, resume_from_checkpoint=True)
    model_json.write_text(json.dumps(MODEL | {"hidden_size": 32}))
    with pytest.raises(ValueError, match=r"hidden_size \(was 16, is 32\)"):
        run("run", save_steps=2, resume_from_checkpoint=True)


def test_a_state_from_before_a_setting_is_resumed(run, monkeypatch):
    """One that an earlier version did not have was off."""
    new = {"containment", "contained_classes"}

    def known_before(*arguments):
        return {name: value for name, value in fixed_settings(*arguments).items() if name not in new}

    with monkeypatch.context() as patch:
        patch.setattr(loop, "fixed_settings", known_before)
        run("run", save_steps=3)
    _, history = run("run", save_steps=3, resume_from_checkpoint=True)
    assert len(history.epochs) == 2


def test_sigterm_saves_and_ends(run, monkeypatch, tmp_path):
    whole, _ = run("whole")
    agreed = StopRequest.agreed

    def terminated(self, accelerator):
        os.kill(os.getpid(), signal.SIGTERM)
        return agreed(self, accelerator)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(StopRequest, "agreed", terminated)
    with pytest.raises(Preempted, match="epoch-00000-batch-000001 is complete"):
        run("parts", save_steps=0)
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    resumed, _ = run("parts", save_steps=0, resume_from_checkpoint=True)
    assert equal_weights(whole, resumed)


def test_a_full_disk_leaves_the_previous_state(run, monkeypatch, tmp_path):
    """A limit on file sizes stands in for a full disk."""
    whole, _ = run("whole")
    save, limits = RunState.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(self):
        if self.history.batches == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            save(self)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(RunState, "save", full)
    with pytest.raises(OSError, match=r"batch-000002: .*batch-000001 is complete: make room"):
        run("parts")
    monkeypatch.undo()
    assert load_file(tmp_path / "parts/state/epoch-00000-batch-000001/average.safetensors")
    resumed, _ = run("parts", resume_from_checkpoint=True)
    assert equal_weights(whole, resumed)


def test_another_number_of_processes_is_refused(run, tmp_path):
    run("run", num_train_epochs=1)
    (latest_state(tmp_path / "run/state") / "totals_1.json").write_text("{}")
    with pytest.raises(ValueError, match="2 processes, not 1"):
        run("run", resume_from_checkpoint=True)


def start(script, *arguments, processes=1):
    """Start a run in the background, in its own process group."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    config = "two_cpu_processes" if processes == 2 else "one_process"
    command = [sys.executable, script]
    if processes == 2:
        command = ["accelerate", "launch", "--config_file", f"recipes/accelerate/{config}.yaml", script]
    return subprocess.Popen(
        [str(part) for part in (*command, *arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(process, condition, seconds=100):
    for _ in range(20 * seconds):
        if condition():
            return
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.05)
    raise TimeoutError


@pytest.mark.distributed
@pytest.mark.slow
def test_signals_to_scripts_and_a_dead_process(jets_dir, model_json, tmp_path):
    """SIGTERM ends a script with code 75; a killed process takes the other with it, and the state remains."""
    arguments = ("--model_config", model_json, "--data_dir", jets_dir, "--mass_column", "jet_mass", "--save_steps", 1)
    arguments += ("--cache_dir", tmp_path / "cache", "--num_train_epochs", 500, "--mixed_precision", "no")
    arguments += ("--per_device_batch_size", 16, "--resume_from_checkpoint", "--output_dir")
    single = start("scripts/train.py", *arguments, tmp_path / "single")
    wait_for(single, lambda: latest_state(tmp_path / "single/state"))
    single.send_signal(signal.SIGTERM)
    output = single.communicate(timeout=30)[0]
    assert single.returncode == 75, output[-3000:]
    assert "Stopped by SIGTERM" in output

    pair = start("scripts/train.py", *arguments, tmp_path / "pair", processes=2)
    wait_for(pair, lambda: latest_state(tmp_path / "pair/state"))
    children = Path(f"/proc/{pair.pid}/task/{pair.pid}/children")
    if not children.exists():
        pytest.skip("needs Linux to find the processes of a launcher")
    ranks = children.read_text().split()
    os.kill(int(ranks[-1]), signal.SIGKILL)
    killed_at = time.monotonic()
    output = pair.communicate(timeout=60)[0]
    assert pair.returncode != 0
    assert time.monotonic() - killed_at < 60
    assert "SIGKILL" in output or "Signal 9" in output
    assert load_file(latest_state(tmp_path / "pair/state") / "best.safetensors")
