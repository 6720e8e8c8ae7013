"""Packages that only some readers and writers need."""

from importlib import import_module
from typing import Any

__all__ = ["import_extra"]


def import_extra(package: str, what: str, extra: str) -> Any:
    """A package of an extra.

    Raises:
        ImportError: if it is not installed; `what` says for what, `extra` with which option of pip it comes.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"{error}. {what} needs {package}: pip install 'e2evit[{extra}]'.") from error
