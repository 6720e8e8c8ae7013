"""The jets of whole events, one row each, with or without windows cut out of their event; and jets in other events."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, Value

from e2evit.data.columns import IMAGE_COLUMNS
from e2evit.data.grid import COLUMNS, ROWS, TOWER, WINDOW, position_in_grid
from e2evit.data.schema import DatasetSchema
from e2evit.data.sparse import list_array

__all__ = [
    "JET_COLUMNS",
    "KEPT_COLUMNS",
    "check_events",
    "contained_jets",
    "in_other_events",
    "jets_in_other_events",
    "jets_of_events",
    "positions",
    "windows_of_events",
]

# columns of a jet's row, and the lists of an event's row
JET_COLUMNS = {
    "labels": "jets_labels",
    "mass_labels": "jets_mass_labels",
    "jet_mass": "jets_mass",
    "pt": "jets_pt",
    "eta": "jets_eta",
    "phi": "jets_phi",
    "merged": "jets_merged",
}
# those that `select_targets` adds where it removes labels or masses
KEPT_COLUMNS = {"process": "jets_process", "generator_mass": "jets_generator_mass"}
OF_EVENT = ("num_pileup", "event_id")
BATCH = 100  # events at a time, of some 20 000 pixels each


def check_events(schema: DatasetSchema) -> None:
    """Refuse data other than whole events with their jets.

    Raises:
        ValueError: saying how to simulate them.
    """
    if "jets" not in schema.lists or schema.image_size != (ROWS, COLUMNS):
        raise ValueError(
            f"`event_jets` needs whole events with their jets, and {schema.name!r} has images of "
            f"{schema.image_size[0]} x {schema.image_size[1]} pixels{' without jets' * ('jets' not in schema.lists)}: "
            "simulate with `e2evit simulate --whole_detector`."
        )


def positions(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all jets of the events in a table: event, and row and column of the axis, as fractions of pixels."""
    eta, phi = (_flat(table, name) for name in ("jets_eta", "jets_phi"))
    return np.repeat(np.arange(table.num_rows), _counts(table)), *position_in_grid(eta, phi)


def contained_jets(table: pa.Table) -> pa.Array:
    """Whether each jet of the events in a table contains all of the decay; null without a heavy particle, where the
    list holds false."""
    kept = KEPT_COLUMNS["generator_mass"]
    mass = _flat(table, kept if kept in table.column_names else JET_COLUMNS["mass_labels"])
    return pa.array(_flat(table, JET_COLUMNS["merged"]).astype(bool), mask=~np.isfinite(mass.astype(np.float64)))


def jets_of_events(dataset: DatasetDict) -> DatasetDict:
    """A row for each jet of each event, in order, without images."""
    return _mapped(dataset, _jet_rows, {}, "Jets of events")


def windows_of_events(dataset: DatasetDict, schema: DatasetSchema) -> tuple[DatasetDict, DatasetSchema]:
    """The same with images: the window around the tower at the axis of each jet. And their schema."""
    images = {name: dataset["train"].features[name] for name in IMAGE_COLUMNS}
    result = _mapped(dataset, _window_rows, images, "Windows of jets")
    return result, replace(schema, image_size=(WINDOW, WINDOW), lists=())


