"""The linear-ViT task: files of its layout, the plan, a few trainings from one command, and its tables."""

import json
from pathlib import Path

import gsoc
import gsoc_tables
import h5py
import numpy as np
import pytest
import yaml
from forked import TWICE, run_python
from gsoc_files import LABELS, max_scaled, write_file
from samples import make_result

from e2evit import load_e2e
from e2evit.cli.inspect import main as inspect
from e2evit.data import SCHEMAS, find_schema
from e2evit.data.packaged import read_recipe
from e2evit.data.sparse import sparse_to_dense

ROOT = Path(__file__).parents[1]
PLANS = {name: read_recipe(ROOT / f"recipes/gsoc/{name}.yaml") for name in ("study", "imitation")}


@pytest.fixture(scope="module")
def rows(simulated_jets):
    """Simulated jets of QCD and tops."""
    jets = load_e2e("simulated", simulated_jets, split="train")
    return jets.filter(lambda label: label in (0, 1), input_columns="labels")


def test_files_have_the_public_layout(rows, tmp_path, capsys):
    path = tmp_path / "labelled" / gsoc.FILES["labelled"]
    write_file(path, rows, labelled=True)
    with h5py.File(path) as file:
        assert {key: file[key].shape for key in file} == {
            **{"jet": (len(rows), 125, 125, 8)},
            **dict.fromkeys(LABELS, (len(rows), 1)),
        }
        assert {str(file[key].dtype) for key in file} == {"float32"}
        assert file["jet"].chunks is None  # contiguous
        assert file["jet"].id.get_storage_size() == 4 * file["jet"].size
        images = file["jet"][:]
        masses = file["m"][:, 0]
    largest = images.max((1, 2))
    assert set(np.unique(largest)) <= {0.0, 255.0}
    assert images.min() == 0
    assert sorted(masses) == sorted(np.float32(rows["jet_mass"]))
    inspect([str(path), "--figure", str(tmp_path / "means.png")])
    shown = capsys.readouterr().out
    assert "read as labelled" in shown
    assert "this file is max-scaled" in shown
    jets = load_e2e("labelled", path.parent, cache_dir=tmp_path / "cache")
    assert sum(map(len, jets.values())) == len(rows)
    # a jet of the file is one of the rows, channel by channel
    (schema,) = SCHEMAS["labelled"]
    assert find_schema("simulated").channel_names == schema.channel_names
    jet = jets["train"][0]
    (row,) = [one for one in rows if np.float32(one["pt"]) == jet["pt"]]
    image = sparse_to_dense(row["pixel_index"], row["pixel_value"], schema.image_shape)
    found = sparse_to_dense(jet["pixel_index"], jet["pixel_value"], schema.image_shape)
    np.testing.assert_array_equal(found, max_scaled(image[None])[0])
    assert jet["labels"] == row["labels"]
    assert jet["mass_labels"] == np.float32(row["jet_mass"])
    for channel, own in zip(image, found):
        kept = np.where(channel < 1e-3, 0, channel)
        np.testing.assert_allclose(own, 255 * kept / max(kept.max(), 1e-9), rtol=1e-6)


def test_an_unlabelled_file_holds_images_alone(rows, tmp_path):
    write_file(tmp_path / gsoc.FILES["unlabelled"], rows, labelled=False)
    with h5py.File(tmp_path / gsoc.FILES["unlabelled"]) as file:
        assert list(file) == ["jet"]
    jets = load_e2e("unlabelled", tmp_path, cache_dir=tmp_path / "cache", split="train")
    assert jets["labels"][:] == [None] * len(jets)


