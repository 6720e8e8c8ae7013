"""Boosted trees: what they minimise, what they see, where training stops, and the search for settings."""

import json
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from e2evit.modeling.modeling_head import LOWER, UPPER
from samples import row_table
from sklearn.metrics import log_loss, mean_pinball_loss

from e2evit import load_e2e
from e2evit.baselines import boosted_trees, tree_tuning
from e2evit.baselines import jet_features as features_module
from e2evit.baselines.boosted_trees import DEFAULTS, QUANTILES, TreeJets, best_iteration, fit_trees
from e2evit.baselines.jet_features import CANDIDATE_VARIABLES, candidate_features, jet_features
from e2evit.baselines.tree_tuning import best_settings, tune_trees
from e2evit.cli import trees
from e2evit.data import find_schema
from e2evit.metrics import bootstrap
from e2evit.results.record import Result

SCHEMA = find_schema("simulated")


@pytest.fixture
def quick(monkeypatch):
    """Few iterations, and few resamples for the intervals, which are not looked at."""
    resamples = bootstrap.resamples
    monkeypatch.setattr(bootstrap, "resamples", lambda number, _, *more: resamples(number, 5, *more))
    monkeypatch.setitem(boosted_trees.STOPPING, "max_iter", 20)


def jets(number, seed=0, num_classes=3):
    """Jets whose first variable tells the class and whose second the mass, but for a log-normal factor."""
    rng = np.random.default_rng(seed)
    labels, masses = rng.integers(0, num_classes, number), rng.uniform(50, 200, number)
    x = np.stack([labels + rng.normal(0, 0.3, number), masses], axis=1)
    return TreeJets(x, labels, masses * np.exp(rng.normal(0, 0.3, number)))


def test_each_target_is_learned_from_jets_that_have_it():
    train, validation, test = jets(900), jets(300, seed=1), jets(600, seed=2)
    for sample in (train, validation):
        hidden = np.arange(len(sample.labels)) % 3 == 0
        sample.labels = np.where(hidden, -100, sample.labels)
        sample.mass_labels = np.where(hidden, sample.mass_labels, np.nan)
    found = fit_trees(train, validation, 3).predict(test.variables)
    assert found.probabilities.shape == (600, 3)
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    assert (found.probabilities.argmax(1) == test.labels).mean() > 0.9
    np.testing.assert_allclose(found.scores, 1 - found.probabilities[:, 0])
    assert np.abs(np.log(found.mass_preds / test.variables[:, 1])).mean() < 0.15  # of the same mass for all: 0.32
    again = fit_trees(train, validation, 3).predict(test.variables)
    assert np.array_equal(again.probabilities, found.probabilities)
    assert np.array_equal(again.mass_scale_preds, found.mass_scale_preds)
    other = fit_trees(train, validation, 3, seed=1).predict(test.variables)
    assert not np.array_equal(other.probabilities, found.probabilities)


def test_masses_are_medians_of_the_logarithm_with_calibrated_quantiles():
    """Of a log-normal factor the mean is 13 % above the median: 0.5² / 2."""
    rng = np.random.default_rng(0)
    train, validation = (
        TreeJets(rng.normal(size=(n, 1)), np.arange(n) % 2, 100 * np.exp(rng.normal(0, 0.5, n))) for n in (4000, 2000)
    )
    found = fit_trees(train, validation, 2).predict(validation.variables)
    assert np.median(found.mass_preds) == pytest.approx(100, rel=0.04)
    # sinh of the width, one standard deviation either side
    assert np.median(found.mass_scale_preds) == pytest.approx(100 * np.sinh(0.5), rel=0.08)
    inside = np.abs(found.mass_preds - validation.mass_labels) < found.mass_scale_preds
    assert inside.mean() == pytest.approx(0.6827, abs=1e-3)
    assert QUANTILES == (LOWER, 0.5, UPPER)


def test_training_stops_by_the_validation_jets():
    train, validation = jets(300), jets(150, seed=1)
    fitted = fit_trees(train, validation, 3)
    found = fitted.predict(validation.variables)
    assert log_loss(validation.labels, found.probabilities) == pytest.approx(
        -fitted.classifier.validation_score_.max()
    )
    median, best = fitted.regressors[1], best_iteration(fitted.regressors[1])
    loss = mean_pinball_loss(np.log(validation.mass_labels), np.log(found.mass_preds))
    assert loss == pytest.approx(-median.validation_score_.max())
    assert 1 <= best < median.n_iter_ < 2000
    assert fitted.record() == {
        "settings": {"class": DEFAULTS, "mass": DEFAULTS},
        "iterations": {
            "class": best_iteration(fitted.classifier),
            "mass": [best_iteration(regressor) for regressor in fitted.regressors],
        },
    }


