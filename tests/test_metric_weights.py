"""Metrics of weighted jets: a jet of weight three counts like three jets."""

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import roc_auc_score

from e2evit.metrics import JetClassification, JetTagging, MassRegression, MassSculpting, auc_in_bins, response_in_bins
from e2evit.metrics.sculpting import sculpting_statistics
from e2evit.results.measure import class_weights, evaluate_predictions
from e2evit.results.predictions import Predictions

RNG = np.random.default_rng(0)
NUMBER = 3000
LABELS = RNG.integers(0, 2, NUMBER)
SCORES = np.clip(RNG.normal(0.4 + 0.2 * LABELS, 0.2), 0.01, 0.99)
MASSES = RNG.uniform(50, 250, NUMBER)
PREDICTED = MASSES * RNG.normal(1, 0.1, NUMBER)
WEIGHTS = RNG.integers(1, 4, NUMBER)
REPEATED = np.repeat(np.arange(NUMBER), WEIGHTS)
PROBABILITIES = np.stack([1 - SCORES, SCORES], axis=1)


def values(metrics: dict) -> dict:
    return {name: value for name, value in metrics.items() if not name.endswith(("_low", "_high", "_chance"))}


@pytest.mark.parametrize(
    ("metric", "arrays", "more"),
    [
        (JetTagging, {"predictions": SCORES, "references": LABELS}, {}),
        (JetClassification, {"predictions": PROBABILITIES, "references": LABELS}, {}),
        (MassRegression, {"predictions": PREDICTED, "references": MASSES}, {"scales": np.full(NUMBER, 12.0)}),
    ],
    ids=["tagging", "classes", "mass"],
)
def test_a_weight_counts_like_as_many_jets(metric, arrays, more):
    options = {"num_resamples": 20}
    weighted = metric().compute(**arrays, **more, weights=WEIGHTS, **options)
    repeated = metric().compute(**{name: of[REPEATED] for name, of in {**arrays, **more}.items()}, **options)
    equal = metric().compute(**arrays, **more, weights=np.full(NUMBER, 0.5), **options)
    plain = metric().compute(**arrays, **more, **options)
    # quantiles are interpolated without weights, and bins have equal numbers of jets, not of weights
    near = {"rel": 0.02, "abs": 0.005}
    assert values(weighted) == pytest.approx(values(repeated), **near)
    assert values(equal) == pytest.approx(values(plain), **near)
    assert set(weighted) == set(plain)
    for name in values(weighted):
        if f"{name}_low" in weighted:
            assert weighted[f"{name}_low"] <= weighted[name] <= weighted[f"{name}_high"]


def test_weights_of_sculpting():
    edges = np.linspace(50, 250, 21)
    weighted = sculpting_statistics(LABELS, SCORES, MASSES, edges, WEIGHTS)
    repeated = sculpting_statistics(*(of[REPEATED] for of in (LABELS, SCORES, MASSES)), edges)
    assert weighted == pytest.approx(repeated, abs=0.003)
    found = MassSculpting().compute(
        predictions=SCORES, references=LABELS, masses=MASSES, weights=WEIGHTS, num_resamples=20
    )
    assert 0 < found["mass_divergence_at_50"] < 3 * found["mass_divergence_at_50_chance"]  # the mass is ignored


def test_weights_in_bins():
    (row,) = auc_in_bins(LABELS, SCORES, MASSES, [0, 300], WEIGHTS)
    assert row["roc_auc"] == pytest.approx(roc_auc_score(LABELS[REPEATED], SCORES[REPEATED]))
    assert "roc_auc_low" not in row
    heavy = np.where(PREDICTED > MASSES, 1.0, 0.0)
    rows = response_in_bins(MASSES, PREDICTED, MASSES, [50, 150, 250], num_resamples=5, weights=heavy)
    assert all(row["response"] > 1 for row in rows)


@pytest.mark.parametrize("wrong", [[1.0], np.full(NUMBER, -1.0), np.full(NUMBER, np.nan), np.zeros(NUMBER)])
def test_weights_that_are_none(wrong):
    with pytest.raises(ValueError, match="a finite weight >= 0 for each of 3000 jets"):
        JetTagging().compute(predictions=SCORES, references=LABELS, weights=wrong)


def rows_with(weights) -> Dataset:
    columns = {"labels": LABELS, "mass_labels": MASSES, "jet_mass": MASSES, "pt": MASSES, "weight": weights}
    return Dataset.from_dict(columns | {"event_id": [str(number) for number in range(NUMBER)]})


def test_evaluation_with_weights():
    """Classes keep their shares, whatever the scale of their weights."""
    rows = rows_with(np.where(LABELS == 1, 1e-3, 5.0) * WEIGHTS)
    weights = class_weights(rows, "weight", LABELS)
    assert [weights[label == LABELS].mean() for label in (0, 1)] == pytest.approx([1, 1])
    predictions = Predictions.of_classes(PROBABILITIES, PREDICTED)
    found = evaluate_predictions(rows, "mass_labels", ["qcd", "top"], {"model": predictions}, "weight")
    expected = roc_auc_score(LABELS[REPEATED], SCORES[REPEATED])
    assert found["metrics"]["model"]["roc_auc"] == pytest.approx(expected)
    assert found["predictions"]["weight"] == pytest.approx(weights)
    assert "weight" not in evaluate_predictions(rows, "mass_labels", [], {"model": predictions})["predictions"]


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("wight", WEIGHTS * 1.0, "no column 'wight' of weights; they have labels"),
        ("event_id", WEIGHTS * 1.0, "holds string, and weights are floats"),
        ("weight", np.where(np.arange(NUMBER) == 7, np.nan, 1.0), "Row 7: the weight 'weight' is nan"),
        ("weight", np.where(LABELS == 1, 0.0, 1.0), "All weights 'weight' of class 1 are zero"),
    ],
)
def test_columns_that_are_no_weights(name, weights, message):
    with pytest.raises(ValueError, match=message):
        class_weights(rows_with(weights), name, LABELS)
