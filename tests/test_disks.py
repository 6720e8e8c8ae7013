"""Disks that change files: noticed before anything is read from them. Disks that fill up: no half file is left."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from full_disk import full_disk
from safetensors.torch import load_file
from transformers import AutoImageProcessor

from e2evit import load_e2e
from e2evit.cli.command import run as command
from e2evit.data.jobs import workers
from e2evit.data.locks import held
from e2evit.data.manifest import check_weights
from e2evit.simulation import produce
from e2evit.training import (
    DataArguments,
    TargetArguments,
    TrainArguments,
    checkpoint,
    end_processes,
    load_model,
    predict_in_pieces,
    start_accelerator,
    train,
)
from e2evit.training import state as training_state
from e2evit.training.collate import E2ECollator
from e2evit.training.state import History, RunState, intact_state

MODEL = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
FILES = ("model.safetensors", "optimizer.bin", "random_states_0.pkl", "totals_0.json", "state.json")
FILES += ("best.safetensors", "average.safetensors", "manifest.json")


def flip(path, position=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 8
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


DAMAGES = (flip, truncate, empty, delete)


@pytest.fixture(scope="module")
def start(jets_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    (folder / "model.json").write_text(json.dumps(MODEL))

    def start(output_dir, **overrides):
        settings = {"num_train_epochs": 2, "per_device_batch_size": 64, "ema_decay": 0.9, "save_steps": 1}
        settings |= {"mixed_precision": "no", "report_to": "none", "keep_states": 2, "resume_from_checkpoint": True}
        data = DataArguments(data_dir=str(jets_dir), cache_dir=str(folder / "cache"))
        settings = TrainArguments(output_dir=str(output_dir), **(settings | overrides))
        return train(folder / "model.json", data, settings, targets=TargetArguments(mass_column="jet_mass"))

    return start


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    start(folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def states(run):
    return sorted((run / "state").iterdir())


def tree(folder):
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_state_holds_these_files(finished):
    older, newer = states(finished)
    assert {path.name for path in newer.iterdir()} == {path.name for path in older.iterdir()} == set(FILES)
    assert intact_state(finished / "state") == newer
    assert intact_state(finished / "nothing") is None


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_the_state_before_is_taken(run, name, damage, caplog):
    older, newer = states(run)
    damage(newer / name)
    assert intact_state(run / "state") == older
    assert f"{newer} is damaged and not used: {name if name != 'manifest.json' else ''}" in caplog.text


def test_older_states_stay_until_the_new_one_is_durable(tmp_path, monkeypatch):
    process = SimpleNamespace(is_main_process=True, process_index=0, wait_for_everyone=lambda: None)
    process.save_state = lambda folder: None
    state = RunState(process, tmp_path, History(), SimpleNamespace(state_dict=dict), {})
    state.save()
    state.history.batches = 1
    monkeypatch.setattr(training_state, "sync", fail_to_sync)
    with pytest.raises(OSError, match=r"epoch-00000-batch-000000 is complete: make room"):
        state.save()
    assert "epoch-00000-batch-000000" in {path.name for path in tmp_path.iterdir()}
    monkeypatch.undo()
    state.save()
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00000-batch-000001"]


def fail_to_sync(folder):
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("name", ["random_states_0.pkl", "best.safetensors"])
def test_resuming_from_the_state_before_gives_the_same_weights(start, run, finished, name):
    older, newer = states(run)
    flip(newer / name)
    start(run)
    expected, resumed = (load_file(folder / "model.safetensors") for folder in (finished, run))
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    assert [path.name for path in states(run)] == [older.name, newer.name]
    assert intact_state(run / "state") == newer


def test_a_newer_damaged_state_goes_once_there_is_another(start, run):
    """It would be taken for the newest, and the one just written be removed instead."""
    empty(states(run)[1] / "optimizer.bin")
    start(run, keep_states=1, num_train_epochs=2)
    assert [path.name for path in states(run)] == ["epoch-00002-batch-000000"]
    assert intact_state(run / "state") is not None


def test_by_default_there_is_a_state_before():
    assert TrainArguments().keep_states == 2


def test_without_an_intact_state_nothing_is_written(start, run):
    for state, damage in zip(states(run), (delete, flip)):
        damage(state / "random_states_0.pkl")
    before = tree(run)
    expected = (
        r"is intact \(epoch-00002.*: random_states_0\.pkl has changed.*; epoch-0.*: random_states_0\.pkl is missing"
    )
    with pytest.raises(ValueError, match=expected):
        start(run)
    assert tree(run).keys() == before.keys()
    assert {path: before[path] for path in before if path != str(run)} == {
        path: stamp for path, stamp in tree(run).items() if path != str(run)
    }


@pytest.mark.parametrize("damage", [None, *DAMAGES])
def test_a_state_of_an_earlier_version_has_no_manifest(start, run, damage, caplog):
    older, newer = states(run)
    shutil.rmtree(older)
    record = json.loads((newer / "state.json").read_text())
    del record["manifest"]
    (newer / "state.json").write_text(json.dumps(record))
    (newer / "manifest.json").unlink()
    if damage is None:
        start(run)
        assert "wrote no checksums: it is not verified" in caplog.text
    elif damage is not flip:  # which only a checksum notices
        damage(newer / "best.safetensors")
        with pytest.raises(ValueError, match=r"epoch-00002-batch-000000 cannot be resumed from \("):
            start(run)


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_of_a_checkpoint(run, damage):
    check_weights(run)
    damage(run / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"model\.safetensors is (damaged|missing): it is not the file that training wrote"
    ):
        load_model(run)


def test_weights_from_the_hub(run, monkeypatch):
    """What was downloaded is compared with the record downloaded with it."""
    monkeypatch.setattr(checkpoint, "cached_file", lambda _, name, **__: str(run / name))
    flip(run / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: it is not the file that training wrote"):
        load_model("org/name")


def test_weights_without_a_record(run):
    (run / "run_info.json").unlink()
    load_model(run)
    truncate(run / "model.safetensors")
    with pytest.raises(ValueError, match=r"The weights of .*run are damaged"):
        load_model(run)


def test_damaged_pieces_are_predicted_again(run, jets_dir, tmp_path):
    accelerator, model = start_accelerator("no"), load_model(run)
    collator = E2ECollator(AutoImageProcessor.from_pretrained(run), "jet_mass")
    rows = load_e2e("simulated", jets_dir, split="test", cache_dir=tmp_path / "cache")

    def predicted():
        return predict_in_pieces(accelerator, model, rows, collator, 64, tmp_path / "pieces")["logits"]

    first = predicted()
    (piece,) = (tmp_path / "pieces").glob("*.safetensors")
    for damage in (lambda path: None, *DAMAGES):
        damage(piece)
        assert (predicted() == first).all()
        assert [path.name for path in (tmp_path / "pieces").glob("*.safetensors")] == [piece.name]
    end_processes(accelerator)


DATA = "--data_dir {jets} --cache_dir {cache} --mass_column jet_mass"
TRAIN = f"train --model_config {{inputs}}/model.json {DATA} --output_dir {{out}}/run --report_to none"
EVALUATE = f"eval {{run}} {DATA} --results {{out}}/result.json"
SIMULATE = "simulate --output_dir {out}/jets --processes qcd --num_jets 8 --shard_size 4 --pileup 0"
COMMANDS = {  # with the size of the largest file that can be written, and the files that are left
    "train, cache": (TRAIN.replace("{cache}", "{out}/cache"), 20_000, set()),
    "train, state": (TRAIN, 20_000, set()),
    "prepare": (
        "prepare simulated --data_dir {jets} --output_dir {out}/rows",
        20_000,
        {"rows/.progress/settings.json"},
    ),
    "simulate": (SIMULATE, 3_000, {"jets/simulation.json"}),
    "eval": (EVALUATE, 1_500, set()),
    "push": (
        "push {run} --results {inputs}/result.json --repo_id a/b --dry_run --output_dir {out}/model",
        20_000,
        set(),
    ),
    "export": ("export {run} --data_dir {jets} --cache_dir {cache} --output_dir {out} --num_jets 4", 20_000, set()),
}


@pytest.fixture(scope="module")
def inputs(start, finished, jets_dir, tmp_path_factory):
    """What the commands read: all that they need exists before the disk is full."""
    folder = finished.parent
    (folder / "model.json").write_text(json.dumps(MODEL))
    data = ["--data_dir", str(jets_dir), "--cache_dir", str(folder / "cache"), "--mass_column", "jet_mass"]
    command("eval", [str(finished), *data, "--results", str(folder / "result.json"), "--mixed_precision", "no"])
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_gets_one_line(name, inputs, finished, jets_dir, tmp_path, monkeypatch, capfd):
    line, limit, left = COMMANDS[name]
    line = line.format(inputs=inputs, jets=jets_dir, cache=inputs / "cache", run=finished, out=tmp_path)
    monkeypatch.setattr(produce, "workers", lambda *_: workers(0, None, ""))
    program, *arguments = line.split()
    with full_disk(limit), pytest.raises(SystemExit) as ended:
        command(program, arguments)
    assert ended.value.code == 1
    printed = capfd.readouterr().err.strip()
    assert printed.startswith(f"e2evit {program}: ")
    assert "File too large" in printed
    assert "\n" not in printed
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert {str(path) for path in files if path.suffix != ".lock"} == left  # such are those of `datasets` in its cache


@pytest.mark.parametrize(
    ("name", "folder", "file"),
    [
        ("train, state", "run", None),
        ("prepare", "rows", None),
        ("simulate", "jets", None),
        ("eval", ".", "result.json"),
        ("push", ".", "model"),
        ("convert", "converted", None),
    ],
)
def test_a_folder_in_use_gets_one_line(name, folder, file, inputs, finished, jets_dir, tmp_path, capfd):
    line = COMMANDS.get(name, ("convert weights.pth --model_type xcit --output_dir {out}/converted",))[0]
    line = line.format(inputs=inputs, jets=jets_dir, cache=inputs / "cache", run=finished, out=tmp_path)
    program, *arguments = line.split()
    with held(tmp_path / folder, file):
        before = tree(tmp_path)
        with pytest.raises(SystemExit):
            command(program, arguments)
        assert tree(tmp_path) == before
    printed = capfd.readouterr().err.strip()
    assert printed.startswith(f"e2evit {program}: ")
    assert "is in use by another process (pid " in printed
    assert "\n" not in printed
