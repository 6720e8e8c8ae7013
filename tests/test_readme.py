"""The README is true: its Python runs, its targets and files exist."""

import re
from pathlib import Path

import pytest
from forked import LIBRARIES, run_python

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_blocks_run(number, tmp_path):
    for name in ("checkpoints", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = run_python("-c", PYTHON[number], cwd=tmp_path, preloaded=LIBRARIES)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "GeV" in done.stdout


def test_it_stays_short():
    assert len(README.splitlines()) <= 150


def test_files_and_targets_exist():
    targets = " ".join(re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)).split()
    assert set(re.findall(r"^make (\w+)$", README, re.MULTILINE)) <= set(targets)
    named = re.findall(r"(?:scripts|recipes|docs|tests|src|checkpoints)/[\w/.-]*\w", README)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []
