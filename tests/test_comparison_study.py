"""The comparison on a blind test: its plan, and what its test refuses."""

import hashlib
import json
import subprocess
from pathlib import Path

import blind_test
import pytest
import torch
from comparison import check_plan
from comparison_tables import digest, note_of, plan_table, read_runs, summarise, trainings, weights_file
from comparison_weights import keep, restore
from safetensors.torch import load_file, save, save_file
from samples import make_result
from steps import check_unchanged

from e2evit.data.packaged import read_recipe

ROOT = Path(__file__).parents[1]
PLAN = {
    "simulation": {"samples": [{"processes": ["qcd", "top"], "num_jets": 1000}]},
    "models": {"hitvit": {1: [0, 1], 0.1: [0]}, "vit": {1: [0, 1]}},
}


def test_first_seeds_come_before_second_ones():
    assert [one.name for one in trainings(PLAN)] == [
        *("hitvit_seed0", "vit_seed0", "hitvit_seed1", "vit_seed1", "hitvit_0.1_seed0")
    ]


def test_every_training_sees_as_many_jets():
    for one in trainings(read_recipe(ROOT / "recipes/comparison/study.yaml")):
        assert one.share * one.epochs == pytest.approx(1)


def test_plan_says_what_is_done_and_what_it_costs(tmp_path):
    steps = tmp_path / "steps.json"
    assert "| vit    | –" in plan_table(PLAN, steps, set())
    measured = {"jets_per_second": {"hitvit": 10.0, "vit": 5.0}}
    measured |= {name: {"hitvit": 1e6, "vit": 2e6} for name in ("macs", "parameters")}
    steps.write_text(json.dumps(measured))
    table = plan_table(PLAN, steps, {"hitvit_seed0", "of another plan"})
    cells = [cell.strip() for cell in next(line for line in table.splitlines() if "hitvit" in line).split("|")[1:-1]]
    assert cells == ["hitvit", "1.00", "1", "10", "2", "3", "1"]
    assert "All trainings of networks together take 0 hours of one core" in table


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "recipes/comparison").glob("*.json")])
def test_all_models_learn_the_same_targets_with_the_same_losses(name):
    config = read_recipe(ROOT / f"recipes/comparison/{name}.json", "JSON")
    targets = {key: config[key] for key in ("log_mass", "mass_loss", "mass_loss_weight", "containment")}
    assert targets == {"log_mass": True, "mass_loss": "quantile", "mass_loss_weight": 0.4, "containment": True}


def test_the_test_needs_the_weights_that_were_validated(tmp_path):
    plan = read_recipe(ROOT / "recipes/comparison/study.yaml")
    plan |= {"models": {"hitvit": {1: [0]}}, "settings": {}}
    weights = tmp_path / "hitvit_seed0/model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"1")
    run = {"recipe": digest(plan, "hitvit"), "weights": hashlib.sha256(b"1").hexdigest()}
    blind_test.check_trained(plan, tmp_path, tmp_path, {"hitvit_seed0": run})
    for runs in ({}, {"hitvit_seed0": run | {"recipe": "of another plan"}}):
        with pytest.raises(ValueError, match=r"hitvit_seed0 is missing: run studies/comparison\.py"):
            blind_test.check_trained(plan, tmp_path, tmp_path, runs)
    weights.write_bytes(b"2")
    with pytest.raises(ValueError, match="is not what was validated"):
        blind_test.check_trained(plan, tmp_path, tmp_path, {"hitvit_seed0": run})
    tuned = plan | {"settings": {"hitvit": {"learning_rate": 1e-3}}}
    assert digest(tuned, "hitvit") != digest(plan, "hitvit") == digest(tuned | {"settings": {"vit": {}}}, "hitvit")


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "hitvit_seed0"
    folder.mkdir()
    torch.manual_seed(0)
    weights = {"matrix": torch.randn(30, 20), "count": torch.tensor(7)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for name in ("config.json", "preprocessor_config.json", "run_info.json"):
        (folder / name).write_text(json.dumps({"of": name}))
    (folder / "recipe.yaml").write_text("data_dir: /mine/data\nclasses: [qcd, top]\n")
    return folder


def test_weights_are_kept_as_they_are_measured(checkpoint, tmp_path):
    before = load_file(checkpoint / "model.safetensors")
    kept = weights_file(tmp_path / "results", "hitvit_seed0")
    keep(checkpoint, kept)
    rounded = load_file(checkpoint / "model.safetensors")
    assert rounded["matrix"].dtype == torch.float32
    assert rounded["count"] == 7
    torch.testing.assert_close(rounded["matrix"], before["matrix"], rtol=2**-11, atol=0)  # of ten bits, to nearest
    assert not torch.equal(rounded["matrix"], before["matrix"])
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    weights = hashlib.sha256(files["model.safetensors"]).hexdigest()
    assert json.loads(files["run_info.json"])["sha256"] == {"model.safetensors": weights}
    restore(kept, tmp_path / "restored", weights)
    restored = {path.name: path.read_bytes() for path in (tmp_path / "restored").iterdir()}
    assert restored.pop("recipe.yaml") == b"classes:\n- qcd\n- top\n"  # without paths, but with targets
    assert restored == {name: content for name, content in files.items() if name != "recipe.yaml"}
    assert b"/mine" not in kept.read_bytes()
    again = kept.read_bytes()
    keep(checkpoint, kept)  # after an interruption
    assert kept.read_bytes() == again


def test_weights_beyond_half_precision_are_refused(checkpoint, tmp_path):
    path = checkpoint / "model.safetensors"
    save_file({"variance": torch.tensor([1e5])}, path, {"format": "pt"})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="variance has weights beyond ±65504"):
        keep(checkpoint, tmp_path / "kept.safetensors")
    assert path.read_bytes() == before
    assert not (tmp_path / "kept.safetensors").exists()


