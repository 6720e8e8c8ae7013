"""Rows of particles as users hand them over: in Arrow's form, and checked before an image is made of them."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from e2evit.data.columns import PARTICLE_COLUMNS
from e2evit.data.entries import check_axes, check_lists, check_numbers

from .batch import SPECIES

__all__ = ["COLUMNS", "checked", "nothing", "table_of"]

_LISTS = {name: pa.list_(pa.type_for_alias(kind)) for name, kind in PARTICLE_COLUMNS.items()}
_TYPES = _LISTS | {"event_id": pa.string(), "eta": pa.float64(), "phi": pa.float64()}
COLUMNS = tuple(_TYPES)


def table_of(rows: Mapping) -> pa.Table:
    """The columns of a batch in Arrow's form.

    Raises:
        ValueError: for a column that is neither lists nor NumPy's arrays of the right type.
    """
    if not hasattr(rows, "items"):
        raise ValueError(f"Particles come as an Arrow table or as columns by name, got a {type(rows).__name__}.")
    if isinstance(rows.get("event_id"), str):
        raise ValueError("Particles come as a batch of rows, got one row: write `jets[:1]` instead of `jets[0]`.")
    columns = {}
    for name, values in rows.items():
        try:
            columns[name] = pa.array(values, _TYPES.get(name))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            told = str(error).splitlines()[0]
            raise ValueError(
                f"`{name}` cannot be read ({told[:100]}...): it takes lists or NumPy's arrays, which rows have with "
                "`with_format(None)`."
            ) from None
    return pa.table(columns)


def checked(rows: pa.Table) -> pa.Table:
    """The same rows with the types of particles that files have.

    Raises:
        ValueError: for a row that no image can be made of, or a column that is missing or of another type.
    """
    if missing := [name for name in COLUMNS if name not in rows.column_names]:
        raise ValueError(
            f"Images of particles need the columns {', '.join(COLUMNS)}; these rows lack {', '.join(missing)}: select "
            "columns after the images are made."
        )
    for name, kind in _TYPES.items():
        try:
            column = rows[name].cast(kind)
            if name == "event_id" and not (
                pa.types.is_string(rows[name].type) or pa.types.is_large_string(rows[name].type)
            ):
                raise pa.ArrowInvalid(f"{rows[name].type} instead of text")
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"`{name}` has the wrong type ({error}).") from None
        if name in _LISTS:
            rows = rows.set_column(rows.column_names.index(name), name, column)
    problems: dict[int, str | None] = {}
    check_lists(rows, list(_LISTS), problems)
    if not problems:
        lists = {name: rows[name].combine_chunks() for name in _LISTS}
        check_numbers(lists, problems)
        codes, offsets = lists["particle_id"].flatten().to_numpy(), lists["particle_id"].offsets.to_numpy()
        for place in np.flatnonzero(~np.isin(np.abs(codes), list(SPECIES))):
            row = int(np.searchsorted(offsets - offsets[0], place, side="right")) - 1
            problems.setdefault(row, f"no charge and mass are known for the PDG code {codes[place]}")
    check_axes(rows, problems)
    for row in np.flatnonzero(rows["event_id"].is_null().to_numpy()):
        problems.setdefault(int(row), "no event_id")
    for row in sorted(problems)[:1]:
        raise ValueError(f"No image can be made of row {row}: {problems[row]}.")
    return rows


def nothing(schema: pa.Schema) -> pa.Table:
    """A jet without particles."""
    values: dict[str, object] = {"event_id": "", "eta": 0.0, "phi": 0.0} | {name: [] for name in _LISTS}
    return pa.table([pa.array([values.get(field.name)], field.type) for field in schema], schema)
