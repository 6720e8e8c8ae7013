"""Hyperparameter search: what is tried, pruned, resumed and refused."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml
from forked import run_python

from e2evit.training import (
    DataArguments,
    ModelArguments,
    Recipe,
    TargetArguments,
    TrainArguments,
    TrainedModel,
    tuning,
)
from e2evit.training.state import History
from e2evit.training.tuning import Search, read_search, trial_recipe, tune

ROOT = Path(__file__).parents[1]
SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "per_device_batch_size": {"choices": [16, 32]},
    "model.num_hidden_layers": {"low": 1, "high": 2},
}


@pytest.fixture
def recipe(search, jets_dir, tmp_path):
    """The recipe that trials share."""
    return Recipe(
        model=ModelArguments(model_config=str(tmp_path / "model.json")),
        data=DataArguments(data_dir=str(jets_dir)),
        targets=TargetArguments(mass_column="jet_mass"),
        training=TrainArguments(num_train_epochs=1, report_to="none"),
    )


@pytest.fixture
def search(tmp_path):
    """A search file over tiny models."""
    model = {"model_type": "xcit", "hidden_size": 16, "num_attention_heads": 2}
    (tmp_path / "model.json").write_text(json.dumps(model))
    recipe = {"model_config": str(tmp_path / "model.json"), "mass_column": "jet_mass", "report_to": "none"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    found = {"recipe": str(tmp_path / "recipe.yaml"), "settings": {"num_train_epochs": 1}, "space": SPACE}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(found))
    return tmp_path / "search.yaml"


def test_the_script_resumes_where_it_stopped(search, jets_dir, tmp_path):
    output = tmp_path / "tuning"

    def call(num_trials):
        command = ["scripts/tune.py", search, "--data_dir", jets_dir, "--output_dir", output]
        command += ["--num_trials", str(num_trials)]
        done = run_python(*command)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads((output / "trials.json").read_text())

    two = call(2)
    three = call(3)
    assert three[:2] == two
    assert [trial["state"] for trial in three] == ["COMPLETE"] * 3
    assert len({json.dumps(trial["params"]) for trial in three}) == 3
    best = min(three, key=lambda trial: trial["value"])
    recipe = yaml.safe_load((output / "best.yaml").read_text())
    assert recipe["learning_rate"] == best["params"]["learning_rate"]
    layers = json.loads(Path(recipe["model_config"]).read_text())["num_hidden_layers"]
    assert layers == best["params"]["model.num_hidden_layers"]
    assert (output / "tuning.png").stat().st_size > 10000


def test_worse_trials_are_pruned(search, recipe, tmp_path, monkeypatch):
    """The value is the trial's number: after the first four, each is worse than the median."""
    trained = []

    def run_recipe(recipe, on_epoch_end):
        history = History()
        trained.append(history)
        for epoch in range(3):
            history.epochs.append({"validation_loss": float(len(trained)) + epoch})
            on_epoch_end(history)
        return TrainedModel(None, None, history, tmp_path)

    monkeypatch.setattr(tuning, "run_recipe", run_recipe)
    study = tune(read_search(search), recipe, tmp_path / "tuning", num_trials=6)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 4 + ["PRUNED"] * 2
    assert study.best_value == 1.0  # value of its best epoch
    assert [len(history.epochs) for history in trained] == [3, 3, 3, 3, 1, 1]


def test_a_grid_is_tried_once(search, recipe, tmp_path, monkeypatch):
    rates = [1e-3, 2e-3, 4e-3]

    def run_recipe(recipe, on_epoch_end):
        history = History()
        history.epochs.append({"validation_loss": recipe.training.learning_rate})
        on_epoch_end(history)
        return TrainedModel(None, None, history, tmp_path)

    monkeypatch.setattr(tuning, "run_recipe", run_recipe)
    grid = read_search(search)
    grid.space = {"learning_rate": {"choices": rates}}
    tune(grid, recipe, tmp_path / "tuning", num_trials=2)
    study = tune(grid, recipe, tmp_path / "tuning", num_trials=9)
    assert sorted(trial.params["learning_rate"] for trial in study.trials) == rates


def test_an_interrupted_trial_runs_next(search, recipe, tmp_path, monkeypatch):
    from e2evit.training.state import Preempted, StopRequest

    agreed = StopRequest.agreed

    def terminated(self, accelerator):
        os.kill(os.getpid(), signal.SIGTERM)
        return agreed(self, accelerator)

    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "agreed", terminated)
        with pytest.raises(Preempted):
            tune(read_search(search), recipe, tmp_path / "tuning", num_trials=1)
    study = tune(read_search(search), recipe, tmp_path / "tuning", num_trials=1)
    first, second = study.trials
    assert (first.state.name, second.state.name) == ("FAIL", "COMPLETE")
    assert first.params == second.params
    assert len(list((tmp_path / "tuning").glob("trial-*"))) == 1  # it was resumed in the same folder


def test_settings_of_a_trial(recipe, tmp_path):
    changed = trial_recipe(recipe, {"learning_rate": 0.01, "model.num_hidden_layers": 2}, tmp_path)
    assert changed.training.learning_rate == 0.01
    assert changed.training.num_train_epochs == 1
    assert json.loads(Path(changed.model.model_config).read_text())["num_hidden_layers"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {"rate": {"choices": [1]}}}, "no setting 'rate'; fields of the model begin with `model.`"),
        ({"space": {"learning_rate": {"low": 1}}}, "learning_rate needs `choices`, or `low` and `high`"),
        ({"space": {"learning_rate": {"low": 1, "high": 1}}}, "needs numbers low < high, got 1 and 1"),
        ({"space": {"learning_rate": {"low": "1e-4", "high": 1}}}, "needs numbers low < high, got 1e-4 and 1"),
        ({"direction": "up"}, "minimize or maximize, got 'up'"),
        ({"trials": 3}, "expected `recipe`, `space` and perhaps settings"),
    ],
)
def test_bad_searches_are_refused(search, change, message):
    search.write_text(yaml.safe_dump(yaml.safe_load(search.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_search(search)


def test_an_objective_that_is_not_logged(search, recipe, tmp_path):
    wrong = read_search(search)
    wrong.objective = "loss_of_sleep"
    with pytest.raises(ValueError, match="'loss_of_sleep' is not logged; there are loss"):
        tune(wrong, recipe, tmp_path / "tuning", num_trials=1)


def test_processes_that_were_launched_together_are_refused(search, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="several times with the same `--storage`"):
        tune(read_search(search), recipe, tmp_path / "tuning", num_trials=1)


def test_the_recipe_of_the_repository_is_valid():
    assert isinstance(read_search(ROOT / "recipes/tune/xcit_nano.yaml"), Search)
