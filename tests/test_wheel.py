"""A wheel without a clone: all commands start, and a few jets go from simulation to an ONNX file."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from e2evit.cli.command import COMMANDS

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # the chain takes a minute
MODEL = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that runs a program in an environment with the wheel and without the clone."""
    base = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", base, ROOT]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = base.glob("*.whl")
    venv.create(base / "venv", with_pip=True)
    python = base / "venv/bin/python"
    # dependencies come from this environment, e2evit from the wheel, which is first in the path
    site = Path(sysconfig.get_path("purelib", vars={"base": str(base / "venv")}))
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(others) + "\n")
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

    def call(*command):
        home = {"HF_HOME": str(base / "home"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [base / "venv/bin" / command[0], *map(str, command[1:])],
            cwd=base,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    where = Path(call("python", "-c", "import e2evit; print(e2evit.__file__)").strip())
    assert where.is_relative_to(base)
    return base, call


def test_every_command_starts(installed):
    _, call = installed
    assert all(command in call("e2evit", "--help") for command in COMMANDS)
    code = "import sys\nfrom e2evit.cli.command import COMMANDS, main\n"
    code += "for command in COMMANDS:\n    try:\n        main([command, '--help'])\n    except SystemExit as end:\n"
    code += "        assert end.code == 0"
    text = call("python", "-c", code)
    assert all(f"usage: e2evit {command} " in text for command in COMMANDS)


def test_from_simulation_to_export(installed):
    base, call = installed
    (base / "tiny.json").write_text(json.dumps(MODEL))
    data = ["--data_dir", "jets", "--mixed_precision", "no"]
    recipe = ["quickstart/xcit_nano.yaml", *data, "--model_config", "tiny.json", "--num_train_epochs", "1"]
    commands = [
        ["simulate", "--output_dir", "jets", "--num_jets", "40", "--pool_size", "20"],
        ["train", *recipe, "--output_dir", "run"],
        ["eval", "run", *data, "--results", "results.json"],
        ["push", "run", "--results", "results.json", "--repo_id", "a/b", "--dry_run"],
        ["export", "run", "--data_dir", "jets", "--output_dir", "onnx", "--num_jets", "20"],
    ]
    # in one process, which imports torch once
    code = "import json, sys\nfrom e2evit.cli.command import main\n"
    code += "if __name__ == '__main__':\n    for words in json.loads(sys.argv[1]):\n        main(words)"
    assert "Next: e2evit train" in call("python", "-c", code, json.dumps(commands))
    assert (base / "onnx/run_nhwc.onnx").is_file()
    assert (base / "onnx/run_row.txt").stat().st_size > 0


def test_packaged_models_and_demo(installed):
    _, call = installed
    code = """
from e2evit.data.packaged import packaged_folder
from e2evit.training import read_model_config
print(read_model_config("models/xcit_nano.json").model_type, (packaged_folder("space") / "examples.parquet").is_file())
"""
    assert call("python", "-c", code).split() == ["xcit", "True"]
