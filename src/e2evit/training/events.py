"""Batches of whole events with their jets as queries."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from e2evit.data.statistics import MassWeights
from e2evit.transforms.augment import Augmentation, jet_keys
from e2evit.transforms.event_jets import JET_COLUMNS, KEPT_COLUMNS, contained_jets, positions

from .collate import MASS_COLUMN, E2ECollator, split_pixels

__all__ = ["EventCollator"]


class EventCollator:
    """Arrow tables of events to images, `jets` `(B, J, 3)`, and `labels` and `mass_labels` `(B, J)`, filled up to the
    largest number of jets in the batch; see [`HitViTForJetsInEvents`].

    Args:
        processor, mass_column, mass_weights, with_labels, packed, containment: As in [`E2ECollator`].
        truth_columns: Columns of jets with further targets, returned as `truth_labels` `(B, J, n)`.
        augmentation: Of the events; their jets move along.

    Raises:
        ValueError: for an augmentation that would lose jets.
    """

    # what fills up the places of jets that an event does not have
    padding = {"jets": 0, "labels": -100, "mass_labels": np.nan, "truth_labels": np.nan, "mass_weights": 1}
    padding |= {"containment_labels": np.nan}

    def __init__(
        self,
        processor,
        mass_column: str = MASS_COLUMN,
        augmentation: Augmentation | None = None,
        mass_weights: MassWeights | None = None,
        with_labels: bool = True,
        packed: bool = False,
        truth_columns: Sequence[str] = (),
        containment: bool = False,
    ):
        if augmentation and augmentation.tower_shift:
            raise ValueError("`tower_shift` moves jets off the image: with `event_jets: queries` it must be 0.")
        self.processor = processor
        self.images = E2ECollator(processor, augmentation=augmentation, with_labels=False, packed=packed)
        self.mass_column, self.mass_weights, self.with_labels = mass_column, mass_weights, with_labels
        self.containment, self.truth_columns, self.seed = containment, truth_columns, self.images.seed

    @property
    def columns(self) -> list[str]:
        """The columns it reads."""
        return [*self.images.columns, *JET_COLUMNS.values(), *KEPT_COLUMNS.values()]

    def __call__(self, table: pa.Table) -> dict[str, torch.Tensor]:
        return self.finish(self.read(table))

    def read(self, table: pa.Table) -> dict[str, torch.Tensor]:
        """As [`E2ECollator.read`]."""
        event, row, column = positions(table)
        counts = np.bincount(event, minlength=table.num_rows)
        shape, number = (table.num_rows, counts.max(initial=0)), np.arange(len(event))
        place = event, number - (np.cumsum(counts) - counts)[event]

        def padded(name: str, *values: np.ndarray) -> np.ndarray:
            result = np.full((*shape, len(values)), self.padding[name], np.float64)
            result[place] = np.stack(values, axis=1)
            return result

        def of(name: str) -> np.ndarray:
            flat = table[JET_COLUMNS[name]].combine_chunks().flatten()
            return flat.to_numpy(zero_copy_only=False).astype(np.float64)

        labels, masses = (of(name) for name in ("labels", self.mass_column))
        labels = np.where(np.isnan(labels) | (not self.with_labels), -100, labels)
        batch = self.images.read(table)
        batch["jets"] = _floats(padded("jets", of("pt"), row, column))
        batch["labels"] = torch.from_numpy(padded("labels", labels)[..., 0].astype(np.int64))
        batch["mass_labels"] = _floats(padded("mass_labels", masses)[..., 0])
        if self.truth_columns:
            batch["truth_labels"] = _floats(padded("truth_labels", *map(of, self.truth_columns)))
        if self.containment:
            merged = contained_jets(table).to_numpy(zero_copy_only=False).astype(np.float64)
            batch["containment_labels"] = _floats(padded("containment_labels", merged)[..., 0])
        if self.mass_weights is not None:
            batch["mass_weights"] = _floats(padded("mass_weights", self.mass_weights(masses, of("pt")))[..., 0])
        return batch

    def finish(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As [`E2ECollator.finish`]."""
        augmentation, jets, seeds = self.images.augmentation, batch["jets"], None
        if augmentation:
            seeds = self.images.seeds
            flipped = augmentation.flipped(jet_keys(split_pixels(batch)[0]), *seeds).unsqueeze(2)
            is_jet = jets[..., 0] > 0
            moved = [
                torch.where(chosen & is_jet, side - place, place)
                for chosen, side, place in zip(flipped, self.images.processor.image_size, jets.unbind(2)[1:])
            ]
            batch = batch | {"jets": torch.stack([jets[..., 0], *moved], dim=2)}
        return self.images.finish(batch, seeds)


def _floats(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
