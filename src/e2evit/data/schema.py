"""What a data set's files are called inside, what the numbers mean, where they come from: one YAML file each.

The files in `schemas/` are the table of the public data sets; a user's own file has the same form. A fact that nobody
has seen in the files themselves is listed under `inferred`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path

import yaml
from datasets import ClassLabel, Features, List, Value

from .grid import WINDOW

__all__ = ["CHANNELS", "SCHEMAS", "Channel", "DatasetSchema", "Source", "read_schema", "row_features"]


@dataclass(frozen=True)
class Channel:
    """One detector layer of an image; values of a `signed` one may be negative."""

    unit: str
    title: str
    signed: bool = False


CHANNELS = {
    "trk_pt": Channel("GeV", "Track $p_T$"),
    "trk_d0": Channel("cm", "Track $d_0$", signed=True),
    "trk_dz": Channel("cm", "Track $d_z$", signed=True),
    "ecal": Channel("GeV", "ECAL energy"),
    "hcal": Channel("GeV", "HCAL energy / 25"),
    "ecal_et": Channel("GeV", "ECAL transverse energy"),
    "hcal_et": Channel("GeV", "HCAL transverse energy / 25"),
    "bpix1": Channel("hits", "Pixel layer 1"),
    "bpix2": Channel("hits", "Pixel layer 2"),
    "bpix3": Channel("hits", "Pixel layer 3"),
    "bpix4": Channel("hits", "Pixel layer 4"),
    "trk_d0_sig": Channel("σ", r"Track $d_0$ / uncertainty", signed=True),
    "trk_dz_sig": Channel("σ", r"Track $d_z$ / uncertainty", signed=True),
    "tib1": Channel("hits", "Inner barrel strip layer 1"),
    "tib2": Channel("hits", "Inner barrel strip layer 2"),
    "tob1": Channel("hits", "Outer barrel strip layer 1"),
    "tob2": Channel("hits", "Outer barrel strip layer 2"),
}
ROW_COLUMNS = {
    "labels": "int64",
    "mass_labels": "float32",
    "jet_mass": "float32",
    "pt": "float32",
    "eta": "float32",
    "ieta": "int32",
    "iphi": "int32",
    "merged": "bool",
    "parton": "int32",
    "num_pileup": "int32",
    "event_id": "string",
}
FORMATS = ("rows", "hdf5", "parquet", "npz")
NORMALISATIONS = ("physical", "max_scaled_255", "scaled")


@dataclass(frozen=True)
class Source:
    """Where a column of ours lies in a file.

    Args:
        keys: Names that it goes by in different versions of the files; exactly one must be there.
        column: Which column of a matrix `(N, K)`.
        one_hot: Columns of a matrix that hold 1 for the class, in the order of the classes.
        stack: Arrays `(N, H, W)` that are one channel each.
    """

    keys: tuple[str, ...] = ()
    column: int | None = None
    one_hot: tuple[int, ...] = ()
    stack: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str | Sequence[str] | Mapping) -> "Source":
        """From YAML: a name, a list of names, or a mapping of this class's fields."""
        if not isinstance(text, Mapping):
            text = {"keys": text}
        known = {name: value if name == "column" else _strings(value) for name, value in text.items()}
        return cls(**known)

    def find(self, available) -> str | None:
        """The name that it goes by among `available`, or None."""
        return next((key for key in self.stack or self.keys if key in available), None)


