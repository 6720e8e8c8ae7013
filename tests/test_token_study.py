"""The study of HitViT's parts on a few jets, and its table."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import token_tables
import yaml
from forked import TWICE, run_python
from samples import make_result
from sklearn.metrics import roc_auc_score
from token_steps import write_configs

from e2evit.results.predictions import write_predictions
from e2evit.training import read_model_config

ROOT = Path(__file__).parents[1]
PLAN = yaml.safe_load((ROOT / "recipes/tokens/study.yaml").read_text())


def test_every_variant_differs_from_the_base(tmp_path):
    configs = write_configs(PLAN, tmp_path)
    loaded = [read_model_config(path).to_diff_dict() for path in configs.values()]
    assert all(one != other for one, other in combinations(loaded, 2))
    assert len(loaded) > 10
    assert PLAN["reference"] in configs


@pytest.mark.thorough
def test_a_small_study(tmp_path):
    """Two models and one seed; the larger one trains on fewer jets; a second call finds everything done."""
    simulate = ["scripts/simulate.py", "--output_dir", tmp_path / "jets", "--num_jets", 60]
    simulate += ["--pileup", 0, "--processes", "qcd", "top", "w", "z", "h", "x_qq", "--num_proc", 1]
    run_python(*simulate).check_returncode()
    tiny = {"model_type": "hitvit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "tiny.json").write_text(json.dumps(tiny | {"log_mass": True, "mass_loss": "quantile"}))
    models = {"tokens": {"hitvit": {}}, "shape": {"larger": {"num_hidden_layers": 2, "hidden_size": 64}}}
    plan = PLAN | {"base": str(tmp_path / "tiny.json"), "reference": "hitvit", "models": models}
    plan |= {"seeds": [3], "epochs": 1, "fraction": 0.9, "validation_fraction": 1.0}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    command = ["studies/tokens.py", "--study", tmp_path / "study.yaml", "--data_dir", tmp_path / "jets"]
    command += ["--device", "cpu", "--parallel_runs", 2]
    command += ["--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "runs", "--results_dir", tmp_path]
    done = run_python("-c", TWICE, *command)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert "train.py" not in done.stdout.split("second call")[1]
    steps = json.loads((tmp_path / "token_steps.json").read_text())["steps"]
    assert steps["hitvit"]["relative"] == 1 < steps["larger"]["relative"]
    base, larger = json.loads((tmp_path / "tokens.json").read_text())["runs"]
    assert larger["images_seen"] < base["images_seen"]
    assert larger["images_seen"] == pytest.approx(base["images_seen"] / steps["larger"]["relative"], abs=1)
    assert "larger" in token_tables.variants(tmp_path)
    rows = [base, larger]
    for seeds in ([3], [4]):  # without the runs, on another machine; by another plan
        assert token_tables.summarise(plan | {"seeds": seeds}, tmp_path / "empty", rows) == rows
    mistakes = {"--models larg": "has no larg, but hitvit, larger", "--mixed_precision 8": "auto, bf16 or no"}
    for wrong, message in mistakes.items():
        refused = run_python(*command[:-2], *wrong.split(), "--results_dir", tmp_path / "none")
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1].startswith("tokens.py: ")
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
    plan["models"]["shape"]["other"] = {"num_hidden_layers": 2}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    run_python(*command).check_returncode()
    now = json.loads((tmp_path / "token_steps.json").read_text())["steps"]
    assert {name: now[name] for name in steps} == steps  # only the new model was timed
    assert {run["model"] for run in json.loads((tmp_path / "tokens.json").read_text())["runs"]} == {*now}


def test_classes_against_the_background_alone(tmp_path):
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(3, size=500), rng.dirichlet(np.ones(3), 500).astype(np.float32)
    data = {"test": {"rows": 500, "event_ids": "0"}}
    make_result("xcit", 0, {"accuracy": 0.5}, label_names=["qcd", "top", "w"], data=data).to_json(
        tmp_path / "result.json"
    )
    columns = {f"model p_{name}": part for name, part in zip(("qcd", "top", "w"), probabilities.T)}
    columns |= {"model score": 1 - probabilities[:, 0], "model mass": np.ones(500), "mass_labels": np.ones(500)}
    write_predictions(tmp_path / "result.parquet", {"labels": labels} | columns)
    two = labels != 2
    expected = roc_auc_score(labels[two] == 1, probabilities[two, 1] / probabilities[two, :2].sum(1))
    areas = token_tables.against_background(tmp_path / "result.json")
    assert areas.keys() == {"top", "w"}
    assert areas["top"] == pytest.approx(expected)
