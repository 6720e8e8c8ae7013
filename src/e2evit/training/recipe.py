"""Recipes: one YAML file is one run; unknown keys are errors, the command line has the last word."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from transformers import HfArgumentParser

__all__ = ["as_flags", "parse_recipe"]


def parse_recipe(*argument_classes, arguments: Sequence[str] | None = None):
    """Instances of the dataclasses from `[RECIPE.yaml] [--field value ...]`.

    Raises:
        ValueError: for a key of the recipe that no dataclass has, or a value of the wrong type.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    settings = {}
    if arguments and not arguments[0].startswith("--"):
        settings = _read(Path(arguments.pop(0)), argument_classes)
    parser = HfArgumentParser(argument_classes)
    # as strings through the parser, so that the recipe obeys the types and choices of the command line
    return parser.parse_args_into_dataclasses([*as_flags(settings), *arguments])


def as_flags(settings: Mapping) -> list[str]:
    """Settings as arguments of a command line; `None` is left out."""
    flags = []
    for key, value in settings.items():
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{key}={value}")
    return flags


def _read(path: Path, argument_classes) -> dict:
    if not path.is_file():
        raise ValueError(f"There is no recipe {path}.")
    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: a recipe is a list of `key: value` lines, got a {type(settings).__name__}.")
    known = {field.name for cls in argument_classes for field in dataclasses.fields(cls)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(f"{path}: unknown key {', '.join(unknown)}; known ones: {', '.join(sorted(known))}.")
    return settings
