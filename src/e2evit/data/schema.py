"""The one table of data sets: what their files are called inside, what the numbers mean, where it comes from.

A fact that nobody has seen in the files themselves is listed under `inferred`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, List, Value

from .grid import WINDOW

__all__ = ["CHANNELS", "SCHEMAS", "Channel", "DatasetSchema", "find_schema", "row_features"]


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
_TOP8 = ("trk_pt", "trk_d0", "trk_dz", "ecal", "hcal", "bpix1", "bpix2", "bpix3")


@dataclass(frozen=True)
class DatasetSchema:
    r"""One data set.

    Args:
        layout: `"rows"` (our sparse Parquet), `"hdf5"` (dense, one array) or `"nested_parquet"` (dense nested lists).
        pattern: Glob of the files in `data_dir`.
        channel_names: In the order of the file.
        image_size: Height (eta) and width (phi) in pixels.
        channels_last: Whether a dense image ends in its channels.
        columns: Our column name to the file's, e.g. `{"mass_labels": "m"}`; a column that is absent becomes null.
        optional: Those of `columns` that a file may lack.
        label_names: Classes in the order of their index; empty if the files hold no classes.
        mass_definition: What `mass_labels` [GeV] is.
        mass_range: Masses [GeV] outside are an error.
        normalisation: `"physical"` (units as in `CHANNELS`) or `"max_scaled_255"` (each image and channel to 0..255).
        inferred: Statements of this entry that nobody has verified on the files.
    """

    name: str
    description: str
    layout: str
    pattern: str
    channel_names: tuple[str, ...]
    columns: dict[str, str]
    label_names: tuple[str, ...]
    mass_definition: str
    source: str
    licence: str
    image_size: tuple[int, int] = (WINDOW, WINDOW)
    channels_last: bool = False
    optional: tuple[str, ...] = ()
    mass_range: tuple[float, float] = (0.0, 2000.0)
    normalisation: str = "physical"
    inferred: tuple[str, ...] = ()

    @property
    def has_physical_units(self) -> bool:
        """Whether pixel values are energies [GeV], lengths [cm] and counts."""
        return self.normalisation == "physical"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (len(self.channel_names), *self.image_size)

    def description_of_rows(self, label_names: Sequence[str]) -> dict[str, list]:
        """What a file of rows says of itself under the key `e2evit` of its metadata.

        Args:
            label_names: The classes that occur in the file.
        """
        return {
            "channel_names": list(self.channel_names),
            "image_size": list(self.image_size),
            "label_names": list(label_names),
        }


SCHEMAS = {
    schema.name: schema
    for schema in (
        DatasetSchema(
            name="simulated",
            description="Jets of our own fast simulation (scripts/simulate.py); not CMS simulation, not CMS data.",
            layout="rows",
            pattern="*.parquet",
            channel_names=_TOP8,
            columns={},
            label_names=(
                *("qcd", "top", "w", "z", "h"),
                *("x_bb", "x_qq", "x_gg", "x_tautau", "x_gammagamma", "x_top"),
            ),
            mass_definition="generator mass of the heavy particle; `jet_mass` is the particle-level mass of the jet",
            source="scripts/simulate.py",
            licence="Apache-2.0",
        ),
        DatasetSchema(
            name="labelled",
            description="Labelled jets of the linear-ViT task: contiguous HDF5, pixels max-scaled to 0..255.",
            layout="hdf5",
            pattern="*.h5",
            channel_names=_TOP8,
            channels_last=True,
            columns={"image": "jet", "labels": "Y", "mass_labels": "m", "pt": "pT"},
            optional=("mass_labels", "pt"),
            normalisation="max_scaled_255",
            label_names=("qcd", "top"),
            mass_definition="a jet mass (both classes have it), reconstructed or particle-level unknown",
            source="CERNBox e3pqxcIznqdYyRv, NERSC portal m4392/G25",
            licence="not stated; CMS Open Data itself is CC0",
            inferred=(
                "class 1 is top",
                "order of trk_d0 and trk_dz",
                "masses in GeV",
                "pixels are max-scaled per image and channel, so absolute energies are lost",
            ),
        ),
        DatasetSchema(
            name="top_mass",
            description="Boosted top quarks flat in mass and pT ('top gun'): Parquet with one jet a row group.",
            layout="nested_parquet",
            pattern="*.parquet",
            channel_names=("trk_pt", "trk_dz", "trk_d0", "ecal", "hcal", "bpix1", "bpix2", "bpix3"),
            columns={"image": "X_jet", "mass_labels": "m", "pt": "pt", "ieta": "ieta", "iphi": "iphi"},
            label_names=(),
            mass_definition="generator mass of the top quark",
            mass_range=(0.0, 1000.0),
            source="CERNBox zUvpkKhXIp0MJ0g",
            licence="not stated; CMS Open Data itself is CC0",
            inferred=("order of trk_dz and trk_d0",),
        ),
    )
}


def find_schema(name: str, data_dir: str | Path | None = None) -> DatasetSchema:
    """The entry called `name`; with `data_dir`, with the channels, grid and classes of the rows in that folder.

    Files of rows describe themselves, so simulated data sets of eight or thirteen channels, of jets or of the whole
    detector, of two or of eleven classes are all `"simulated"`.

    Raises:
        ValueError: for an unknown name, naming the known entries, or for files of different kinds in one folder.
    """
    if name not in SCHEMAS:
        raise ValueError(f"There is no data set {name!r}; known ones: {', '.join(SCHEMAS)}.")
    schema = SCHEMAS[name]
    if data_dir is None or schema.layout != "rows":
        return schema
    described = {}
    for path in sorted(Path(data_dir).glob(schema.pattern)):
        try:
            found = (pq.read_schema(path).metadata or {}).get(b"e2evit")
        except (pa.ArrowInvalid, OSError):
            continue  # the reader will say what is wrong with it
        if found:
            described[path] = json.loads(found)
    if not described:
        return schema
    first, of_first = next(iter(described.items()))
    for path, description in described.items():
        for key in ("channel_names", "image_size"):
            if description[key] != of_first[key]:
                raise ValueError(
                    f"{path} has the {key} {description[key]} and {first} {of_first[key]}: they are different data "
                    "sets, and belong in different folders."
                )
    present = {label for description in described.values() for label in description["label_names"]}
    return replace(
        schema,
        channel_names=tuple(of_first["channel_names"]),
        image_size=tuple(of_first["image_size"]),
        label_names=tuple(label for label in schema.label_names if label in present),
    )


def row_features(schema: DatasetSchema) -> Features:
    """Columns of a sparse row, the same for every data set; a quantity that a set does not have is null.

    `pixel_index` is the flat index `(channel * height + row) * width + column`, ascending; `pixel_value` is in the
    channel's unit; `mass_labels` and `jet_mass` [GeV]; `pt` [GeV] and `eta` of the jet; `ieta`, `iphi` number the
    seed tower; `merged` tells whether the jet holds all that its heavy particle decays to, `parton` is the PDG code
    of what made it, `num_pileup` the number of collisions besides the hard one.
    """
    return Features(
        {
            "pixel_index": List(Value("uint32")),
            "pixel_value": List(Value("float32")),
            "labels": ClassLabel(names=list(schema.label_names)) if schema.label_names else Value("int64"),
            "mass_labels": Value("float32"),
            "jet_mass": Value("float32"),
            "pt": Value("float32"),
            "eta": Value("float32"),
            "ieta": Value("int32"),
            "iphi": Value("int32"),
            "merged": Value("bool"),
            "parton": Value("int32"),
            "num_pileup": Value("int32"),
            "event_id": Value("string"),
        }
    )
