"""What a data set's files call their arrays, what the numbers mean and where they come from: one YAML file each.

The files in `schemas/` describe the public data sets; a user's own file has the same form. Facts that nobody has
verified on the files themselves are listed under `inferred`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from datasets import ClassLabel, Features, List, Value
from pydantic import BeforeValidator, FiniteFloat, PositiveInt, StrictBool, TypeAdapter, ValidationError

from .addresses import Share
from .columns import (
    CHANNELS,
    IMAGE_COLUMNS,
    LISTS,
    PARTICLE_COLUMNS,
    ROW_COLUMNS,
    STRICT_KEYS,
    Channel,
)
from .contradictions import contradictions
from .grid import WINDOW
from .open_detector import OpenDetector
from .texts import read_mapping

__all__ = [
    "SCHEMAS",
    "DatasetSchema",
    "Source",
    "read_schema",
    "row_features",
]

Strings = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


@dataclass(frozen=True)
class Source:
    """Where a file keeps one of our columns; in YAML a name, a list of names, or a mapping of these fields.

    Args:
        keys: Names used by different versions of the files; exactly one must be there. `group/name` in HDF5 groups.
        column: Which column of a matrix `(N, K)`.
        one_hot: Columns of a matrix that hold 1 for the class, in the order of the classes.
        stack: Arrays `(N, H, W)`, one for each channel; or the numbers an `event_id` is made of.
        missing: Values that mean "missing".
        per: Whether a list in a ROOT file has one entry per jet or per generated particle. Nothing says which particle
            is in which jet, so only events of one jet and one particle are used.
    """

    __pydantic_config__ = STRICT_KEYS

    keys: Strings = ()
    column: int | None = None
    one_hot: tuple[int, ...] = ()
    stack: Strings = ()
    missing: tuple[FiniteFloat, ...] = ()
    per: Literal["jet", "particle"] = "jet"

    def find(self, available) -> str | None:
        """The first of its names among `available`, or None."""
        return next((key for key in self.stack or self.keys if key in available), None)

    def is_missing(self, values: np.ndarray) -> np.ndarray:
        """Which of these numbers mean "missing", in single precision, too."""
        missing = np.asarray(self.missing, np.float64)
        return np.isin(values, np.concatenate([missing, missing.astype(np.float32)]))


def _as_source(value):
    return value if isinstance(value, (Mapping, Source)) else {"keys": value}


Sources = dict[str, Annotated[Source, BeforeValidator(_as_source)]]


@dataclass(frozen=True)
class DatasetSchema:
    r"""One data set, in one version of its files.

    Args:
        name, variant: `variant` distinguishes versions of one data set, e.g. "4 channels".
        description, source, licence: For people.
        format: `"rows"` (our sparse Parquet), `"hdf5"`, `"npz"` (dense arrays), `"parquet"` (dense lists), `"root"`
            (ntuples of RecHitAnalyzer) or `"colliderml"` (Parquet tables of hits, cells, tracks and particles).
        pattern: Glob of the files in a folder.
        channel_names: In the order of the file, each one of `CHANNELS` or of `new_channels`.
        new_channels: Units and titles of channels only this data set has.
        image_size: Height (eta) and width (phi) in pixels.
        channels_last: Whether the last axis of a dense image is its channels.
        columns: Where the file keeps each of our columns; a column not listed here is null in every row.
        extra: Further numbers to keep with each row (float32), by the name they get.
        optional: Those of `columns` a file may lack.
        present, absent: Arrays or branches whose presence marks this version, or another one.
        tree: Path of the tree in a ROOT file.
        branches: The branch of each channel in a ROOT file: 280 x 360 crystals, 56 x 72 towers, or crops.
        one_row: What a row is of files of events: a `"jet"`, the window around its seed tower; an `"event"`, the whole
            detector; or a `"crop"` that a ROOT file has cut out.
        resample_endcaps: Whether energies in the endcaps of the ECAL are averaged in blocks, as some converters do.
        open_detector: Of `"colliderml"`: the detector, and the jets that are made.
        labels: Classes in the order of their numbers, with their meaning; a file may number them or write their names.
        class_of_files: A glob for each of `labels`: the files of that class, by their path in the folder.
        mass_definition: What `mass_labels` [GeV] is.
        mass_range: Masses [GeV] outside this range are an error.
        normalisation: `"physical"` (the channels' units), `"max_scaled_255"` (each image and channel scaled to 0..255)
            or `"scaled"` (any other scale).
        tower_blocks: Whether the HCAL is constant in blocks of 5 x 5 pixels, its towers.
        particles: Whether rows hold the particles of a jet, from which its image is made, instead of the image.
        lists: Names in [`LISTS`] of what rows hold besides.
        own_split: Globs of the files of `train`, `validation` and `test`, if the data set is already split; a split
            it lacks is carved out of `train`.
        bad_rows: Globs of files with ranges `[first, last]` of rows known to be corrupt, which are skipped.
        inferred: Statements of this entry nobody has verified on the files.
        notes: What else a user should know.
        downloads: Where `e2evit download NAME` finds the files, by NAME; those of one name belong into one folder.
    """

    __pydantic_config__ = STRICT_KEYS

    name: str
    description: str
    source: str
    licence: str
    format: Literal["rows", "hdf5", "parquet", "npz", "root", "colliderml"]
    pattern: str
    channel_names: Strings
    variant: str = ""
    new_channels: dict[str, Channel] = field(default_factory=dict)
    image_size: tuple[PositiveInt, PositiveInt] = (WINDOW, WINDOW)
    channels_last: StrictBool = False
    columns: Sources = field(default_factory=dict)
    extra: Sources = field(default_factory=dict)
    optional: Strings = ()
    present: Strings = ()
    absent: Strings = ()
    tree: str = "fevt/RHTree"
    branches: dict[str, str] = field(default_factory=dict)
    one_row: Literal["jet", "event", "crop"] = "jet"
    resample_endcaps: StrictBool = False
    open_detector: OpenDetector | None = None
    labels: dict[str, str] = field(default_factory=dict)
    class_of_files: dict[str, str] = field(default_factory=dict)
    mass_definition: str = "none"
    mass_range: tuple[FiniteFloat, FiniteFloat] = (0.0, 2000.0)
    normalisation: Literal["physical", "max_scaled_255", "scaled"] = "physical"
    tower_blocks: StrictBool = False
    particles: StrictBool = False
    lists: tuple[Literal["candidates", "jets"], ...] = ()
    own_split: dict[Literal["train", "validation", "test"], str] = field(default_factory=dict)
    bad_rows: dict[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    inferred: Strings = ()
    notes: Strings = ()
    downloads: dict[str, tuple[Share, ...]] = field(default_factory=dict, compare=False)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Classes in the order of their numbers."""
        return tuple(self.labels)

    @property
    def holds_events(self) -> bool:
        """Whether a row of a file is an event, of which any number of rows is made."""
        return self.format in ("root", "colliderml")

    @property
    def has_physical_units(self) -> bool:
        """Whether pixel values are energies [GeV], lengths [cm] and counts."""
        return self.normalisation == "physical"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (len(self.channel_names), *self.image_size)

    def channel(self, name: str) -> Channel:
        """Unit, title and sign of a channel; the unit is arbitrary if values were rescaled."""
        channel = self.new_channels.get(name) or CHANNELS[name]
        return channel if self.has_physical_units else replace(channel, unit="a.u.")

    @property
    def list_columns(self) -> dict[str, str]:
        """The columns with the image or the particles, lists of one length in each row, and the type of entries."""
        return PARTICLE_COLUMNS if self.particles else IMAGE_COLUMNS

    @property
    def list_groups(self) -> tuple[dict[str, str], ...]:
        """All columns that hold lists, in groups of equal length, with the type of their entries."""
        return self.list_columns, *(LISTS[name] for name in self.lists)

    @property
    def sources(self) -> dict[str, Source]:
        """All columns, extra ones included."""
        return self.columns | self.extra

    def description_of_rows(self, label_names: Sequence[str]) -> dict[str, list | str]:
        """What a file of rows says about itself, under the key `e2evit` of its metadata.

        Args:
            label_names: The classes that occur in the file.
        """
        more = {"data_set": self.name * self.particles, "lists": list(self.lists)}
        return {
            "channel_names": list(self.channel_names),
            "image_size": list(self.image_size),
            "label_names": list(label_names),
            "normalisation": self.normalisation,
        } | {name: value for name, value in more.items() if value}

    def to_dict(self) -> dict:
        """All values that are not defaults, as [`parse_schema`] reads them, but `downloads`: they change no row."""
        return _ADAPTER.dump_python(self, mode="json", exclude_defaults=True, exclude={"downloads"})


_ADAPTER = TypeAdapter(DatasetSchema)


def parse_schema(name: str, text: Any, where: str) -> tuple[DatasetSchema, ...]:
    """The variants a mapping describes: its fields, and `variants` that add to or replace them.

    Raises:
        ValueError: for an unknown, missing or invalid field; it names `where` and the field.
    """
    if not isinstance(text, Mapping):
        raise ValueError(f"{where}: a schema is a mapping of fields to values, got {type(text).__name__}.")
    common = {key: value for key, value in text.items() if key != "variants"}
    variants = text.get("variants", [{}])
    if not isinstance(variants, list) or not all(isinstance(variant, Mapping) for variant in variants):
        raise ValueError(f"{where}: `variants` is a list of mappings.")
    return tuple(_parse_variant({"name": name} | common | dict(variant), where) for variant in variants)


def _parse_variant(text: dict, where: str) -> DatasetSchema:
    if text.get("format") == "rows":
        text = {"pattern": "*.parquet"} | text
    if isinstance(branches := text.get("branches"), Mapping) and branches:
        text = {"channel_names": list(branches)} | text
    try:
        schema = _ADAPTER.validate_python(text)
    except ValidationError as error:
        raise ValueError(f"{where}: {'; '.join(map(_explain, error.errors()))}") from None
    if problems := list(contradictions(schema)):
        raise ValueError(f"{where}: {'; '.join(problems)}")
    return schema


def _explain(error) -> str:
    """One of pydantic's errors in a few words: which field, what is wrong with it, what was meant."""
    *parents, last = map(str, error["loc"])
    path = ".".join([*parents, last])
    if error["type"] == "missing":
        return f"the field `{path}` is missing"
    if error["type"] == "unexpected_keyword_argument":
        kinds = {"columns": Source, "extra": Source, "new_channels": Channel, "downloads": Share}
        kind = kinds[parents[0]] if parents else DatasetSchema
        return f"unknown field `{path}`; {_did_you_mean(last, [known.name for known in fields(kind)])}"
    if last == "[key]":
        hint = " (put quotes around it: YAML reads no, yes, on and off as truth values)"
        told = f"`{'.'.join(parents[:-1])}` has the key {error['input']!r}: {_lower(error['msg'])}"
        return told + hint * isinstance(error["input"], bool)
    return f"`{path}`: {_lower(error['msg'])}, got {error['input']!r}"


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    """The known names most similar to a mistyped one, or all of them."""
    close = get_close_matches(name, known)
    return f"did you mean {' or '.join(close)}?" if close else f"known fields: {', '.join(known)}"


def read_schema(path: str | Path) -> tuple[DatasetSchema, ...]:
    """The variants of a schema in a YAML file; its name is `custom` unless the file gives another.

    Raises:
        ValueError: if the file is missing, not YAML, or not a schema.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"There is no schema file {path}.")
    return parse_schema("custom", read_mapping(path), str(path))


def row_features(schema: DatasetSchema) -> Features:
    """Columns of a sparse row, the same for every data set; a quantity a data set lacks is null.

    `pixel_index` is the flat index `(channel * height + row) * width + column`, ascending; `pixel_value` is in the
    channel's unit. Rows of particles have instead of them the PDG code `particle_id`, `particle_pt` [GeV],
    `particle_eta`, `particle_phi`, and where each was produced, `particle_x`, `_y`, `_z` [cm] from the primary vertex.
    `mass_labels` and `jet_mass` [GeV]; `pt` [GeV] and `eta` of the jet; `ieta`, `iphi` number the seed tower; `merged`
    tells whether the jet holds all decay products of its heavy particle, null without one, `parton` is the PDG code of
    what the jet comes from, `num_pileup` the number of collisions besides the hard one. The schema's `extra` columns
    follow. Rows with candidates have lists of them: PDG code `candidate_id` (211, 11, 13, 22 or 130, with a sign where
    there is a charge), `candidate_charge`, `candidate_pt`, `candidate_energy` [GeV], `candidate_eta`, `candidate_phi`,
    impact parameters `candidate_d0`, `candidate_dz` (signs: docs/data-sets.md) and their errors [cm], and the truth
    `candidate_is_pileup`. Rows of whole events have lists of their jets: `jets_pt` [GeV], `jets_eta`, `jets_phi`,
    class `jets_labels`, generator mass `jets_mass_labels` (NaN without a heavy particle), mass `jets_mass`,
    `jets_merged` (false without one: lists have no nulls).
    """
    columns: dict[str, Any] = {name: Value(kind) for name, kind in ROW_COLUMNS.items()}
    if schema.labels:
        columns["labels"] = ClassLabel(names=list(schema.labels))
    lists = {name: List(Value(kind)) for group in schema.list_groups for name, kind in group.items()}
    if "jets" in schema.lists:
        lists["jets_labels"] = List(columns["labels"])
    return Features(lists | columns | dict.fromkeys(schema.extra, Value("float32")))


def _read_schemas() -> dict[str, tuple[DatasetSchema, ...]]:
    folder, schemas = files("e2evit.data").joinpath("schemas"), {}
    texts = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in folder.iterdir()}
    for file, text in sorted(texts.items()):
        if "like" in text:  # another one, with these differences
            text = texts[f"{text.pop('like')}.yaml"] | text
        name = file.removesuffix(".yaml")
        schemas[name] = parse_schema(name, text, file)
    return schemas


SCHEMAS = _read_schemas()
