"""Each signal against the background alone: values and intervals against closed forms."""

import numpy as np
import pytest
from samples import make_result
from scipy.special import softmax
from scipy.stats import beta, norm

from e2evit.metrics import MassRegression, discriminant, signal_in_bins, signal_metrics
from e2evit.metrics.classification import delong_interval
from e2evit.metrics.signals import binomial_interval
from e2evit.results.compare import holm
from e2evit.results.measure import measure, measure_in_bins
from e2evit.results.predictions import Predictions
from e2evit.results.tables import signals_table

NAMES = ("qcd", "top", "w")


def test_discriminant():
    probabilities = np.array([[0.2, 0.6, 0.2], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0]])
    assert discriminant(probabilities, 1) == pytest.approx([0.75, 0.0, 0.5])
    assert discriminant(probabilities, 2) == pytest.approx([0.5, 0.5, 1.0])


def gaussians(number=20000, seed=0):
    rng = np.random.default_rng(seed)
    is_signal = np.repeat([False, True], number)
    return is_signal, rng.normal(is_signal, 1.0)


def test_two_gaussians():
    """Scores of unit width one apart: the AUC is Φ(1/√2), and ε_B = Φ(Φ⁻¹(ε_S) - 1)."""
    is_signal, scores = gaussians()
    found = signal_metrics(is_signal, scores)
    assert found["roc_auc"] == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.01)
    for percent in (30, 50, 70):
        expected = norm.cdf(norm.ppf(percent / 100) - 1)
        assert found[f"background_at_{percent}"] == pytest.approx(expected, rel=0.05)
        assert found[f"rejection_at_{percent}"] == 1 / found[f"background_at_{percent}"]
        low, high = (found[f"background_at_{percent}_{end}"] for end in ("low", "high"))
        assert low < found[f"background_at_{percent}"] < high
        assert found[f"rejection_at_{percent}_low"] == 1 / high
        # a Gaussian of as many jets
        assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(expected * (1 - expected) / 20000), rel=0.05)


def test_few_background_jets():
    """25 of 2 076: 83 is known to lie between 56 and 128. If none is left, there is a lower bound only."""
    low, high = binomial_interval(25, 2076)
    assert (round(1 / high), round(1 / low)) == (56, 128)
    assert beta.cdf(low, 25, 2052) == pytest.approx(0.025)
    scores = np.concatenate([np.zeros(100), np.ones(50)])
    found = signal_metrics(scores == 1, scores)
    assert found["background_at_50"] == found["background_at_50_low"] == 0
    assert np.isnan(found["rejection_at_50"])
    assert found["rejection_at_50_low"] == pytest.approx(1 / (1 - 0.025 ** (1 / 100)))
    assert np.isnan(found["rejection_at_50_high"])


def test_a_constant_score_is_random():
    is_signal = np.repeat([False, True], 500)
    found = signal_metrics(is_signal, np.full(1000, 0.3))
    assert found["roc_auc"] == 0.5
    for percent in (30, 50, 70):
        assert found[f"background_at_{percent}"] == pytest.approx(percent / 100)


