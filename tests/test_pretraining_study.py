"""Pre-training against training from scratch on a few jets, and the conclusions of its report."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from forked import TWICE, run_python
from pretraining_tables import _over_seeds, findings, name_of, outcome, summarise
from samples import make_result
from scipy import stats

ROOT = Path(__file__).parents[1]


def test_the_interval_is_students():
    values = [0.1, 0.4, 0.3]
    found = _over_seeds(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["mean"] - found["half_interval"] == pytest.approx(low)
    assert found["mean"] + found["half_interval"] == pytest.approx(high)
    assert _over_seeds([0.5])["half_interval"] is None


@pytest.mark.thorough
def test_a_small_study(tmp_path):
    """One seed and one fraction of labels; a second call finds everything done."""
    simulate = ["scripts/simulate.py", "--output_dir", tmp_path / "jets", "--num_jets", 40]
    simulate += ["--pileup", 0, "--processes", "qcd", "top", "w", "z", "h", "x_qq", "--num_proc", 1]
    run_python(*simulate).check_returncode()
    model = {"model_type": "hitvit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "tiny.json").write_text(json.dumps(model | {"log_mass": True, "mass_loss": "quantile"}))
    study = yaml.safe_load((ROOT / "recipes/pretraining/study.yaml").read_text())
    study |= {"model_config": str(tmp_path / "tiny.json"), "seeds": [3]}
    study |= {"validation_fraction": 1.0, "measured_fraction": 1.0}
    # without pile-up to predict
    study["pretraining"]["finetune_truth"]["truth_columns"] = ["jet_mass", "multiplicity"]
    study["labels"] = {"10 %": {"fraction": 0.25, "finetune_epochs": 1, "scratch_epochs": 2}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    command = ["studies/pretraining.py", "--study", tmp_path / "study.yaml"]
    command += ["--data_dir", tmp_path / "jets", "--cache_dir", tmp_path / "cache"]
    command += ["--output_dir", tmp_path / "runs", "--results_dir", tmp_path / "pretraining"]
    done = run_python("-c", TWICE, *command)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    _, second = done.stdout.split("second call")
    assert "train.py" not in second
    starts = (*study["pretraining"], "scratch")
    records = [json.loads((tmp_path / f"pretraining/{start}_10_percent_seed3.json").read_text()) for start in starts]
    rows = [record["training"]["images_seen"] for record in records]
    assert all(2 * number == rows[-1] for number in rows[:-1])
    entry = json.loads((tmp_path / "pretraining/summary.json").read_text())["labels"]["10 %"]
    accuracies = [record["metrics"]["model"]["accuracy"] for record in records]
    for start, accuracy in zip(study["pretraining"], accuracies):
        assert entry["difference"][start]["accuracy"]["values"] == [accuracy - accuracies[-1]]
    assert outcome(tmp_path).count("difference") == len(study["pretraining"])


def test_the_report_concludes_what_intervals_allow(tmp_path):
    """Three seeds: a clear difference, an unclear one, and one in the wrong direction."""
    study = {"seeds": [0, 1, 2], "pretraining": {"finetune": {}}, "labels": {"1 %": {}, "100 %": {}}}
    rng = np.random.default_rng(0)
    for seed in study["seeds"]:
        info = {"images_seen": 5, "seconds": 60.0, "best_loss": 1.0}
        (tmp_path / f"pretrained_finetune_seed{seed}").mkdir()
        (tmp_path / f"pretrained_finetune_seed{seed}/run_info.json").write_text(json.dumps(info))
        for start, gain in (("finetune", 0.1), ("scratch", 0.0)):
            metrics = {
                "roc_auc_macro": 0.8 + gain + 0.001 * seed,
                "accuracy": 0.5 + rng.normal(),
                "mae_gev": 20.0 + 50 * gain + 0.1 * rng.normal(),
                "relative_resolution": 0.2 - gain + 0.001 * rng.normal(),
            }
            result = make_result(f"{start}_1_percent", seed, metrics, training={"seconds": 120.0})
            result.to_json(tmp_path / f"{name_of(start, '1 %', seed)}.json")
    summary = summarise(study, tmp_path, tmp_path)
    assert list(summary["labels"]) == ["1 %"]
    (tmp_path / "pretraining").mkdir()
    (tmp_path / "pretraining/summary.json").write_text(json.dumps(summary))
    expected = "mean AUC of classes better, accuracy no clear difference, mass MAE worse, rel. mass resolution better"
    assert expected in findings(tmp_path)
    assert "| 1 %    | 3     | pre-trained  | 3 " in outcome(tmp_path)
