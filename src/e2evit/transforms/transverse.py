"""Calorimeter energies to transverse energies, to match the tracks' transverse momenta.

A jet image does not show where on the detector it lies, and at a given pT the energy of a jet grows with cosh(eta), by
a factor of two at the edge of the barrel: without this a network cannot tell a heavy jet from a forward one.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from datasets import DatasetDict

from e2evit.data.builder import describe_schema
from e2evit.data.grid import ENDCAP_FACTOR, ENDCAP_ROWS, ROWS, TOWER, eta_centres
from e2evit.data.schema import DatasetSchema

__all__ = ["TRANSVERSE", "to_transverse", "transverse_factor", "transverse_schema", "transverse_table"]

TRANSVERSE = {"ecal": "ecal_et", "hcal": "hcal_et"}  # channels and their transverse counterparts


def transverse_factor(rows: np.ndarray, is_ecal) -> np.ndarray:
    """The factor from a pixel's energy to its transverse energy.

    Args:
        rows: Rows of the 280 x 360 grid.
        is_ecal: Whether the energies are from the ECAL.
    """
    endcap = (rows < ENDCAP_ROWS) | (rows >= ROWS - ENDCAP_ROWS)
    return np.where(endcap & is_ecal, ENDCAP_FACTOR, 1.0) / np.cosh(eta_centres(rows))


def transverse_table(table: pa.Table, schema: DatasetSchema) -> pa.Table:
    """The rows with transverse energies [GeV] in ECAL and HCAL.

    Raises:
        ValueError: if images are not in physical units, or a row lacks the position of its window (`ieta`).
    """
    wanted = [number for number, name in enumerate(schema.channel_names) if name in TRANSVERSE]
    if not wanted or not schema.has_physical_units:
        raise ValueError(
            f"Transverse energies need calorimeter images in GeV: {schema.name!r} has "
            f"{', '.join(schema.channel_names)} ({schema.normalisation})."
        )
    if table["ieta"].null_count:
        raise ValueError("Transverse energies need `ieta` of the seed tower, which some rows do not have.")
    _, height, width = schema.image_shape
    ecal = schema.channel_names.index("ecal") if "ecal" in schema.channel_names else -1
    index, value = (table[name].combine_chunks() for name in ("pixel_index", "pixel_value"))
    pixel, energy = index.flatten().to_numpy().astype(np.int64), value.flatten().to_numpy().copy()
    seed = np.repeat(table["ieta"].to_numpy().astype(np.int64), np.diff(index.offsets.to_numpy()))
    channel, row = pixel // (height * width), pixel // width % height
    if height != ROWS:  # a window around the seed
        row = row - height // 2 + seed * TOWER + TOWER // 2
    chosen = np.isin(channel, wanted)
    energy[chosen] *= transverse_factor(row[chosen], channel[chosen] == ecal)
    lists = type(value).from_arrays(index.offsets, pa.array(energy))
    return table.set_column(table.column_names.index("pixel_value"), "pixel_value", lists.cast(value.type))


def transverse_schema(schema: DatasetSchema) -> DatasetSchema:
    """The schema with transverse channel names."""
    return replace(schema, channel_names=tuple(TRANSVERSE.get(name, name) for name in schema.channel_names))


def to_transverse(dataset: DatasetDict, schema: DatasetSchema) -> tuple[DatasetDict, DatasetSchema]:
    """The data set with transverse energies, and its schema.

    Raises:
        As [`transverse_table`].
    """
    converted = dataset.with_format("arrow").map(
        transverse_table,
        batched=True,
        features=dataset["train"].features,
        fn_kwargs={"schema": schema},
        desc="Transverse energies",
    )
    schema = transverse_schema(schema)
    for rows in converted.values():
        rows.info.description = describe_schema(schema)  # read by pipelines
    return converted.with_format(None), schema
