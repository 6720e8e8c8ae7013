"""Train, validation and test by a hash of the event id, stable when files are added or reordered."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

__all__ = ["SPLIT_FRACTIONS", "SplitRule", "assign_splits"]

SPLIT_FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}


@dataclass(frozen=True)
class SplitRule:
    """How rows are divided.

    Args:
        salt: Another salt gives another division.
        fold: Number of the fold that becomes validation, of the `num_folds` folds of all rows outside test; the others
            become train.
        num_folds: For cross-validation.

    Raises:
        ValueError: for a fold that does not exist.
    """

    salt: str = "e2evit"
    fold: int | None = None
    num_folds: int = 5

    def __post_init__(self):
        if self.num_folds < 2 or (self.fold is not None and not 0 <= self.fold < self.num_folds):
            raise ValueError(f"`fold` is 0 to num_folds - 1, got {self.fold} of {self.num_folds}.")

    def assign(self, event_ids: Iterable[str], part: str = "full", own: Collection[str] = ()) -> np.ndarray:
        """Split of each row; rows of one event share one, whatever else is in the data set.

        Args:
            part: Part of the data set the rows are in: one of its `own` splits, or `"full"`.
            own: The data set's own splits; those it lacks are carved out of `train`.
        """
        event_ids = list(event_ids)
        if part == "full" or (part == "train" and len(own) < len(SPLIT_FRACTIONS)):
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


def _uniform(event_ids: Iterable[str], salt: str) -> np.ndarray:
    """A number in [0, 1) for each event id."""
    digests = [blake2b(f"{salt}:{event_id}".encode(), digest_size=8).digest() for event_id in event_ids]
    return np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.float64) / 2**64
