"""What the site shows is true: its Python runs, its shell commands parse, the files that it names exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
RUN = ("first-jet", "embeddings", "plot")  # the others need data or minutes; the notebooks cover them


@pytest.mark.parametrize("page", RUN)
def test_python_runs(page, tmp_path):
    """All blocks of a page, one after the other, from a folder that looks like the repository."""
    for name in ("checkpoints", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True)
    assert blocks
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_exist(page):
    text = page.read_text()
    named = re.findall(r"\b(?:scripts|studies|benchmarks|recipes|tests|src|notebooks|modeling)/[\w/.]+\.\w+", text)
    named += [f"modeling/{name}" for name in re.findall(r"(?<!/)\bmodeling_\w+\.py", text)]
    assert [name for name in named if not (ROOT / name).exists()] == []
