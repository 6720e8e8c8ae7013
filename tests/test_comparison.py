"""Paired tests against hand-computed cases, and the script's refusal to compare different jets."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from forked import run_python
from samples import make_result, row_table
from scipy.special import softmax
from scipy.stats import binomtest, norm, ttest_ind

from e2evit.cli import compare as command
from e2evit.metrics.classification import classification_statistics, delong_interval
from e2evit.plots import quality_against_cost
from e2evit.results.compare import (
    _accuracy_and_parts,
    _auc_and_parts,
    _difference_by_parts,
    compare_models,
    holm,
    paired_bootstrap,
    paired_difference,
    spread_over_seeds,
)
from e2evit.results.measure import evaluate_predictions
from e2evit.results.predictions import (
    JetPredictions,
    Predictions,
    hash_of_ids,
    read_predictions,
    write_predictions,
)
from e2evit.results.record import Result, by_model, fingerprint, read_results
from e2evit.results.tables import comparison_table

ROOT = Path(__file__).parents[1]


def test_accuracies_are_compared_as_mcnemar_does():
    """McNemar's exact test on discordant jets, which ignores training spread, agrees when there are many of them."""
    labels = np.zeros(2000, int)
    first, second = np.eye(2)[labels], np.eye(2)[labels]
    second[:250], first[250:450] = [0, 1], [0, 1]  # only the first gets 250 right, only the second 200
    found = _difference_by_parts(_accuracy_and_parts, labels, [first], [second])
    assert found["difference"] == pytest.approx(50 / 2000)
    assert found["p_value"] == pytest.approx(binomtest(200, 450).pvalue, rel=0.15)  # the exact test is conservative
    variance = (250 + 200 - 50**2 / 2000) / 2000**2
    assert found["high"] - found["low"] == pytest.approx(2 * norm.ppf(0.975) * np.sqrt(variance), rel=1e-3)
    assert _difference_by_parts(_accuracy_and_parts, labels, [first], [first])["p_value"] == 1


def test_jets_and_trainings_both_count():
    firsts, seconds = [0.91, 0.93, 0.92], [0.90, 0.89, 0.91]
    trainings = paired_difference(firsts, seconds, 0.0)
    assert trainings["p_value"] == pytest.approx(ttest_ind(firsts, seconds, equal_var=False).pvalue)
    jets = paired_difference([0.92], [0.90], 0.01)
    assert jets["p_value"] == pytest.approx(2 * norm.sf(2))
    assert jets["high"] - jets["low"] == pytest.approx(2 * norm.ppf(0.975) * 0.01)
    both = paired_difference(firsts, seconds, 0.01)
    assert both["p_value"] > max(trainings["p_value"], jets["p_value"])
    assert both["difference"] == pytest.approx(trainings["difference"]) == pytest.approx(jets["difference"])


def test_paired_bootstrap_knows_what_the_models_share():
    """Errors shared by two models cancel in their difference; errors of single trainings average out."""
    rng = np.random.default_rng(0)
    shared, own = rng.normal(0, 10, 4000), rng.normal(0, 1, (4, 4000))
    models = shared + own

    def mean(targets, predictions):
        return float((predictions - targets).mean())

    def error(firsts, seconds):
        return paired_bootstrap(mean, [np.zeros(4000)], firsts, seconds, num_resamples=1000)

    assert error(models[:1], models[1:2]) == pytest.approx(np.sqrt(2 / 4000), rel=0.1)
    assert error(models[:2], models[2:]) == pytest.approx(np.sqrt(1 / 4000), rel=0.1)
    assert error(models[:1], models[:1]) == 0


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


def test_jets_of_an_event_count_together():
    """A jet that comes twice does not make a difference more certain."""
    once, trainings = predictions(600), {"good": ["good_seed0"], "bad": ["bad_seed0"]}
    twice = np.repeat(np.arange(600), 2)

    def doubled(event_ids):
        columns = (getattr(once, name)[twice] for name in ("labels", "mass_labels", "jet_masses", "pts"))
        named = ({name: of[twice] for name, of in part.items()} for part in (once.scores, once.mass_preds))
        return JetPredictions(*columns, *named, {n: of[twice] for n, of in once.probabilities.items()}, event_ids)

    single, alone, together = (
        compare_models(jets, trainings, "good", num_resamples=200)["bad"]
        for jets in (once, doubled(None), doubled(twice))
    )
    for key in single:
        widths = [found[key]["high"] - found[key]["low"] for found in (single, alone, together)]
        assert widths[1] < 0.8 * widths[0]
        assert widths[2] == pytest.approx(widths[0], rel=0.15 if key == "relative_resolution" else 0.01)


