"""Ntuples of RecHitAnalyzer to sparse images: windows cut around seed towers, whole events, or crops.

An entry is an event with any number of jets, each a row. Conventions: `grid`, and docs/ntuples.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from math import prod

import numpy as np
import pyarrow as pa

from .batches import BadRows, Batch
from .branches import Entries, Tree, TreeFacts
from .budget import MAX_PIXELS
from .grid import COLUMNS, ROWS, SEED_ROWS, TOWER, WINDOW, resample_endcaps
from .root import first_lengths, open_tree, tree_facts
from .schema import DatasetSchema, Source
from .sparse import list_array

__all__ = ["JetBatch", "count_entries", "find_ntuple_mismatch", "read_ntuple"]

CRYSTALS, TOWERS = ROWS * COLUMNS, ROWS * COLUMNS // TOWER**2
STEP = 2**26 // (4 * CRYSTALS)  # entries: 64 MiB of a branch, which are read one after the other
MAX_JETS = 64  # of an event
JETS_AT_ONCE = 256  # 16 MB
SHOWN = 3  # names of missing branches


@dataclass(frozen=True)
class JetBatch:
    """Rows of some entries.

    Args:
        entries: The number of each row's entry `(n,)`.
        index, value: Their pixels, as sparse rows have them.
        columns: Numbers by the branch they are from, one for each row.
        problems: What is wrong with a row.
    """

    entries: np.ndarray
    index: pa.ListArray
    value: pa.ListArray
    columns: Batch
    problems: dict[int, str | None]


class _TooManyPixels(Exception):
    """Fewer entries must be read at once."""


def count_entries(path: str, schema: DatasetSchema) -> int:
    """Number of entries of the tree.

    Raises:
        FileError: if there is none.
    """
    return tree_facts(path, schema.tree).num_entries


def find_ntuple_mismatch(path: str, schema: DatasetSchema) -> str | None:
    """How the tree of a file differs from a schema; None if it fits.

    Raises:
        FileError: if the file cannot be opened, or has no such tree.
    """
    tree = tree_facts(path, schema.tree)
    return _image_problem(path, tree, schema) or _column_problem(tree, schema)


def _image_problem(path: str, tree: TreeFacts, schema: DatasetSchema) -> str | None:
    missing = [key for key in schema.branches.values() if key not in tree.branches and key not in tree.unusable]
    if missing:
        similar = ", ".join(get_close_matches(missing[0], [key for key in tree.branches if key not in tree.counters]))
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        more += f" (similar: {similar})" if similar else ""
        return f"missing branch {', '.join(missing[:SHOWN])}{more}"
    wanted = 2 if schema.one_row == "crop" else 1
    for name, key in schema.branches.items():
        if key in tree.unusable:
            return f"`{key}` ({name}): {tree.unusable[key]}"
        branch = tree.branches[key]
        if branch.depth != wanted or branch.dtype.kind not in "fiu":
            expected = "a list of crops" if wanted == 2 else "a list of numbers"
            return f"`{key}` ({name}): it is {branch.kind}, expected {expected} in each entry"
    lengths = first_lengths(path, schema.tree, tuple(schema.branches.values()))
    for name, key in schema.branches.items():
        for length in lengths[key]:
            if problem := _length_problem(length, schema):
                return f"`{key}` ({name}): {problem}"
    return None


def _column_problem(tree: TreeFacts, schema: DatasetSchema) -> str | None:
    if present := [key for key in schema.absent if key in tree.branches or key in tree.unusable]:
        return f"it has {', '.join(present)}, which only other versions have"
    missing, lists = [key for key in schema.present if key not in tree.branches and key not in tree.unusable], False
    for name, source in schema.sources.items():
        wanted, found = source.stack or source.keys, _keys(source, tree)
        if not found and name not in schema.optional:
            missing.append(" or ".join(source.keys) or ", ".join(source.stack))
        if unusable := [key for key in wanted if key in tree.unusable and not found]:
            return f"`{unusable[0]}` ({name}): {tree.unusable[unusable[0]]}"
        if len(found) > 1 and not source.stack:
            return f"{' and '.join(found)} could be {name}"
        for key in found:
            branch = tree.branches[key]
            if branch.depth > 1 or (schema.one_row == "jet" and name in ("ieta", "iphi") and branch.depth != 1):
                return f"`{key}` ({name}): it is {branch.kind}, expected one number for each {schema.one_row}"
            lists |= branch.depth == 1 and source.per == "jet"
    if missing:
        return f"missing branch {', '.join(missing)}"
    return None if lists or schema.one_row != "crop" else "no column lists the crops of an event, one number each"


def _keys(source: Source, tree: Tree | TreeFacts) -> tuple[str, ...]:
    """The branches of a column that the tree has; of several that belong together all or none."""
    found = tuple(key for key in source.stack or source.keys if key in tree.branches)
    return () if source.stack and found != source.stack else found


def _length_problem(length: int, schema: DatasetSchema) -> str | None:
    if schema.one_row == "crop":
        height, width = schema.image_size
        return None if length == height * width else f"it has {length} values in a crop, expected {height} x {width}"
    if length in (CRYSTALS, TOWERS):
        return None
    tall, wide = ROWS // TOWER, COLUMNS // TOWER
    return f"it has {length} values, expected {ROWS} x {COLUMNS} crystals or {tall} x {wide} towers"


def read_ntuple(path: str, start: int, stop: int, schema: DatasetSchema) -> Iterator[JetBatch | BadRows]:
    """Rows of the entries `[start, stop)`; entries that cannot be read, or contradict themselves, as `BadRows`.

    Memory is bounded whatever the file: branches are read one after the other, some 160 entries at once, and kept as
    sparse pixels.
    """
    step = STEP
    with open_tree(path, schema.tree) as tree:
        while start < stop:
            last = min(start + step, stop)
            try:
                bad, batch = _read(tree, start, last, schema)
            except _TooManyPixels:
                step = max(1, step // 2)
                continue
            yield from (BadRows(path, entry, entry, bad[entry], True) for entry in sorted(bad))
            if len(batch.entries):
                yield batch
            start = last


def _read(tree: Tree, start: int, stop: int, schema: DatasetSchema) -> tuple[dict[int, str], JetBatch]:
    bad: dict[int, str] = {}
    numbers: dict[str, tuple[str, np.ndarray | None, np.ndarray]] = {}
    for source in schema.sources.values():
        for key in _keys(source, tree):
            numbers[key] = source.per, *_numbers(tree, key, start, stop, bad)
    counts = _rows_of_entries(numbers, start, stop, schema, bad)
    counts[[entry - start for entry in bad]] = 0
    entry = np.repeat(np.arange(start, stop), counts)
    columns, problems = Batch(start, {}), {}
    for key, (per, lengths, values) in numbers.items():
        if lengths is None:
            columns[key] = values[entry - start]
        elif per == "jet":
            columns[key] = values[np.repeat(counts > 0, lengths)]
        else:
            columns[key] = _of_single_jets(key, lengths, values, entry - start, counts, problems)
    frames = _windows(columns, entry, schema, problems) if schema.one_row == "jet" else None
    return bad, JetBatch(entry, *_pixels(tree, start, stop, schema, entry, frames, problems), columns, problems)


def _numbers(tree: Tree, key: str, start: int, stop: int, bad: dict[int, str]):
    """The length of each entry's list, None for single numbers, and all numbers of a branch; damage goes to `bad`."""
    lengths, single = np.zeros(stop - start, np.int64), tree.branches[key].fact.depth == 0
    values = [np.zeros(0, tree.branches[key].fact.dtype)]
    for run in tree.read(key, start, stop):
        if isinstance(run, BadRows):
            bad |= dict.fromkeys(range(run.first, run.last + 1), run.reason)
            values.append(np.zeros((run.last + 1 - run.first) * single, values[0].dtype))
            continue
        values.append(run.values)
        if run.counts is not None:
            lengths[run.first - start : run.first - start + len(run.counts)] = run.counts
    return None if single else lengths, np.concatenate(values)


