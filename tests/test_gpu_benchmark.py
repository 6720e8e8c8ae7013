"""`benchmarks/gpu.py` on a CPU, where its numbers mean nothing: all of its parts run."""

import json
from pathlib import Path

import pytest
from forked import run_python

ROOT = Path(__file__).parents[1]
PARTS = ("parity", "speed", "latency", "attention", "training")


@pytest.mark.thorough
def test_all_parts_run(tmp_path):
    command = ["benchmarks/gpu.py", "--device", "cpu", "--quick", "--results_dir", tmp_path / "gpu"]
    done = run_python(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    records = {name: json.loads((tmp_path / f"gpu/{name}.json").read_text()) for name in PARTS}
    for name, record in records.items():
        assert record["device"] == {"name": "cpu"}
        assert record["commit"]
        left_out = [entry for entry in record["left_out"] if "timm" not in entry and "onnx" not in entry.lower()]
        assert not left_out, name
    ways = records["parity"]["models"]["xcit"]
    assert list(ways) == ["float32 eager", "bf16 eager", "bf16 compiled"]
    assert all(way["within_bounds"] for way in ways.values())
    rows = records["speed"]["rows"]
    for mode in ("training", "inference"):
        assert {(row["model"], row["way"]) for row in rows if row["mode"] == mode} >= {
            (model, way) for model in ("xcit", "authors' xcit") for way in ("eager", "compiled")
        }
    assert all(row["images_per_second"] > 0 for row in rows)
    assert all(row["of_bandwidth"] > 0 for row in rows if row["way"] == "eager")
    assert [row["runtime"] for row in records["latency"]["rows"]][:2] == ["PyTorch, eager", "PyTorch, compiled"]
    assert set(records["attention"]["modes"]["training"]["softmax"]) == {"169", "625"}
    (row,) = records["training"]["rows"]
    assert row["jets_seen"] > 200
    assert 0 < row["data_share"] < 1
    assert (tmp_path / "gpu/attention.png").exists()
    for words in ("Measured on cpu", "| xcit, training, eager", "pays in time from", "% for batches"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("--parts speed wind", "There is no part wind, but parity"), ("--device cuda", "`--device cpu --quick` shows")],
)
def test_what_cannot_be_measured(arguments, message, tmp_path):
    done = run_python("benchmarks/gpu.py", *arguments.split(), "--results_dir", tmp_path / "gpu")
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "gpu").exists()


def test_without_results(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "studies")
    from gpu_tables import gpu_tables

    assert gpu_tables(tmp_path).startswith("Nothing has been measured on a GPU yet")
