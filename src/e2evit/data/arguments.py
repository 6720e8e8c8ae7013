"""Settings from Python as their annotations say: a tuple is as good as a list, a number alone as a list of one."""

from collections.abc import Sequence
from dataclasses import fields
from os import PathLike, fspath
from types import NoneType
from typing import get_args, get_type_hints

import numpy as np

__all__ = ["settle"]

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def settle(settings) -> None:
    """Turn the values of a dataclass into the plain ones of its annotations, which JSON and a command line can hold.

    Raises:
        ValueError: for a value of another kind; it names the field.
    """
    hints = get_type_hints(type(settings))
    for name in (field.name for field in fields(settings)):
        value, kinds = getattr(settings, name), [hints[name], *get_args(hints[name])]
        if value is None and NoneType in kinds:
            continue
        of_list = next((get_args(kind)[0] for kind in kinds if getattr(kind, "__origin__", None) is list), None)
        kind = of_list or next(kind for kind in kinds if kind in _KINDS)
        try:
            if of_list is None:
                settled = _plain(value, kind)
            else:
                settled = [_plain(entry, kind) for entry in _entries(value)]
                settled = [float(entry) for entry in settled] if kind is float else settled
        except TypeError:
            what = f"a list, each {_KINDS[kind]}" if of_list else _KINDS[kind]
            raise ValueError(f"`{name}` is {what}, got {value!r}.") from None
        object.__setattr__(settings, name, settled)


def _entries(value) -> list:
    """Those of a list, a tuple or an array; of anything else, itself."""
    return list(value) if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) else [value]


def _plain(value, kind: type):
    """The same value as a plain one of this kind; a whole number stays one where a number is asked for."""
    is_bool = isinstance(value, (bool, np.bool_))
    if kind is bool and is_bool:
        return bool(value)
    if kind is str and isinstance(value, (str, PathLike)):
        return fspath(value)
    if kind in (int, float) and isinstance(value, (int, float, np.integer, np.floating)) and not is_bool:
        if isinstance(value, (int, np.integer)) or (kind is int and float(value).is_integer()):
            return int(value)
        if kind is float:
            return float(value)
    raise TypeError
