"""Orders of pixels: space-filling curves along which neighbours in the list are neighbours in the image."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

__all__ = ["CURVES", "curve_order", "curve_ranks"]

BITS = 14  # of a coordinate: more pixels than any image has, with any shift
CELL = 12  # pixels on a side of a cell of "grid", as in DSVT's outdoor models (https://arxiv.org/abs/2301.06051)


def _interleave(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Z-order (Morton): the bits of both coordinates in turn."""
    return sum((row >> bit & 1) << 2 * bit + 1 | (column >> bit & 1) << 2 * bit for bit in range(BITS))  # pyright: ignore


def _hilbert(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Hilbert's curve, whose successive pixels touch (Skilling, AIP Conf. Proc. 707, 381, 2004, in two dimensions)."""
    code, size = np.zeros_like(row), 1 << BITS
    for bit in reversed(range(BITS)):
        x, y = row >> bit & 1, column >> bit & 1
        code += (3 * x ^ y) << 2 * bit
        is_mirrored, is_swapped = (y == 0) & (x == 1), y == 0
        row, column = (np.where(is_mirrored, size - 1 - side, side) for side in (row, column))
        row, column = np.where(is_swapped, column, row), np.where(is_swapped, row, column)
    return code


def _cells(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Cell by cell of [`CELL`] x [`CELL`] pixels; in a cell, row by row."""
    cell = (row // CELL << BITS) + column // CELL
    return (cell * CELL + row % CELL) * CELL + column % CELL


def _random(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The same arbitrary order in every process: the control."""
    return np.random.default_rng([len(row), int(row[0]), int(column[0])]).permutation(len(row))


CURVES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "morton": _interleave,
    "hilbert": _hilbert,
    "grid": _cells,
    "random": _random,
}


@lru_cache(maxsize=64)
def curve_order(
    curve: str, height: int, width: int, shift: int = 0, transposed: bool = False, periodic: bool = False
) -> np.ndarray:
    """Pixels `(H W,)`, row-major numbers, in the order of a curve.

    Args:
        curve: A key of [`CURVES`].
        shift: Pixels by which the image is moved under the curve, which moves the curve's cuts.
        transposed: Whether rows and columns are exchanged.
        periodic: Whether columns that leave the image on the right come back on the left.
    """
    row, column = np.divmod(np.arange(height * width), width)
    row, column = row + shift, (column + shift) % width if periodic else column + shift
    return CURVES[curve](*((column, row) if transposed else (row, column))).argsort(kind="stable")


@lru_cache(maxsize=64)
def curve_ranks(*order) -> np.ndarray:
    """The place of each pixel `(H W,)` in [`curve_order`], which has the same arguments."""
    return curve_order(*order).argsort(kind="stable")
