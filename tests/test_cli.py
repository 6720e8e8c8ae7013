"""The `e2evit` command: dispatch, help and exit codes."""

import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

import e2evit
from e2evit import training
from e2evit.cli.command import COMMANDS, main, run
from e2evit.cli.errors import UsageError, one_line_errors
from e2evit.cli.simulate import next_step
from e2evit.data import load_e2e
from e2evit.simulation import SimulationSettings
from e2evit.training import TrainArguments


@pytest.mark.parametrize(
    ("held", "settings", "expected"),
    [
        (["qcd", "top"], {}, "e2evit train quickstart/xcit_nano.yaml --data_dir {0} --output_dir runs/xcit"),
        (["qcd", "top"], {"keep": "particles"}, "--data_dir {0} --fresh --output_dir"),
        (["qcd", "x_bb"], {}, "--data_dir {0} --output_dir"),
        (["x_qq"], {}, "--mass_column mass_labels --mass_classes x_qq --output_dir"),
        (["w", "x_qq", "qcd"], {}, "--mass_column mass_labels --mass_classes x_qq --classes qcd w --output_dir"),
        (["top"], {}, "simulate a second process into the same folder"),
        (["qcd"], {"whole_detector": True}, "simulate a second process into the same folder"),
        (["top"], {"whole_detector": True}, "e2evit train recipes/events/queries.yaml --data_dir {0} --output_dir"),
    ],
)
def test_the_next_step_after_a_simulation_fits_the_sample(tmp_path, held, settings, expected):
    for name in held:
        (tmp_path / f"{name}-00000-20.parquet").touch()
    assert expected.format(tmp_path) in next_step(tmp_path, SimulationSettings(**settings))


def test_help_names_every_command_at_once():
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "e2evit.cli", "--help"], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 2  # 0.2 s on an idle machine; importing torch would take 5 s
    assert all(f"\n  {command} " in done.stdout for command in COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.strip() == e2evit.__version__


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert f"usage: e2evit {command} " in text
    assert f"  e2evit {command} " in text.partition("examples:")[2]


def test_these_need_no_torch():
    code = "import sys, e2evit.cli.{0}; assert 'torch' not in sys.modules"
    for module in ("simulate", "download", "inspect", "prepare"):
        subprocess.run([sys.executable, "-c", code.format(module)], check=True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tran"], 2, "e2evit: unknown command tran (did you mean train?). See `e2evit --help`."),
        (["simulate"], 2, "e2evit simulate: the following arguments are required: "),
        (["simulate", "--output_dir", "x", "--processes", "susy"], 1, "e2evit simulate: Unknown process susy"),
        (["inspect", "nowhere.h5"], 1, "e2evit inspect: There is no file nowhere.h5."),
        (["inspect", "/"], 1, "e2evit inspect: / is a folder: name a file in it."),
        (["pretrain", "--push_to_hub", "org/name"], 2, "e2evit pretrain: unknown option --push_to_hub"),
        (
            ["pretrain", "--flat_in", "mass", "--classes", "qcd", "--contained_classes"],
            1,
            "e2evit pretrain: Pre-training learns from images alone: leave out classes, contained_classes, flat_in.",
        ),
    ],
)
def test_mistakes_end_in_one_line(arguments, code, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def ends_with(error: Exception) -> int:
    with pytest.raises(SystemExit) as ended, one_line_errors("e2evit test"):
        raise error
    return ended.value.code


def test_exit_codes(capsys):
    from e2evit.training import PREEMPTED_EXIT_CODE, Preempted

    assert ends_with(UsageError("a")) == 2
    assert ends_with(FloatingPointError("b")) == ends_with(FileNotFoundError(2, "No such file", "c")) == 1
    assert ends_with(Preempted("d")) == PREEMPTED_EXIT_CODE == 75
    with pytest.raises(SystemExit, match="130"), one_line_errors("e2evit test"):
        raise KeyboardInterrupt
    expected = ["a", "b", "[Errno 2] No such file: 'c'", "d", "interrupted"]
    assert capsys.readouterr().err.splitlines() == [f"e2evit test: {line}" for line in expected]


def test_bugs_keep_their_traceback(monkeypatch):
    for bug in (KeyError("x"), RuntimeError("shapes do not match"), AssertionError()):
        with pytest.raises(type(bug)), one_line_errors("e2evit test"):
            raise bug
    monkeypatch.setenv("E2EVIT_DEBUG", "1")
    with pytest.raises(ValueError, match="mistake"), one_line_errors("e2evit test"):
        raise ValueError("mistake")


def test_a_runtime_error_of_ours_is_one_line(monkeypatch, capsys):
    from e2evit.training import start_accelerator

    monkeypatch.setenv("WORLD_SIZE", "2")  # raised when processes do not find each other
    monkeypatch.setattr("e2evit.training.process.Accelerator", lambda **_: Alone())
    with pytest.raises(SystemExit, match="1"), one_line_errors("e2evit test"):
        start_accelerator("no")
    assert capsys.readouterr().err.startswith("e2evit test: 2 processes were launched, but Accelerate sees 1")


class Alone:
    num_processes, is_fsdp2, distributed_type = 1, False, None
    state = type("State", (), {"deepspeed_plugin": None})


def test_one_process_speaks_for_all(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ends_with(ValueError("a")) == 1
    assert capsys.readouterr().err == ""


def test_scripts_and_command_are_the_same(capsys):
    with pytest.raises(SystemExit, match="0"):
        run("simulate", ["--help"])
    by_command = capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, "scripts/simulate.py", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout == by_command


def test_inspect_drafts_a_schema(tmp_path, capsys):
    """The draft reads the file unedited; an edited draft is never overwritten."""
    path, draft = tmp_path / "mine.h5", tmp_path / "mine.yaml"
    with h5py.File(path, "w") as file:
        file["images"] = np.random.default_rng(0).random((20, 3, 16, 16)).astype(np.float32)
        file["y"] = np.arange(20) % 2
    main(["inspect", str(path), "--schema_out", str(draft), "--figure", str(tmp_path / "mine.png")])
    assert f"Next: edit it, then e2evit inspect {path} --schema {draft}" in capsys.readouterr().out
    assert len(load_e2e("custom", tmp_path, schema=draft, cache_dir=tmp_path / "cache")["train"]) > 0
    draft.write_text("edited")
    with pytest.raises(SystemExit, match="1"):
        main(["inspect", str(path), "--schema_out", str(draft)])
    assert draft.read_text() == "edited"
    assert "mine.yaml exists already: choose another path" in capsys.readouterr().err


def test_names_from_before_this_version(tmp_path):
    """They work, with a warning that says where they are now."""
    with pytest.warns(DeprecationWarning, match=r"run_training is now in e2evit\.cli\.train"):
        from e2evit.training import run_training
    with pytest.raises(ValueError, match="unknown option --oh"):
        run_training(["--oh", "1"])
    with pytest.warns(DeprecationWarning, match="parse_recipe is now in"):
        from e2evit.training import parse_recipe
    (tmp_path / "a.yaml").write_text("seed: 3\noutput_dir: x\n")
    (settings,) = parse_recipe(TrainArguments, arguments=[str(tmp_path / "a.yaml")])
    assert settings.seed == 3
    with pytest.warns(DeprecationWarning, match="training.collate"):
        from e2evit.data.collate import E2ECollator
    assert E2ECollator is training.collate.E2ECollator
    with pytest.raises(ImportError):
        from e2evit.training import nothing  # noqa: F401
