"""Tables and claims of the comparison."""

import json

import comparison_scores
import numpy as np
import pyarrow as pa
import pytest
from comparison_scores import TABLES, claims, pileup_changes, score_table
from datasets import Dataset
from render import ROOT
from samples import make_result, row_table
from scipy.special import softmax

from e2evit.metrics.mass import response_statistics
from e2evit.results.compare import paired_difference
from e2evit.results.measure import evaluate_predictions
from e2evit.results.predictions import Predictions, hash_of_ids

NAMES = ["qcd", "top", "h"]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Two trainings of each of three models on the same 900 jets: `good` is sharper than `bad`, `same` is not."""
    folder, rng = tmp_path_factory.mktemp("blind"), np.random.default_rng(0)
    number = 900
    labels, masses = rng.integers(0, 3, number), rng.uniform(100, 200, number)
    table = row_table(number, mass_labels=pa.array(masses, pa.float32()), merged=pa.array(rng.random(number) < 0.5))
    for model, noise in {"good": 1.0, "same": 1.0, "bad": 2.0}.items():
        for seed in range(2):
            scores = softmax(2 * np.eye(3)[labels] + rng.normal(0, noise, (number, 3)), axis=1)
            predicted = Predictions.of_classes(scores, masses * rng.normal(1, noise / 10, number))
            rows = Dataset(table).remove_columns("labels").add_column("labels", labels)
            fields = evaluate_predictions(rows, "mass_labels", NAMES, {"model": predicted})
            measured = {"rows": number, "event_ids": hash_of_ids(table["event_id"].to_pylist())}
            fields |= {"data": {"all": measured}, "split": "all", "label_names": NAMES}
            make_result(model, seed, mass_column="mass_labels", **fields).to_json(folder / f"{model}_seed{seed}.json")
    return folder


def test_claims_are_corrected_together(trainings, monkeypatch):
    monkeypatch.setattr(comparison_scores, "RESAMPLES", 50)
    found = claims(sorted(trainings.glob("*.json")), "good", ["bad", "same"])
    assert list(found) == ["mean AUC", "AUC of H / QCD", "resolution, all", "resolution, contained"]
    entries = [entry for of_metric in found.values() for entry in of_metric.values()]
    assert max(entry["p_holm"] / entry["p_value"] for entry in entries) == pytest.approx(len(entries))
    for key in ("mean AUC", "AUC of H / QCD"):
        assert found[key]["bad"]["low"] > 0
        assert abs(found[key]["same"]["difference"]) < 0.03
    for key in ("resolution, all", "resolution, contained"):
        assert found[key]["bad"]["low"] < found[key]["bad"]["high"] < 0
    assert found["resolution, all"]["bad"] != found["resolution, contained"]["bad"]


def test_spreads_of_trainings_are_pooled():
    runs = {"a": [{"x": 1.0}, {"x": 3.0}], "b": [{"x": 2.0}, {"x": 2.0}, {"x": 5.0}], "c": [{"x": 7.0}, {}]}
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in score_table(runs, {"x": ("x", ".2f")}).split("\n")
    ]
    assert rows[2:] == [
        ["a", "2", "2.00 ± 1.41"],
        ["b", "3", "3.00 ± 1.73"],
        ["c", "2", "7.00"],
        ["standard deviation, pooled", "", f"± {np.sqrt((2 + 6) / 3):.2f}"],
    ]


def test_what_is_not_measured_yet_is_said(tmp_path):
    for render in TABLES.values():
        assert render(tmp_path) == "*Not measured yet.*"


def test_trials_are_listed(tmp_path):
    (tmp_path / "comparison").mkdir()
    trials = [{"settings": {"learning_rate": rate}, "loss": 1 + rate} for rate in (4e-3, 1e-3)]
    (tmp_path / "comparison/tuning.json").write_text(json.dumps({"trials": {"hitvit": trials}}))
    heads, _, row = TABLES["comparison tuning"](tmp_path).split("\n")
    assert [cell.strip() for cell in heads.split("|")[1:-1]] == ["learning rate", "0.001", "0.004"]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["hitvit", "1.001", "1.004"]


def test_the_plan_uses_the_lowest_rate_that_is_as_good_as_the_best():
    table = ROOT / "results/comparison/tuning.json"
    plan = comparison_scores.read_recipe(comparison_scores.STUDY)
    for model, trials in json.loads(table.read_text(encoding="utf-8"))["trials"].items():
        best = min(one["loss"] for one in trials)
        good = [one["settings"]["learning_rate"] for one in trials if one["loss"] <= best + 0.01]
        assert plan["settings"][model] == {"learning_rate": min(good)}
        assert len(trials) == len(plan["tuning"]["space"]["learning_rate"]["choices"])


def test_coverage_in_bins(tmp_path):
    folder = tmp_path / "comparison/blind/main/pileup_21"
    folder.mkdir(parents=True)
    bins = [
        {"coverage_68": 0.5, "coverage_68_low": 0.4, "coverage_68_high": 0.6},
        {"coverage_68": 0.6, "coverage_68_low": 0.5, "coverage_68_high": 0.7},
        {"number": 1},
    ]
    in_bins = {"uncertainty in predicted mass and pt": bins}
    make_result("hitvit", 0, {"roc_auc_macro": 0.9}, in_bins=in_bins).to_json(folder / "hitvit_seed0.json")
    make_result("trees_candidates", 0, {"roc_auc_macro": 0.9}).to_json(folder / "trees_candidates_seed0.json")
    table = TABLES["comparison blind test"](tmp_path).split("\n\n")[3]
    heads, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.split("\n")]
    assert heads[2:] == ["lowest", "highest", "share of bins that agree with .683"]
    assert rows == [["hitvit", "1", "0.500", "0.600", "0.50"], ["trees_candidates", "1", "–", "–", "–"]]


def test_a_training_is_compared_with_itself_at_another_pileup(tmp_path, monkeypatch):
    """Trainings differ more from each other than each does from itself."""
    monkeypatch.setattr(comparison_scores, "RESAMPLES", 100)
    rng, number = np.random.default_rng(1), 400
    labels, masses = rng.integers(0, 3, number), rng.uniform(100, 200, number)
    ids = [f"jet:{one}" for one in range(number)]
    common = {"labels": labels, "mass_labels": masses, "jet_mass": masses, "pt": masses, "event_id": ids}
    values = {}
    for model, noises in {"vit": (1.0,), "hitvit": (0.7, 1.0, 1.3)}.items():
        for seed, noise in enumerate(noises):
            scattered, errors = rng.normal(size=(number, 3)), rng.normal(size=number)
            for pileup, factor in {0: 0.9, 21: 1.0, 60: 1.15}.items():
                scores = softmax(2 * np.eye(3)[labels] + noise * factor * scattered, axis=1)
                predicted = masses * (1 + 0.1 * noise * factor * errors)
                columns = common | {"model score": 1 - scores[:, 0], "model mass": predicted}
                columns |= {f"model p_{name}": scores[:, one] for one, name in enumerate(NAMES)}
                result = make_result(model, seed, {}, label_names=NAMES, pileup=[float(pileup)], predictions=columns)
                result.to_json(tmp_path / f"comparison/blind/pileup/pileup_{pileup}/{model}_seed{seed}.json")
                resolution = response_statistics(masses, predicted)["corrected_resolution"]
                values.setdefault((model, pileup), []).append(resolution)
    found = pileup_changes(tmp_path / "comparison/blind/pileup", 21.0)
    assert {model: entry["trainings"] for model, entry in found.items()} == {"hitvit": 3, "vit": 1}
    changes = found["hitvit"]["changes"]
    assert set(changes["mean AUC"]["60"]) == {"difference", "low", "high"}
    assert changes["mean AUC"]["60"]["difference"] < 0 < changes["mean AUC"]["0"]["difference"]
    assert changes["resolution, all"]["0"]["high"] < 0 < changes["resolution, all"]["60"]["low"]
    sides = values["hitvit", 60], values["hitvit", 21]
    assert changes["resolution, all"]["60"]["difference"] == pytest.approx(np.mean(sides[0]) - np.mean(sides[1]))
    unpaired = paired_difference(*sides, 0.0)
    assert unpaired["low"] < 0 < unpaired["high"]
    (tmp_path / "comparison/pileup.json").write_text(json.dumps({"trained_at": 21.0, "models": found}))
    heads, _, *rows = [line.split("|")[1:-1] for line in TABLES["comparison of pile-ups"](tmp_path).split("\n")]
    assert [head.strip() for head in heads[2:4]] == ["mean AUC, 21 → 0", "mean AUC, 21 → 60"]
    assert [[cell.strip() for cell in row[:2]] for row in rows] == [["hitvit", "3"], ["vit", "1"]]
    assert "to" in rows[0][2]
    assert "to" not in rows[1][2]  # an interval over jets is not what another training would give
