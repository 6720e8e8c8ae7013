"""Recipes and command lines."""

import pytest

from e2evit.training import AugmentationArguments, DataArguments, TrainArguments, parse_recipe


def test_recipe_defaults_file_command_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("learning_rate: 1e-4\nflips: false\nnum_train_epochs: 3\n")
    groups = (AugmentationArguments, TrainArguments)
    augmentation, training = parse_recipe(*groups, arguments=[str(path), "--num_train_epochs", "5"])
    assert (training.learning_rate, training.num_train_epochs, augmentation.flips) == (1e-4, 5, False)
    assert training.weight_decay == TrainArguments().weight_decay


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte: 1\n", "unknown key learning_rte; known ones:.*learning_rate"),
        ("- 1\n", "key: value"),
        ("a: [\n", "not YAML"),
    ],
)
def test_bad_recipes(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_recipe(DataArguments, TrainArguments, arguments=[str(path)])
    with pytest.raises(ValueError, match="no recipe"):
        parse_recipe(TrainArguments, arguments=["nowhere.yaml"])


def test_what_comes_before_a_recipe(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 3")
    checkpoint, training = parse_recipe(TrainArguments, first="checkpoint", arguments=["runs/a", str(path)])
    assert (checkpoint, training.seed) == ("runs/a", 3)
    for wrong, message in (
        (["--seed", "1"], "required: checkpoint"),
        (["runs/a", "--seed", "1", str(path)], f"out of place: {path}"),
        (["runs/a", str(path), "another.yaml"], "out of place: another.yaml"),
        (["runs/a", "--sed", "1"], "out of place: --sed 1"),
    ):
        with pytest.raises(SystemExit):
            parse_recipe(TrainArguments, first="checkpoint", arguments=wrong)
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        parse_recipe(TrainArguments, first="checkpoint", arguments=["--help"])
    text = capsys.readouterr().out
    assert " checkpoint [RECIPE.yaml] " in text
    assert "Peak of the schedule" in text
    assert "(default: 0.001)" in text