def test_constant_masses_and_none():
    """The quantiles coincide, and an uncertainty stays positive; without masses there is no prediction."""
    train, validation = jets(120), jets(60, seed=1)
    for sample in (train, validation):
        sample.mass_labels = np.full(len(sample.labels), 91.2)
    found = fit_trees(train, validation, 3).predict(validation.variables)
    np.testing.assert_allclose(found.mass_preds, 91.2)
    assert (found.mass_scale_preds > 0).all()
    for sample in (train, validation):
        sample.mass_labels[:] = np.nan
    found = fit_trees(train, validation, 3).predict(validation.variables)
    assert np.isnan(found.mass_preds).all()
    assert found.mass_scale_preds is None


@pytest.mark.parametrize(
    ("num_classes", "hide", "message"),
    [
        (4, {}, "3 of 4 classes"),
        (1, {}, "3 of 1 classes; trees need all, and two at least"),
        (3, {"labels": -100}, "validation split has no jet with a class"),
        (3, {"mass_labels": np.nan}, "validation split has no jet with a mass"),
    ],
)
def test_jets_that_cannot_be_learned_are_refused(num_classes, hide, message, tmp_path):
    train, validation = jets(60), jets(30)
    for name, missing in hide.items():
        getattr(validation, name)[:] = missing
    with pytest.raises(ValueError, match=message):
        fit_trees(train, validation, num_classes)
    with pytest.raises(ValueError, match=message):
        tune_trees(train, validation, num_classes, 1, tmp_path / "trials.json")
    assert not [*tmp_path.iterdir()]


def test_a_search_resumes_and_is_the_same(tmp_path, monkeypatch, quick):
    sample, path = {"train": jets(120), "validation": jets(60, seed=1), "num_classes": 3}, tmp_path / "a/trials.json"
    first = tune_trees(**sample, num_trials=2, path=path)
    trials = tune_trees(**sample, num_trials=8, path=path)
    for target, of_target in trials.items():
        assert of_target[:2] == first[target]
        assert of_target[0]["settings"] == DEFAULTS
        assert len({json.dumps(trial["settings"]) for trial in of_target}) == 8
        for trial in of_target:
            assert trial.keys() == {"settings", "loss", "iterations", "seconds"}
            assert trial["settings"].keys() == tree_tuning.SPACE.keys()
    whole = tune_trees(**sample, num_trials=8, path=tmp_path / "b.json")
    for target, of_target in trials.items():
        assert [trial["settings"] for trial in whole[target]] == [trial["settings"] for trial in of_target]
    best = best_settings(trials)
    fitted = fit_trees(**sample, settings=best)
    for target, model in (("class", fitted.classifier), ("mass", fitted.regressors[1])):
        smallest = min(trial["loss"] for trial in trials[target])
        assert -model.validation_score_.max() == pytest.approx(smallest)
    monkeypatch.setattr(tree_tuning, "_FIT", {})  # nothing is tried again
    assert tune_trees(**sample, num_trials=1, path=path)["mass"] == trials["mass"][:1]
    with pytest.raises(ValueError, match=r"trials.json holds trials of other jets"):
        tune_trees(**sample | {"train": jets(120, seed=5)}, num_trials=8, path=path)


