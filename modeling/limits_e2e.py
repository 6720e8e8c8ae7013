"""Which numbers a configuration or a processor may hold: a file that anyone wrote must not hang or yield NaN."""

from collections.abc import Callable, Sequence
from dataclasses import field
from functools import wraps
from math import nextafter
from numbers import Integral, Real
from typing import Any, TypeVar

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

__all__ = [
    "COUNTS",
    "FRACTION",
    "MAX_WEIGHTS",
    "NON_NEGATIVE",
    "POSITIVE",
    "REAL",
    "Limits",
    "check_limits",
    "limited",
    "strict_config",
]

Config = TypeVar("Config")
Limits = tuple[float, float, str]  # lowest and highest number, and the two in words

_LARGEST = 1e18  # float32 holds its square, and that of its inverse
REAL: Limits = (-_LARGEST, _LARGEST, f"a number from {-_LARGEST:g} to {_LARGEST:g}")
NON_NEGATIVE: Limits = (0, _LARGEST, f"a number from 0 to {_LARGEST:g}")
POSITIVE: Limits = (1 / _LARGEST, _LARGEST, f"a positive number from {1 / _LARGEST:g} to {_LARGEST:g}")
FRACTION: Limits = (0, nextafter(1, 0), "at least 0 and below 1")

MAX_WEIGHTS = 2_000_000_000  # of a backbone; ten times those of the largest XCiT


def _whole(low: int, high: int) -> Limits:
    return (low, high, f"a whole number from {low} to {high}")


COUNTS = {  # far beyond any model in use
    "blocks": _whole(0, 512),
    "channels": _whole(1, 1024),
    "features": _whole(0, 4096),
    "heads": _whole(1, 1024),
    "image": _whole(1, 2**27),  # 512 MiB in float32
    "labels": _whole(1, 10_000),
    "neighbors": _whole(1, 1024),
    "pixels": _whole(1, 4096),
    "stages": _whole(1, 16),
    "stride": _whole(1, 256),
    "width": _whole(1, 32_768),
    "window": _whole(1, 128),
}


def check_limits(name: str, value: Any, limits: Limits) -> None:
    """Check a number or each number of a sequence; `None` passes.

    Raises:
        ValueError: with the name, the limits and the number, NaN included.
    """
    low, high, rule = limits
    kind = Integral if isinstance(high, int) else Real
    is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
    for number in value if is_sequence else [value]:
        is_number = isinstance(number, kind) and not isinstance(number, bool)
        if number is not None and not (is_number and low <= number <= high):  # pyright: ignore
            what = f"Each number of `{name}`" if is_sequence else f"`{name}`"
            raise ValueError(f"{what} must be {rule}, got {number}.")


def limited(default: Any, limits: Limits) -> Any:
    """A field of a configuration, checked by [`check_limits`] whenever it is set."""
    return field(default=default, metadata={"limits": limits})


def strict_config(cls: type[Config]) -> type[Config]:
    """`strict` of huggingface_hub, whose errors become `ValueError`s of one line."""
    config_class = strict(cls)
    for name in ("__init__", "validate"):
        setattr(config_class, name, _in_one_line(getattr(config_class, name)))
    return config_class


def _in_one_line(method: Callable[..., None]) -> Callable[..., None]:
    @wraps(method)
    def checked(self, **fields):
        try:
            method(self, **fields)
        except StrictDataclassError as error:
            raise ValueError(str(error.__cause__ or error)) from None

    return checked
