"""Nothing that only describes a run may end it: machine, versions, commit, trackers, the record."""

import logging
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from accelerate import Accelerator

import e2evit
from e2evit.cli.train import HubArguments, publish
from e2evit.results import record
from e2evit.training import Recipe
from e2evit.training import run as training_run


def fail(error):
    def failing(*arguments, **options):
        raise error

    return failing


@pytest.mark.parametrize(
    ("target", "name", "error"),
    [
        (Path, "read_text", PermissionError(13, "Permission denied")),
        (record, "version", PackageNotFoundError("torch")),
        (subprocess, "run", FileNotFoundError("git")),
        (subprocess, "run", PermissionError("git")),
        (subprocess, "run", subprocess.TimeoutExpired("git", 10)),
    ],
)
def test_provenance_leaves_out_what_it_cannot_find(target, name, error, monkeypatch):
    monkeypatch.setattr(target, name, fail(error))
    made = record.provenance(threads=2)
    assert made["hardware"]["processor"] is not None
    assert made["versions"]["python"]
    assert made["commit"] is None or target is not subprocess


@pytest.fixture(scope="module")
def start(jets_dir, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def start(output_dir):
        config = e2evit.XCiTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
        data = e2evit.DataArguments(data_dir=str(jets_dir), cache_dir=str(cache))
        settings = e2evit.TrainArguments(
            output_dir=str(output_dir), num_train_epochs=1, mixed_precision="no", report_to="none"
        )
        return e2evit.train(config, data, settings, targets=e2evit.TargetArguments(mass_column="jet_mass"))

    return start


def test_a_tracker_that_does_not_start(start, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Accelerator, "init_trackers", fail(PermissionError("logs")))
    start(tmp_path)
    assert "The run continues without its tracker: PermissionError: logs" in caplog.text
    assert (tmp_path / "model.safetensors").is_file()


def test_trackers_and_a_record_that_fail_later(start, tmp_path, monkeypatch, caplog):
    class Broken:
        log, finish = fail(OSError(28, "No space left on device")), fail(RuntimeError("closed"))

    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, *_, **__: self.trackers.append(Broken()))
    monkeypatch.setattr(training_run, "run_info", fail(KeyError("who am I?")))
    caplog.set_level(logging.WARNING)
    trained = start(tmp_path)
    assert caplog.text.count("without its tracker") == 1
    assert "without the record of its machine and data: KeyError" in caplog.text
    assert (tmp_path / "model.safetensors").is_file()

    monkeypatch.setattr("e2evit.cli.train.evaluate", lambda *_, **__: None)
    publish(trained, Recipe(), HubArguments(push_to_hub="a/b"))
    monkeypatch.setattr("e2evit.cli.train.evaluate", fail(KeyError("template")))
    with pytest.raises(RuntimeError, match="is complete, but publishing it failed: 'template'"):
        publish(trained, Recipe(), HubArguments(push_to_hub="a/b"))