def test_the_better_model_wins():
    trainings = {"good": ["good_seed0"], "bad": ["bad_seed0"]}
    found = compare_models(predictions(), trainings, "good", num_resamples=100)["bad"]
    assert found["roc_auc_macro"]["low"] > 0
    assert found["accuracy"]["difference"] > 0
    assert found["relative_resolution"]["high"] < 0
    assert all(entry["p_holm"] <= 0.02 for entry in found.values())
    with pytest.raises(ValueError, match="There is no model 'other'; known ones: good, bad"):
        compare_models(predictions(), trainings, "other")


def _macro_auc(labels, probabilities):
    return classification_statistics(labels, probabilities)["roc_auc_macro"]


def compare_aucs(labels, firsts, seconds):
    return _difference_by_parts(_auc_and_parts, labels, firsts, seconds)


def test_aucs_are_compared_as_the_bootstrap_does():
    """For the mean of three AUCs, with ties: the same difference and, within 10 %, the same error."""
    rng, number = np.random.default_rng(3), 1000
    labels = rng.integers(0, 3, number)
    shared = rng.normal(0, 2, (number, 3))  # what both models get wrong
    good, bad, worse = (
        softmax(np.round(2 * np.eye(3)[labels] + shared + rng.normal(0, noise, (number, 3)), 1), axis=1)
        for noise in (0.5, 1.0, 1.0)
    )
    half = norm.ppf(0.975) * paired_bootstrap(_macro_auc, [labels], [good], [bad], num_resamples=300)
    found = compare_aucs(labels, [good], [bad])
    assert found["difference"] == pytest.approx(_macro_auc(labels, good) - _macro_auc(labels, bad), abs=1e-12)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=0.1)
    alone = compare_aucs(labels, [good], [softmax(rng.normal(size=(number, 3)), axis=1)])
    assert found["high"] - found["low"] < 0.7 * (alone["high"] - alone["low"])
    assert compare_aucs(labels, [good], [good])["p_value"] == 1
    assert found["p_value"] == compare_aucs(labels, [bad], [good])["p_value"] < 1e-4
    trainings = compare_aucs(labels, [good, good], [bad, worse])
    aucs = [_macro_auc(labels, found) for found in (bad, worse)]
    jets = paired_bootstrap(_macro_auc, [labels], [good, good], [bad, worse], num_resamples=300)
    expected = paired_difference([_macro_auc(labels, good)] * 2, aucs, jets)
    assert trainings["difference"] == pytest.approx(expected["difference"], abs=1e-12)
    assert trainings["high"] - trainings["low"] == pytest.approx(expected["high"] - expected["low"], rel=0.1)


def test_the_error_of_two_classes_aucs_is_delongs():
    """Against an uninformative model without spread, the interval is that of a single AUC."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 3000)
    scores = labels + rng.normal(0, 2, 3000)
    found = compare_aucs(labels, [np.stack([-scores, scores], 1)], [np.zeros((3000, 2))])
    low, high = delong_interval(labels, scores)
    assert [0.5 + found["low"], 0.5 + found["high"]] == pytest.approx([low, high], abs=4e-4)  # symmetric in the logit


def test_seeds_are_trainings_of_one_model():
    results = [
        make_result(model, seed, {"roc_auc": value})
        for model, seed, value in (("a", 0, 0.8), ("a", 1, 0.9), ("b", 0, 0.7))
    ]
    groups = by_model(results)
    assert {model: [result.name for result in group] for model, group in groups.items()} == {
        "a": ["a_seed0", "a_seed1"],
        "b": ["b_seed0"],
    }
    found = spread_over_seeds(groups, ["roc_auc", "accuracy"])
    assert found["a"] == {
        "trainings": 2,
        "roc_auc": {"mean": pytest.approx(0.85), "deviation": pytest.approx(0.0707, 1e-3)},
    }
    assert found["b"] == {"trainings": 1, "roc_auc": {"mean": 0.7, "deviation": None}}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three results on the same jets, one on others."""
    rng, paths, folder = np.random.default_rng(0), {}, tmp_path_factory.mktemp("results")
    for number, (name, seed, noise) in enumerate(
        (("good", 0, 0.3), ("bad", 0, 2.0), ("worse", 0, 3.0), ("other", 1, 0.3))
    ):
        rows = Dataset(row_table(200, seed=seed))
        labels, masses = np.array(rows["labels"]), np.array(rows["jet_mass"])
        signal = 1 / (1 + np.exp(-(labels - 0.5) / 0.2 + rng.normal(0, noise, 200)))
        model = Predictions.of_classes(np.stack([1 - signal, signal], 1), masses * rng.normal(1, noise / 10, 200))
        fields = evaluate_predictions(rows, "jet_mass", ["qcd", "top"], {"model": model})
        fields |= {"data": {"test": fingerprint(rows)}, "cost": {"macs": 1e6 * (1 + number)}}
        paths[name] = folder / f"{number}.json"  # the name of the file says nothing
        make_result(name, 0, **fields).to_json(paths[name])
    return paths


