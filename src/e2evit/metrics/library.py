"""The library `evaluate`, also for scripts beside scripts/evaluate.py, whose folder Python searches first."""

import sys
from importlib import import_module
from pathlib import Path

__all__ = ["evaluate"]

_SCRIPTS = Path(__file__).parents[3] / "scripts"
_searched = list(sys.path)
sys.path[:] = [entry for entry in _searched if Path(entry or ".").resolve() != _SCRIPTS]
evaluate = import_module("evaluate")
sys.path[:] = _searched
