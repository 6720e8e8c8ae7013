"""The collators before 0.1; they are in `e2evit.training.collate`."""

import warnings
from importlib import import_module


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(name)
    warnings.warn("e2evit.data.collate is now e2evit.training.collate.", DeprecationWarning, stacklevel=2)
    return getattr(import_module("e2evit.training.collate"), name)  # imported late: reading data needs no torch