def test_files_of_another_kind_are_refused(rows, tmp_path):
    folders = {part: tmp_path / part for part in gsoc.PARTS}
    for part in gsoc.PARTS:
        write_file(folders[part] / gsoc.FILES[part], rows.select(range(5)), labelled=part == "labelled")
    gsoc.check_files(folders)
    with h5py.File(folders["labelled"] / gsoc.FILES["labelled"], "a") as file:
        del file["pT"]
    with pytest.raises(ValueError, match="labelled have no pt: use Dataset_Specific_labelled_full_only_for_2i"):
        gsoc.check_files(folders)
    with pytest.raises(ValueError, match="does not fit the data set 'labelled': missing key 'Y'"):
        gsoc.check_files({"labelled": folders["unlabelled"]})
    with pytest.raises(FileNotFoundError, match="nowhere is neither a folder nor a file"):
        gsoc.check_files({"unlabelled": tmp_path / "nowhere"})


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_plans(plan):
    every = gsoc_tables.trainings(plan)
    assert (
        len({one.name for one in every})
        == len(every)
        == sum(len(how["folds"]) * len(plan["models"]) for how in plan["starts"].values())
    )
    assert [one.fold for one in every] == sorted(one.fold for one in every)
    assert {one.pretraining for one in every} == {None, *plan["pretraining"]}
    folds = {one.fold for one in every if one.start == gsoc_tables.REFERENCE}
    assert folds == set(range(5))
    for model in plan["models"]:
        assert json.loads((gsoc.FOLDER / f"{model}.json").read_text())["log_mass"]
    assert all((gsoc.FOLDER / f"{objective}.yaml").is_file() for objective in plan["pretraining"])


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({}, {}, "Pass `--labelled` and `--unlabelled`, the folders of the public files"),
        ({"labelled": "there"}, {}, "Pass `--unlabelled`"),
        ({"imitate": True, "labelled": "there"}, {}, "`--imitate` makes the files itself: leave out labelled"),
        ({"imitate": True}, {}, "The plan lacks simulation"),
        ({"imitate": True}, {"simulation": {}, "models": ["vit"]}, r"There is no recipes/gsoc/vit\.json"),
        ({"imitate": True}, {"simulation": {}, "starts": {"masked": {"folds": []}}}, "start masked of the plan needs"),
        ({"imitate": True}, {"simulation": {}, "starts": ["scratch"]}, "The plan lacks starts, or has another form"),
        (
            {"imitate": True},
            {"simulation": {}, "starts": {"other": {"folds": [7]}}},
            "start other of the plan needs `folds`, a list of numbers from 0 to 4",
        ),
        (
            {"imitate": True},
            {"simulation": {}, "starts": {"other": {"folds": [0], "pretraining": "moco"}}},
            "its `pretraining`, if given, must be one of the plan's",
        ),
        ({"labelled": "a", "unlabelled": "b", "max_runs": -1}, {}, "`max_runs` must be 0 or more, got -1"),
    ],
)
def test_calls_that_are_refused(options, changes, message):
    with pytest.raises(ValueError, match=message):
        gsoc.check(PLANS["study"] | changes, gsoc.GsocArguments(**options))


def made(folder, one, auc, first=0.7, last=0.4):
    """A finished training."""
    metrics = {"roc_auc": auc, "roc_auc_low": auc - 0.05, "roc_auc_high": auc + 0.05}
    metrics |= {"accuracy": auc - 0.1, "mae_gev": 20.0 + one.fold, "relative_resolution": 0.2}
    result = make_result(one.name, 0, metrics, training={"images_seen": 5})
    result.metrics["constant"] = {"roc_auc": 0.5, "mae_gev": 40.0}
    result.to_json(folder / f"results/{one.name}.json")
    info = {"epochs": [{"classification_loss": last, "validation_loss": 1.0}], "seconds": 60.0, "images_seen": 5}
    (folder / one.name).mkdir(parents=True)
    (folder / one.name / "run_info.json").write_text(json.dumps(info | {"curve": [{"classification_loss": first}]}))


