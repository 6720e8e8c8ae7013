"""Jets as seen by a detector that differs slightly from the training jets'."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from e2evit.data.columns import IMAGE_COLUMNS
from e2evit.data.schema import DatasetSchema
from e2evit.data.sparse import list_array
from e2evit.modeling.modeling_tokens import Pixels

from .augment import Augmentation, scale_energy, without_lost

__all__ = ["VARIATIONS", "vary"]

_PIECE = 1000  # jets changed at once


def _scaled(pixels, names, size, seed, factor):
    return scale_energy(pixels, names, size, torch.full((pixels.num_images, 2), factor))


def _without_towers(pixels, names, size, seed, share):
    return Augmentation(dead_towers=share)(pixels, names, size, seed)


def _without_crystals(pixels, names, size, seed, share):
    return Augmentation(dead_crystals=share)(pixels, names, size, seed)


def _noisy(pixels, names, size, seed, hits):
    return Augmentation(noise_hits=hits)(pixels, names, size, seed)


def _misaligned(pixels, names, size, seed, d0, dz):
    """Every track's impact parameters shifted by the same lengths [cm]."""
    channel = pixels.index // (size[0] * size[1])
    shift = torch.tensor([{"trk_d0": d0, "trk_dz": dz}.get(name, 0.0) for name in names], dtype=pixels.value.dtype)
    return pixels._replace(value=pixels.value + shift[channel])


# by their title in tables
VARIATIONS: dict[str, Callable] = {
    "energy scale +3 %": partial(_scaled, factor=1.03),
    "energy scale −3 %": partial(_scaled, factor=0.97),
    "5 % of HCAL towers dead": partial(_without_towers, share=0.05),
    "5 % of ECAL crystals dead": partial(_without_crystals, share=0.05),
    "20 noise hits in each pixel layer": partial(_noisy, hits=20),
    "tracker shifted: d0 20 µm, dz 100 µm": partial(_misaligned, d0=0.002, dz=0.01),
}


def vary(rows: Dataset, schema: DatasetSchema, name: str, seed: int = 0) -> Dataset:
    """The same jets with one of [`VARIATIONS`]; random numbers depend only on `seed` and the jet.

    Args:
        rows: In physical units.
        name: Key of [`VARIATIONS`].

    Raises:
        ValueError: for an unknown name, or for images without physical units, where no change has a known size.
    """
    if name not in VARIATIONS:
        raise ValueError(f"Unknown variation {name!r}; known ones: {'; '.join(VARIATIONS)}.")
    if not schema.has_physical_units:
        raise ValueError(f"Images of {schema.name!r} are not in physical units: {schema.normalisation}.")

    def change(table: pa.Table) -> pa.Table:
        index, value = (table[column].combine_chunks() for column in IMAGE_COLUMNS)
        lists = index.flatten().to_numpy().astype(np.int64), value.flatten().to_numpy()
        image = np.repeat(np.arange(len(index)), np.diff(index.offsets.to_numpy()))
        pixels = Pixels(*map(torch.tensor, (image, *lists)), len(index))
        changed = without_lost(VARIATIONS[name](pixels, schema.channel_names, schema.image_size, seed))
        counts = np.bincount(changed.image, minlength=len(index))
        for column, values in zip(IMAGE_COLUMNS, (changed.index, changed.value)):
            kind = table[column].type
            lists = list_array(values.numpy(), counts)
            table = table.set_column(table.column_names.index(column), column, lists.cast(kind))
        return table

    changed = rows.with_format("arrow").map(change, batched=True, batch_size=_PIECE, features=rows.features, desc=name)
    return changed.with_format(None)
