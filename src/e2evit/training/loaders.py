"""Batches for training, validation and BatchNorm statistics."""

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset
from torch.utils.data import DataLoader

from .collate import E2ECollator, RowTables
from .events import EventCollator
from .resident import ResidentRows
from .tasks import MaskedCollator

__all__ = ["ImagesOnDevice", "make_loader", "make_statistics_loader"]

STATISTICS_BATCHES = 20  # per process, for BatchNorms: about as many as running statistics remember
SENT_AS_LISTS = {"cuda"}  # devices that are fed lists of pixels, a hundredth of the images
Collator = E2ECollator | EventCollator | MaskedCollator


def make_loader(
    dataset: Dataset,
    collator: Collator,
    batch_size: int,
    num_workers: int = 0,
    shuffle_seed: int | None = None,
    accelerator: Accelerator | None = None,
    resident: bool = False,
) -> DataLoader:
    """Batches of `dataset` in its order or, with a seed, in one that depends only on the seed and the epoch
    (`set_epoch`).

    Args:
        accelerator: If it is of a GPU, batches are lists of pixels in pinned memory, for [`ImagesOnDevice`].
        resident: Keep all rows on the accelerator's device, and make batches there.
    """
    collate, pin_memory = collator, False
    if resident:
        assert accelerator is not None, "it has the device"
        rows, collate, num_workers = ResidentRows(accelerator, dataset, collator), collator.finish, 0
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
    they arrive; whole batches pass.
    """

    def __init__(self, loader: DataLoader, collator: Collator):
        self.loader, self.collator = loader, collator

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        are_lists = self.loader.collate_fn == self.collator.read
        for batch in self.loader:
            yield self.collator.finish(batch) if are_lists else batch

    def from_batch(self, accelerator: Accelerator, number: int) -> "ImagesOnDevice":
        """Without the first `number` batches."""
        if not number:
            return self
        return ImagesOnDevice(accelerator.skip_first_batches(self.loader, number), self.collator)


def make_statistics_loader(
    train_split: Dataset,
    collator: Collator,
    batch_size: int,
    seed: int,
    accelerator: Accelerator,
    resident: bool = False,
) -> DataLoader:
    """A few training jets of all classes, augmented; the same ones for the same seed."""
    rows = np.random.default_rng(seed).permutation(len(train_split))
    rows = rows[: STATISTICS_BATCHES * batch_size * accelerator.num_processes]
    return make_loader(train_split.select(rows), collator, batch_size, accelerator=accelerator, resident=resident)
