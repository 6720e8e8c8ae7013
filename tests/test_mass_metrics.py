"""Metrics of masses by containment and by process, and of containment itself: by hand, and at the edges."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from samples import make_result, row_table
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from e2evit.data import find_schema
from e2evit.metrics import MassRegression, closures, containment_metrics, mass_by_process, uncertainty_in_bins
from e2evit.metrics.mass import (
    mass_statistics,
    quantile_edges,
    relative_resolution,
    response_statistics,
    uncertainty_statistics,
)
from e2evit.results.measure import evaluate_predictions, measure
from e2evit.results.predictions import Predictions
from e2evit.results.tables import masses_table
from e2evit.transforms.targets import select_targets

RNG = np.random.default_rng(0)
NUMBER = 600
MASSES = RNG.uniform(50, 250, NUMBER)
MERGED = RNG.integers(0, 2, NUMBER).astype(float)
# uncontained jets lose half of their mass
PREDICTED = MASSES * RNG.normal(np.where(MERGED, 1.0, 0.5), 0.05)
SCALES = np.full(NUMBER, 10.0)
WEIGHTS = RNG.integers(0, 3, NUMBER).astype(float)
PROBABILITIES = np.clip(RNG.normal(0.3 + 0.4 * MERGED, 0.2), 0, 1)
PROCESSES = np.array(["x_qq", "x_bb", ""])[RNG.integers(0, 3, NUMBER)]
NOTHING = np.empty(0)
UNKNOWN = np.full(NUMBER, -100)


def predictions(masses=PREDICTED, scales=SCALES, containment=PROBABILITIES) -> Predictions:
    return Predictions(np.zeros(len(masses)), masses, None, scales, containment)


def test_width_over_median_and_tails_by_hand():
    """Responses of 1.8, 1.9, 2.0, 2.1, 2.2 and one of 9; a Gaussian has 0.27 % beyond three sigma."""
    masses, response = np.full(26, 100.0), np.r_[np.tile([1.8, 1.9, 2.0, 2.1, 2.2], 5), 9.0]
    found = response_statistics(masses, response * masses)
    low, median, high = np.quantile(response, [0.16, 0.5, 0.84])
    assert found["corrected_resolution"] == pytest.approx((high - low) / 2 / median)
    assert found["tail_share"] == pytest.approx(1 / 26)
    gaussian = RNG.normal(1, 0.1, 200_000)
    found = response_statistics(np.ones(200_000), gaussian)
    assert found["corrected_resolution"] == pytest.approx(0.0994, rel=0.02)
    # three half-widths are 2.98 sigma; 200 000 jets: standard error of 0.00012
    assert found["tail_share"] == pytest.approx(2 * norm.cdf(-3 * norm.ppf(0.84)), abs=5e-4)
    scaled = response_statistics(np.ones(200_000), 0.7 * gaussian)
    assert scaled == pytest.approx(found)
    assert relative_resolution(np.ones(200_000), 0.7 * gaussian) == pytest.approx(0.7 * 0.0994, rel=0.02)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (1.1, {"corrected_resolution": 0.0, "tail_share": 0.0}),  # of all jets
        (0.0, {"corrected_resolution": np.nan, "tail_share": 0.0}),
        (-1.1, {"corrected_resolution": np.nan, "tail_share": 0.0}),
    ],
)
def test_responses_that_are_constant_or_not_positive(response, expected):
    assert response_statistics(MASSES, response * MASSES) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_contained_and_uncontained_jets_apart():
    found = measure(UNKNOWN, MASSES, predictions(), merged=MERGED)
    for kind, value in (("contained", 1), ("uncontained", 0)):
        jets = value == MERGED
        expected = mass_statistics(MASSES[jets], PREDICTED[jets])
        expected |= uncertainty_statistics(MASSES[jets], PREDICTED[jets], SCALES[jets])
        assert {name: found[f"{kind}_{name}"] for name in expected} == pytest.approx(expected)
        assert found[f"{kind}_response_low"] <= found[f"{kind}_response"] <= found[f"{kind}_response_high"]
    plain = measure(UNKNOWN, MASSES, predictions())
    assert {name: found[name] for name in plain} == plain  # all jets: as without `merged`
    assert not [name for name in plain if "contain" in name]


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_jets_of_one_kind(value):
    found = measure(UNKNOWN, MASSES, predictions(), merged=np.full(NUMBER, value))
    kinds = {kind for kind in ("contained", "uncontained") if f"{kind}_response" in found}
    assert kinds == {0.0: {"uncontained"}, 1.0: {"contained"}}.get(value, set())
    assert "containment_auc" not in found  # nothing to tell apart
    assert ("containment_calibration_error" in found) == (value == value)


def test_jets_without_weight_do_not_count():
    weights = np.where(MERGED == 1, WEIGHTS, 0.0)
    found = measure(UNKNOWN, MASSES, predictions(), weights=weights, merged=MERGED, processes=PROCESSES)
    assert not [name for name in found if name.startswith("uncontained")]
    heavy = weights > 0
    expected = mass_statistics(MASSES[heavy], PREDICTED[heavy], weights[heavy])
    assert found["contained_response"] == pytest.approx(expected["response"])
    assert found["contained_tail_share"] == pytest.approx(expected["tail_share"])
    assert found["x_qq_response_low"] <= found["x_qq_response"] <= found["x_qq_response_high"]


def test_bad_masses_are_refused_and_missing_ones_are_left_out():
    truth = MASSES.copy()
    truth[:4] = np.nan, np.inf, 0.0, -5.0
    wrong = PREDICTED.copy()
    wrong[:4] = np.nan, np.inf, -np.inf, np.nan  # jets without a target
    found = measure(UNKNOWN, truth, predictions(wrong), merged=MERGED, processes=PROCESSES)
    expected = measure(UNKNOWN[4:], MASSES[4:], predictions(PREDICTED[4:], SCALES[4:], PROBABILITIES[4:]))
    assert found["tail_share"] == expected["tail_share"]
    wrong[7] = np.inf
    with pytest.raises(ValueError, match="Row 7: the predicted mass must be finite"):
        measure(UNKNOWN, truth, predictions(wrong), merged=MERGED)
    with pytest.raises(ValueError, match="There are no jets to measure masses of"):
        MassRegression().compute(predictions=NOTHING, references=NOTHING)
    empty = Predictions(NOTHING, NOTHING, None, NOTHING, NOTHING)
    assert measure(NOTHING.astype(int), NOTHING, empty, merged=NOTHING, processes=NOTHING.astype(str)) == {}
    negative = measure(UNKNOWN, MASSES, predictions(-PREDICTED), merged=MERGED)
    assert negative["contained_response"] < 0
    assert "contained_corrected_resolution" not in negative  # undefined


def test_each_process():
    found = mass_by_process(PROCESSES, MASSES, PREDICTED, SCALES, num_resamples=20)
    assert {name.split("_")[1] for name in found} == {"qq", "bb"}
    jets = PROCESSES == "x_qq"
    expected = uncertainty_statistics(MASSES[jets], PREDICTED[jets], SCALES[jets])
    expected |= response_statistics(MASSES[jets], PREDICTED[jets])
    assert {name: found[f"x_qq_{name}"] for name in expected} == pytest.approx(expected)
    assert found["x_qq_relative_resolution"] == relative_resolution(MASSES[jets], PREDICTED[jets])
    assert found["x_qq_coverage_68_low"] <= found["x_qq_coverage_68"] <= found["x_qq_coverage_68_high"]
    assert "x_qq_coverage_68" not in mass_by_process(PROCESSES, MASSES, PREDICTED, num_resamples=2)
    repeated = np.repeat(np.arange(NUMBER), WEIGHTS.astype(int))
    weighted = mass_by_process(PROCESSES, MASSES, PREDICTED, SCALES, WEIGHTS, num_resamples=20)
    expected = mass_by_process(*(of[repeated] for of in (PROCESSES, MASSES, PREDICTED, SCALES)), num_resamples=20)
    # quantiles are interpolated without weights
    assert weighted["x_bb_pull_width"] == pytest.approx(expected["x_bb_pull_width"], rel=0.03)
    assert weighted["x_bb_coverage_68"] == pytest.approx(expected["x_bb_coverage_68"])
    one = np.array(["x_qq", "x_bb", "x_bb"])
    few = mass_by_process(one, MASSES[:3], PREDICTED[:3], num_resamples=2)
    assert {name[:4] for name in few} == {"x_bb"}  # one jet has no width


def test_closure_of_processes_of_one_mass():
    """W and top have one; the gun has not, and QCD none at all."""
    kinds = np.arange(NUMBER) % 4
    processes = np.array(["w", "top", "x_qq", "qcd"])[kinds]
    generator = np.choose(kinds, [80.4 + RNG.normal(0, 1, NUMBER), np.full(NUMBER, 173.0), MASSES, np.nan])
    predicted = np.where(MERGED == 1, 1.1, 0.6) * np.nan_to_num(generator, nan=50.0)
    found = closures(processes, generator, predicted, MERGED, num_resamples=20)
    names = {name for name in found if not name.endswith(("_low", "_high"))}
    assert names == {"w_closure", "top_closure", "contained_w_closure", "contained_top_closure"}
    assert found["contained_top_closure"] == pytest.approx(1.1)
    assert found["w_closure"] == pytest.approx(np.median((predicted / generator)[kinds == 0]))
    assert found["w_closure_low"] <= found["w_closure"] <= found["w_closure_high"]
    constant = closures(processes, generator, np.full(NUMBER, 173.0), num_resamples=5)
    assert constant["top_closure"] == constant["top_closure_low"] == 1
    assert "contained_top_closure" not in constant
    assert not [name for name in closures(processes, generator, predicted, 0 * MERGED) if "contained" in name]
    assert closures(processes, generator, np.full(NUMBER, np.nan)) == {}  # a baseline without masses
    assert closures(NOTHING.astype(str), NOTHING, NOTHING) == {}
    predicted[3] = np.inf  # a QCD jet
    assert closures(processes, generator, predicted, MERGED, num_resamples=20) == found
    predicted[8] = np.nan
    with pytest.raises(ValueError, match="Row 8: the predicted mass must be finite, and is nan"):
        closures(processes, generator, predicted)


def test_uncertainties_in_bins_of_mass_and_pt():
    pts = RNG.uniform(400, 1000, NUMBER)
    edges = [50, 150, 250], [400, 700, 1001, 2000]
    rows = uncertainty_in_bins(MASSES, PREDICTED, SCALES, pts, *edges, num_resamples=9)
    assert [(row["low"], row["pt_low"]) for row in rows[:3]] == [(50, 400), (50, 700), (50, 1001)]
    assert sum(row["number"] for row in rows) == NUMBER
    chosen = (MASSES >= 150) & (pts < 700)
    expected = uncertainty_statistics(MASSES[chosen], PREDICTED[chosen], SCALES[chosen])
    assert {name: rows[3][name] for name in expected} == pytest.approx(expected)
    assert set(rows[2]) == {"low", "high", "pt_low", "pt_high", "number"}  # no jet
    nothing = uncertainty_in_bins(*[NOTHING] * 4, [0, 1], [0, 1], weights=NOTHING)
    assert [row["number"] for row in nothing] == [0]
    weightless = uncertainty_in_bins(MASSES, PREDICTED, SCALES, pts, [50, 250], [400, 1000], weights=0 * MASSES)
    assert set(weightless[0]) == set(rows[2])


def test_an_honest_uncertainty_covers_in_bins_of_the_predicted_mass():
    """In bins of the true mass it does not, near the ends of the spectrum."""
    rng, number = np.random.default_rng(4), 20_000
    prior, noise = 30.0, 30.0  # a normal spectrum makes the best estimate and its uncertainty known
    truth = rng.normal(300, prior, number)
    measured = truth + rng.normal(0, noise, number)
    best = 300 + (measured - 300) * prior**2 / (prior**2 + noise**2)
    scales = np.full(number, prior * noise / np.hypot(prior, noise))
    arrays, pts = (truth, best, scales), np.full(number, 500.0)

    def coverages(masses, **of_predicted):
        edges = quantile_edges(masses, 5), [400, 600]
        rows = uncertainty_in_bins(*arrays, pts, *edges, num_resamples=2, **of_predicted)
        return [row["coverage_68"] for row in rows]

    assert coverages(best, of_predicted=True) == pytest.approx([0.683] * 5, abs=0.03)
    first, *_, last = coverages(truth)
    assert first < 0.6 > last


def test_metrics_of_containment():
    found = containment_metrics(MERGED, PROBABILITIES)
    assert found["containment_auc"] == pytest.approx(roc_auc_score(MERGED, PROBABILITIES))
    assert found["containment_auc_low"] < found["containment_auc"] < found["containment_auc_high"]
    name = "containment_calibration_error"
    assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    # labels drawn from the stated probabilities: 10 bins of 2 000 jets, a standard error of 0.011 each
    stated = RNG.uniform(0, 1, 20_000)
    drawn = (RNG.random(20_000) < stated).astype(float)
    assert containment_metrics(drawn, stated, num_resamples=2)[name] < 0.02
    assert containment_metrics(drawn, np.full(20_000, 0.9), num_resamples=2)[name] == pytest.approx(0.9 - drawn.mean())
    shifted = containment_metrics(drawn, np.clip(stated - 0.1, 0, 1), num_resamples=2)  # wrong in one direction
    assert shifted[name] == pytest.approx(0.1, abs=0.02)
    constant = containment_metrics(MERGED, np.full(NUMBER, 0.5), num_resamples=2)
    assert (constant["containment_auc"], constant["containment_auc_low"]) == (0.5, 0.5)
    one_kind = containment_metrics(np.ones(NUMBER), PROBABILITIES, num_resamples=2)
    assert np.isnan(one_kind["containment_auc"])
    repeated = np.repeat(np.arange(NUMBER), WEIGHTS.astype(int))
    weighted = containment_metrics(MERGED, PROBABILITIES, WEIGHTS, num_resamples=9)
    expected = containment_metrics(MERGED[repeated], PROBABILITIES[repeated], num_resamples=9)
    for key in ("containment_auc", name):
        assert weighted[key] == pytest.approx(expected[key])
    with pytest.raises(ValueError, match="no jets to measure containment of"):
        containment_metrics(NOTHING, NOTHING)
    for bad in (np.nan, -0.1, np.inf):
        with pytest.raises(ValueError, match="Jet 2 has the probability of containment"):
            containment_metrics(MERGED[:4], np.array([0.1, 0.2, bad, 0.4]))
    with pytest.raises(ValueError, match="not only zeros"):
        containment_metrics(MERGED, PROBABILITIES, 0 * MERGED)


def test_rows_keep_what_targets_lose():
    """W and top are no targets of the mass, and uncontained jets have no class; both are measured nevertheless."""
    names, number = ["qcd", "w", "x_qq"], 90
    schema = find_schema("simulated")
    labels = np.arange(number) % 3
    masses = [None if kind == 0 else 80.4 if kind == 1 else float(100 + row) for row, kind in enumerate(labels)]
    merged = [None if kind == 0 else row % 2 == 0 for row, kind in enumerate(labels)]
    numbers = [schema.label_names.index(names[kind]) for kind in labels]
    rows = Dataset(row_table(number, labels=numbers, mass_labels=masses, merged=merged))
    dataset, chosen = select_targets(DatasetDict(train=rows), schema, "mass_labels", ["qcd", "w"], ["x_qq"], True)
    predicted = np.array([50.0 if mass is None else 0.9 * mass for mass in masses])
    model = Predictions(np.zeros(number), predicted, None, np.full(number, 5.0), np.full(number, 0.5))
    evaluated = evaluate_predictions(dataset["train"], "mass_labels", chosen.label_names, {"model": model})
    found, columns = evaluated["metrics"]["model"], evaluated["predictions"]
    assert found["w_closure"] == found["contained_w_closure"] == pytest.approx(0.9)
    assert found["x_qq_response"] == found["uncontained_response"] == pytest.approx(0.9)
    assert "x_qq_closure" not in found
    assert "w_response" not in found  # no target
    assert found["containment_auc"] == 0.5
    assert columns["process"].tolist() == [names[kind] for kind in labels]
    np.testing.assert_allclose(columns["generator_mass"], np.array(masses, float), rtol=1e-6)
    assert "model containment" in columns
    assert [row["number"] for row in evaluated["in_bins"]["uncertainty in mass and pt"]].count(0) < 25
    assert len(evaluated["in_bins"]["uncertainty in predicted mass and pt"]) == 25
    table = masses_table({"xcit": make_result("xcit", 0, found, label_names=["qcd", "w"])})
    titles = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert titles == ["xcit", "xcit, contained", "xcit, uncontained", "xcit, x_qq", "xcit, w", "xcit, contained w"]
    assert not masses_table({"xcit": make_result("xcit", 0, {"relative_resolution": 0.1})})
