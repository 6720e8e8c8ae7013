"""What the README prints is true: its tables come from results, its Python runs, its targets exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretraining_tables import render_pretraining
from study_tables import render_study

from e2evit import E2EImageProcessor, XCiTConfig, XCiTForImageClassification
from e2evit.data import find_schema
from e2evit.results.tables import render_readme, render_simulation

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_tables_are_rendered_from_results():
    assert list((ROOT / "results").glob("quickstart_seed*_*.json"))
    assert render_readme(README, ROOT / "results") == README, "run `python studies/render.py`"


def test_the_study_is_rendered_from_its_results():
    text = (ROOT / "docs/study.md").read_text()
    assert render_study(text, ROOT / "results") == text, "run `python studies/render.py`"


def test_the_page_of_pretraining_is_rendered_from_its_results():
    text = (ROOT / "docs/pretraining.md").read_text()
    assert render_pretraining(text, ROOT / "results/pretraining") == text, "run `python studies/render.py`"


def test_tables_of_the_simulation_are_rendered_from_results():
    text = (ROOT / "docs/simulation.md").read_text()
    assert render_simulation(text, ROOT / "results") == text, "run `python studies/render.py`"
    figures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(figures) >= 5
    assert [name for name in figures if not (ROOT / "docs" / name).is_file()] == []


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
