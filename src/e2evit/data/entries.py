"""Checks of what rows hold: pixels, particles, candidates, jets of events, masses and classes."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .grid import JET_MAX_ETA
from .schema import DatasetSchema

__all__ = ["check_axes", "check_labels", "check_lists", "check_numbers", "check_pixels", "check_scalars", "renumbered"]

_LARGEST = {"pt": 1e5, "eta": 20.0, "phi": 10.0}  # of particles, candidates and jets, GeV and radians
_MAY_BE_NAN = ("jets_mass_labels",)


def check_pixels(index: pa.ListArray, value: pa.ListArray, schema: DatasetSchema, problems: dict) -> None:
    counts = np.diff(index.offsets.to_numpy())
    pixels, values = index.flatten().to_numpy(), value.flatten().to_numpy(zero_copy_only=False)
    num_pixels = int(np.prod(schema.image_shape))
    rows = np.repeat(np.arange(len(counts)), counts)
    falling = np.zeros(len(pixels), bool)
    falling[1:] = (pixels[1:] <= pixels[:-1]) & (rows[1:] == rows[:-1])
    bad = np.flatnonzero(~np.isfinite(values) | (pixels >= num_pixels) | falling)
    for place, row in zip(bad, rows[bad].tolist()):
        if falling[place]:
            reason = "pixel_index is not ascending"
        elif pixels[place] >= num_pixels:
            reason = (
                f"a pixel index of {pixels[place]}, but an image of shape {schema.image_shape} has {num_pixels} pixels"
            )
        else:
            channel = schema.channel_names[pixels[place] // (num_pixels // len(schema.channel_names))]
            reason = f"NaN or infinite pixels in channel {channel}"
        problems.setdefault(row, reason)


def check_lists(table: pa.Table, names: list[str], problems: dict[int, str | None]) -> None:
    first, *others = names
    lengths = {name: pc.call_function("list_value_length", [table[name]]).to_numpy() for name in names}
    for name in others:
        for row in np.flatnonzero(lengths[first] != lengths[name]):  # null is NaN, and so unequal to itself
            told = f"{lengths[first][row]:g} entries in {first} and {lengths[name][row]:g} in {name}"
            problems.setdefault(int(row), told)
    for name in names:
        column = table[name].combine_chunks()
        if (entries := column.flatten()).null_count:
            parents = pc.call_function("list_parent_indices", [column])
            for row in parents.filter(entries.is_null()).unique().to_pylist():
                problems.setdefault(row, f"a null in {name}")


def check_numbers(lists: dict[str, pa.ListArray], problems: dict[int, str | None]) -> None:
    """Particles, candidates and jets are finite, slow enough in eta for their energies to be so, and have a pT."""
    for name, column in lists.items():
        values = column.flatten().to_numpy(zero_copy_only=False)
        values = np.where(np.isnan(values), 0, values) if name in _MAY_BE_NAN else values
        quantity = name.partition("_")[2]
        bad = ~np.isfinite(values) | (np.abs(values) > _LARGEST.get(quantity, np.inf))
        if quantity == "pt":
            bad |= values <= 0
        rows = np.repeat(np.arange(len(column)), np.diff(column.offsets.to_numpy()))
        for place in np.flatnonzero(bad):
            problems.setdefault(int(rows[place]), f"{values[place]:g} in {name}")


def check_axes(table: pa.Table, problems: dict[int, str | None]) -> None:
    """Jets of particles have an axis: it places the image that is made of them."""
    largest = {"eta": np.float32(JET_MAX_ETA), "phi": np.float32(_LARGEST["phi"])}
    for name, limit in largest.items():
        values = table[name].to_numpy().astype(float)  # null becomes NaN
        for row in np.flatnonzero(~(np.abs(values) <= limit)):
            problems.setdefault(int(row), f"{values[row]:g} as {name} of the jet, not a number up to ±{limit:g}")


def renumbered(labels: pa.ListArray, numbers: Sequence[int | None], problems: dict[int, str | None]) -> pa.ListArray:
    """Lists of labels with their new numbers, by the old ones."""
    values = labels.flatten().to_numpy(zero_copy_only=False)
    known = np.array([number is not None for number in numbers], bool)
    usable = (values >= 0) & (values < len(numbers))
    usable[usable] = known[values[usable].astype(int)]
    rows = np.repeat(np.arange(len(labels)), np.diff(labels.offsets.to_numpy()))
    for place in np.flatnonzero(~usable):
        problems.setdefault(int(rows[place]), f"the label {values[place]:g} of a jet, which is no class")
    new = np.array([*(-1 if number is None else number for number in numbers), -1])
    entries = np.where(usable, new[np.where(usable, values, 0).astype(int)], -1)
    return pa.ListArray.from_arrays(labels.offsets, pa.array(entries, pa.int64()))


def check_scalars(table: pa.Table, schema: DatasetSchema, problems: dict[int, str | None]) -> None:
    """Note rows whose mass is out of range, whose class is unknown, or which lack an event id or an axis."""
    mass = np.asarray(table["mass_labels"].to_numpy(), dtype=np.float64)  # null becomes NaN
    low, high = schema.mass_range
    for row in np.flatnonzero((mass < low) | (mass > high)):
        problems.setdefault(
            int(row), f"a mass of {mass[row]:g} GeV, outside {low:g}-{high:g} (are the masses in GeV?)"
        )
    for row in np.flatnonzero(table["event_id"].is_null().to_numpy()):
        problems.setdefault(int(row), "no event_id")
    if schema.particles:
        check_axes(table, problems)
    if schema.labels:
        check_labels(table, schema.label_names, problems)


def check_labels(table: pa.Table, label_names: tuple[str, ...], problems: dict[int, str | None]) -> None:
    labels = np.asarray(table["labels"].to_numpy(), dtype=np.float64)
    known = ", ".join(f"{number} ({name})" for number, name in enumerate(label_names))
    for row in np.flatnonzero(~np.isnan(labels) & ~np.isin(labels, range(len(label_names)))):
        problems.setdefault(int(row), f"the label {labels[row]:g}; known ones: {known}")
