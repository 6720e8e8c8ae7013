"""Paired tests against cases that can be computed by hand, and the script's refusal to compare different jets."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from samples import row_table
from scipy.stats import binom, norm

from e2evit.comparison import (
    _macro_auc,
    _resolution,
    compare_pairs,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_delong,
    spread_over_seeds,
)
from e2evit.evaluation import Predictions, evaluate_predictions, softmax, write_results
from e2evit.metrics.classification import delong_interval
from e2evit.metrics.mass import mass_statistics
from e2evit.plots import quality_against_cost
from e2evit.report import JetPredictions, comparison_table, seed_groups

ROOT = Path(__file__).parents[1]


def test_mcnemar_is_the_binomial_test_of_the_discordant_jets():
    labels = np.zeros(100, int)
    first, second = np.zeros(100, int), np.zeros(100, int)
    second[:12], first[12:15] = 1, 1  # 12 that the first alone gets right, 3 the second
    found = mcnemar(labels, first, second)
    assert (found["only_first"], found["only_second"]) == (12, 3)
    assert found["difference"] == pytest.approx(0.09)
    assert found["p_value"] == pytest.approx(2 * binom.cdf(3, 15, 0.5))
    assert mcnemar(labels, first, first)["p_value"] == 1


def test_paired_bootstrap_knows_what_the_models_share():
    """Errors that two models share cancel in the difference: its interval is that of the rest."""
    rng = np.random.default_rng(0)
    shared, own = rng.normal(0, 10, 4000), rng.normal(0, 1, (2, 4000))
    first, second = shared + own[0] + 0.1, shared + own[1]

    def mean(targets, predictions):
        return float((predictions - targets).mean())

    found = paired_bootstrap(mean, [np.zeros(4000)], first, second, num_resamples=2000)
    width = (found["high"] - found["low"]) / 2
    assert width == pytest.approx(norm.ppf(0.975) * np.sqrt(2 / 4000), rel=0.1)
    assert found["low"] < found["difference"] < found["high"]
    assert found["difference"] == pytest.approx((first - second).mean())
    same = paired_bootstrap(mean, [np.zeros(4000)], first, first, num_resamples=100)
    assert (same["difference"], same["p_value"]) == (0, 1)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def predictions(number=1500):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, number)
    labels[:300] = -100
    masses = np.where(labels == -100, rng.uniform(50, 200, number), np.nan)
    known = np.maximum(labels, 0)

    def probabilities(noise):
        logits = 3 * np.eye(3)[known] + rng.normal(0, noise, (number, 3))
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    sharp = {"good_seed0": probabilities(1.0), "bad_seed0": probabilities(6.0)}
    truth = np.where(np.isnan(masses), 100.0, masses)
    mass_preds = {"good_seed0": truth * rng.normal(1, 0.05, number), "bad_seed0": truth * rng.normal(1, 0.3, number)}
    scores = {name: 1 - found[:, 0] for name, found in sharp.items()}
    return JetPredictions(labels, masses, truth, truth, scores, mass_preds, sharp)


def test_the_better_model_is_found():
    found = compare_pairs(predictions(), "good_seed0", num_resamples=100)["bad_seed0"]
    assert found["roc_auc_macro"]["low"] > 0
    assert found["accuracy"]["difference"] > 0
    assert found["relative_resolution"]["high"] < 0
    assert all(entry["p_holm"] <= 0.02 for entry in found.values())
    with pytest.raises(ValueError, match="There is no model 'other'; known ones: good_seed0, bad_seed0"):
        compare_pairs(predictions(), "other")


def test_paired_delong_is_the_bootstrap():
    """Of the mean of three AUCs, with ties: the same difference and, to a tenth, the same width."""
    rng, number = np.random.default_rng(3), 2000
    labels = rng.integers(0, 3, number)
    shared = rng.normal(0, 2, (number, 3))  # what both models get wrong
    first, second = (
        softmax(np.round(2 * np.eye(3)[labels] + shared + rng.normal(0, noise, (number, 3)), 1))
        for noise in (0.5, 1.0)
    )
    found = paired_delong(labels, first, second)
    draws = paired_bootstrap(_macro_auc, [labels], first, second, num_resamples=400)
    assert found["difference"] == pytest.approx(draws["difference"], abs=1e-12)
    assert found["high"] - found["low"] == pytest.approx(draws["high"] - draws["low"], rel=0.1)
    alone = paired_delong(labels, first, softmax(rng.normal(size=(number, 3))))
    assert found["high"] - found["low"] < 0.7 * (alone["high"] - alone["low"])
    assert paired_delong(labels, first, first)["p_value"] == 1
    assert paired_delong(labels, first, second)["p_value"] == paired_delong(labels, second, first)["p_value"] < 1e-4


def test_paired_delong_of_two_classes_is_delongs():
    """Against a model without any knowledge and without any spread, the interval is that of one AUC."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 3000)
    scores = labels + rng.normal(0, 2, 3000)
    found = paired_delong(labels, np.stack([-scores, scores], 1), np.zeros((3000, 2)))
    low, high = delong_interval(labels, scores)
    assert [0.5 + found["low"], 0.5 + found["high"]] == pytest.approx([low, high], abs=2e-4)


