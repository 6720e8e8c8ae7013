"""A draft schema of a ROOT file whose branches have names of their own: what can be channels and columns."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path

import numpy as np
import yaml

from .branches import Entries, Tree
from .columns import CHANNELS, ROW_COLUMNS, Channel
from .draft_columns import classes_of, column_names, yaml_line
from .formats import FileError
from .grid import COLUMNS, ROWS, SEED_ROWS, TOWER, WINDOW
from .ntuple import find_ntuple_mismatch
from .root import list_trees, open_tree
from .schema import SCHEMAS, DatasetSchema, Source, parse_schema

__all__ = ["draft_ntuple"]

ENTRIES, IMAGES = 64, 4  # entries that are looked at, of lists and of images
TALL, WIDE = ROWS // TOWER, COLUMNS // TOWER
SHAPES = {ROWS * COLUMNS: f"{ROWS} x {COLUMNS} crystals", TALL * WIDE: f"{TALL} x {WIDE} towers"}
SMALLEST_CROP = 16  # pixels on a side
EVENT_IDS = (("runid", "run", "runnumber"), ("lumiid", "lumi", "luminosityblock"), ("eventid", "event", "eventnumber"))


@dataclass
class _Branches:
    """What the branches of a tree may be.

    Attributes:
        images: Those of the whole detector, with their shape for people.
        crops: Lists of square crops, with their side in pixels.
        lists: Lists of numbers, with their lengths in the first entries.
        numbers: One number in each entry.
    """

    images: dict[str, str] = field(default_factory=dict)
    crops: dict[str, int] = field(default_factory=dict)
    lists: dict[str, np.ndarray] = field(default_factory=dict)
    numbers: list[str] = field(default_factory=list)


@dataclass
class _Draft:
    """What is said of a tree; fields as in [`DatasetSchema`].

    Attributes:
        images: Branches of the channels, with their shape for people.
        others: Lists of other lengths than there are rows in an entry.
        extra: Further branches with a number for each row.
    """

    one_row: str
    image_size: list[int]
    images: dict[str, str]
    columns: dict[str, Source]
    others: list[str]
    extra: list[str]


def draft_ntuple(path: Path) -> str:
    """YAML text that [`read_schema`] accepts, and reads the file with, for a ROOT file.

    Raises:
        FileError: if no tree has a branch that could be images.
    """
    for name in list_trees(str(path)):
        try:
            with open_tree(str(path), name) as tree:
                branches = _look(tree)
                lines = list(_lines(path, name, tree, _settle(tree, branches))) if _has_images(branches) else []
        except FileError:  # a damaged tree beside others
            continue
        if lines:
            break
    else:
        raise FileError(
            f"{path}: no tree has images in its branches, {' or '.join(SHAPES.values())} in each entry, or lists of "
            "square crops."
        )
    text = "\n".join(lines) + "\n"
    (schema,) = parse_schema("custom", yaml.safe_load(text), f"the draft for {path}")
    if (mismatch := find_ntuple_mismatch(str(path), schema)) is not None:
        raise FileError(f"{path}: no schema can be drafted: {mismatch}.")
    return text


def _has_images(branches: _Branches) -> bool:
    return bool(branches.images or branches.crops)


def _look(tree: Tree) -> _Branches:
    branches = _Branches()
    for key, branch in tree.branches.items():
        if key in tree.counters:
            continue
        if branch.fact.depth == 0:
            branches.numbers.append(key)
        elif branch.fact.depth == 1:
            (length,) = tree.first_lengths(key) or (0,)
            if length in SHAPES:
                branches.images[key] = SHAPES[length]
            else:
                branches.lists[key] = _counts(tree, key)
        else:
            lengths = {length for run in _read(tree, key) for length in _listed(run.lengths)}
            if len(lengths) == 1 and isqrt(min(lengths)) ** 2 in lengths and isqrt(min(lengths)) >= SMALLEST_CROP:
                branches.crops[key] = isqrt(min(lengths))
    return branches


def _read(tree: Tree, key: str, entries: int = ENTRIES) -> Iterator[Entries]:
    """The first entries of a branch, as far as they can be read."""
    yield from (run for run in tree.read(key, 0, min(entries, tree.num_entries)) if isinstance(run, Entries))


def _listed(numbers: np.ndarray | None) -> list[int]:
    return [] if numbers is None else numbers.tolist()


def _counts(tree: Tree, key: str) -> np.ndarray:
    return np.array([count for run in _read(tree, key) for count in _listed(run.counts)], np.int64)


def _values(tree: Tree, source: Source, entries: int | None = None) -> np.ndarray:
    """The numbers of a column, or of a branch of images; what stands for nothing is left out."""
    runs = _read(tree, source.keys[0], tree.num_entries if entries is None else entries)
    values = np.concatenate([np.zeros(0), *(run.values for run in runs)])
    return values[np.isfinite(values) & ~source.is_missing(values)]


def _settle(tree: Tree, branches: _Branches) -> _Draft:
    known = {
        key: (name, source)
        for schema in _ntuple_schemas()
        for name, source in schema.columns.items()
        for key in source.keys
    }
    seeds = {side: _seed(branches.lists, side, known) for side in ("ieta", "iphi")}
    columns: dict[str, Source] = {}
    if not branches.images:
        one_row, side = "crop", max(branches.crops.values())
        image_size = [side, side]
        images = {key: f"{side} x {side}" for key, of_crop in branches.crops.items() if of_crop == side}
        rows = _counts(tree, next(iter(images)))
    elif seeds["ieta"] and seeds["iphi"]:
        one_row, image_size, images, rows = "jet", [WINDOW, WINDOW], branches.images, branches.lists[seeds["ieta"]]
        columns = {side: Source((key,)) for side, key in seeds.items() if key is not None}
    else:
        one_row, image_size, images = "event", [ROWS, COLUMNS], branches.images
        rows = np.ones(min(ENTRIES, tree.num_entries))
    fitting = [key for key, counts in branches.lists.items() if np.array_equal(counts, rows)]
    columns |= _columns(tree, branches, fitting, known)
    used = {key for source in columns.values() for key in (*source.keys, *source.stack)}
    others = [key for key in branches.lists if key not in fitting and key not in used]
    extra = [key for key in (*fitting, *branches.numbers) if key not in used and key not in ROW_COLUMNS]
    return _Draft(one_row, image_size, images, columns, others, extra)


def _ntuple_schemas() -> list[DatasetSchema]:
    return [schema for variants in SCHEMAS.values() for schema in variants if schema.format == "root"]


def _seed(lists: dict[str, np.ndarray], side: str, known: dict[str, tuple[str, Source]]) -> str | None:
    """The branch that numbers the rows or columns of seed towers."""
    exact = [key for key in lists if known.get(key, ("",))[0] == side]
    return next(iter([*exact, *(key for key in lists if side in key.lower())]), None)


def _columns(
    tree: Tree, branches: _Branches, fitting: list[str], known: dict[str, tuple[str, Source]]
) -> dict[str, Source]:
    """Our columns and the branches whose names stand for them."""
    columns: dict[str, Source] = {}
    names = {key: name for name, keys in column_names().items() for key in keys}
    whole = [key for key in branches.numbers if tree.branches[key].fact.dtype.kind in "iu"]
    ids = [next((key for key in whole if key.lower() in wanted), None) for wanted in EVENT_IDS]
    if ids[-1] is not None:
        stack = tuple(key for key in ids if key is not None)
        columns["event_id"] = Source(stack=stack) if len(stack) > 1 else Source(stack)
    for key in (*branches.lists, *branches.numbers):
        name, source = known.get(key, (names.get(key.lower(), ""), Source()))
        by_particle = source.per == "particle" and key in branches.lists
        usable = key in branches.numbers or key in fitting or by_particle
        if usable and name and name not in columns and name not in ("ieta", "iphi", "event_id"):
            columns[name] = Source((key,), missing=source.missing, per="particle" if by_particle else "jet")
    return columns


def _lines(path: Path, name: str, tree: Tree, draft: _Draft) -> Iterator[str]:
    labels, why_no_labels, columns = {}, "", dict(draft.columns)
    if "labels" in columns:
        labels, why_no_labels = classes_of(_values(tree, columns["labels"]), columns["labels"].keys[0])
        if why_no_labels:
            del columns["labels"]
    yield f"# Drafted from {path.name}. Check each line marked CHECK, then look at the statistics it gives:"
    yield f"#   e2evit inspect {path.name} --schema THIS_FILE"
    yield yaml_line("description", f"Images of {path.name}", "CHECK: one sentence for the data set's card")
    yield yaml_line("source", "unknown", "CHECK: where the files come from")
    yield yaml_line("licence", "unknown", "CHECK")
    yield yaml_line("format", "root")
    yield yaml_line("pattern", "**/*.root", "glob of the files in the folder")
    yield yaml_line("tree", name)
    yield "# CHECK: a row is a jet (a window of 125 x 125 around its seed tower), an event (280 x 360) or a crop"
    yield yaml_line("one_row", draft.one_row)
    yield yaml_line("image_size", draft.image_size)
    if draft.one_row == "event":
        low, high = SEED_ROWS
        yield f"#   for jets, name their seed towers in `columns`: ieta ({low} to {high}) and iphi (0 to {WIDE - 1})"
    yield from _channel_lines(tree, draft)
    yield f"# CHECK: our columns and their branches; others: {', '.join(ROW_COLUMNS)}"
    yield "columns:" if columns else "columns: {}"
    for column, source in columns.items():
        given = {"keys": source.keys[0]} if source.keys else {"stack": list(source.stack)}
        given |= {"missing": list(source.missing)} if source.missing else {}
        given |= {"per": source.per} if source.per != Source.per else {}
        yield f"  {yaml_line(column, given if given.keys() != {'keys'} else source.keys[0])}"
    if "event_id" not in columns:
        yield "  # event_id: {stack: [RUN, LUMI, EVENT]}  # without it, an event is an entry of a file"
    if why_no_labels:
        yield f"# no labels: {why_no_labels}"
    if labels:
        yield "# CHECK: name and meaning of the classes, in the order of their numbers"
        yield "labels:"
        yield from (f"  {yaml_line(*entry)}" for entry in labels.items())
    if "mass_labels" in columns:
        masses = _values(tree, columns["mass_labels"]).tolist()
        held = f"the file has {min(masses):.4g} to {max(masses):.4g}, in GeV?" if masses else "no row has one"
        yield yaml_line("mass_definition", "unknown", f"CHECK: which mass; {held}")
        ends = [*masses, *DatasetSchema.mass_range]
        yield yaml_line("mass_range", [min(ends), max(ends)], "GeV; rows outside are refused")
    if draft.extra:
        extra = {key: key for key in draft.extra}
        yield f"# {yaml_line('extra', extra, 'CHECK: further numbers to keep with each row')}"
    if draft.others:
        yield f"# lists of other lengths: {', '.join(draft.others)}"
        yield "#   a list by generated particle can be a column: {keys: BRANCH, per: particle}"


def _channel_lines(tree: Tree, draft: _Draft) -> Iterator[str]:
    known = {key: (name, schema) for schema in _ntuple_schemas() for name, key in schema.branches.items()}
    channels: dict[str, Channel] = {}
    yield f"# CHECK: leave out what is no channel, and name the others; known names: {', '.join(CHANNELS)}"
    yield "branches:"
    for number, (key, shape) in enumerate(draft.images.items(), 1):
        name, schema = known.get(key, ("", None))
        if schema is None or name in channels:  # a second branch that could be this channel
            signed = bool((_values(tree, Source((key,)), IMAGES) < 0).any())
            name, channels[f"channel_{number}"] = f"channel_{number}", Channel("a.u.", f"Channel {number}", signed)
        else:
            channels[name] = schema.channel(name)
        yield f"  {yaml_line(name, key, shape)}"
    if new := {name: channel for name, channel in channels.items() if name not in CHANNELS}:
        yield "# CHECK: unit and title of each name that is not a known one; `signed` if its values may be negative"
        yield "new_channels:"
        for name, channel in new.items():
            about = {"unit": channel.unit, "title": channel.title} | ({"signed": True} if channel.signed else {})
            yield f"  {yaml_line(name, about)}"
    yield "# CHECK: physical (values in the channels' units) or scaled (any other scale)"
    yield yaml_line("normalisation", "physical")
    if "ecal" in channels and draft.one_row != "crop":
        yield yaml_line("resample_endcaps", False, "CHECK: whether to average ECAL endcaps in blocks of 2 x 2")
