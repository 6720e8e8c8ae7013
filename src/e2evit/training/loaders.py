"""Batches for training, validation and BatchNorm statistics."""

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset
from torch.utils.data import DataLoader

from .collate import E2ECollator, RowTables
from .contrastive import ContrastiveCollator
from .events import EventCollator
from .resident import ResidentRows
from .tasks import MaskedCollator

__all__ = ["ImagesOnDevice", "make_loader", "make_statistics_loader"]

STATISTICS_BATCHES = 20  # per process, for BatchNorms: about as many as running statistics remember
SENT_AS_LISTS = {"cuda"}  # devices that are fed lists of pixels, a hundredth of the images
Collator = E2ECollator | EventCollator | MaskedCollator | ContrastiveCollator


def make_loader(
    dataset: Dataset | ResidentRows,
    collator: Collator,
    batch_size: int,
    num_workers: int = 0,
    shuffle_seed: int | None = None,
    accelerator: Accelerator | None = None,
) -> DataLoader:
    """Batches of `dataset` in its order or, with a seed, in one that depends only on the seed and the epoch
    (`set_epoch`).

    Args:
        dataset: Rows, or those that stay on a device, where batches are then made.
        accelerator: If its device is a GPU, batches are lists of pixels in pinned memory, for [`ImagesOnDevice`].
    """
    collate, pin_memory = collator, False
    if isinstance(dataset, ResidentRows):
        rows, collate, num_workers = dataset, collator.finish, 0
    else:
        rows = RowTables(dataset, collator.columns)
        if accelerator is not None and accelerator.device.type in SENT_AS_LISTS:
            collate, pin_memory = collator.read, True
    return DataLoader(
        rows,
        batch_size=batch_size,
        sampler=None if shuffle_seed is None else SeedableRandomSampler(rows, data_seed=shuffle_seed),
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own: the model's random numbers must continue where a state left them
    )


class ImagesOnDevice:
    """Batches of a loader of [`make_loader`] after Accelerate has prepared it: lists of pixels become images where
    they arrive; batches that already hold images pass unchanged.
    """

    def __init__(self, loader: DataLoader, collator: Collator):
        self.loader, self.collator = loader, collator
        self.are_lists = loader.collate_fn == collator.read  # as `make_loader` chose

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self.loader:
            yield self.collator.finish(batch) if self.are_lists else batch

    def from_batch(self, accelerator: Accelerator, number: int) -> "ImagesOnDevice":
        """Without the first `number` batches."""
        if not number:
            return self
        return ImagesOnDevice(accelerator.skip_first_batches(self.loader, number), self.collator)


def make_statistics_loader(
    train_split: Dataset | ResidentRows, collator: Collator, batch_size: int, seed: int, accelerator: Accelerator
) -> DataLoader:
    """A few training jets of all classes, augmented; the same ones for the same seed."""
    rows = np.random.default_rng(seed).permutation(len(train_split))
    rows = rows[: STATISTICS_BATCHES * batch_size * accelerator.num_processes]
    some = train_split.part(rows) if isinstance(train_split, ResidentRows) else train_split.select(rows)
    return make_loader(some, collator, batch_size, accelerator=accelerator)
