"""`Result`: written files read back equal; anything else is refused, naming file and field."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from samples import make_result

from e2evit.results import record
from e2evit.results.predictions import read_predictions
from e2evit.results.record import Result, current_commit, interval, model_name, provenance, read_results, write_record
from e2evit.results.tables import conditions, results_table

ROOT = Path(__file__).parents[1]
METRICS = {"roc_auc": 0.9, "roc_auc_low": 0.85, "roc_auc_high": 0.95, "slope": 0.5}


def test_round_trip(tmp_path):
    result = make_result("xcit", 3, METRICS, cost={"macs": 7}, in_bins={"roc_auc in pt": [{"low": 1.0, "number": 3}]})
    result.to_json(tmp_path / "a/any_name.json")
    assert Result.from_json(tmp_path / "a/any_name.json") == result
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["any_name.json"]  # no predictions, no leftovers
    assert result.name == "xcit_seed3"
    assert result.metric("roc_auc") == (0.9, 0.85, 0.95)
    assert np.isnan(result.metric("slope").low)
    assert result.metric("accuracy") is result.metric("roc_auc", "constant") is None
    assert interval({"response": 1.0, "response_low": 0.9, "response_high": 1.1}, "response").high == 1.1


def test_predictions_are_written_beside(tmp_path):
    columns = {"labels": np.arange(4) % 2, "mass_labels": np.full(4, 80.0, np.float32)}
    columns |= {
        f"model {name}": np.linspace(0, 1, 4, dtype=np.float32) for name in ("score", "mass", "p_qcd", "p_top")
    }
    columns |= {f"image mass {name}": np.ones(4, np.float32) for name in ("score", "mass")}
    result = make_result("a", None, predictions=columns, metrics={"model": {}, "image mass": {}})
    result.to_json(tmp_path / "a.json")
    jets = read_predictions({tmp_path / "a.json": Result.from_json(tmp_path / "a.json")})
    assert list(jets.scores) == list(jets.mass_preds) == ["a", "image mass"]
    assert jets.probabilities["a"].shape == (4, 2)
    np.testing.assert_array_equal(jets.scores["a"], columns["model score"])
    assert np.isnan(jets.pts).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "0"}, "`seed` of a result"),
        ({"metrics": {"model": {"roc_auc": "good"}}}, "`metrics` of a result"),
        ({"metrics": {"constant": {}}}, "`metrics` of a result: no 'model', got constant"),
        ({"split": "train"}, "`data` of a result: no split 'train', got test"),
        ({"hardware": {}}, "`hardware` of a result: no 'processor'"),
        ({"colour": 1}, "is not a result: unknown colour"),
        ({"model": None}, "`model` of a result: .*expected str"),
    ],
)
def test_wrong_fields_are_named(changes, message, tmp_path):
    path = tmp_path / "a.json"
    make_result("a", 0, METRICS).to_json(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}\b.*{message}") as error:
        Result.from_json(path)
    assert "\n" not in str(error.value)


def test_files_that_are_not_results(tmp_path):
    path = tmp_path / "a.json"
    for text, message in (("{", "is not JSON"), ("[]", "got a list"), ('{"model": "a"}', "no seed, date, commit")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Result.from_json(path)
    with pytest.raises(FileNotFoundError):
        Result.from_json(tmp_path / "none.json")
    with pytest.raises(ValueError, match="`image_size` of a result"):
        make_result("a", 0, METRICS, image_size=125)


def test_one_training_cannot_count_twice(tmp_path):
    for name in "ab":
        make_result("xcit", 0, METRICS).to_json(tmp_path / f"{name}.json")
    with pytest.raises(ValueError, match=r"a\.json and .*b\.json are both of xcit_seed0"):
        read_results([tmp_path / "a.json", tmp_path / "b.json"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_names": ["top", "qcd"]}, r"label_names \['qcd', 'top'\] and \['top', 'qcd'\]"),
        ({"mass_classes": ["top"]}, r"mass_classes None and \['top'\]"),
        ({"mass_column": "mass_labels"}, "mass_column jet_mass and mass_labels"),
        ({"pileup": [60.0]}, r"pileup None and \[60\.0\]"),
        ({"without": ["all"]}, r"without None and \['all'\]"),
    ],
)
def test_other_targets_are_not_compared(tmp_path, changes, message):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    shared = {"label_names": ["qcd", "top"], "mass_column": "jet_mass", "mass_classes": None}
    for path, more in zip(paths, ({}, changes)):
        make_result(path.stem, 0, METRICS, **(shared | more)).to_json(path)
    with pytest.raises(ValueError, match=rf"the same jets and targets: {message}\.$"):
        read_results(paths)


def test_particles_are_compared_at_several_pileups(tmp_path):
    """The jets are the same; the image mass, a baseline, is not."""
    paths, metrics = [], {"model": METRICS, "image mass": METRICS}
    for name, pileup in (("a", [21.0]), ("b", [60.0]), ("c", [0.0, 40.0])):
        paths.append(tmp_path / f"{name}.json")
        make_result("xcit", 0, metrics=metrics, dataset="particles", pileup=pileup).to_json(paths[-1])
    results = read_results(paths)
    assert [result.name for result in results] == [
        "xcit_pileup21_seed0",
        "xcit_pileup60_seed0",
        "xcit_pileup0-40_seed0",
    ]
    table = results_table({result.name: result for result in results})
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        *(result.name for result in results),
        *(f"image mass, pile-up {pileup}" for pileup in ("21", "60", "0-40")),
    ]
    assert "pile-up 21 and 60 and 0-40; all jets count the same" in conditions(results)
    assert read_results(paths[:1])[0].name == "xcit_seed0"
    with pytest.raises(
        ValueError, match="both of xcit_pileup21_seed0: if their models differ, name one with `--model_"
    ):
        read_results([*paths, paths[0]])


def test_conditions_say_how_much_weights_fluctuate():
    result = make_result("a", 0, METRICS, weights="weight", predictions={"weight": np.array([3.0, 1, 1, 1])})
    assert "weights weight, which fluctuate as 3 jets of equal weight" in conditions([result])


def test_provenance(tmp_path):
    made = provenance(threads=3)
    assert set(made) == {"date", "commit", "versions", "hardware"}
    assert made["hardware"]["threads"] == 3
    assert made["hardware"]["processor"] not in ("", None)
    if Path("/proc/cpuinfo").is_file() and "model name" in Path("/proc/cpuinfo").read_text():
        assert made["hardware"]["processor"] in Path("/proc/cpuinfo").read_text()
    write_record(tmp_path / "a.json", {"rounds": 2} | made, threads=1)
    assert json.loads((tmp_path / "a.json").read_text())["rounds"] == 2


def test_an_installed_copy_has_no_commit(monkeypatch, tmp_path):
    """Not even inside someone else's repository, where virtual environments often live."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert current_commit() == (head.stdout.strip() or None)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    assert current_commit() is None


def test_names_of_models():
    assert model_name("runs/study/xcit_seed0", 0) == model_name("org/xcit", None) == "xcit"
    assert model_name("runs/xcit_seed1", 0) == "xcit_seed1"


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("*.json")), ids=lambda p: str(p.relative_to(ROOT)))
def test_stored_records_say_where_they_come_from(path):
    if path.name == "comparison.json":  # made of results, measured nothing
        return
    entries = json.loads(path.read_text())
    assert {"date", "commit", "versions", "hardware"} <= set(entries)
    if "metrics" in entries:
        Result.from_json(path)
