"""Train, validation and test by a hash of the event id, stable when files are added or reordered."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import PurePath

import numpy as np
import pyarrow as pa

from .schema import DatasetSchema

__all__ = ["SPLIT_FRACTIONS", "SplitRule", "assign_splits", "is_made_up", "pixel_ids"]

SPLIT_FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}
FORMATS_OF_EVENTS = ("rows", "root", "colliderml")  # whose rows always have event ids


@dataclass(frozen=True)
class SplitRule:
    """How rows are divided.

    Args:
        salt: Another salt gives another division.
        fold: Number of the fold that becomes validation, of the `num_folds` folds of all rows outside test; the others
            become train.
        num_folds: For cross-validation.
        test_fold: Number of the fold that becomes test, of the `num_folds` folds of all rows. Of the others, an eighth
            of the events becomes validation unless `fold` says which. An event without an id is known by its pixels,
            so that equal images are always in the same fold.

    Raises:
        ValueError: for a fold that does not exist.
    """

    salt: str = "e2evit"
    fold: int | None = None
    num_folds: int = 5
    test_fold: int | None = None

    def __post_init__(self):
        for name in ("fold", "test_fold"):
            fold = getattr(self, name)
            if self.num_folds < 2 or (fold is not None and not 0 <= fold < self.num_folds):
                raise ValueError(f"`{name}` is 0 to num_folds - 1, got {fold} of {self.num_folds}.")

    def check(self, own: Collection[str], data_dir) -> None:
        """Check that a data set can be divided in this way.

        Args:
            own: The data set's own splits.
            data_dir: Its folder, for the message.

        Raises:
            ValueError: if it is already divided in another.
        """
        if own and self.test_fold is not None:
            raise ValueError(
                f"The data in {data_dir} has its own splits ({', '.join(own)}), which `test_fold` would mix: leave it "
                "out, or read the files that the data was prepared from."
            )
        if len(own) == len(SPLIT_FRACTIONS) and self.salt != SplitRule.salt and self.fold is None:
            raise ValueError(f"The data in {data_dir} has its own splits, which `salt` does not change.")

    def assign_rows(self, rows: pa.Table, schema: DatasetSchema, part: str = "full") -> np.ndarray:
        """As [`assign`], for rows of a data set of this schema."""
        ids = rows["event_id"].to_pylist()
        if self.test_fold is not None:
            has_ids = schema.format in FORMATS_OF_EVENTS or "event_id" in schema.columns
            ids = _with_pixels(ids, rows) if has_ids else pixel_ids(rows)
        return self.assign(ids, part, schema.own_split)

    def assign(self, event_ids: Iterable[str], part: str = "full", own: Collection[str] = ()) -> np.ndarray:
        """Split of each row; rows of one event share one, whatever else is in the data set.

        Args:
            part: Part of the data set the rows are in: one of its `own` splits, or `"full"`.
            own: The data set's own splits; those it lacks are carved out of `train`.
        """
        event_ids = list(event_ids)
        if self.test_fold is not None:
            is_test = (_uniform(event_ids, f"{self.salt} test folds") * self.num_folds).astype(int) == self.test_fold
            share = SPLIT_FRACTIONS["validation"] / (1 - SPLIT_FRACTIONS["test"])
            is_validation = _uniform(event_ids, f"{self.salt} validation") < share
            splits = np.where(is_test, "test", np.where(is_validation, "validation", "train"))
        elif part == "full" or (part == "train" and len(own) < len(SPLIT_FRACTIONS)):
            names = [name for name in SPLIT_FRACTIONS if name == "train" or name not in own]
            bounds = np.cumsum([SPLIT_FRACTIONS[name] for name in names])
            uniform = _uniform(event_ids, self.salt)
            splits = np.array(names)[np.searchsorted(bounds[:-1] / bounds[-1], uniform, side="right")]
        else:
            splits = np.full(len(event_ids), part)
        if self.fold is not None:
            held_out = (_uniform(event_ids, f"{self.salt} folds") * self.num_folds).astype(int) == self.fold
            splits = np.where(splits == "test", "test", np.where(held_out, "validation", "train"))
        return splits


def assign_splits(event_ids: Iterable[str]) -> np.ndarray:
    """Split of each row by the default rule: 70 % train, 10 % validation, 20 % test."""
    return SplitRule().assign(event_ids)


def pixel_ids(rows: pa.Table) -> list[str]:
    """A hash of the pixels of each row: equal for equal images."""
    ids = []
    for batch in rows.select(["pixel_index", "pixel_value"]).to_batches():  # all at once would be copied
        index, value = batch.columns
        pixels = index.flatten().to_numpy().astype("<i8"), value.flatten().to_numpy().astype("<f4")
        bounds = index.offsets.to_numpy() - index.offsets[0].as_py()
        for start, stop in pairwise(bounds):
            content = b"".join(part[start:stop].tobytes() for part in pixels)
            ids.append(blake2b(content, digest_size=16).hexdigest())
    return ids


def is_made_up(event_id: str) -> bool:
    """Whether an id is `FILE:ROW`, which rows get whose file has none."""
    file, _, row = event_id.rpartition(":")
    return row.isdecimal() and bool(PurePath(file).suffix)


def _with_pixels(ids: list[str], rows: pa.Table) -> list[str]:
    """The ids, and in place of those that are made up the pixels of all rows of that event."""
    if not any(made_up := list(map(is_made_up, ids))):
        return ids
    pixels: dict[str, str] = {}
    for event_id, of_row in zip(ids, pixel_ids(rows)):
        pixels[event_id] = pixels.get(event_id, "") + of_row
    return [pixels[event_id] if own else event_id for event_id, own in zip(ids, made_up)]


def _uniform(event_ids: Iterable[str], salt: str) -> np.ndarray:
    """A number in [0, 1) for each event id."""
    digests = [blake2b(f"{salt}:{event_id}".encode(), digest_size=8).digest() for event_id in event_ids]
    return np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.float64) / 2**64