def test_the_resolution_that_is_compared_is_the_metric():
    masses = np.random.default_rng(5).uniform(50, 300, 500)
    predicted = masses * np.random.default_rng(6).normal(1, 0.2, 500)
    assert _resolution(masses, predicted) == pytest.approx(mass_statistics(masses, predicted)["relative_resolution"])


def test_seeds_are_trainings_of_one_model():
    records = {
        name: {"metrics": {"model": {"roc_auc": value}}}
        for name, value in {"a_seed0": 0.8, "a_seed1": 0.9, "b_seed0": 0.7}.items()
    }
    assert seed_groups(list(records)) == {"a": ["a_seed0", "a_seed1"], "b": ["b_seed0"]}
    found = spread_over_seeds(records, ["roc_auc", "accuracy"])
    assert found["a"] == {
        "trainings": 2,
        "roc_auc": {"mean": pytest.approx(0.85), "deviation": pytest.approx(0.0707, 1e-3)},
    }
    assert found["b"] == {"trainings": 1, "roc_auc": {"mean": 0.7, "deviation": None}}


@pytest.fixture
def results(tmp_path):
    """Two results on the same jets, one on others."""
    rng, paths = np.random.default_rng(0), {}
    for name, seed, noise in (("good_seed0", 0, 0.3), ("bad_seed0", 0, 2.0), ("other_seed0", 1, 0.3)):
        rows = Dataset(row_table(200, seed=seed))
        labels, masses = np.array(rows["labels"]), np.array(rows["jet_mass"])
        signal = 1 / (1 + np.exp(-(labels - 0.5) / 0.2 + rng.normal(0, noise, 200)))
        model = Predictions.of_classes(np.stack([1 - signal, signal], 1), masses * rng.normal(1, noise / 10, 200))
        metrics, columns = evaluate_predictions(rows, "jet_mass", ["qcd", "top"], {"model": model})
        record = {"dataset": "simulated", "split": "test", "mass_column": "jet_mass", "metrics": metrics}
        record |= {"data": {"test": {"rows": 200, "event_ids": str(seed)}}, "cost": {"macs": 1e6 * (1 + seed)}}
        paths[name] = tmp_path / f"{name}.json"
        write_results(paths[name], record, columns)
    return paths


def compare(*arguments):
    command = [sys.executable, "scripts/compare.py", "--results", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_script(results, tmp_path):
    pair = results["good_seed0"], results["bad_seed0"]
    done = compare(*pair, "--output_dir", tmp_path / "out", "--figures", tmp_path / "figures")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out/comparison.json").read_text())
    assert found["reference"] == "good_seed0"
    assert found["paired"]["bad_seed0"]["relative_resolution"]["high"] < 0
    assert "good_seed0 − bad_seed0" in (tmp_path / "out/comparison.md").read_text()
    latex = (tmp_path / "out/comparison.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert r"good\_seed0 $-$ bad\_seed0" in latex
    for name in ("roc", "sculpting", "mass_response", "cost"):
        assert (tmp_path / f"figures/{name}.png").stat().st_size > 5000


def test_different_jets_are_not_compared(results):
    done = compare(results["good_seed0"], results["other_seed0"])
    assert done.returncode != 0
    assert "were not measured on the same jets" in done.stderr


def test_the_front_of_quality_against_cost():
    def record(macs, value):
        found = {"roc_auc": value, "roc_auc_low": value - 0.01, "roc_auc_high": value + 0.01}
        return {"cost": {"macs": macs}, "metrics": {"model": found}}

    records = {"cheap": record(1e6, 0.8), "good": record(4e6, 0.9), "beaten": record(5e6, 0.85)}
    records["trees"] = {"metrics": {"model": {"roc_auc": 0.95}}}  # of unknown cost
    figure = quality_against_cost(records, "roc_auc", "ROC AUC", True)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["cheap", "good", "beaten"]
    front = next(line for line in figure.axes[0].lines if line.get_linestyle() == ":")
    assert front.get_ydata().tolist() == [0.8, 0.9]


def test_a_single_training_has_no_spread():
    spreads = {"a": {"trainings": 1, "accuracy": {"mean": 0.5, "deviation": None}}}
    assert "0.5000 " in comparison_table(spreads, {}, "a")
    assert "±" not in comparison_table(spreads, {}, "a")
