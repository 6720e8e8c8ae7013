"""Metrics against scikit-learn, closed forms and cases computed by hand."""

from functools import partial

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from samples import row_table
from scipy.special import expit, logit, softmax
from scipy.stats import entropy, norm
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

from e2evit.baselines.constants import baseline_predictions, median_scale
from e2evit.baselines.jet_features import image_mass
from e2evit.data import find_schema
from e2evit.data.grid import window_centres
from e2evit.metrics import (
    METRICS,
    JetClassification,
    JetTagging,
    MassRegression,
    MassSculpting,
    auc_in_bins,
    response_in_bins,
)
from e2evit.metrics.bootstrap import event_numbers, with_intervals
from e2evit.metrics.classification import (
    calibration_error,
    classification_statistics,
    delong_interval,
    tagging_statistics,
)
from e2evit.metrics.sculpting import sculpting_statistics
from e2evit.results.measure import align_labels, evaluate_predictions, measure, measure_in_bins
from e2evit.results.predictions import Predictions


def test_tagging_of_two_gaussians():
    """Scores of unit width one apart: AUC = Φ(1/√2), ε_B at ε_S = 1/2 is Φ(-1)."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20000)
    scores = rng.normal(labels, 1.0)
    found = JetTagging().compute(predictions=scores, references=labels, num_resamples=50)
    assert found["roc_auc"] == roc_auc_score(labels, scores)
    # 20 000 jets a class: standard deviations of 0.0024 and 2 %
    assert found["roc_auc"] == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.01)
    assert found["rejection_at_50"] == pytest.approx(1 / norm.cdf(-1), rel=0.08)
    # DeLong's interval is the bootstrap's: 2 x 1.96 standard deviations
    width = found["roc_auc_high"] - found["roc_auc_low"]
    draws = with_intervals(tagging_statistics, labels, scores, num_resamples=200)
    assert width == pytest.approx(draws["roc_auc_high"] - draws["roc_auc_low"], rel=0.15)
    middle = logit([found["roc_auc_low"], found["roc_auc_high"]]).mean()
    assert middle == pytest.approx(logit(found["roc_auc"]))


def test_delong_by_hand():
    """Two signal and two background jets: shares 1 and 1/2 on both sides, variance 1/8 each, over two jets each."""
    low, high = delong_interval(np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.1, 0.6]))
    half = norm.ppf(0.975) * np.sqrt(2 * 0.125 / 2) / (0.75 * 0.25)
    assert (low, high) == pytest.approx((expit(logit(0.75) - half), expit(logit(0.75) + half)))
    assert delong_interval(np.array([1, 1, 1, 0, 0]), np.full(5, 0.5)) == (0.5, 0.5)
    assert np.isnan(delong_interval(np.array([1, 1]), np.array([0.1, 0.2]))).all()


def test_classification_of_five_classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 4000)
    probabilities = softmax(2 * np.eye(5)[labels] + rng.normal(0, 1, (4000, 5)), axis=1)
    found = JetClassification().compute(predictions=probabilities, references=labels, num_resamples=20)
    assert found["accuracy"] == accuracy_score(labels, probabilities.argmax(axis=1))
    assert found["roc_auc_macro"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert found["roc_auc_macro"] == pytest.approx(np.mean([found[f"roc_auc_{i}"] for i in range(5)]))
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert found["roc_auc_3_low"] < found["roc_auc_3"] < found["roc_auc_3_high"]
    batched = JetClassification()
    for part in np.array_split(np.arange(4000), 3):
        batched.add_batch(predictions=probabilities[part], references=labels[part])
    assert batched.compute(num_resamples=20) == found
    absent = JetClassification().compute(predictions=probabilities[:2], references=[0, 1], num_resamples=5)
    assert np.isnan(absent["roc_auc_4"])
    assert np.isnan(absent["roc_auc_macro"])


def test_calibration_error():
    """0.9 certain but right half the time: 0.4; labels drawn from the stated probabilities: 0."""
    probabilities = np.tile([0.9, 0.1], (1000, 1))
    assert calibration_error(np.repeat([0, 1], 500), probabilities) == pytest.approx(0.4)
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 1, 50000)
    honest = np.stack([first, 1 - first], axis=1)
    # 15 bins of some 5 000 jets: standard error below 0.007 each
    assert calibration_error((rng.random(50000) > first).astype(int), honest) < 0.01


def test_rejection_by_hand():
    labels, scores = np.array([0, 0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.8, 0.7, 0.9])
    assert tagging_statistics(labels, scores)["rejection_at_50"] == 4  # none passes: the number of background jets
    assert tagging_statistics(labels, scores)["rejection_at_70"] == 4  # 0.8 passes, one of four
    assert tagging_statistics(labels, np.zeros(6))["rejection_at_50"] == 2  # a constant is random


def test_mass_by_hand():
    found = MassRegression().compute(predictions=[90.0, 110.0, 330.0], references=[100.0, 100.0, 300.0])
    assert found["mae_gev"] == pytest.approx(50 / 3)
    assert found["rmse_gev"] == pytest.approx(np.sqrt(1100 / 3))
    assert found["response"] == pytest.approx(1.1)
    # responses 0.9, 1.1, 1.1: the 16th percentile lies 32 % of the way from the first to the second
    assert found["relative_resolution"] == pytest.approx((1.1 - (0.9 + 0.32 * 0.2)) / 2)


def test_resolution_of_a_gaussian():
    rng = np.random.default_rng(0)
    masses = rng.uniform(50, 300, 20000)
    predictions = masses * rng.normal(1, 0.1, 20000)
    found = MassRegression().compute(predictions=predictions, references=masses, num_resamples=20)
    assert found["relative_resolution"] == pytest.approx(0.0994, rel=0.03)  # half of 16-84 %: 0.9945 σ
    assert found["slope"] == pytest.approx(1, abs=0.01)
    assert found["r2"] == pytest.approx(r2_score(masses, predictions), rel=1e-9)
    assert found["mean_relative_error"] == pytest.approx(0.0798, rel=0.03)  # σ √(2/π)
    assert found["linearity"] < 0.01


def test_regression_to_the_mean_is_exposed():
    """m̂ = 175 + (m - 175) / 2 looks precise; slope, edges and linearity give it away."""
    masses = np.linspace(50, 300, 5001)
    found = MassRegression().compute(predictions=175 + (masses - 175) / 2, references=masses, num_resamples=5)
    assert found["slope"] == pytest.approx(0.5)
    assert found["resolution_over_slope"] == pytest.approx(2 * found["relative_resolution"])
    assert found["response_low_edge"] == pytest.approx(0.5 + 87.5 / 62.5, rel=1e-3)
    assert found["response_high_edge"] == pytest.approx(0.5 + 87.5 / 287.5, rel=1e-3)
    assert found["linearity"] > 0.2
    rows = response_in_bins(masses, 175 + (masses - 175) / 2, masses, [50, 100, 300, 400], num_resamples=5)
    assert [row["number"] for row in rows] == [1000, 4000, 1]
    assert rows[0]["response"] == pytest.approx(0.5 + 87.5 / 75, rel=1e-3)
    assert rows[0]["response_low"] <= rows[0]["response"] <= rows[0]["response_high"]
    assert set(rows[2]) == {"low", "high", "number"}


def test_uncertainties():
    rng = np.random.default_rng(0)
    masses, scales = np.full(20000, 100.0), rng.uniform(5, 20, 20000)
    predictions = masses + scales * rng.normal(0, 1, 20000)
    compute = partial(MassRegression().compute, predictions=predictions, references=masses, num_resamples=10)
    found = compute(scales=scales)
    # 20 000 jets: standard error of the coverage 0.0033
    assert found["coverage_68"] == pytest.approx(0.6827, abs=0.012)
    assert found["pull_width"] == pytest.approx(0.9945, abs=0.02)
    assert compute(scales=scales / 2)["pull_width"] == pytest.approx(2 * found["pull_width"])
    with pytest.raises(ValueError, match="one positive scale"):
        compute(scales=-scales)


def test_sculpting():
    rng = np.random.default_rng(0)
    labels, masses = np.repeat([0, 1], 20000), rng.uniform(50, 250, 40000)
    compute = partial(MassSculpting().compute, references=labels, masses=masses, num_resamples=10)
    blind = compute(predictions=labels + rng.normal(0, 1, 40000))
    assert blind["mass_divergence_at_50"] < 0.005
    # a cut on mass alone: jets that pass and jets that fail have nothing in common
    masses[labels == 1] = rng.uniform(230, 250, 20000)
    cut = MassSculpting().compute(predictions=masses, references=labels, masses=masses, num_resamples=10)
    assert cut["mass_divergence_at_50"] == pytest.approx(1, abs=0.02)
    # two bins: half of the passing jets in each; a quarter and three quarters of the failing ones
    labels, masses = np.array([0, 0, 0, 0, 0, 0, 1, 1]), np.array([1, 3, 1, 3, 3, 3, 9, 9.0])
    found = sculpting_statistics(labels, np.array([1, 1, 0, 0, 0, 0, 0.4, 1.5]), masses, [0, 2, 4])
    assert np.isnan(found["mass_divergence_at_30"])  # no background passes the cut
    middle = np.array([0.375, 0.625])
    expected = 0.5 * entropy([0.5, 0.5], middle, base=2) + 0.5 * entropy([0.25, 0.75], middle, base=2)
    assert found["mass_divergence_at_50"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="one mass"):
        MassSculpting().compute(predictions=[0.1, 0.2], references=[0, 1], masses=[1.0])


def test_few_jets_pass():
    """Twenty of 2 000 jets pass regardless of mass: their divergence is pure chance and lies in its own interval."""
    rng = np.random.default_rng(0)
    labels, masses = np.repeat([0, 1], 2000), rng.uniform(50, 250, 4000)
    scores = np.where(labels == 1, rng.permutation(4000) / 4000, 0)
    passing = rng.permutation(2000)[:20]
    scores[passing] = 1.5
    found = MassSculpting().compute(predictions=scores, references=labels, masses=masses)
    name = "mass_divergence_at_50"
    assert found[f"{name}_chance"] > 0.15
    assert found[name] == pytest.approx(found[f"{name}_chance"], abs=0.1)
    assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    # all of them heavy
    scores[passing], scores[np.argsort(masses[:2000])[-20:]] = 0, 1.5
    heavy = MassSculpting().compute(predictions=scores, references=labels, masses=masses)
    assert heavy[f"{name}_low"] > heavy[f"{name}_chance"]


def test_intervals_of_statistics_that_grow_with_fluctuations():
    """A calibrated model's error is pure chance, which resampling doubles; its interval contains it nevertheless."""
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.ones(3), 2000)
    labels = (truth.cumsum(1) < rng.random((2000, 1))).sum(1)
    found = JetClassification().compute(predictions=truth, references=labels)
    assert found["calibration_error_low"] < found["calibration_error"] < found["calibration_error_high"]
    resampled = with_intervals(classification_statistics, labels, truth, num_resamples=300)
    assert resampled["calibration_error_low"] > found["calibration_error_low"]


