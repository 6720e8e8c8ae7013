"""Metrics against scikit-learn, closed forms and cases computed by hand."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from samples import row_table
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from e2evit.data import SCHEMAS
from e2evit.data.grid import window_centres
from e2evit.evaluation import align_labels, baseline_predictions, measure, median_scale, softmax
from e2evit.jet_features import image_mass
from e2evit.metrics import JetTagging, MassRegression
from e2evit.metrics.classification import background_rejection


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
    assert found["roc_auc_low"] < found["roc_auc"] < found["roc_auc_high"]
    assert found["roc_auc_high"] - found["roc_auc_low"] == pytest.approx(4 * 0.0024, rel=0.4)


def test_rejection_by_hand():
    labels, scores = np.array([0, 0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.8, 0.7, 0.9])
    assert background_rejection(labels, scores, 0.5) == 4  # none passes: the number of background jets
    assert background_rejection(labels, scores, 1.0) == 4  # 0.8 passes, one of four
    assert background_rejection(labels, np.zeros(6), 0.5) == 2  # a constant is random


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
    found = MassRegression().compute(
        predictions=masses * rng.normal(1, 0.1, 20000), references=masses, num_resamples=20
    )
    assert found["relative_resolution"] == pytest.approx(0.0994, rel=0.03)  # half of 16-84 %: 0.9945 σ


def test_unknown_targets_are_left_out():
    labels, masses = np.array([0, 1, -100, 1]), np.array([np.nan, 100.0, 50.0, 200.0])
    found = measure(labels, masses, np.array([0.1, 0.9, 0.0, 0.8]), np.array([1.0, 110.0, 50.0, 200.0]))
    assert found["roc_auc"] == 1.0
    assert found["mae_gev"] == pytest.approx(10 / 3)
    assert "roc_auc" not in measure(np.full(4, -100), masses, np.zeros(4), masses)


def test_softmax():
    assert softmax(np.array([[1000.0, 1000.0], [0.0, np.log(3)]])).round(6).tolist() == [[0.5, 0.5], [0.25, 0.75]]


def test_image_mass_of_two_crystals():
    """Two massless deposits E at Δη = 0 and Δφ apart around η ≈ 0: m² = 2 E² (1 - cos Δφ)."""
    schema = SCHEMAS["simulated"]
    ecal = schema.channel_names.index("ecal")
    pixels = [(ecal * 125 + 62) * 125 + column for column in (42, 82, 124)]  # the last is more than 0.8 away
    row = row_table(1, ieta=np.array([28]), iphi=np.array([10]), pixel_index=[pixels], pixel_value=[[50.0, 50.0, 9.0]])
    eta, phi = window_centres(28, 10)
    pt = 50.0 / np.cosh(eta[62])
    expected = np.sqrt(2 * pt**2 * (1 - np.cos(phi[82] - phi[42])))
    assert image_mass(Dataset(row), schema)[0] == pytest.approx(expected, rel=1e-6)
    # ten rows beyond a seed at the edge of the barrel: the endcap, where images hold a quarter of the energy
    pixels = [pixel + 10 * 125 for pixel in pixels[:2]]
    endcap = row_table(1, ieta=np.array([43]), iphi=np.array([10]), pixel_index=[pixels], pixel_value=[[50.0, 50.0]])
    farther = np.cosh(eta[62]) / np.cosh(window_centres(43, 10)[0][72])
    assert image_mass(Dataset(endcap), schema)[0] == pytest.approx(4 * expected * farther, rel=1e-6)
    unplaced = row_table(1, ieta=[None])
    with pytest.raises(ValueError, match="ieta"):
        image_mass(Dataset(unplaced), schema)


def test_baselines_use_the_training_split():
    schema = SCHEMAS["simulated"]
    dataset = {"train": Dataset(row_table(30, seed=0)), "test": Dataset(row_table(10, seed=1))}
    found = baseline_predictions(dataset, "test", schema, "jet_mass")
    masses = np.array(dataset["train"]["jet_mass"])
    np.testing.assert_allclose(found["constant"][1], masses.mean(), rtol=1e-6)
    scale = median_scale(masses, image_mass(dataset["train"], schema))
    np.testing.assert_allclose(found["image mass"][1], scale * image_mass(dataset["test"], schema))
    assert list(baseline_predictions(dataset, "test", SCHEMAS["labelled"], "jet_mass")) == ["constant"]


def test_labels_are_numbered_as_the_model_numbers_them():
    names = ClassLabel(names=["qcd", "h"])
    data = DatasetDict(train=Dataset.from_dict({"labels": [0, 1, None]}, features=Features({"labels": names})))
    assert align_labels(data, {"qcd": 0, "h": 1}) is data
    assert align_labels(data, {"qcd": 0, "top": 1, "h": 2})["train"]["labels"][:] == [0, 2, None]
    with pytest.raises(ValueError, match="the model knows qcd, top, not h"):
        align_labels(data, {"qcd": 0, "top": 1})
