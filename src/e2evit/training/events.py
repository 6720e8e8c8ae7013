"""Batches of whole events with their jets as queries."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from e2evit.data.schema import IMAGE_COLUMNS
from e2evit.data.statistics import MassWeights
from e2evit.transforms.augment import Augmentation, eta_flip, phi_flip
from e2evit.transforms.event_jets import JET_COLUMNS, positions

from .collate import MASS_COLUMN, E2ECollator

__all__ = ["EventCollator"]


class EventCollator:
    """Arrow tables of events to images, `jets` `(B, J, 3)`, and `labels` and `mass_labels` `(B, J)`, filled up to the
    largest number of jets in the batch; see [`HitViTForJetsInEvents`].

    Args:
        processor, mass_column, mass_weights, with_labels, packed: As in [`E2ECollator`].
        augmentation: Of the events; their jets move along.

    Raises:
        ValueError: for an augmentation that would lose jets.
    """

    def __init__(
        self,
        processor,
        mass_column: str = MASS_COLUMN,
        augmentation: Augmentation | None = None,
        mass_weights: MassWeights | None = None,
        with_labels: bool = True,
        packed: bool = False,
    ):
        if augmentation and augmentation.tower_shift:
            raise ValueError("`tower_shift` moves jets off the image: with `event_jets: queries` it must be 0.")
        self.flips = bool(augmentation and augmentation.flips)
        augmentation = augmentation and replace(augmentation, flips=False)
        self.images = E2ECollator(processor, augmentation=augmentation, with_labels=False, packed=packed)
        self.mass_column, self.mass_weights, self.with_labels = mass_column, mass_weights, with_labels
        self.seed = self.images.seed

    @property
    def columns(self) -> list[str]:
        """The columns it reads."""
        return [*self.images.columns, *JET_COLUMNS.values()]

    def __call__(self, table: pa.Table) -> dict[str, torch.Tensor]:
        event, row, column = positions(table)
        if self.flips:
            table, flipped = self._flip(table)
            height, width = self.images.processor.image_size
            row = np.where(flipped[0][event], height - row, row)
            column = np.where(flipped[1][event], width - column, column)
        counts = np.bincount(event, minlength=table.num_rows)
        shape, number = (table.num_rows, counts.max(initial=0)), np.arange(len(event))
        place = event, number - (np.cumsum(counts) - counts)[event]

        def padded(values, missing: float) -> np.ndarray:
            result = np.full(shape, missing, np.float64)
            result[place] = values
            return result

        def of(name: str) -> np.ndarray:
            flat = table[JET_COLUMNS[name]].combine_chunks().flatten()
            return flat.to_numpy(zero_copy_only=False).astype(np.float64)

        labels, masses = (of(name) for name in ("labels", self.mass_column))
        labels = np.where(np.isnan(labels) | (not self.with_labels), -100, labels)
        batch = self.images(table)
        batch["jets"] = _floats(np.stack([padded(values, 0) for values in (of("pt"), row, column)], axis=2))
        batch["labels"] = torch.from_numpy(padded(labels, -100).astype(np.int64))
        batch["mass_labels"] = _floats(padded(masses, np.nan))
        if self.mass_weights is not None:
            batch["mass_weights"] = _floats(padded(self.mass_weights(masses, of("pt")), 1))
        return batch

    def _flip(self, table: pa.Table) -> tuple[pa.Table, np.ndarray]:
        """Some events mirrored in eta, some in phi, and which `(2, B)`."""
        index, value = (table[name].combine_chunks() for name in IMAGE_COLUMNS)
        offsets, lengths = index.offsets, np.diff(index.offsets.to_numpy())
        pixels = index.flatten().to_numpy(), value.flatten().to_numpy()
        random = self.images.random_numbers(pixels[0], offsets.to_numpy()).spawn(1)[0]
        flipped = random.random((2, table.num_rows)) < 0.5
        for flip, chosen in zip((eta_flip, phi_flip), flipped):
            processor = self.images.processor
            mirrored = flip(*pixels, processor.channel_names, processor.image_size)
            pixels = [np.where(np.repeat(chosen, lengths), new, old) for new, old in zip(mirrored, pixels)]
        starts = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        for name, values in zip(IMAGE_COLUMNS, pixels):
            lists = pa.ListArray.from_arrays(starts, pa.array(values)).cast(table[name].type)
            table = table.set_column(table.column_names.index(name), name, lists)
        return table, flipped


def _floats(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
