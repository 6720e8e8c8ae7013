"""Recipes and command lines."""

import configparser
from pathlib import Path

import numpy as np
import pytest
import yaml

from e2evit.cli.errors import UsageError
from e2evit.cli.parser import parse
from e2evit.data.packaged import find_recipe
from e2evit.simulation import SimulationSettings
from e2evit.training import AugmentationArguments, DataArguments, MaskArguments, TargetArguments, TrainArguments

ROOT = Path(__file__).parents[1]
LISTS = ((TargetArguments, "classes"), (TargetArguments, "mass_classes"), (MaskArguments, "truth_columns"))


@pytest.mark.parametrize(
    ("kind", "given", "settled"),
    [
        *(
            (DataArguments, {"pileup": value}, [40.0])
            for value in (40, 40.0, [40], (40,), np.int64(40), np.array([40]))
        ),
        *((DataArguments, {"pileup": value}, [0.0, 30.0]) for value in ((0.0, 30.0), [0, 30], range(0, 60, 30))),
        *((DataArguments, {"without": value}, ["all"]) for value in ("all", ("all",), ["all"])),
        (DataArguments, {"data_dir": Path("data/jets")}, "data/jets"),
        *((kind, {name: "qcd"}, ["qcd"]) for kind, name in LISTS),
        *((kind, {name: ("qcd", "top")}, ["qcd", "top"]) for kind, name in LISTS),
        (TrainArguments, {"num_train_epochs": 2.0}, 2),
        (TrainArguments, {"learning_rate": np.float32(0.5)}, 0.5),
        (AugmentationArguments, {"tower_shift": np.int64(2)}, 2),
        (SimulationSettings, {"without": "fakes"}, ["fakes"]),
        (SimulationSettings, {"pythia": ("Tune:pp = 18",)}, ["Tune:pp = 18"]),
    ],
)
def test_values_from_python_become_those_of_a_recipe(kind, given, settled):
    (name,) = given
    assert repr(getattr(kind(**given), name)) == repr(settled)  # a plain value, as JSON and flags hold it


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        *((DataArguments, {"pileup": value}) for value in ([60.0, 0.0], [-5.0], [], [0, 1, 2], float("nan"), "40")),
        *((DataArguments, {"pileup": value}) for value in ([0, float("inf")], [None], True)),
        (DataArguments, {"without": "fake"}),
        (DataArguments, {"train_fraction": "0.5"}),
        *((kind, {name: [1]}) for kind, name in LISTS),
        (TrainArguments, {"num_train_epochs": 2.5}),
        (TrainArguments, {"learning_rate": "1e-3"}),
        (TrainArguments, {"fresh": "no"}),
        (AugmentationArguments, {"energy_smearing": "0.1"}),
        (SimulationSettings, {"pileup": (0, 60)}),
        (SimulationSettings, {"pileup": None}),
    ],
)
def test_values_of_another_kind_are_refused_at_once(kind, given):
    """In one line that names the setting, before any work."""
    with pytest.raises(
        ValueError, match=next(iter(given)) if given != {"without": "fake"} else "effect fake"
    ) as error:
        kind(**given)
    assert "\n" not in str(error.value)


def parse_recipe(*argument_classes, arguments, first=None):
    return parse("e2evit test", "What it does.", arguments, *argument_classes, first=first)


def test_more_workers_than_any_machine_has_cores():
    with pytest.raises(ValueError, match="`num_workers` must be at most 512, got 100000"):
        TrainArguments(num_workers=100_000)


def test_recipe_defaults_file_command_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("learning_rate: 1e-4\nflips: false\nnum_train_epochs: 3\n")
    groups = (AugmentationArguments, TrainArguments)
    augmentation, training = parse_recipe(*groups, arguments=[str(path), "--num_train_epochs", "5"])
    assert (training.learning_rate, training.num_train_epochs, augmentation.flips) == (1e-4, 5, False)
    assert training.weight_decay == TrainArguments().weight_decay


def test_no_is_a_word_where_a_word_is_expected(tmp_path):
    """YAML reads `no` as false."""
    path = tmp_path / "recipe.yaml"
    path.write_text("mixed_precision: no\nflips: no\n")
    augmentation, training = parse_recipe(AugmentationArguments, TrainArguments, arguments=[str(path)])
    assert (training.mixed_precision, augmentation.flips) == ("no", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte: 1\n", r"unknown key learning_rte \(did you mean learning_rate\?\); known: .*seed"),
        ("- 1\n", "key: value"),
        ("a: [\n", "not YAML"),
    ],
)
def test_bad_recipes(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_recipe(DataArguments, TrainArguments, arguments=[str(path)])
    with pytest.raises(ValueError, match="no packaged recipe"):
        parse_recipe(TrainArguments, arguments=["nowhere.yaml"])


def test_packaged_recipes(tmp_path, monkeypatch):
    """Found by name from any folder; a user's own file takes precedence."""
    monkeypatch.chdir(tmp_path)
    assert find_recipe("quickstart/xcit_nano.yaml").is_file()
    assert find_recipe("recipes/models/xcit_nano.json") == find_recipe("models/xcit_nano.json")
    with pytest.raises(ValueError, match=r"did you mean models/xcit_nano\.json"):
        find_recipe("models/xcit_nan.json")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/xcit_nano.json").write_text("{}")
    assert find_recipe("models/xcit_nano.json").read_text() == "{}"


def test_recipes_of_a_wheel_are_complete():
    """The model file that a packaged recipe names is packaged too."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["e2evit.recipes"].split(", ")
    packaged = {path for pattern in patterns for path in (ROOT / "recipes").glob(pattern)}
    recipes = [yaml.safe_load(path.read_text()) for path in packaged if path.suffix == ".yaml"]
    models = {ROOT / recipe["model_config"] for recipe in recipes if "model_config" in recipe}
    assert len(models) == 2
    assert models <= packaged


def test_arguments_before_a_recipe(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 3")
    first = ("checkpoint", "Folder of the model.")
    checkpoint, training = parse_recipe(TrainArguments, first=first, arguments=["runs/a", str(path)])
    assert (checkpoint, training.seed) == ("runs/a", 3)
    for wrong, message in (
        (["--seed", "1"], "required: checkpoint"),
        (["runs/a", "--seed", "1", str(path)], f"unexpected argument {path}: most options take one value"),
        (["runs/a", str(path), "another.yaml"], "unexpected argument another.yaml"),
        (["runs/a", "--sed", "1"], r"unknown option --sed \(did you mean --seed\?\)\. See `e2evit test --help`"),
        (["runs/a", "--see=1"], r"unknown option --see \(did you mean --seed\?\)"),
        (["runs/a", "--seed", "one"], "argument --seed.*invalid int value: 'one'"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_recipe(TrainArguments, first=first, arguments=wrong)


def test_help(capsys):
    """Groups, examples, defaults where they exist, each option once."""
    first = ("checkpoint", "Folder of the model.")
    with pytest.raises(SystemExit, match="0"):
        parse_recipe(DataArguments, AugmentationArguments, TrainArguments, first=first, arguments=["--help"])
    text = capsys.readouterr().out
    assert "usage: e2evit test CHECKPOINT [RECIPE.yaml] [--option value ...]\n\nWhat it does.\n" in text
    assert "\ntrain:\n" in text
    assert "Folder of the model." in text
    assert "(default: 0.001)" in text
    assert "(default: None)" not in text
    assert text.count("--data_dir") == text.count("--no_") == 1
    assert "--data-dir" not in text
