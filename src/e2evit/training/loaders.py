"""Batches for training, validation and BatchNorm statistics."""

import numpy as np
import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset
from torch.utils.data import DataLoader

from .collate import E2ECollator, RowTables
from .events import EventCollator
from .tasks import MaskedCollator

__all__ = ["make_loader", "make_statistics_loader"]

STATISTICS_BATCHES = 20  # per process, for BatchNorms: about as many as running statistics remember


def make_loader(
    dataset: Dataset,
    collator: E2ECollator | EventCollator | MaskedCollator,
    batch_size: int,
    num_workers: int = 0,
    shuffle_seed: int | None = None,
) -> DataLoader:
    """Batches of `dataset` in its order or, with a seed, in one that depends only on the seed and the epoch
    (`set_epoch`)."""
    rows = RowTables(dataset, collator.columns)
    return DataLoader(
        rows,
        batch_size=batch_size,
        sampler=None if shuffle_seed is None else SeedableRandomSampler(rows, data_seed=shuffle_seed),
        collate_fn=collator,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # its own: the model's random numbers must continue where a state left them
    )


def make_statistics_loader(
    train_split: Dataset,
    collator: E2ECollator | EventCollator | MaskedCollator,
    batch_size: int,
    num_processes: int,
    seed: int,
) -> DataLoader:
    """A few training jets of all classes, augmented; the same ones for the same seed."""
    rows = np.random.default_rng(seed).permutation(len(train_split))
    return make_loader(
        train_split.select(rows[: STATISTICS_BATCHES * batch_size * num_processes]), collator, batch_size
    )
