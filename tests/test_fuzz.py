"""A small part of `benchmarks/fuzz.py`: no file crashes a reader, makes it wait, or gives values it does not hold."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_some_files_that_lie(tmp_path):
    results = tmp_path / "fuzz.json"
    command = [sys.executable, ROOT / "benchmarks/fuzz.py", "--results", results, "--work", tmp_path / "work"]
    options = ["--mutants", "1", "--every", "50", "--seed", "1"]
    done = subprocess.run([*command, *options], capture_output=True, encoding="utf-8", check=False)
    record = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    assert done.returncode == 0, record.get("faults", done.stderr[-3000:])
    assert sum(row["files"] for row in record["readers"]) > 150
    # it can fail: most files are damaged, and the others are read
    assert sum(row["refused"] for row in record["readers"]) > 50
    assert sum(row["equal"] + row["read"] for row in record["readers"]) > 20
