"""Recipes: one YAML file is one run; unknown keys are errors, the command line has the last word."""

import dataclasses
import sys
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import yaml
from transformers import HfArgumentParser

__all__ = ["as_flags", "parse_recipe"]


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """A script's docstring as it is, and the defaults of its options."""


def parse_recipe(*argument_classes, arguments: Sequence[str] | None = None, first: str | None = None):
    """Instances of the dataclasses from `[FIRST] [RECIPE.yaml] [--field value ...]`.

    Args:
        first: What must be named before anything else, such as "checkpoint"; it is returned before the instances.

    Raises:
        ValueError: for a key of the recipe that no dataclass has.
        SystemExit: for an option that none has, or a value of the wrong type.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    description = (sys.modules["__main__"].__doc__ or "").replace("%", "%%")
    usage = f"%(prog)s {'' if first is None else f'{first} '}[RECIPE.yaml] [--option value ...]"
    parser = HfArgumentParser(argument_classes, usage=usage, description=description, formatter_class=_HelpFormatter)
    leading = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    options, settings = arguments[len(leading) :], {}
    if first is not None:
        parser.add_argument(first)
    if len(leading) > (first is not None):
        settings = _read(Path(leading.pop(first is not None)), argument_classes)
    # as strings through the parser, so that the recipe obeys the types and choices of the command line
    strings = [*leading, *as_flags(settings), *options]
    *found, unknown = parser.parse_args_into_dataclasses(strings, return_remaining_strings=True)
    if unknown:
        parser.error(f"unknown or out of place: {' '.join(unknown)}")
    return found if first is None else [getattr(found.pop(), first), *found]


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
