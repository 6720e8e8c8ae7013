"""What a schema says of ColliderML: its detector, and the jets that are made of its events."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import FiniteFloat, PositiveFloat, StrictBool

from .columns import STRICT_KEYS

if TYPE_CHECKING:
    from .schema import DatasetSchema

__all__ = ["CLASSES", "OpenDetector", "contradictions_of_tables"]

CLASSES = {0: "qcd", 6: "top", 24: "w", 23: "z", 25: "h"}  # by the PDG code of the heavy particle
TRACK_CHANNELS = ("trk_pt", "trk_d0", "trk_dz")


@dataclass(frozen=True)
class OpenDetector:
    """The Open Data Detector as ColliderML's tables describe it.

    Args:
        energy_scales: Of the channels `ecal` and `hcal`: for each code in `detector`, what raw energies are multiplied
            by.
        raw_energy: Whether `total_energy` is the deposit in the active layers, without their sampling fraction.
        layers: Of each channel of hits: the code in `detector`, and the least and largest distance from the beam [mm].
        field: Of the solenoid [T].
        ecal_face: Radius and half length [mm] of the surface where tracks enter the ECAL.
        min_jet_pt: Least pT of a jet [GeV].
        processes: PDG codes of the heavy particles of the hard process of each sample. Jets of an event have labels
            only if all of them are among its particles.
    """

    __pydantic_config__ = STRICT_KEYS

    energy_scales: dict[str, dict[int, PositiveFloat]]
    raw_energy: StrictBool
    layers: dict[str, tuple[int, FiniteFloat, PositiveFloat]]
    field: FiniteFloat
    ecal_face: tuple[PositiveFloat, PositiveFloat]
    min_jet_pt: PositiveFloat
    processes: dict[str, tuple[int, ...]]


def contradictions_of_tables(schema: "DatasetSchema") -> Iterator[str]:
    """Fields of a schema that do not fit ColliderML's tables, or its detector."""
    detector = schema.open_detector
    if schema.format != "colliderml":
        yield f"`open_detector` is for `format: colliderml`, not {schema.format}"
        return
    if detector is None:
        yield "`open_detector` is missing: it says how the tables become images"
        return
    given = {"columns": schema.columns, "branches": schema.branches, "channels_last": schema.channels_last}
    if given := [name for name, value in given.items() if value]:
        yield f"`{'`, `'.join(given)}` is not for `format: colliderml`: its columns are made from the tables"
    if schema.one_row == "crop":
        yield "`one_row` is jet or event, got crop"
    if unknown := [name for name in schema.extra if name != "phi"]:
        yield f"`extra` has {', '.join(unknown)}, but only phi is made from the tables"
    if sorted(detector.energy_scales) != ["ecal", "hcal"]:
        yield f"`open_detector.energy_scales` is for ecal and hcal, got {', '.join(detector.energy_scales)}"
    known = (*TRACK_CHANNELS, *detector.energy_scales, *detector.layers)
    if unknown := [name for name in schema.channel_names if name not in known]:
        yield f"`channel_names` has {', '.join(unknown)}, but the tables give {', '.join(known)}"
    if schema.one_row == "jet" and "hcal" not in schema.channel_names:
        yield "`channel_names` lacks hcal, whose hottest tower near the axis is the middle of a jet's window"
    if unknown := [name for name in schema.labels if name not in CLASSES.values()]:
        yield f"`labels` has {', '.join(unknown)}, but the classes of jets are {', '.join(CLASSES.values())}"
