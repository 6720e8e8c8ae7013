"""The scripts as a user calls them, by subprocess."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[1]
MODEL = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def call(*command, ok=True):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("WORLD_SIZE", None)
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == ok, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def launch(config, script, *arguments, ok=True):
    return call(
        "accelerate", "launch", "--config_file", f"recipes/accelerate/{config}.yaml", script, *arguments, ok=ok
    )


@pytest.fixture(scope="module")
def model_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.json"
    path.write_text(json.dumps(MODEL))
    return path


@pytest.fixture(scope="module", params=["one_process", "two_cpu_processes"])
def trained(request, jets_dir, model_json, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    shared = ("--data_dir", jets_dir, "--mass_column", "jet_mass", "--cache_dir", folder / "cache")
    shared += ("--per_device_batch_size", 16, "--mixed_precision", "no")
    output = launch(
        request.param, "scripts/train.py", "--model_config", model_json, "--output_dir", folder / "run", *shared
    )
    results = folder / "results/run.json"
    launch(request.param, "scripts/evaluate.py", folder / "run", *shared, "--results", results)
    return request.param, output, json.loads(results.read_text()), pq.read_table(results.with_suffix(".parquet"))


def test_train_and_evaluate_with_one_and_two_processes(trained):
    config, output, results, predictions = trained
    expected = 1 if config == "one_process" else 2
    assert f"{expected} process{'es' if expected > 1 else ''} on cpu" in output
    assert "precision no" in output
    assert "A constant would reach" in output
    assert results["hardware"]["num_processes"] == expected
    # no jet twice, none lost, whatever padding the last batch needed
    assert predictions.num_rows == results["data"]["test"]["rows"]
    assert len(set(predictions["event_id"].to_pylist())) == predictions.num_rows
    assert results["metrics"]["model"]["roc_auc"] > 0.8
    assert set(results["metrics"]) == {"constant", "image mass", "model"}


def test_one_and_two_processes_predict_the_same(jets_dir, model_json, tmp_path):
    """One checkpoint, evaluated twice."""
    shared = ("--data_dir", jets_dir, "--mass_column", "jet_mass", "--cache_dir", tmp_path / "cache")
    shared += ("--per_device_batch_size", 16, "--mixed_precision", "no")
    train = ("--model_config", model_json, "--output_dir", tmp_path / "run", "--num_train_epochs", 1)
    launch("one_process", "scripts/train.py", *train, *shared)
    tables = []
    for config in ("one_process", "two_cpu_processes"):
        results = tmp_path / f"{config}.json"
        launch(config, "scripts/evaluate.py", tmp_path / "run", *shared, "--results", results)
        tables.append(pq.read_table(results.with_suffix(".parquet")))
    one, two = tables
    assert one["event_id"].equals(two["event_id"])
    assert one["labels"].equals(two["labels"])
    difference = one["model mass"].to_numpy() - two["model mass"].to_numpy()
    assert abs(difference).max() < 1e-3  # GeV; batches differ, and with them the order of sums


def test_torchrun_is_refused_or_joined_never_alone():
    """Plain torchrun on CPUs makes processes that Accelerate takes for loners; ours find each other."""
    code = "from e2evit.training import start_accelerator; print('ranks', start_accelerator().num_processes)"
    script = ROOT / ".pytest_cache/torchrun_check.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(code)
    output = call(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, script)
    assert output.count("ranks 2") == 2


def test_errors_come_before_anything_is_written(jets_dir, model_json, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rte: 1.0\n")
    message = call(sys.executable, "scripts/train.py", recipe, "--output_dir", tmp_path / "run", ok=False)
    assert "unknown key learning_rte" in message
    assert not (tmp_path / "run").exists()

    full = tmp_path / "full"
    full.mkdir()
    (full / "precious").write_text("kept")
    arguments = ("--model_config", model_json, "--data_dir", jets_dir, "--output_dir", full)
    assert "is not empty" in call(sys.executable, "scripts/train.py", *arguments, ok=False)
    assert [path.name for path in full.iterdir()] == ["precious"]

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "jets.parquet").write_bytes((jets_dir / "part-0.parquet").read_bytes()[:5000])
    arguments = ("--model_config", model_json, "--data_dir", broken, "--output_dir", tmp_path / "run")
    assert "jets.parquet: not a readable Parquet file" in call(
        sys.executable, "scripts/train.py", *arguments, ok=False
    )
    assert not (tmp_path / "run").exists()
