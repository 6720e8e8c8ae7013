"""Rows as awkward arrays, for analyses in the style of coffea."""

from collections.abc import Collection
from typing import Any, cast

import numpy as np
import pyarrow as pa
from datasets import Dataset

from .extras import import_extra
from .schema import DatasetSchema
from .sparse import check_has_image

__all__ = ["to_awkward"]

LISTS = {"pixel": "pixels", "particle": "particles", "candidate": "candidates", "jets": "jets"}  # by prefix of columns


def to_awkward(rows: Dataset | pa.Table, schema: DatasetSchema) -> Any:
    """Rows as an [awkward](https://awkward-array.org) array with one record each, in their order.

    Columns keep their names, but `jet_mass` is `mass`. A quantity that some rows lack is `None` there. Lists become
    jagged records:

    * `pixels`: `channel` (its place in `schema.channel_names`), `row` (eta), `column` (phi), `value` in its unit;
    * `particles`, `candidates`, and `jets` of whole events: their columns without the prefix. Where a particle was
      produced is its `vertex` [cm].

    Records with pT, eta and phi are called `Momentum4D` if they have a mass or an energy, otherwise `Momentum3D`, and
    vertices `Vector3D`: after `vector.register_awkward()` they have the methods of
    [vector](https://vector.readthedocs.io), such as `deltaR`.

    Args:
        rows: From [`load_e2e`], or a table as `rows.with_format("arrow")[:]` gives it.
        schema: That of the rows, see [`find_schema`].

    Returns:
        `awkward.Array`.

    Raises:
        ImportError: if awkward is not installed.
        ValueError: if the rows hold no images, but `schema` does, or pixels outside its images.
    """
    ak = import_extra("awkward", "`to_awkward`", "root")
    table = cast(pa.Table, rows.with_format("arrow")[:]) if isinstance(rows, Dataset) else rows
    if not schema.particles:
        check_has_image(table.column_names)
    fields, lists = {}, {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        prefix, _, entry = name.partition("_")
        if pa.types.is_list(column.type):
            counts = column.value_lengths().to_numpy()
            lists.setdefault(LISTS[prefix], (counts, {}))[1][entry] = column.flatten().to_numpy(zero_copy_only=False)
        else:
            values = ak.from_arrow(column)
            fields["mass" if name == "jet_mass" else name] = values if column.null_count else ak.drop_none(values)
    for name, (counts, entries) in lists.items():
        fields[name] = ak.unflatten(_entries(ak, name, entries, schema), counts)
    known = [name for name, of_all in fields.items() if name in lists or not len(table) or ak.any(~ak.is_none(of_all))]
    return ak.zip(fields, depth_limit=1, with_name=_name_of(known))


def _entries(ak, name: str, columns: dict[str, np.ndarray], schema: DatasetSchema):
    """All pixels, particles, candidates or jets, one after the other."""
    if name == "pixels":
        try:
            channel, row, column = np.unravel_index(columns["index"], schema.image_shape)
        except ValueError as error:
            raise ValueError(f"The images of {schema.name!r} are {schema.image_shape}: {error}.") from None
        columns = {"channel": channel, "row": row, "column": column, "value": columns["value"]}
    if name == "particles":  # else vector takes their positions for their momenta
        vertex = ak.zip({axis: columns.pop(axis) for axis in "xyz"}, with_name="Vector3D")
        columns["vertex"] = vertex
    return ak.zip(columns, with_name=_name_of(columns))


def _name_of(fields: Collection[str]) -> str | None:
    """What vector calls a record with these fields, if it is a momentum."""
    if not {"pt", "eta", "phi"} <= {*fields}:
        return None
    return "Momentum4D" if {"mass", "energy"} & {*fields} else "Momentum3D"
