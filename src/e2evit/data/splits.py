"""Train, validation and test by a hash of the event id: stable when files are added or reordered."""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

__all__ = ["SPLIT_FRACTIONS", "assign_splits"]

SPLIT_FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}


def assign_splits(event_ids: Iterable[str], salt: str = "e2evit") -> np.ndarray:
    """Name of the split of each row; rows of one event share one, whatever else is in the data set."""
    digests = [blake2b(f"{salt}:{event_id}".encode(), digest_size=8).digest() for event_id in event_ids]
    uniform = np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.float64) / 2**64
    bounds = np.cumsum(list(SPLIT_FRACTIONS.values()))
    return np.array(list(SPLIT_FRACTIONS))[np.searchsorted(bounds[:-1], uniform, side="right")]