def test_events_with_many_jets():
    """Two jets with one score count as one: intervals are those of half as many jets; none left leaves a bound."""
    is_signal, scores = gaussians(300)
    twice = (np.repeat(is_signal, 2), np.repeat(scores, 2))
    once, found = signal_metrics(is_signal, scores), signal_metrics(*twice, events=np.repeat(np.arange(600), 2))
    for name in ("background_at_50", "background_at_50_low", "background_at_50_high", "rejection_at_50_high"):
        assert found[name] == pytest.approx(once[name])
    apart = signal_metrics(np.repeat([False, True], 20), np.repeat([0.0, 1.0], 20), events=np.arange(40) // 2)
    assert apart["background_at_50_high"] == pytest.approx(1 - 0.025 ** (1 / 10))
    assert apart["rejection_at_50_low"] == 1 / apart["background_at_50_high"]


def test_weights_are_as_good_as_copies():
    is_signal, scores = gaussians(300)
    weights = np.random.default_rng(1).integers(1, 4, len(scores))
    rows = np.repeat(np.arange(len(scores)), weights)
    weighted, copied = (
        signal_metrics(is_signal, scores, weights.astype(float)),
        signal_metrics(is_signal[rows], scores[rows]),
    )
    for name in ("roc_auc", "background_at_30", "background_at_50", "background_at_70"):
        assert weighted[name] == pytest.approx(copied[name])
        assert weighted[f"{name}_low"] < weighted[name] < weighted[f"{name}_high"]


def test_numbers_that_cannot_be_measured():
    assert np.isnan(discriminant(np.array([[np.nan, 0.5, 0.5]]), 1)).all()
    weights = np.array([0.0, 0.0, 1.0, 1.0])
    found = signal_metrics(np.array([1, 1, 0, 0]), np.array([0.9, 0.8, 0.2, 0.1]), weights)
    assert np.isnan(found["roc_auc"])
    assert np.isnan(found["background_at_50_high"])
    labels, masses = np.array([0, 1, 2, 0, 1, 2]), np.array([np.nan, 90.0, 90.0, np.nan, 90.0, 90.0])
    probabilities, predicted = np.full((6, 3), 1 / 3), np.array([1.0, 1.0, 1.0, np.nan, np.nan, 1.0])
    with pytest.raises(ValueError, match="Row 4: the predicted mass must be finite"):
        measure(labels, masses, Predictions.of_classes(probabilities, predicted, None), NAMES)
    probabilities[1, 2] = np.nan
    with pytest.raises(ValueError, match="Row 1: the predicted probabilities must be finite"):
        measure(labels, masses, Predictions.of_classes(probabilities, np.ones(6), None), NAMES)
    with pytest.raises(ValueError, match="other than low, high, macro, contained and uncontained"):
        measure(labels, masses, Predictions.of_classes(probabilities, np.ones(6), None), ("qcd", "low", "w"))


def test_a_part_of_a_jet_on_the_threshold():
    """A rejection of 71 000 would be read off 1 000 background jets."""
    is_signal = np.repeat([True, False], [100, 1000])
    scores = np.concatenate([np.full(29, 1.0), np.full(71, 0.9), [0.9], np.zeros(999)])
    found = signal_metrics(is_signal, scores)
    assert np.isnan(found["rejection_at_30"])
    assert found["rejection_at_30_low"] == pytest.approx(1 / binomial_interval(1, 1000)[1])
    assert found["background_at_30_low"] == 0


def test_one_class_alone():
    found = signal_metrics(np.zeros(5, bool), np.arange(5.0))
    assert all(np.isnan(value) for value in found.values())
    rows = signal_in_bins(*gaussians(100), np.repeat([450.0, 550.0], 100), [400, 500, 600])
    assert [(row["number"], row["number_background"]) for row in rows] == [(100, 100), (100, 0)]
    assert set(rows[0]) == {"low", "high", "number", "number_background"}


@pytest.mark.parametrize("with_events", [False, True])
def test_of_a_model(with_events):
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.repeat([0, 1, 2], 300), np.full(50, -100)])
    probabilities = softmax(np.eye(3)[labels.clip(0)] + rng.normal(0, 1, (950, 3)), axis=1)
    predictions = Predictions.of_classes(probabilities, np.full(950, 100.0), None)
    pt, masses = rng.uniform(400, 1000, 950), np.full(950, np.nan)
    events = np.arange(950) // 2 if with_events else None
    found = measure(labels, masses, predictions, NAMES, events=events)
    is_pair = np.isin(labels, (0, 2))
    expected = signal_metrics(labels[is_pair] == 2, discriminant(probabilities[is_pair], 2))
    for name in ("roc_auc", "rejection_at_50"):
        assert found[f"w_vs_qcd_{name}"] == pytest.approx(expected[name])
        assert found[f"w_vs_qcd_{name}_low"] < found[f"w_vs_qcd_{name}"] < found[f"w_vs_qcd_{name}_high"]
    columns = {"labels": labels, "mass_labels": masses, "jet_mass": masses, "pt": pt}
    binned = measure_in_bins(columns, predictions, NAMES, num_bins=3, events=events)
    for title in ("top_vs_qcd in pt", "w_vs_qcd in pt"):
        assert [(row["low"], row["high"]) for row in binned[title]] == [
            (row["low"], row["high"]) for row in binned["roc_auc in pt"]
        ]
        assert sum(row["number"] for row in binned[title]) == 600
    bound = {"top_vs_qcd_rejection_at_30_low": 81.8}
    found = {name: value for name, value in found.items() if not name.startswith("top_vs_qcd_rejection_at_30")} | bound
    table = signals_table({"xcit": make_result("xcit", 0, found, label_names=list(NAMES))})
    assert "| xcit, top / qcd |" in table
    assert "| > 82 " in table
    assert "| xcit, w / qcd " in table
    assert not signals_table({"xcit": make_result("xcit", 0, {"roc_auc": 0.9}, label_names=["qcd", "top"])})


def test_an_area_near_one():
    """The interval stays inside; exactly one is bounded by the number of jets."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    area = delong_interval(labels, rng.normal(4 * labels, 1.0))
    assert 0.98 < area[0] < area[1] < 1
    assert delong_interval(labels, labels) == (pytest.approx(0.025 ** (1 / 200)), 1.0)
    assert delong_interval(labels, -labels) == (0.0, pytest.approx(1 - 0.025 ** (1 / 200)))


def test_masses_that_cannot_be_measured():
    compute = MassRegression().compute
    constant = compute(predictions=[100.3] * 40, references=np.linspace(51.7, 198.1, 40), num_resamples=5)
    assert constant["slope"] == 0
    assert np.isnan(constant["resolution_over_slope"])
    for predictions, references, message in (
        ([100.0, np.inf], [90.0, 90.0], "Jet 1 has the predicted mass inf"),
        ([100.0, 100.0], [-90.0, 90.0], r"Jet 0 has the true mass -90\.0: masses must be finite, and true ones"),
        ([100.0, 100.0], [90.0, np.nan], "Jet 1 has the true mass nan"),
        ([], [], "There are no jets"),
    ):
        with pytest.raises(ValueError, match=message):
            compute(predictions=predictions, references=references)


def test_holm_with_a_test_that_could_not_be_made():
    assert holm([0.01, float("nan"), 0.03]) == [pytest.approx(0.02), pytest.approx(float("nan"), nan_ok=True), 0.03]
    assert holm([]) == []
