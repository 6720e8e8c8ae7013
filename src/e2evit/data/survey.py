"""A look into files before they are read: statistics of a sample of rows, with a warning where they look wrong."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from .batches import number_of_rows
from .files import list_pieces, read_rows
from .formats import BadRows, FileError
from .grid import TOWER
from .resolve import find_files
from .schema import DatasetSchema
from .storage import relative_name

__all__ = ["Survey", "share_scaled_to_255", "survey_file", "survey_folder"]

logger = logging.getLogger(__name__)

PLACES, ROWS = 4, 64  # rows at evenly spaced places of a file
FILES = 16
ENOUGH = 50  # values a statement needs


@dataclass
class Survey:
    """Statistics of a sample of a file's rows.

    `values` are the non-zero pixels of each channel, `maxima` the largest of each image that has any, `towers` the
    share of HCAL towers whose 25 pixels agree (NaN without an HCAL), `means` the mean absolute image of each class.
    """

    path: str
    num_rows: int = 0
    sampled: int = 0
    values: dict[str, np.ndarray] = field(default_factory=dict)
    maxima: dict[str, np.ndarray] = field(default_factory=dict)
    towers: float = float("nan")
    labels: dict[str, int] = field(default_factory=dict)
    mass_labels: np.ndarray = field(default_factory=lambda: np.zeros(0))
    means: dict[str, np.ndarray] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def lines(self, schema: DatasetSchema) -> Iterator[str]:
        """A report that fits on a screen."""
        unit, sample = "rows", f"{self.sampled} of them"
        if schema.holds_events:
            unit, sample = "events", f"{self.sampled} {schema.one_row}s from a sample of them"
        yield f"{self.num_rows} {unit}; statistics of {sample}"
        head = f"{'channel':<12}{'unit':>6}{'occupancy':>11}"
        yield head + "".join(f"{name:>11}" for name in ("min", "1 %", "median", "99 %", "max", "negative"))
        pixels = max(1, self.sampled * int(np.prod(schema.image_size)))
        for name, value in self.values.items():
            line = f"{name:<12}{schema.channel(name).unit:>6}{value.size / pixels:>11.3%}"
            if value.size:
                numbers = [value.min(), *np.quantile(value, [0.01, 0.5, 0.99]), value.max()]
                line += "".join(f"{number:>11.4g}" for number in numbers) + f"{(value < 0).mean():>11.1%}"
            yield line
        if self.towers == self.towers:
            yield f"HCAL towers of 5 x 5 equal pixels: {self.towers:.1%}"
        if self.labels:
            without = self.sampled - sum(self.labels.values())
            more = f", without a label {without}" * (without > 0)
            yield "labels: " + ", ".join(f"{name} {number}" for name, number in self.labels.items()) + more
        if self.mass_labels.size:
            low, middle, high = np.quantile(self.mass_labels, [0, 0.5, 1])
            yield f"mass_labels: {low:.4g} to {high:.4g} GeV, median {middle:.4g} ({schema.mass_definition})"
        for kind, messages in (("ERROR", self.errors), ("WARNING", self.warnings)):
            yield from (f"{kind}: {message}" for message in messages)


def survey_file(path: str, schema: DatasetSchema, name: str | None = None) -> Survey:
    """Statistics of some 256 rows of a file, and where they contradict the schema.

    Args:
        name: The file's path within its data set, by default its last part.

    Raises:
        FileError: if the file does not fit the schema.
    """
    result = Survey(path)
    pieces = list_pieces(path, name or os.path.basename(path), schema, ROWS)
    result.num_rows = pieces[-1].stop if pieces else 0
    chosen = [pieces[i] for i in np.unique(np.linspace(0, len(pieces) - 1, PLACES).astype(int))] if pieces else []
    bad: list[BadRows] = []
    tables = [_head(read_rows(piece, schema, bad.append)) for piece in chosen]
    tables = [table for table in tables if table is not None]
    if bad:
        number = number_of_rows((rows.path, rows.first, rows.last) for rows in bad)
        told = f"{number} of the sampled {'events' if schema.holds_events else 'rows'} do not fit the schema, first "
        told += bad[0].where
        result.warnings.append(f"{told}: {bad[0].reason}")
    if not tables:
        result.warnings.append("no row fits" if bad else "there are no rows")
        return result
    table = pa.concat_tables(tables)
    result.sampled = table.num_rows
    index, value = (table[name].combine_chunks() for name in ("pixel_index", "pixel_value"))
    row = np.repeat(np.arange(table.num_rows), np.diff(index.offsets.to_numpy()))
    index, value = index.flatten().to_numpy().astype(np.int64), value.flatten().to_numpy()
    num_pixels = int(np.prod(schema.image_size))
    channel = index // num_pixels
    for number, name in enumerate(schema.channel_names):
        inside = channel == number
        result.values[name] = value[inside]
        largest = np.zeros(table.num_rows, np.float32)
        np.maximum.at(largest, row[inside], np.abs(value[inside]))
        result.maxima[name] = largest[largest > 0]
        if name == "hcal" and all(side % TOWER == 0 for side in schema.image_size):
            result.towers = _constant_towers(row[inside], index[inside] % num_pixels, value[inside], schema)
    labels = table["labels"].to_numpy()
    names = dict(enumerate(schema.label_names)) or {}
    result.labels = {name: int((labels == number).sum()) for number, name in names.items()}
    mass_labels = np.asarray(table["mass_labels"].to_numpy(), np.float64)
    result.mass_labels = mass_labels[np.isfinite(mass_labels)]
    for name, chosen in {name: labels == i for i, name in names.items()}.items() if names else [("all", None)]:
        of_class = np.ones(table.num_rows, bool) if chosen is None else chosen
        if of_class.any():
            kept = of_class[row]
            total = np.bincount(index[kept], np.abs(value[kept]), minlength=int(np.prod(schema.image_shape)))
            result.means[name] = total.reshape(schema.image_shape) / of_class.sum()
    _judge(result, schema)
    return result


def survey_folder(schema: DatasetSchema, data_dir: str | Path) -> list[str]:
    """Log and return the warnings about up to 16 files of a data set, each once; prepared rows are trusted.

    Raises:
        ValueError: if a file contradicts the schema in a way that would silently give wrong numbers.
    """
    if schema.format == "rows":
        return []
    files, messages = find_files(schema, data_dir), []
    for number in np.unique(np.linspace(0, len(files) - 1, FILES).astype(int)):
        name = relative_name(files[number], data_dir)
        survey = survey_file(files[number], schema, name)
        if survey.errors:
            raise FileError(f"{files[number]}: {'; '.join([*survey.errors, *survey.warnings])}.")
        messages += [f"{name}: {warning}" for warning in survey.warnings]
    for message in messages:
        logger.warning(message)
    return messages


def _head(tables: Iterator[pa.Table]) -> pa.Table | None:
    """The first rows of a piece, which may be a whole file of one row group."""
    kept: list[pa.Table] = []
    for table in tables:
        kept.append(table.slice(0, ROWS - sum(map(len, kept))))
        if sum(map(len, kept)) >= ROWS:
            break
    return pa.concat_tables(kept) if kept else None


def _constant_towers(row, pixel, value, schema: DatasetSchema) -> float:
    """Share of the non-empty towers whose 5 x 5 pixels are all equal."""
    height, width = schema.image_size
    line, column = np.divmod(pixel, width)
    tower = (row * (height // TOWER) + line // TOWER) * (width // TOWER) + column // TOWER
    number, inverse = np.unique(tower, return_inverse=True)
    low, high, filled = np.full(len(number), np.inf), np.full(len(number), -np.inf), np.bincount(inverse)
    np.minimum.at(low, inverse, value)
    np.maximum.at(high, inverse, value)
    return float(np.mean((filled == TOWER**2) & (high - low <= 1e-4 * np.abs(high)))) if len(number) else float("nan")


def share_scaled_to_255(survey: Survey) -> float:
    """Share of the non-empty images of a channel whose maximum is exactly 255."""
    maxima = np.concatenate(list(survey.maxima.values()) or [np.zeros(0)])
    return float(np.mean(np.abs(maxima - 255) < 1e-3)) if maxima.size else 0.0


def _judge(survey: Survey, schema: DatasetSchema) -> None:
    """Compare the sample with the schema: errors where units would be wrong, warnings elsewhere."""
    maxima, scaled = np.concatenate(list(survey.maxima.values())), share_scaled_to_255(survey)
    statement = f"{scaled:.0%} of {maxima.size} images of a channel have a maximum of exactly 255"
    if scaled > 0.5 and schema.normalisation == "max_scaled_255":
        survey.warnings.append(f"this file is max-scaled: absolute energies are lost ({statement})")
    elif scaled > 0.5:
        survey.errors.append(
            f"this file is max-scaled: absolute energies are lost ({statement}), but the schema {schema.name!r} says "
            f"its values are {schema.normalisation}; use a schema with `normalisation: max_scaled_255`"
        )
    elif schema.normalisation == "max_scaled_255" and maxima.size >= ENOUGH:
        survey.warnings.append(f"the schema says that this file is max-scaled, but {statement}")
    if schema.tower_blocks and survey.towers < 0.99:
        survey.warnings.append(
            f"only {survey.towers:.1%} of the HCAL towers are 5 x 5 equal pixels: is the window aligned to "
            "towers, and the order of the channels right?"
        )
    if survey.labels and not any(survey.labels.values()):
        survey.warnings.append(f"none of {survey.sampled} rows has a label")
    for name, value in survey.values.items():
        negative = float((value < 0).mean()) if value.size else 0.0
        if not value.size:
            survey.warnings.append(f"channel {name} is empty in all {survey.sampled} rows")
        elif schema.channel(name).signed and not negative and value.size >= ENOUGH and schema.has_physical_units:
            survey.warnings.append(
                f"channel {name} is signed, but none of {value.size} values is negative: the sign was lost, perhaps "
                "by a threshold"
            )
        elif not schema.channel(name).signed and negative:
            survey.warnings.append(f"{negative:.2%} of the values of {name} are negative (least {value.min():.4g})")
    for d0, dz in (("trk_d0", "trk_dz"), ("trk_d0_sig", "trk_dz_sig")):
        pair = [survey.values.get(name, np.zeros(0)) for name in (d0, dz)]
        if min(map(len, pair)) >= ENOUGH and schema.has_physical_units:
            widths = [float(np.quantile(np.abs(value), 0.9)) for value in pair]
            if widths[0] > 2 * widths[1]:
                survey.warnings.append(
                    f"{d0} is wider than {dz} (90 % of |values| below {widths[0]:.3g} and {widths[1]:.3g}): are they "
                    "swapped?"
                )