def _rows_of_entries(numbers, start: int, stop: int, schema: DatasetSchema, bad: dict[int, str]) -> np.ndarray:
    """How many rows each entry has; entries whose lists disagree, or are too long, go to `bad`."""
    lists = {key: lengths for key, (per, lengths, _) in numbers.items() if lengths is not None and per == "jet"}
    if schema.one_row == "event":
        for key, lengths in lists.items():
            for place in np.flatnonzero(lengths != 1):
                bad.setdefault(start + int(place), f"`{key}` has {lengths[place]} values in an event, expected one")
        return np.ones(stop - start, np.int64)
    assert lists, "find_ntuple_mismatch has looked for one"
    if schema.one_row == "jet":
        lists = {key: lists[key] for key in sorted(lists, key=lambda key: key not in schema.columns["ieta"].keys)}
    first, counts = next(iter(lists.items()))
    for key, lengths in lists.items():
        for place in np.flatnonzero(lengths != counts):
            told = f"`{key}` has {lengths[place]} values and `{first}` {counts[place]}"
            bad.setdefault(start + int(place), f"{told}: cannot tell which value belongs to which jet")
    for place in np.flatnonzero(counts > MAX_JETS):
        bad.setdefault(start + int(place), f"{counts[place]} {schema.one_row}s in an event, more than {MAX_JETS}")
    return counts.copy()