def in_other_events(rows: Dataset, reach: int, is_tower: Sequence[bool], overlaid: bool = False) -> Dataset:
    """The events of `rows` with the surroundings of others, as [`jets_in_other_events`]; all are hosts once.

    Raises:
        ValueError: if there is no other event.
    """
    if len(rows) < 2:
        raise ValueError(f"Jets need another event to stand in, and there are {len(rows)}: simulate more events.")
    hosts = rows.select(np.roll(np.arange(len(rows)), len(rows) // 2)).with_format("arrow")

    def replant(table: pa.Table, numbers: list[int]) -> pa.Table:
        return jets_in_other_events(table, hosts[numbers], reach, is_tower, overlaid)

    rows = rows.with_format("arrow")
    mapped = rows.map(replant, with_indices=True, batched=True, batch_size=BATCH, desc="Jets in other events")
    return mapped.with_format(None)


def jets_in_other_events(
    table: pa.Table, hosts: pa.Table, reach: int, is_tower: Sequence[bool], overlaid: bool = False
) -> pa.Table:
    """Events whose pixels outside the windows of their jets are those of other events: a model whose answer comes from
    the jet answers as before.

    Args:
        hosts: As many other events.
        reach: Half the side of a window in pixels.
        is_tower: For each channel, whether it holds towers; a tower counts as inside or outside by its middle, as in
            the model.
        overlaid: Add the pixels of the other event inside the windows as well, as in a pile-up of two events, instead
            of leaving its place there empty.
    """
    event, row, column = positions(table)
    parts = []
    for number, (own, other) in enumerate(zip(_images(table), _images(hosts))):
        axes = row[event == number], column[event == number]
        inside, beyond = (_is_near(index, *axes, reach, np.array(is_tower)) for index in (own[0], other[0]))
        beyond = ~beyond | overlaid
        index = np.concatenate([own[0][inside], other[0][beyond]]).astype(np.int64)
        index, place = np.unique(index, return_inverse=True)
        parts.append((index, np.bincount(place, np.concatenate([own[1][inside], other[1][beyond]]), len(index))))
    return _with_images(table, parts)


def _mapped(dataset: DatasetDict, rows_of, images: dict, title: str) -> DatasetDict:
    features = dataset["train"].features
    columns = {name: features[of].feature for name, of in _lists(features).items()}
    columns |= {name: features[name] for name in OF_EVENT} | {"ieta": Value("int32"), "iphi": Value("int32")}
    mapped = dataset.with_format("arrow").map(
        rows_of,
        batched=True,
        batch_size=BATCH,
        remove_columns=dataset["train"].column_names,
        features=Features(images | columns),
        desc=title,
    )
    return mapped.with_format(None)


def _jet_rows(table: pa.Table) -> pa.Table:
    event, row, column = positions(table)
    columns = {name: table[of].combine_chunks().flatten() for name, of in _lists(table.column_names).items()}
    for name in ("mass_labels", "jet_mass", "generator_mass"):  # a jet without a heavy particle has none
        if name in columns:
            columns[name] = pa.array(columns[name].to_numpy(zero_copy_only=False), from_pandas=True)
    columns["merged"] = contained_jets(table)
    columns |= {name: table[name].take(pa.array(event)) for name in OF_EVENT}
    towers = {"ieta": row, "iphi": column}
    columns |= {name: (place // TOWER).astype(np.int32) for name, place in towers.items()}
    return pa.table(columns)


def _window_rows(table: pa.Table) -> pa.Table:
    event, row, column = positions(table)
    first = [place.astype(int) // TOWER * TOWER + TOWER // 2 - WINDOW // 2 for place in (row, column)]
    windows = []
    for number, (index, value) in enumerate(_images(table)):
        channel, line, place = _locate(index)
        for jet in np.flatnonzero(event == number):
            inside, across = line - first[0][jet], (place - first[1][jet]) % COLUMNS
            kept = (inside >= 0) & (inside < WINDOW) & (across < WINDOW)
            pixel = ((channel * WINDOW + inside) * WINDOW + across)[kept]
            order = pixel.argsort()
            windows.append((pixel[order], value[kept][order]))
    return _with_images(_jet_rows(table), windows)


def _lists(names: Container[str]) -> dict[str, str]:
    """The lists of an event's row, by the columns of a jet's row."""
    return JET_COLUMNS | {name: of for name, of in KEPT_COLUMNS.items() if of in names}


def _is_near(index: np.ndarray, rows, columns, reach: int, is_tower: np.ndarray) -> np.ndarray:
    """Whether the middle of each pixel, or of its tower, lies in the window of a jet."""
    channel, *places = (part[:, None] for part in _locate(index))
    line, place = (np.where(is_tower[channel], part // TOWER * TOWER + TOWER // 2, part) for part in places)
    across = (place + 0.5 - columns + COLUMNS / 2) % COLUMNS - COLUMNS / 2
    return ((abs(line + 0.5 - rows) <= reach) & (abs(across) <= reach)).any(axis=1)


def _locate(index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Channel, row and column."""
    line, column = np.divmod(index.astype(np.int64), COLUMNS)
    return *np.divmod(line, ROWS), column


def _images(table: pa.Table) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    index, value = (table[name].combine_chunks() for name in IMAGE_COLUMNS)
    ends = index.offsets.to_numpy()
    index, value = index.values.to_numpy(), value.values.to_numpy()
    yield from ((index[first:last], value[first:last]) for first, last in pairwise(ends))


def _with_images(table: pa.Table, images: list[tuple[np.ndarray, np.ndarray]]) -> pa.Table:
    """The table with these images, an index and a value each."""
    counts = [len(index) for index, _ in images]
    for number, (name, kind) in enumerate(IMAGE_COLUMNS.items()):
        values = np.concatenate([np.empty(0, kind), *(image[number] for image in images)]).astype(kind)
        lists = list_array(values, counts)
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, lists.cast(table[name].type))
        else:
            table = table.append_column(name, lists)
    return table


def _counts(table: pa.Table) -> np.ndarray:
    return np.diff(table["jets_pt"].combine_chunks().offsets.to_numpy())


def _flat(table: pa.Table, name: str) -> np.ndarray:
    return table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