def test_tables(tmp_path):
    plan = PLANS["imitation"] | {"models": ["xcit"]}
    for one in gsoc_tables.trainings(plan):
        stands_still = one.start == "masked"
        made(tmp_path, one, 0.52 if stands_still else 0.9 + 0.01 * one.fold)
    (tmp_path / "xcit_masked").mkdir()
    info = {"epochs": [{"loss": 0.5}], "curve": [{"loss": 1.5}], "seconds": 120.0, "images_seen": 9}
    (tmp_path / "xcit_masked/run_info.json").write_text(json.dumps(info))
    more = plan | {"models": ["xcit", "hitvit"]}  # of which the second has not been trained
    (tmp_path / "gsoc.json").write_text(json.dumps({"plan": more} | gsoc_tables.summarise(plan, tmp_path)))
    outcome = gsoc_tables.outcome(tmp_path)
    assert "| from scratch             | 5     | 1       | 0.920 ± 0.016" in outcome
    assert "0.520 (0.470–0.570)" in outcome
    assert "| constant |" in outcome
    assert "| 1     | -0.380" in gsoc_tables.differences(tmp_path)  # to the same fold from scratch
    assert "0.700 → 0.400" in gsoc_tables.starts(tmp_path)
    told = gsoc_tables.standstill(tmp_path)
    assert told.startswith("Of 16 trainings in the plan, 8 came to their end with finite losses, and 7 learned")
    assert told.endswith("The lowest AUC is 0.520 (0.470–0.570), of xcit_masked_fold0.")
    assert "1.500 → 0.500" in gsoc_tables.pretraining(tmp_path)


@pytest.mark.thorough
def test_a_small_study(tmp_path):
    """Sixty jets in each file, one model; a second call finds everything done."""
    plan = {
        "simulation": {
            "arguments": "--match_pt --pileup 0",
            "num_jets": 30,
            "seeds": {"labelled": 1, "unlabelled": 2},
        },
        "settings": {"per_device_batch_size": 16, "mixed_precision": "no"},
        "training_settings": {"num_train_epochs": 1},
        "pretraining": {"masked": {"num_train_epochs": 1}, "contrastive": {"num_train_epochs": 1}},
        "models": ["xcit"],
        "starts": {
            "scratch": {"folds": [2]},
            "scratch_pt": {"folds": [2], "settings": {"aux_names": ["log_pt"]}},
            "contrastive": {"folds": [2], "pretraining": "contrastive"},
        },
    }
    plan["simulation"]["seeds"] = {"labelled": 1, "unlabelled": 2}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    command = ["studies/gsoc.py", "--imitate", "--study", tmp_path / "plan.yaml", "--output_dir", tmp_path / "runs"]
    command += ["--results", tmp_path / "gsoc.json", "--cache_dir", tmp_path / "cache", "--num_proc", 1]
    done = run_python("-c", TWICE, *command)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    first, second = done.stdout.split("second call")
    assert "masked.yaml" not in first  # no training starts from it
    assert not [step for step in ("simulate.py", "gsoc_files.py", "train.py", "eval.py") if step in second]
    summary = json.loads((tmp_path / "gsoc.json").read_text())
    assert [run["start"] for run in summary["runs"]] == list(plan["starts"])
    results = [json.loads((tmp_path / f"runs/results/{run['name']}.json").read_text()) for run in summary["runs"]]
    assert {result["test_fold"] for result in results} == {2}
    assert [result["aux_names"] for result in results] == [None, ["log_pt"], None]
    assert len({json.dumps(result["data"]) for result in results}) == 1  # the same jets
    assert [run["objective"] for run in summary["pretraining"]] == ["contrastive"]
    assert all(table(tmp_path) for table in gsoc_tables.TABLES.values())


def test_a_changed_recipe_is_refused(tmp_path):
    """Results of the old one would count as those of the new."""
    plan = PLANS["imitation"]
    gsoc.note_recipes(plan, tmp_path)
    gsoc.note_recipes(plan | {"models": plan["models"][:1]}, tmp_path)
    with pytest.raises(ValueError, match=r"recipe of \w+ has changed since it was begun: choose another"):
        gsoc.note_recipes(plan | {"training_settings": {"num_train_epochs": 30}}, tmp_path)
