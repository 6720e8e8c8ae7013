"""Trainings on kept particles, on a few jets, and the tables of their report."""

import json

import pytest
import yaml
from forked import TWICE, run_python
from particle_tables import DETECTORS, detectors, fresh


@pytest.mark.thorough
def test_a_small_study(tmp_path):
    """Trees and a network with and without the effects of the detector; a second call goes on."""
    study = {"simulation": [{"processes": ["qcd", "top", "w", "z", "h", "x_qq"], "num_jets": 40}]}
    study["simulation_arguments"] = "--pileup 0"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = ["studies/particles.py", "--plan", "detectors", "--models", "trees", "xcit", "--max_runs", 3]
    command += ["--study", tmp_path / "study.yaml", "--epochs", 1, "--seeds", 0]
    command += ["--output_dir", tmp_path / "runs", "--results_dir", tmp_path / "results"]
    command += ["--num_proc", 1, "--num_workers", 0]
    done = run_python("-c", TWICE, *command)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    first, second = done.stdout.split("second call")
    assert first.count("$ python scripts/train.py") == 1  # after the trees' two trainings
    assert second.count("$ python scripts/train.py") == 1
    runs = json.loads((tmp_path / "results/particles_detectors.json").read_text())["runs"]
    assert [(run["model"], run["training"], run["seed"]) for run in runs] == [
        (model, training, 0) for model in ("trees", "xcit") for training in ("with_effects", "without_effects")
    ]
    for run in runs:
        assert run["metrics"].keys() == {"with_effects", "without_effects"}
        assert run["train_rows"] == runs[0]["train_rows"]
    by_name = {(run["model"], run["training"]): run["metrics"] for run in runs}
    for metrics in by_name.values():  # the samples differ
        assert metrics["with_effects"] != metrics["without_effects"]
    assert by_name["trees", "with_effects"] != by_name["trees", "without_effects"]


def _run(model, training, seed, metrics, epochs=4):
    metrics = {sample: {"roc_auc_macro": auc, "relative_resolution": 1 - auc} for sample, auc in metrics.items()}
    run = {"model": model, "training": training, "seed": seed, "epochs": epochs, "metrics": metrics}
    return run | {"train_rows": 1200, "test_rows": 900}


def test_the_report_says_how_much_drops_and_in_which_order(tmp_path):
    runs = [
        _run("xcit", training, seed, {"without_effects": auc + 0.01 * seed, "with_effects": auc - 0.1})
        for training, auc in (("without_effects", 0.8), ("with_effects", 0.7))
        for seed in (0, 1)
    ]
    tested = {"without_effects": 0.7, "with_effects": 0.65}
    runs += [_run("trees", training, seed, tested) for training in DETECTORS for seed in (0, 1)]
    (tmp_path / "particles_detectors.json").write_text(json.dumps({"runs": runs}))
    text = detectors(tmp_path)
    assert "1 200 training and 900 test jets" in text
    assert "0.8050 ± 0.0071" in text
    assert "* simple: xcit, trees" in text
    assert "* full: trees, xcit" in text
    assert "| xcit                | 2 / 2 " in text

    kept = [run for run in runs if (run["model"], run["training"]) != ("xcit", "with_effects")]
    (tmp_path / "particles_detectors.json").write_text(json.dumps({"runs": kept}))
    text = detectors(tmp_path)
    assert "seeds, simple / full" in text
    assert "2 / 0 " in text, "in the order of the heading"
    assert "Models by" not in text, "one model has no order"

    runs = [_run("xcit", "fresh", seed, {"pileup_21": 0.9, "pileup_60": 0.88 + 0.01 * seed}) for seed in (0, 1)]
    (tmp_path / "particles_fresh.json").write_text(json.dumps({"runs": runs}))
    assert "0.0150 ± 0.0071" in fresh(tmp_path)

    runs[0]["train_rows"] = 99
    (tmp_path / "particles_fresh.json").write_text(json.dumps({"runs": runs}))
    with pytest.raises(ValueError, match="other numbers of jets"):
        fresh(tmp_path)