def test_a_search_needs_optuna(jets_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'e2evit\[tune\]'"):
        trees.main(["--data_dir", str(jets_dir), "--results_dir", str(tmp_path), "--tune_trials", "1"])


@pytest.mark.parametrize(("option", "value"), [("tune_trials", "-1"), ("tune_trials", "301"), ("split", "trial")])
def test_bad_options_are_refused(jets_dir, tmp_path, option, value):
    with pytest.raises(ValueError, match=f"`{option}` must be .*{value}"):
        trees.main(["--data_dir", str(jets_dir), "--results_dir", str(tmp_path), f"--{option}", value])


def test_variables_are_computed_once(jets_dir, tmp_path, monkeypatch):
    def rows():
        return load_e2e("simulated", jets_dir, split="test", cache_dir=tmp_path / "cache")

    rows()
    first = jet_features(rows(), SCHEMA)
    monkeypatch.setattr(features_module, "_pixels", lambda *_: 1 / 0)
    second = jet_features(rows(), SCHEMA)
    assert all(np.array_equal(second[name], values) for name, values in first.items())
    monkeypatch.setattr(features_module, "sha256_of", lambda path: "another file")
    with pytest.raises(ZeroDivisionError):
        jet_features(rows(), SCHEMA)
    assert all(values.shape == (0,) for values in jet_features(rows().select([]), SCHEMA).values())


def test_images_without_the_channels_are_refused(jets_dir):
    rows = Dataset(row_table(2))
    with pytest.raises(ValueError, match="'electron_photon' lacks the channels trk_pt"):
        jet_features(rows, find_schema("electron_photon"))


def test_candidates_of_some_jets_count_as_none():
    """A tau that is not defined is no reason: the jet has too few candidates."""
    known = {name: np.arange(4.0) for name in CANDIDATE_VARIABLES} | {"reco_tau32": [0.5, None, 0.4, 0.3]}
    found = candidate_features(Dataset(row_table(4, **known)))
    assert list(found) == list(CANDIDATE_VARIABLES)
    assert np.isnan(found["reco_tau32"]).tolist() == [False, True, False, False]
    assert candidate_features(Dataset(row_table(4, **known | {"reco_multiplicity": [9, None, 9, 9]}))) == {}
    assert candidate_features(Dataset(row_table(4))) == {}
    assert candidate_features(Dataset(row_table(4)).remove_columns("reco_tau21")) == {}


def run(folder, tmp_path, *options):
    """Results of the command by model, with their predictions."""
    paths = ["--data_dir", folder, "--results_dir", tmp_path / "results", "--cache_dir", tmp_path / "cache"]
    trees.main([*map(str, paths), "--mass_column", "jet_mass", *options])
    found = {}
    for path in (tmp_path / "results").glob("*.json"):
        result = Result.from_json(path)
        found[result.model] = result, pq.read_table(path.with_suffix(".parquet"))
    return found


def test_truth_is_never_an_input_and_test_jets_are_only_predicted(tmp_path, monkeypatch, quick):
    """Here the truth is the target itself; observables of candidates are what trees may see."""
    rng, event_ids = np.random.default_rng(0), [f"event-{number // 2}" for number in range(160)]
    table = row_table(160)
    told = np.array(table["jet_mass"]) + 1000 * np.array(table["labels"])
    observables = ("soft_drop_mass", "tau21", "tau32", "multiplicity")
    reco = {f"reco_{name}": rng.uniform(1, 50, 160) for name in observables}
    truth = dict.fromkeys((*observables, "mass_labels", "pt", "eta", "phi", "weight", "parton", "num_pileup"), told)
    truth |= {name: told.astype(int) for name in ("parton", "num_pileup")}
    seen, of = [], TreeJets.of
    monkeypatch.setattr(TreeJets, "of", lambda rows, *more: seen.append({*rows["event_id"]}) or of(rows, *more))
    found = {}
    for name, columns in {"without": reco, "with": reco | truth}.items():
        (tmp_path / name / "jets").mkdir(parents=True)
        rows = row_table(160, event_id=event_ids, **columns)
        pq.write_table(rows, tmp_path / name / "jets/part.parquet")
        found[name] = run(tmp_path / name / "jets", tmp_path / name)
    assert found["with"].keys() == {"trees_3", "trees_all", "trees_candidates"}
    for name, (result, predictions) in found["with"].items():
        columns = [column for column in predictions.column_names if column.startswith("model ")]
        assert {"model score", "model mass", "model mass scale"} <= {*columns}
        assert predictions.select(columns).equals(found["without"][name][1].select(columns))
        assert {"coverage_68", "relative_resolution", "roc_auc"} <= result.metrics["model"].keys()
        assert result.training["settings"] == {"class": DEFAULTS, "mass": DEFAULTS}
    by_image, by_both = (found["with"][name][1] for name in ("trees_all", "trees_candidates"))
    assert by_image["model mass"] != by_both["model mass"]
    for train, validation in zip(seen[::2], seen[1::2]):
        assert not train & validation
        assert not (train | validation) & {*by_image["event_id"].to_pylist()}


def test_all_jets_of_another_folder_are_measured(tmp_path, quick):
    for name, number in {"here": 160, "there": 60}.items():
        (tmp_path / name / "jets").mkdir(parents=True)
        event_ids = [f"{name}-{row // 2}" for row in range(number)]
        pq.write_table(row_table(number, event_id=event_ids), tmp_path / name / "jets/part.parquet")
    here, there = (tmp_path / name / "jets" for name in ("here", "there"))
    for name, (result, predictions) in run(here, tmp_path, "--test_dir", str(there)).items():
        assert result.split == "all"
        assert {part: rows["rows"] for part, rows in result.data.items()}["all"] == len(predictions) == 60
        assert all(event.startswith("there") for event in predictions["event_id"].to_pylist())
        same = run(here, tmp_path / "again", "--split", "validation")[name][0]
        assert same.training["iterations"] == result.training["iterations"]
    shutil.copytree(here, tmp_path / "copy")
    with pytest.raises(ValueError, match=r"The train split of .*here/jets holds \d+ events of the jets to measure on"):
        run(here, tmp_path, "--test_dir", str(tmp_path / "copy"))
    with pytest.raises(ValueError, match="measure them on its test split"):
        run(here, tmp_path, "--test_dir", str(here))
    with pytest.raises(ValueError, match="`--test_pileup` needs `--test_dir`"):
        run(here, tmp_path, "--test_pileup", "60")


def test_results_hold_every_trial(jets_dir, tmp_path, caplog, quick):
    """Jets without candidates: two sets of variables, and a line that says how to have the third."""
    with caplog.at_level("INFO", logger="e2evit"):
        found = run(jets_dir, tmp_path, "--tune_trials", "2")
    assert found.keys() == {"trees_3", "trees_all"}
    assert "trees_candidates is left out" in caplog.text
    assert "`e2evit simulate --candidates`" in caplog.text
    for name, (result, _) in found.items():
        trials = json.loads((tmp_path / f"results/tuning/{name}.json").read_text())["trials"]
        assert result.training["trials"] == trials
        assert {target: len(of_target) for target, of_target in trials.items()} == {"class": 2, "mass": 2}
        assert result.training["settings"] == best_settings(trials)
