"""Rows to training batches."""

import numpy as np
import torch

from .augment import eta_flip, phi_flip

__all__ = ["E2ECollator"]


class E2ECollator:
    """A list of rows to `pixel_values`, `labels`, `mass_labels` and, if the processor makes them, `aux_values`.

    Args:
        processor: An `E2EImageProcessor`.
        mass_column: Column that is the regression target [GeV]; null becomes NaN, which drops out of the loss.
        flips: Mirror each image in eta and in phi with probability 1/2 (training only).
    """

    def __init__(self, processor, mass_column: str = "mass_labels", flips: bool = False):
        self.processor, self.mass_column, self.flips = processor, mass_column, flips
        self.seed(0)

    def seed(self, seed: int | tuple[int, ...]) -> None:
        """Start the random numbers of the flips anew."""
        self.rng = np.random.default_rng(seed)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        if self.flips:
            rows = [self._flip(row) for row in rows]
        batch = dict(self.processor(rows, return_tensors="pt"))
        labels = [_known(row["labels"], -100) for row in rows]
        masses = [_known(row[self.mass_column], np.nan) for row in rows]
        batch["labels"] = torch.tensor(np.array(labels, dtype=np.int64))
        batch["mass_labels"] = torch.tensor(np.array(masses, dtype=np.float32))
        return batch

    def _flip(self, row: dict) -> dict:
        index, value = row["pixel_index"], row["pixel_value"]
        for flip in (eta_flip, phi_flip):
            if self.rng.random() < 0.5:
                index, value = flip(index, value, self.processor.channel_names, self.processor.image_size)
        return row | {"pixel_index": index, "pixel_value": value}


def _known(value, missing):
    """`missing` for a null, which the formats of `datasets` give as `None` or as NaN."""
    return missing if value is None or value != value else value