@dataclass(frozen=True)
class DatasetSchema:
    r"""One data set, in one version of its files.

    Args:
        name, variant: `variant` tells versions of one data set apart, e.g. "4 channels".
        description, source, licence: For people.
        format: `"rows"` (our sparse Parquet), `"hdf5"`, `"npz"` (dense arrays) or `"parquet"` (dense lists).
        pattern: Glob of the files in a folder.
        channel_names: In the order of the file, each one of `CHANNELS` or of `new_channels`.
        new_channels: Units and titles of channels that only this data set has.
        image_size: Height (eta) and width (phi) in pixels.
        channels_last: Whether a dense image ends in its channels.
        columns: Our column name to where it is in the file; a column that is not listed becomes null.
        extra: Further numbers that rows keep (float32), by the name that they get.
        optional: Those of `columns` that a file may lack.
        labels: Classes in the order of their number, with their meaning; empty if there are none.
        mass_definition: What `mass_labels` [GeV] is.
        mass_range: Masses [GeV] outside are an error.
        normalisation: `"physical"` (the channels' units), `"max_scaled_255"` (each image and channel to 0..255) or
            `"scaled"` (another, unknown scale).
        tower_blocks: Whether the HCAL is constant in blocks of 5 x 5 pixels, its towers.
        own_split: Globs of the files of `train`, `validation`, `test`, where the data set has splits of its own; one
            that is missing is carved out of `train`.
        bad_rows: Glob of files to ranges `[first, last]` of rows known to be corrupt, which are left out.
        inferred: Statements of this entry that nobody has verified on the files.
        notes: What else a user should know.
    """

    name: str
    description: str
    source: str
    licence: str
    format: str
    pattern: str
    channel_names: tuple[str, ...]
    variant: str = ""
    new_channels: dict[str, Channel] = field(default_factory=dict)
    image_size: tuple[int, int] = (WINDOW, WINDOW)
    channels_last: bool = False
    columns: dict[str, Source] = field(default_factory=dict)
    extra: dict[str, Source] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    mass_definition: str = "none"
    mass_range: tuple[float, float] = (0.0, 2000.0)
    normalisation: str = "physical"
    tower_blocks: bool = False
    own_split: dict[str, str] = field(default_factory=dict)
    bad_rows: dict[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    inferred: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """Classes in the order of their number."""
        return tuple(self.labels)

    @property
    def has_physical_units(self) -> bool:
        """Whether pixel values are energies [GeV], lengths [cm] and counts."""
        return self.normalisation == "physical"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (len(self.channel_names), *self.image_size)

    def channel(self, name: str) -> Channel:
        """Unit, title and sign of a channel; where values were rescaled, the unit is arbitrary."""
        found = self.new_channels.get(name) or CHANNELS[name]
        return found if self.has_physical_units else replace(found, unit="a.u.")

    @property
    def sources(self) -> dict[str, Source]:
        """All columns, extra ones too."""
        return self.columns | self.extra

    def description_of_rows(self, label_names: Sequence[str]) -> dict[str, list | str]:
        """What a file of rows says of itself under the key `e2evit` of its metadata.

        Args:
            label_names: The classes that occur in the file.
        """
        return {
            "channel_names": list(self.channel_names),
            "image_size": list(self.image_size),
            "label_names": list(label_names),
            "normalisation": self.normalisation,
        }

    def to_dict(self) -> dict:
        """What is not a default, as [`parse_schema`] reads it."""
        record = {}
        for known in fields(self):
            value = getattr(self, known.name)
            default = known.default_factory() if known.default_factory is not MISSING else known.default
            if value != default:
                record[known.name] = _plain(value)
        return record


def parse_schema(name: str, text: Mapping, where: str) -> tuple[DatasetSchema, ...]:
    """The variants that a mapping describes: its fields, and the `variants` that add to or replace them.

    Raises:
        ValueError: for an unknown, missing or ill-typed field; it names `where`.
    """
    if not isinstance(text, Mapping):
        raise ValueError(f"{where}: a schema is a mapping of fields to values, got {type(text).__name__}.")
    common = {key: value for key, value in text.items() if key != "variants"}
    variants = text.get("variants", [{}])
    if not isinstance(variants, list) or not all(isinstance(variant, Mapping) for variant in variants):
        raise ValueError(f"{where}: `variants` is a list of mappings.")
    return tuple(_parse_variant({"name": name} | common | dict(variant), where) for variant in variants)


def _parse_variant(text: dict, where: str) -> DatasetSchema:
    known = {known.name: known for known in fields(DatasetSchema)}
    if unknown := sorted(set(text) - set(known)):
        raise ValueError(f"{where}: unknown field {', '.join(unknown)}; known ones: {', '.join(known)}.")
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if text.get("format") == "rows":
        text = {"pattern": "*.parquet"} | text
    if missing := [name for name in needed if name not in text]:
        raise ValueError(f"{where}: the field {', '.join(missing)} is missing.")
    try:
        parsed = {name: _PARSE.get(name, str)(value) for name, value in text.items()}
        schema = DatasetSchema(**parsed)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ValueError(f"{where}: a field has the wrong form ({error}).") from error
    _validate(schema, where)
    return schema


def _validate(schema: DatasetSchema, where: str) -> None:
    def demand(fine: bool, message: str) -> None:
        if not fine:
            raise ValueError(f"{where}: {message}")

    demand(schema.format in FORMATS, f"`format` is one of {', '.join(FORMATS)}, got {schema.format!r}.")
    demand(
        schema.normalisation in NORMALISATIONS,
        f"`normalisation` is one of {', '.join(NORMALISATIONS)}, got {schema.normalisation!r}.",
    )
    strange = [name for name in schema.channel_names if name not in CHANNELS and name not in schema.new_channels]
    demand(
        not strange,
        f"`channel_names` {', '.join(strange)} are neither known ({', '.join(CHANNELS)}) nor in `new_channels`.",
    )
    demand(
        len(set(schema.channel_names)) == len(schema.channel_names) > 0,
        "`channel_names` are distinct, and at least one.",
    )
    demand(len(schema.image_size) == 2 and min(schema.image_size) > 0, "`image_size` is a height and a width.")
    demand(schema.mass_range[0] < schema.mass_range[1], "`mass_range` is a smaller and a larger number.")
    strange = [name for name in schema.columns if name not in ("image", *ROW_COLUMNS)]
    demand(not strange, f"`columns` has {', '.join(strange)}; rows have image, {', '.join(ROW_COLUMNS)}.")
    demand(schema.format == "rows" or "image" in schema.columns, "`columns` says nothing of the `image`.")
    strange = [name for name in schema.optional if name not in schema.columns]
    demand(not strange, f"`optional` has {', '.join(strange)}, which `columns` does not have.")
    clash = [name for name in schema.extra if name in ROW_COLUMNS]
    demand(not clash, f"`extra` has {', '.join(clash)}, which rows have anyway.")
    one_hot = schema.columns.get("labels", Source()).one_hot
    demand(len(one_hot) in (0, len(schema.labels)), f"{len(one_hot)} columns one-hot for {len(schema.labels)} labels.")
    strange = [name for name in schema.own_split if name not in ("train", "validation", "test")]
    demand(not strange, f"`own_split` has {', '.join(strange)}; splits are train, validation, test.")


def read_schema(path: str | Path) -> tuple[DatasetSchema, ...]:
    """The variants of a schema in a YAML file; its name is `custom` unless it says another.

    Raises:
        ValueError: for a file that is missing, no YAML, or no schema.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no schema {path}.")
    try:
        text = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML ({error}).") from error
    return parse_schema("custom", text, str(path))


def row_features(schema: DatasetSchema) -> Features:
    """Columns of a sparse row, the same for every data set; a quantity that a set does not have is null.

    `pixel_index` is the flat index `(channel * height + row) * width + column`, ascending; `pixel_value` is in the
    channel's unit; `mass_labels` and `jet_mass` [GeV]; `pt` [GeV] and `eta` of the jet; `ieta`, `iphi` number the
    seed tower; `merged` tells whether the jet holds all that its heavy particle decays to, `parton` is the PDG code
    of what made it, `num_pileup` the number of collisions besides the hard one. The schema's `extra` columns follow.
    """
    columns = {name: Value(kind) for name, kind in ROW_COLUMNS.items()}
    if schema.labels:
        columns["labels"] = ClassLabel(names=list(schema.labels))
    pixels = {"pixel_index": List(Value("uint32")), "pixel_value": List(Value("float32"))}
    return Features(pixels | columns | dict.fromkeys(schema.extra, Value("float32")))


def _strings(value) -> tuple:
    return (value,) if isinstance(value, (str, int)) else tuple(value)


def _numbers(value) -> tuple[float, ...]:
    low, high = value
    return (float(low), float(high))


def _flag(value) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, got {value!r}")
    return value


_PARSE = {
    "channel_names": _strings,
    "new_channels": lambda value: {name: Channel(**channel) for name, channel in value.items()},
    "image_size": lambda value: tuple(int(side) for side in value),
    "channels_last": _flag,
    "columns": lambda value: {name: Source.parse(source) for name, source in value.items()},
    "extra": lambda value: {name: Source.parse(source) for name, source in value.items()},
    "optional": _strings,
    "labels": lambda value: {str(name): str(meaning) for name, meaning in value.items()},
    "mass_range": _numbers,
    "tower_blocks": _flag,
    "own_split": dict,
    "bad_rows": lambda value: {
        glob: tuple((int(first), int(last)) for first, last in ranges) for glob, ranges in value.items()
    },
    "inferred": _strings,
    "notes": _strings,
}


def _plain(value):
    """Tuples and dataclasses as lists and mappings."""
    if isinstance(value, (Source, Channel)):
        return {name: _plain(part) for name, part in asdict(value).items() if part not in ((), None)}
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _read_schemas() -> dict[str, tuple[DatasetSchema, ...]]:
    found = {}
    for path in sorted(files(__package__).joinpath("schemas").iterdir(), key=lambda path: path.name):
        name = path.name.removesuffix(".yaml")
        found[name] = parse_schema(name, yaml.safe_load(path.read_text()), path.name)
    return found


SCHEMAS = _read_schemas()