def test_the_test_restores_weights_of_another_machine(checkpoint, tmp_path):
    plan = read_recipe(ROOT / "recipes/comparison/study.yaml") | {"models": {"hitvit": {1: [0]}}, "settings": {}}
    results, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    keep(checkpoint, weights_file(results, "hitvit_seed0"))
    weights = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    runs = {"hitvit_seed0": {"recipe": digest(plan, "hitvit"), "weights": weights}}
    blind_test.check_trained(plan, elsewhere, results, runs)
    assert (elsewhere / "hitvit_seed0/config.json").exists()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "recipe.yaml").write_text("a: 1\n")
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    (tmp_path / "code").mkdir()
    (tmp_path / "code/code.py").write_text("")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-m", "first")
    monkeypatch.setattr(blind_test, "ROOT", tmp_path)
    return tmp_path


def test_the_test_opens_for_what_is_committed(repository):
    recipe = repository / "recipe.yaml"
    (repository / "code/__pycache__").mkdir()  # what git ignores is no code
    (repository / "code/__pycache__/code.pyc").write_bytes(b"")
    assert len(blind_test.check_committed(repository / "code")) == 40
    assert len(blind_test.check_committed(recipe)) == 40
    recipe.write_text("a: 2\n")
    with pytest.raises(ValueError, match=r"recipe\.yaml differs from the commit"):
        blind_test.check_committed(recipe)
    (repository / "new.yaml").write_text("a: 1\n")
    with pytest.raises(ValueError, match=r"new\.yaml differs from the commit"):
        blind_test.check_committed(repository / "new.yaml")


def test_the_test_opens_once(tmp_path):
    opened = tmp_path / "opened.json"
    blind_test.check_unopened(opened, "first", "plan")
    blind_test.check_unopened(opened, "later", "plan")  # an interrupted call resumes
    assert json.loads(opened.read_text())["commit"] == "first"
    with pytest.raises(ValueError, match="opened at commit first for another plan"):
        blind_test.check_unopened(opened, "later", "other")


def test_hashes_are_those_of_the_jets(tmp_path):
    (tmp_path / "main").mkdir()
    for name, content in (("a.parquet", b"1"), ("b.parquet", b"2"), ("README.md", b"")):
        (tmp_path / "main" / name).write_bytes(content)
    before = blind_test.hashes(tmp_path)
    assert list(before) == ["main/a.parquet", "main/b.parquet"]
    (tmp_path / "main/b.parquet").write_bytes(b"3")
    assert blind_test.hashes(tmp_path) != before


def test_a_file_that_was_not_kept_here_is_not_restored(checkpoint, tmp_path):
    kept = tmp_path / "kept.safetensors"
    keep(checkpoint, kept)
    weights = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    texts = {name: "{}" for name in ("config.json", "preprocessor_config.json", "run_info.json", "../recipe.yaml")}
    for content, expected, message in (
        (kept.read_bytes(), "0" * 64, "does not hold what was validated"),
        (kept.read_bytes()[:40], weights, "is damaged"),
        (save(load_file(kept)), weights, "does not hold what was validated"),
        (save(load_file(kept), {"files": json.dumps(texts)}), weights, "does not hold what was validated"),
    ):
        (tmp_path / "other.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            restore(tmp_path / "other.safetensors", tmp_path / "new", expected)
        assert not (tmp_path / "new").exists()


def test_a_result_of_another_recipe_does_not_count(tmp_path):
    plan = read_recipe(ROOT / "recipes/comparison/study.yaml") | {"models": {"trees_candidates": {1: [0]}}}
    (one,) = trainings(plan)
    make_result(one.model, 0, {"roc_auc": 0.9}).to_json(tmp_path / f"validation/{one.name}.json")
    assert not summarise(plan, tmp_path, {})
    check_unchanged(note_of(one, tmp_path), digest(plan, one.model))
    assert list(summarise(plan, tmp_path, {})) == [one.name]
    changed = plan | {"settings": {one.model: {"tune_trials": 3}}}
    assert not summarise(changed, tmp_path, {})
    with pytest.raises(ValueError, match="recipe of trees_candidates_seed0 has changed since it was begun"):
        check_unchanged(note_of(one, tmp_path), digest(changed, one.model))


@pytest.mark.parametrize("text", ["[]", '{"runs": [1]}', '{"runs": {"a": 1}}'])
def test_damaged_results_are_named(text, tmp_path):
    (tmp_path / "validation.json").write_text(text)
    with pytest.raises(ValueError, match=r"validation\.json"):
        read_runs(tmp_path / "validation.json")


@pytest.mark.parametrize("pileup", [[21, 60], [40], 21, None])
def test_a_blind_test_at_other_pileups_is_refused_before_it_starts(pileup):
    plan = read_recipe(ROOT / "recipes/comparison/study.yaml")
    check_plan(plan, "study.yaml")
    plan["blind_tests"]["main"]["pileup"] = pileup
    with pytest.raises(ValueError, match=r"study\.yaml: the blind test `main` must list one `pileup`"):
        check_plan(plan, "study.yaml")
