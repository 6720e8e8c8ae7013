"""Jets as seen by a detector that differs slightly from the training jets'."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
from datasets import Dataset

from e2evit.data.grid import TOWER
from e2evit.data.schema import DatasetSchema

from .augment import add_noise_hits, drop_crystals, drop_towers, scale_energy

__all__ = ["VARIATIONS", "vary"]

_PIECE = 1000  # jets changed at once


def _scaled(image, index, value, names, size, number, rng, factor):
    return image, index, scale_energy(image, index, value, names, size, np.full((number, 2), factor))


def _without_towers(image, index, value, names, size, number, rng, share):
    dead = rng.random((number, *(-(-side // TOWER) for side in size))) < share
    return drop_towers(image, index, value, names, size, dead)


def _without_crystals(image, index, value, names, size, number, rng, share):
    return drop_crystals(image, index, value, names, size, share, rng)


def _noisy(image, index, value, names, size, number, rng, hits):
    return add_noise_hits(image, index, value, names, size, hits, number, rng)


def _misaligned(image, index, value, names, size, number, rng, d0, dz):
    """Every track's impact parameters shifted by the same lengths [cm]."""
    channel = index // (size[0] * size[1])
    shift = np.array([{"trk_d0": d0, "trk_dz": dz}.get(name, 0.0) for name in names], dtype=value.dtype)
    return image, index, value + shift[channel]


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
    """The same jets with one of [`VARIATIONS`]; random numbers depend only on `seed` and the position of a jet.

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

    def change(table: pa.Table, places: list[int]) -> pa.Table:
        index, value = (table[column].combine_chunks() for column in ("pixel_index", "pixel_value"))
        image = np.repeat(np.arange(len(index)), np.diff(index.offsets.to_numpy()))
        pixels = image, index.flatten().to_numpy().astype(np.int64), value.flatten().to_numpy()
        rng = np.random.default_rng([seed, places[0]])
        image, *changed = VARIATIONS[name](*pixels, schema.channel_names, schema.image_size, len(index), rng)
        offsets = pa.array(np.searchsorted(image, np.arange(len(index) + 1)).astype(np.int32))
        for column, values in zip(("pixel_index", "pixel_value"), changed):
            kind = table[column].type
            lists = pa.ListArray.from_arrays(offsets, pa.array(values).cast(kind.value_type))
            table = table.set_column(table.column_names.index(column), column, lists.cast(kind))
        return table

    changed = rows.with_format("arrow").map(
        change, batched=True, batch_size=_PIECE, with_indices=True, features=rows.features, desc=name
    )
    return changed.with_format(None)
