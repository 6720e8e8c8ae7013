"""Command lines and recipes: one YAML file is one run, unknown keys are errors, the command line has the last word."""

import dataclasses
import os
import re
import sys
from argparse import Action, ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import takewhile

from transformers import HfArgumentParser

from e2evit.data.packaged import read_recipe

from .errors import UsageError, suggest

__all__ = ["as_flags", "parse"]


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """The docstring as it is, each option once and in one spelling, and its default if it has one."""

    def add_argument(self, action: Action) -> None:
        if not any(name.startswith("--no_") for name in action.option_strings):
            super().add_argument(action)

    def _format_action_invocation(self, action: Action) -> str:
        names = [name for name in action.option_strings if "-" not in name.lstrip("-")]
        if not names:
            return super()._format_action_invocation(action)
        if action.nargs in (0, "?"):
            return ", ".join([*names, f"--no_{action.dest}"] if action.default is True else names)
        return f"{names[-1]} {self._format_args(action, 'VALUE')}"

    def _get_help_string(self, action: Action) -> str:
        if action.required and action.option_strings:
            return f"{action.help} (required)"
        return action.help if action.default is None else super()._get_help_string(action)


class _Parser(HfArgumentParser):
    def error(self, message: str) -> None:
        raise UsageError(f"{message}. See `{self.prog} --help`.")


def parse(
    command: str,
    description: str,
    arguments: Sequence[str] | None,
    *argument_classes: type,
    first: tuple[str, str] | None = None,
) -> list:
    """Instances of the dataclasses from `[FIRST] [RECIPE.yaml] [--field value ...]`.

    Args:
        command: What the user typed before the arguments, such as "e2evit train".
        description: Docstring of the command, with examples.
        arguments: Those of `sys.argv` if None.
        argument_classes: Dataclasses whose fields are the options; each is a group in `--help`.
        first: Name and help of an argument that must come before all others; its value is returned first.

    Raises:
        UsageError: for an unknown option, a missing one, or a value of the wrong type.
        ValueError: for a recipe that does not exist, is not YAML, or has an unknown key.
        SystemExit: after `--help`.
    """
    arguments = [_expand(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    for argument_class in argument_classes:
        if not hasattr(argument_class, "_argument_group_name"):
            argument_class._argument_group_name = _title(argument_class)  # read by `HfArgumentParser`
    parser = _Parser(
        argument_classes,
        prog=command,
        usage=f"%(prog)s {'' if first is None else f'{first[0].upper()} '}[RECIPE.yaml] [--option value ...]",
        description=description.strip(),
        formatter_class=partial(_HelpFormatter, max_help_position=36),
        allow_abbrev=False,
    )
    if first is not None:
        parser.add_argument(first[0], help=first[1])

    known = {field.name: field.type for cls in argument_classes for field in dataclasses.fields(cls)}
    for action in parser._actions:
        if known.get(action.dest) == bool | None:  # `HfArgumentParser` lets only those that have a default stand alone
            action.nargs, action.const = "?", True
    leading = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    options, settings = arguments[len(leading) :], {}
    if len(leading) > (first is not None):
        settings = _read(leading.pop(first is not None), known)
    # as strings through the parser, so that the recipe obeys the types and choices of the command line
    strings = [*leading, *map(_expand, as_flags(settings)), *options]
    *instances, unknown = parser.parse_args_into_dataclasses(
        strings, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(_explain(unknown, known))
    return instances if first is None else [getattr(instances.pop(), first[0]), *instances]


def parse_recipe(*argument_classes: type, arguments: Sequence[str] | None = None) -> list:
    """As [`parse`], for a program without a name."""
    return parse(sys.argv[0], "Settings from a recipe.", arguments, *argument_classes)


def as_flags(settings: Mapping) -> list[str]:
    """Settings as command-line arguments; `None` is left out."""
    flags = []
    for key, value in settings.items():
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{key}={value}")
    return flags


def _expand(argument: str) -> str:
    """`~/run` and `--output_dir=~/run` with the home folder, which a shell writes for the first alone."""
    if any("\ud800" <= letter <= "\udfff" for letter in argument):
        raise UsageError(f"{argument!a} is not text in this locale: set LC_ALL=C.UTF-8, or PYTHONUTF8=1.")
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + os.path.expanduser(value)


def _title(argument_class: type) -> str:
    """`MassWeightArguments` → "mass weight"."""
    stem = argument_class.__name__.removesuffix("Arguments").removesuffix("Settings")
    return " ".join(re.findall("[A-Z][a-z]*", stem)).lower()


def _explain(unknown: Sequence[str], known: Iterable[str]) -> str:
    for argument in unknown:
        if argument.startswith("-"):
            name = argument.split("=")[0]
            return f"unknown option {name}{suggest(name.replace('-', '_'), known, prefix='--')}"
    return (
        f"unexpected argument {unknown[0]}: most options take one value; a recipe comes before all options, and there "
        "is one at most"
    )


def _read(path: str, known: Mapping[str, type]) -> dict:
    settings = read_recipe(path)
    for key, value in settings.items():
        if key not in known:
            raise ValueError(
                f"{path}: unknown key {key}{suggest(str(key), known)}; known: {', '.join(sorted(known))}."
            )
        if isinstance(value, bool) and known[key] is str:  # `mixed_precision: no`, which is false in YAML
            settings[key] = "yes" if value else "no"
    return settings
