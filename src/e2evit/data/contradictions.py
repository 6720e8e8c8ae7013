"""Fields of a schema that are valid by themselves, but not together."""

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from math import prod
from typing import TYPE_CHECKING

from .budget import MAX_PIXELS
from .columns import CHANNELS, ROW_COLUMNS
from .grid import COLUMNS, ROWS, WINDOW
from .open_detector import contradictions_of_tables

if TYPE_CHECKING:
    from .schema import DatasetSchema

__all__ = ["contradictions"]

OF_NTUPLES = ("tree", "branches", "one_row", "resample_endcaps")


def contradictions(schema: "DatasetSchema") -> Iterator[str]:
    """What contradicts what, in words."""
    known = CHANNELS | schema.new_channels
    for name in schema.channel_names:
        if name not in known:
            yield f"`channel_names`: {name} is neither in `new_channels` nor a known channel ({', '.join(CHANNELS)})"
    if not 0 < len(set(schema.channel_names)) == len(schema.channel_names):
        yield "`channel_names` must be distinct, and at least one"
    if problem := _pattern_problem(schema.pattern):
        yield f"`pattern` must {problem}, got {schema.pattern!r}"
    if prod(schema.image_shape) > MAX_PIXELS:
        yield f"an image of shape {schema.image_shape} has more than {MAX_PIXELS} values"
    if schema.mass_range[0] >= schema.mass_range[1]:
        yield f"`mass_range` is a smaller and a larger number, got {list(schema.mass_range)}"
    for name, source in schema.sources.items():
        if name in schema.columns and name not in ("image", *ROW_COLUMNS):
            yield f"`columns` has {name}, but rows have image, {', '.join(ROW_COLUMNS)}"
        if name in schema.extra and name in ROW_COLUMNS:
            yield f"`extra` has {name}, which rows have anyway"
        if bool(source.keys) == bool(source.stack):
            yield f"`{name}` needs either `keys` or `stack`"
    if schema.particles and "phi" not in schema.extra:
        yield "`particles` needs `phi` in `extra`, which with `eta` is the axis of a jet"
    if schema.open_detector is not None or schema.format == "colliderml":
        yield from contradictions_of_tables(schema)
    if schema.holds_events:
        expected = {"jet": (WINDOW, WINDOW), "event": (ROWS, COLUMNS)}.get(schema.one_row, schema.image_size)
        if schema.image_size != expected:
            yield f"`image_size` of {schema.one_row}s is {list(expected)}, got {list(schema.image_size)}"
    if schema.format == "root":
        yield from _of_ntuples(schema)
    elif schema.format != "colliderml":
        if schema.format != "rows" and "image" not in schema.columns:
            yield "`columns` does not say where the `image` is"
        defaults = {one.name: {} if one.default is MISSING else one.default for one in fields(schema)}
        given = [name for name in OF_NTUPLES if getattr(schema, name) != defaults[name]]
        given += [f"{name}.per" for name, source in schema.sources.items() if source.per == "particle"]
        if given:
            yield f"{_named(given)} is for `format: root`, not {schema.format}"
    if unknown := [name for name in schema.optional if name not in schema.columns]:
        yield f"`optional` has {', '.join(unknown)}, which `columns` lacks"
    if schema.class_of_files and ("labels" in schema.columns or {*schema.class_of_files} != {*schema.labels}):
        yield "`class_of_files` needs a glob for each of `labels`, and no `labels` in `columns`"
    one_hot = schema.columns["labels"].one_hot if "labels" in schema.columns else ()
    if len(one_hot) not in (0, len(schema.labels)):
        yield f"`labels` has {len(one_hot)} one-hot columns for {len(schema.labels)} classes"


def _of_ntuples(schema: "DatasetSchema") -> Iterator[str]:
    if tuple(schema.branches) != schema.channel_names:
        yield "`branches` must name a branch for each of `channel_names`, in their order"
    if lacking := [name for name in ("ieta", "iphi") if schema.one_row == "jet" and name not in schema.columns]:
        yield f"`columns` lacks {', '.join(lacking)}, the seed tower that each jet's window is cut around"
    if schema.resample_endcaps and ("ecal" not in schema.branches or schema.one_row == "crop"):
        yield "`resample_endcaps` needs a channel `ecal` of the whole detector"
    given = ["channels_last"] * schema.channels_last + ["columns.image"] * ("image" in schema.columns)
    for name, source in schema.sources.items():
        given += [f"{name}.column"] * (source.column is not None) + [f"{name}.one_hot"] * bool(source.one_hot)
        given += [f"{name}.stack"] * bool(source.stack and name != "event_id")
    if given:
        yield f"{_named(given)} is not for `format: root`: a branch holds one column, `branches` the images"


def _named(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _pattern_problem(pattern: str) -> str | None:
    if pattern.startswith("/") or ".." in pattern.split("/"):
        return "name files below the folder of the data set"
    if not pattern or any("**" in part and part != "**" for part in pattern.split("/")):
        return "be a glob such as `*.h5` or `**/*.parquet`"
    return None