def _of_single_jets(key: str, lengths, values, place, counts, problems: dict[int, str | None]) -> np.ndarray:
    """What is listed by generated particle, for the jets of events that have one of both; a problem for the others."""
    alone = (counts == 1) & (lengths == 1)
    for row in np.flatnonzero(~alone[place]):
        jets, particles = counts[place[row]], lengths[place[row]]
        told = f"{jets} jet{'' if jets == 1 else 's'} {'and' if jets == particles else 'but'} {particles} "
        told += f"value{'' if particles == 1 else 's'} of `{key}`, which is stored per generated particle"
        problems.setdefault(int(row), f"{told}: the file does not say which belongs to which jet")
    offsets = np.cumsum(lengths) - lengths
    result = np.full(len(place), np.nan)
    result[alone[place]] = values[offsets[place[alone[place]]]]
    return result


def _windows(columns: Batch, entry, schema: DatasetSchema, problems) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that have a window, and the first row and column of each on the grid."""
    keys = [key for name in ("ieta", "iphi") if (key := schema.columns[name].find(columns)) is not None]
    ieta, iphi = (columns[key].astype(np.float64) for key in keys)  # find_ntuple_mismatch has looked for both
    inside = (ieta >= SEED_ROWS[0]) & (ieta <= SEED_ROWS[1]) & (iphi >= 0) & (iphi < COLUMNS // TOWER)
    inside &= (ieta == np.floor(ieta)) & (iphi == np.floor(iphi))
    for row in np.flatnonzero(~inside):
        told = f"the window around seed tower ({ieta[row]:g}, {iphi[row]:g}) leaves the grid"
        fit = f"rows {SEED_ROWS[0]}-{SEED_ROWS[1]} and columns 0-{COLUMNS // TOWER - 1} fit"
        problems.setdefault(int(row), f"`{keys[0]}`, `{keys[1]}`: {told} ({fit})")
    chosen, reach = np.flatnonzero(inside), WINDOW // TOWER // 2
    return chosen, ((ieta - reach) * TOWER)[chosen].astype(int), ((iphi - reach) * TOWER)[chosen].astype(int)


def _pixels(
    tree: Tree, start: int, stop: int, schema: DatasetSchema, entry: np.ndarray, frames, problems
) -> tuple[pa.ListArray, pa.ListArray]:
    """The pixels of all channels of each row."""
    size, total, found = prod(schema.image_size), prod(schema.image_shape), 0
    keys, values = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for channel, (name, key) in enumerate(schema.branches.items()):
        for run in tree.read(key, start, stop):
            for rows, images in _images(run, name, key, schema, entry, frames, problems):
                with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is reported
                    images = images.reshape(len(rows), size).astype(np.float32, copy=False)
                row, pixel = np.nonzero(images)
                keys.append(rows[row] * total + channel * size + pixel)
                values.append(images[row, pixel])
                found += len(row)
                if found > MAX_PIXELS // 2 and stop - start > 1:
                    raise _TooManyPixels
    key, value = np.concatenate(keys), np.concatenate(values)
    order = np.argsort(key, kind="stable")
    row, index = np.divmod(key[order], total)
    counts = np.bincount(row, minlength=len(entry))
    return list_array(index.astype(np.uint32), counts), list_array(value[order], counts)


def _images(
    run: Entries | BadRows, name: str, key: str, schema: DatasetSchema, entry: np.ndarray, frames, problems
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of rows and their images in one channel, from some entries of its branch."""
    if isinstance(run, BadRows):
        for row in np.flatnonzero((entry >= run.first) & (entry <= run.last)):
            problems.setdefault(int(row), run.reason)
        return
    assert run.counts is not None, "find_ntuple_mismatch has looked at the type"
    if schema.one_row == "crop":
        yield _crops(run, key, schema, entry, problems)
        return
    rows, *corner = frames or (np.arange(len(entry)),)
    local = entry[rows] - run.first
    here = (local >= 0) & (local < len(run.counts))
    for place, row in zip(local[here], rows[here]):
        if problem := _length_problem(int(run.counts[place]), schema):
            problems.setdefault(int(row), f"`{key}`: {problem}")
    for length, tower in ((CRYSTALS, 1), (TOWERS, TOWER)):
        held = run.counts == length
        images = run.values[np.repeat(held, run.counts)].reshape(-1, ROWS // tower, COLUMNS // tower)
        if tower > 1:
            images = (images / TOWER**2).repeat(TOWER, axis=1).repeat(TOWER, axis=2)
        elif name == "ecal" and schema.resample_endcaps:
            images = images.astype(np.float32, copy=False)
            resample_endcaps(images)
        chosen = np.flatnonzero(here & np.append(held, False)[np.where(here, local, -1)])
        for some in (chosen[i : i + JETS_AT_ONCE] for i in range(0, len(chosen), JETS_AT_ONCE)):
            image = (np.cumsum(held) - 1)[local[some]]
            if corner:
                down, across = (first[some, None] + np.arange(WINDOW) for first in corner)
                yield rows[some], images[image[:, None, None], down[:, :, None], across[:, None, :] % COLUMNS]
            else:
                yield rows[some], images[image]


def _crops(run: Entries, key: str, schema: DatasetSchema, entry: np.ndarray, problems):
    """Rows and their crops, of entries that have one for each row."""
    assert run.counts is not None, "find_ntuple_mismatch has looked at the type"
    assert run.lengths is not None, "find_ntuple_mismatch has looked at the type"
    here = np.flatnonzero((entry >= run.first) & (entry < run.first + len(run.counts)))
    local = entry[here] - run.first
    rows = np.bincount(local, minlength=len(run.counts))
    owner = np.repeat(np.arange(len(run.counts)), run.counts)
    height, width = schema.image_size
    wrong = np.bincount(owner, run.lengths != height * width, minlength=len(rows)) > 0
    for row, place in zip(here, local):
        if wrong[place]:
            length = run.lengths[(owner == place) & (run.lengths != height * width)][0]
            problems.setdefault(int(row), f"`{key}`: {_length_problem(int(length), schema)}")
        elif rows[place] != run.counts[place]:
            problems.setdefault(int(row), f"`{key}` has {run.counts[place]} crops for {rows[place]} rows")
    fitting = ~wrong & (rows == run.counts)
    return here[fitting[local]], run.values[np.repeat(fitting[owner], run.lengths)]
