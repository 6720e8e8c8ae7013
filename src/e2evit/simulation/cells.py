"""Hits and calorimeter cells as flat structured arrays, and the sums every sub-detector takes over them."""

import numpy as np

__all__ = ["IMPACT", "Frames", "join", "lateral_shares", "pick", "shower_cells", "spread", "structured"]

# a shower: its impact point on the grid of its calorimeter (the fraction is the position in the cell), its energy
# [GeV], the width of its profile in cells, and the truth whether it comes from pile-up
IMPACT = np.dtype([("event", "i4"), *((name, "f4") for name in ("row", "column", "energy", "width")), ("pileup", "?")])


def structured(dtype: np.dtype, **columns) -> np.ndarray:
    """A structured array from its columns: the first an array, others as long or scalar; fields left out are zero."""
    array = np.zeros(len(next(iter(columns.values()))), dtype)
    for name, values in columns.items():
        array[name] = values
    return array


def pick(array: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Rows of a structured array by mask or index; NumPy's brackets take eight times as long."""
    return array.take(np.flatnonzero(chosen) if chosen.dtype == bool else chosen)


class Frames:
    """Rectangles of one size cut out of the detector grid; phi wraps around.

    Args:
        event: `(n,)` event of each frame.
        row, column: `(n,)` first crystal; rows beyond the grid stay empty.
        height, width: Of all frames, in crystals.
    """

    def __init__(self, event, row, column, height: int, width: int):
        self.event, self.row, self.column = np.asarray(event), np.asarray(row), np.asarray(column)
        self.height, self.width = height, width

    def __len__(self) -> int:
        return len(self.event)

    def grown(self, margin: int) -> "Frames":
        """The same frames with `margin` more crystals on every side."""
        return Frames(
            self.event, self.row - margin, self.column - margin, self.height + 2 * margin, self.width + 2 * margin
        )

    def alone(self) -> "Frames":
        """The same frames, each of an event of its own."""
        return Frames(np.arange(len(self)), self.row, self.column, self.height, self.width)

    def locate(self, event, row, column, period: int, margin: float = 0):
        """Frame, row and column within it, and index of the hits that lie in a frame of their event.

        `event` ascends; `period` is the number of columns around the detector.
        """
        frame, hit = join(self.event, event)
        row = row[hit] - self.row[frame]
        inside = np.flatnonzero((row >= -margin) & (row < self.height + margin))
        frame, row, hit = frame[inside], row[inside], hit[inside]
        column = (column[hit] - self.column[frame] + margin) % period - margin
        inside = np.flatnonzero(column < self.width + margin)
        return frame[inside], row[inside], column[inside], hit[inside]


def join(left, right):
    """All pairs of equal entries as two arrays of indices; `right` ascends."""
    start, stop = np.searchsorted(right, left, side="left"), np.searchsorted(right, left, side="right")
    counts = stop - start
    pairs = np.repeat(np.arange(len(left)), counts)
    return pairs, np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - start, counts)


def lateral_shares(row_fraction, column_fraction, half_width: int, shower_width):
    """Share of a shower in the `(2 half_width + 1)²` cells around the one it hits, `(n, side, side)`.

    Integral of the profile b / (2π (b² + r²)^1.5) over each cell, in the closed form of Lednev, NIM A 366 (1995) 292,
    normalised to one: calibration makes up for energy farther out. Fractions are the position inside the central
    cell, `shower_width` is b in cells.
    """
    edges = np.arange(-half_width, half_width + 2, dtype=np.float32)
    u = (edges - np.asarray(row_fraction, np.float32)[:, None])[:, :, None]
    v = (edges - np.asarray(column_fraction, np.float32)[:, None])[:, None, :]
    b = np.asarray(shower_width, np.float32).reshape(-1, 1, 1)
    # terms of the integral that depend on u or v alone cancel in the differences, a common factor in the norm
    corner = np.sqrt(u**2 + (v**2 + b**2))
    corner *= b
    np.divide(u * v, corner, out=corner)
    np.arctan(corner, out=corner)
    rows = corner[:, 1:] - corner[:, :-1]
    shares = rows[:, :, 1:] - rows[:, :, :-1]
    whole = corner[:, -1, -1] - corner[:, 0, -1] - corner[:, -1, 0] + corner[:, 0, 0]
    shares /= whole[:, None, None]
    return shares


def spread(frames: Frames, impacts, half_width, num_rows: int, num_columns: int) -> np.ndarray:
    """Energy [GeV] of every cell of every frame, `(n, height, width)` float32; frames are in cells here.

    Energy deposited beyond the rows of the detector is lost.

    Args:
        half_width: Cells on each side of the one that is hit over which a shower spreads, of all or of each.
    """
    size = len(frames) * frames.height * frames.width
    groups = [(impacts, half_width)]
    if np.ndim(half_width):
        groups = [(pick(impacts, half_width == number), number) for number in np.unique(half_width).tolist()]
    cells = [shower_cells(frames, *group, num_rows, num_columns) for group in groups] or [
        (np.zeros(0, int), np.zeros(0))
    ]
    index, energy = (np.concatenate(values) for values in zip(*cells))
    return np.bincount(index, energy, minlength=size).astype(np.float32).reshape(-1, frames.height, frames.width)


def shower_cells(frames: Frames, impacts, half_width: int, num_rows: int, num_columns: int):
    """Index of the cells of showers within all cells of all frames, and their energy; 0 in cells at the border of a
    frame that stand for those outside."""
    frame, row, column, hit = frames.locate(
        impacts["event"], impacts["row"], impacts["column"], num_columns, margin=half_width
    )
    cell_row, cell_column = np.floor(row).astype(np.int32), np.floor(column).astype(np.int32)
    energy = impacts["energy"][hit][:, None, None]
    if half_width:
        energy = energy * lateral_shares(row - cell_row, column - cell_column, half_width, impacts["width"][hit])
    offsets = np.arange(-half_width, half_width + 1, dtype=np.int32)
    rows, columns = cell_row[:, None] + offsets, cell_column[:, None] + offsets
    on_grid = rows + frames.row[frame][:, None]
    row_in = (rows >= 0) & (rows < frames.height) & (on_grid >= 0) & (on_grid < num_rows)
    if frames.width == num_columns:
        columns, column_in = columns % num_columns, np.ones_like(columns, bool)
    else:
        column_in = (columns >= 0) & (columns < frames.width)
    energy = energy * (row_in[:, :, None] & column_in[:, None, :])
    rows, columns = rows.clip(0, frames.height - 1), columns.clip(0, frames.width - 1)
    index = ((frame[:, None] * frames.height + rows)[:, :, None] * frames.width) + columns[:, None, :]
    return index.ravel(), energy.ravel()
