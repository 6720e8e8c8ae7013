"""What the README prints is true: its tables come from results, its Python runs, its targets exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from e2evit import E2EImageProcessor, XCiTConfig, XCiTForImageClassification
from e2evit.data import find_schema

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_blocks_run(number, jets_dir, tmp_path):
    torch.manual_seed(0)
    schema = find_schema("simulated")
    XCiTForImageClassification(XCiTConfig(hidden_size=16, num_hidden_layers=1)).save_pretrained(tmp_path)
    E2EImageProcessor(schema.channel_names).save_pretrained(tmp_path)
    code = PYTHON[number].replace("runs/quickstart/xcit_nano", str(tmp_path))
    code = code.replace("runs/quickstart/data", str(jets_dir)).replace("checkpoints/", f"{ROOT}/checkpoints/")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_files_and_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make (\w+)$", README, re.MULTILINE)) <= set(targets)
    named = re.findall(r"(?:scripts|recipes|docs|tests|src)/[\w/.]+\.\w+", README)
    assert [name for name in named if not (ROOT / name).exists()] == []