def test_jets_of_an_event_are_resampled_together():
    """A jet that comes twice is no second jet: its event counts once, whatever the order of the rows."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    scores, masses = labels + rng.normal(0, 1.5, 400), rng.uniform(50, 200, 400)
    predicted = masses * rng.normal(1, 0.1, 400)
    assert event_numbers([f"event-{number}" for number in range(400)]) is None
    twice = rng.permutation(np.tile(np.arange(400), 2))
    events = event_numbers([f"event-{number}" for number in twice])
    for metric, arrays, key in (
        (JetTagging(), (scores, labels), "roc_auc"),
        (JetClassification(), (np.stack([1 - scores, scores], 1), labels), "roc_auc_1"),
        (JetClassification(), (np.stack([1 - scores, scores], 1), labels), "accuracy"),
        (MassRegression(), (predicted, masses), "relative_resolution"),
    ):

        def width(rows, **options):
            found = metric.compute(predictions=arrays[0][rows], references=arrays[1][rows], **options)  # noqa: B023
            return found[f"{key}_high"] - found[f"{key}_low"]  # noqa: B023

        once = width(np.arange(400))
        assert width(twice) < 0.8 * once
        assert width(twice, events=events) == pytest.approx(once, rel=0.15)


def test_auc_in_bins():
    labels, scores = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.9, 0.8, 0.2, 0.5])
    rows = auc_in_bins(labels, scores, np.array([1.0, 1.0, 3.0, 3.0, 5.0]), [0, 2, 4, 6])
    assert [row.get("roc_auc") for row in rows] == [1.0, 0.0, None]


def test_unknown_targets_are_left_out():
    labels, masses = np.array([0, 1, -100, 1]), np.array([np.nan, 100.0, 50.0, 200.0])
    found = measure(labels, masses, Predictions(np.array([0.1, 0.9, 0.0, 0.8]), np.array([1.0, 110.0, 50.0, 200.0])))
    assert found["roc_auc"] == 1.0
    assert found["mae_gev"] == pytest.approx(10 / 3)
    assert "roc_auc" not in measure(np.full(4, -100), masses, Predictions(np.zeros(4), masses))


def test_measures_of_three_classes():
    rng = np.random.default_rng(0)
    labels, masses = rng.integers(0, 3, 600), rng.uniform(50, 200, 600)
    probabilities = softmax(np.eye(3)[labels] + rng.normal(0, 1, (600, 3)), axis=1)
    found = measure(labels, masses, Predictions.of_classes(probabilities, masses), ["qcd", "w", "h"])
    # class 0 is background, all others are signal
    assert found["roc_auc"] == pytest.approx(roc_auc_score(labels > 0, 1 - probabilities[:, 0]))
    assert found["roc_auc_h"] == pytest.approx(roc_auc_score(labels == 2, probabilities[:, 2]))
    assert found["roc_auc_w_low"] < found["roc_auc_w"] < found["roc_auc_w_high"]
    assert found["roc_auc_macro"] == pytest.approx(np.mean([found[f"roc_auc_{n}"] for n in ("qcd", "w", "h")]))
    assert {"accuracy", "calibration_error", "mass_divergence_at_50", "mae_gev"} <= set(found)
    two = measure(labels % 2, masses, Predictions.of_classes(probabilities[:, :2], masses), ["qcd", "top"])
    assert {"accuracy", "calibration_error"} <= set(two)
    assert not {name for name in two if name.startswith("roc_auc_") and name not in ("roc_auc_low", "roc_auc_high")}


def test_image_mass_of_two_crystals():
    """Two massless deposits E at Δη = 0 and Δφ apart around η ≈ 0: m² = 2 E² (1 - cos Δφ)."""
    schema = find_schema("simulated")
    ecal = schema.channel_names.index("ecal")
    pixels = [(ecal * 125 + 62) * 125 + column for column in (42, 82, 124)]  # the last is more than 0.8 away
    row = row_table(1, ieta=np.array([28]), iphi=np.array([10]), pixel_index=[pixels], pixel_value=[[50.0, 50.0, 9.0]])
    eta, phi = window_centres(28, 10)
    pt = 50.0 / np.cosh(eta[62])
    expected = np.sqrt(2 * pt**2 * (1 - np.cos(phi[82] - phi[42])))
    assert image_mass(Dataset(row), schema)[0] == pytest.approx(expected, rel=1e-6)
    # ten rows from a seed at the edge of the barrel: in the endcap, images hold a quarter of the energy
    pixels = [pixel + 10 * 125 for pixel in pixels[:2]]
    endcap = row_table(1, ieta=np.array([43]), iphi=np.array([10]), pixel_index=[pixels], pixel_value=[[50.0, 50.0]])
    farther = np.cosh(eta[62]) / np.cosh(window_centres(43, 10)[0][72])
    assert image_mass(Dataset(endcap), schema)[0] == pytest.approx(4 * expected * farther, rel=1e-6)
    unplaced = row_table(1, ieta=[None])
    with pytest.raises(ValueError, match="ieta"):
        image_mass(Dataset(unplaced), schema)


def test_baselines_use_the_training_split():
    schema = find_schema("simulated")
    dataset = {"train": Dataset(row_table(30, seed=0)), "test": Dataset(row_table(10, seed=1))}
    found = baseline_predictions(dataset, "test", schema, "jet_mass")
    masses = np.array(dataset["train"]["jet_mass"])
    np.testing.assert_allclose(found["constant"].mass_preds, masses.mean(), rtol=1e-6)
    scale = median_scale(masses, image_mass(dataset["train"], schema))
    np.testing.assert_allclose(found["image mass"].mass_preds, scale * image_mass(dataset["test"], schema))
    assert list(baseline_predictions(dataset, "test", find_schema("labelled"), "jet_mass")) == ["constant"]


def test_baselines_without_masses():
    """The image mass still separates classes; a warning would be an error here."""
    schema, nothing = find_schema("simulated"), {"jet_mass": [None] * 30}
    dataset = {"train": Dataset(row_table(30, **nothing)), "test": Dataset(row_table(30, **nothing))}
    predictions = baseline_predictions(dataset, "test", schema, "jet_mass")
    assert np.isnan(predictions["constant"].mass_preds).all()
    np.testing.assert_array_equal(predictions["image mass"].scores, image_mass(dataset["test"], schema))


def test_labels_are_numbered_as_the_model_numbers_them():
    names = ClassLabel(names=["qcd", "h"])
    data = DatasetDict(train=Dataset.from_dict({"labels": [0, 1, None]}, features=Features({"labels": names})))
    assert align_labels(data, {"qcd": 0, "h": 1}) is data
    assert align_labels(data, {"qcd": 0, "top": 1, "h": 2})["train"]["labels"][:] == [0, 2, None]
    with pytest.raises(ValueError, match="the model knows qcd, top, not h"):
        align_labels(data, {"qcd": 0, "top": 1})


def test_evaluation_tells_unlabelled_jets_and_the_sculpted_mass_apart():
    """Mass-gun jets have a mass but no label; background jets have a label and a jet mass but no target mass."""
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, None] * 40)
    jet_mass = rng.uniform(50, 200, 120).astype(np.float32)
    masses = [None if label is not None else float(mass) for label, mass in zip(labels, jet_mass)]
    rows = Dataset(row_table(120, labels=list(labels), jet_mass=jet_mass, mass_labels=masses))
    scores = np.where(labels == 1, 1.0, 0.0) + rng.normal(0, 1.0, 120)
    predictors = {"model": Predictions(scores, jet_mass)}
    evaluated = evaluate_predictions(rows, "mass_labels", ["qcd", "top"], predictors)
    found, columns = evaluated["metrics"], evaluated["predictions"]
    assert found["model"]["mae_gev"] == 0
    assert found["model"]["roc_auc"] == roc_auc_score((labels == 1)[labels != None], scores[labels != None])  # noqa: E711
    assert "mass_divergence_at_50" in found["model"]
    assert (columns["labels"] == -100).sum() == 40
    assert np.isnan(columns["mass_labels"]).sum() == 80
    assert evaluated["in_bins"] == measure_in_bins(columns, predictors["model"])
    binned = measure_in_bins(columns, predictors["model"], num_bins=2)
    assert {name: [row["number"] for row in rows] for name, rows in binned.items()} == {
        "roc_auc in jet mass": [40, 40],
        "roc_auc in pt": [40, 40],
        "response in mass": [20, 20],
        "response in pt": [20, 20],
    }
    assert binned["response in mass"][0]["relative_resolution"] == 0
    assert all(row["low"] < row["high"] for rows in binned.values() for row in rows)
    no_pt = columns | {"pt": np.full(120, np.nan)}
    binned = measure_in_bins(no_pt, Predictions(scores, jet_mass))
    assert set(binned) == {"roc_auc in jet mass", "response in mass"}


def test_the_table_names_every_metric():
    """Every measured quantity has a row, and every row is measured."""
    rng = np.random.default_rng(0)
    labels, masses = rng.integers(0, 3, 300), rng.uniform(50, 200, 300)
    probabilities = softmax(np.eye(3)[labels] + rng.normal(0, 1, (300, 3)), axis=1)
    predicted, merged = masses * rng.normal(1, 0.1, 300), rng.integers(0, 2, 300).astype(float)
    predictions = Predictions.of_classes(probabilities, predicted, np.full(300, 10.0), rng.uniform(0, 1, 300))
    truth = {"merged": merged, "processes": np.full(300, "w"), "generator_masses": np.full(300, 80.4)}
    found = measure(labels, masses, predictions, **truth)
    measured = {name for name in found if not name.endswith(("_low", "_high", "_chance"))}
    of_process = {name for name in measured if name.removeprefix("contained_").startswith("w_")}
    assert {name.removeprefix("contained_").removeprefix("w_") for name in of_process} < set(METRICS)
    measured -= {f"roc_auc_{number}" for number in range(3)} | of_process
    assert measured | {"closure"} == set(METRICS)