def compare(*arguments):
    return run_python("scripts/compare.py", "--results", *arguments)


@pytest.mark.slow
def test_script(results, tmp_path):
    three = results["good"], results["bad"], results["worse"]
    done = compare(*three, "--output_dir", tmp_path / "out", "--figures", tmp_path / "figures")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out/comparison.json").read_text())
    assert found["paired"]["good"]["bad"]["relative_resolution"]["high"] < 0
    assert "good − bad" in (tmp_path / "out/comparison.md").read_text()
    latex = (tmp_path / "out/comparison.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert r"good $-$ bad" in latex
    for name in ("roc", "resolution_mass", "mass_response", "cost"):
        assert (tmp_path / f"figures/{name}.png").stat().st_size > 5000
    assert "No figure sculpting: it needs 50 background jets that pass the tagger." in done.stdout


def test_different_jets_are_not_compared(results):
    done = compare(results["good"], results["other"])
    assert done.returncode != 0
    assert "were not measured on the same jets and targets: event_ids " in done.stderr


def test_weighted_results_are_not_tested(results, tmp_path):
    weighted = tmp_path / "weighted.json"
    replace(Result.from_json(results["good"]), weights="weight").to_json(weighted)
    with pytest.raises(ValueError, match="not measured on the same jets and targets: weights None and weight"):
        read_results([results["bad"], weighted])
    with pytest.raises(ValueError, match="Models are tested without weights"):
        command.main(["--results", str(weighted), "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_references_must_be_among_the_results(results):
    done = compare(results["good"], "--references", "good", "best")
    assert done.returncode != 0
    assert "No results of best; there are good." in done.stderr


def test_the_front_of_quality_against_cost():
    def result(model, macs, value):
        metrics = {"roc_auc": value, "roc_auc_low": value - 0.01, "roc_auc_high": value + 0.01}
        return make_result(model, None, metrics, cost=None if macs is None else {"macs": macs})

    results = [result("cheap", 1e6, 0.8), result("good", 4e6, 0.9), result("beaten", 5e6, 0.85)]
    results.append(result("trees", None, 0.95))  # of unknown cost
    figure = quality_against_cost(results, "roc_auc")
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["cheap", "good", "beaten"]
    front = next(line for line in figure.axes[0].lines if line.get_linestyle() == ":")
    assert front.get_ydata().tolist() == [0.8, 0.9]
    assert quality_against_cost(results[1:], "roc_auc") is None  # two points


def test_a_single_training_has_no_spread():
    spreads = {"a": {"trainings": 1, "accuracy": {"mean": 0.5, "deviation": None}}}
    assert "0.500 " in comparison_table(spreads, {})
    assert "±" not in comparison_table(spreads, {})


def test_predictions_must_be_those_of_the_result(tmp_path):
    ids, number = [f"event {row}" for row in range(40)], 40
    jets = {"event_id": ids, "labels": np.arange(number) % 2, "mass_labels": np.full(number, 80.0)}
    jets |= {"model score": np.linspace(0, 1, number), "model mass": np.full(number, 79.0)}
    data = {"test": {"rows": number, "event_ids": hash_of_ids(ids)}}
    result = make_result("a", 0, {"roc_auc": 0.9}, split="test", data=data, predictions=jets)
    path = tmp_path / "a.json"

    def refused(message, error=ValueError, **changes):
        result.to_json(path)
        write_predictions(path.with_suffix(".parquet"), {k: v for k, v in (jets | changes).items() if v is not None})
        with pytest.raises(error, match=message):
            read_predictions({path: result})

    result.to_json(path)
    assert len(read_predictions({path: result}).labels) == number
    refused(r"a\.parquet holds other jets than .*a\.json was measured on", event_id=ids[::-1])
    refused("has no column 'model score'", **{"model score": None})
    refused("`model score` is not finite", **{"model score": np.full(number, np.nan)})
    refused("`model mass` is string, expected numbers", **{"model mass": ["80"] * number})
    write_predictions(path.with_suffix(".parquet"), {name: values[:9] for name, values in jets.items()})
    with pytest.raises(ValueError, match="holds other jets"):
        read_predictions({path: result})
    path.with_suffix(".parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.parquet, the predictions of .*a\.json, is missing"):
        read_predictions({path: result})
    with pytest.raises(ValueError, match="test has no event_ids, rows"):
        make_result("a", 0, {"roc_auc": 0.9}, split="test", data={"test": {}})
