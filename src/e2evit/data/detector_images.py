"""Cells, tracks and hits of the Open Data Detector on the grid of CMS images."""

from collections.abc import Mapping, Sequence

import numpy as np

from .event_tables import EventError
from .grid import COLUMNS, ROWS, TOWER, position_in_grid, resample_endcaps
from .helix import direction, propagate
from .open_detector import OpenDetector

__all__ = ["cell_energies", "whole_image"]

MIN_TRACK_PT = 0.5  # GeV, as in MLAnalyzer
MM = 0.1  # in cm
Columns = Mapping[str, np.ndarray]


def cell_energies(cells: Columns, detector: OpenDetector) -> np.ndarray:
    """Energies of calorimeter cells [GeV], calibrated.

    Raises:
        EventError: for cells of an unknown calorimeter.
    """
    scales = {code: scale for of_channel in detector.energy_scales.values() for code, scale in of_channel.items()}
    if len(unknown := np.setdiff1d(cells["detector"], [*scales])):
        known = ", ".join(map(str, scales))
        raise EventError(f"`detector` of a cell is {unknown[0]}, expected one of {known}")
    if not detector.raw_energy:
        return cells["total_energy"]
    table = np.ones(max(scales) + 1)
    table[[*scales]] = [*scales.values()]
    return cells["total_energy"] * table[cells["detector"]]


def whole_image(
    tables: Mapping[str, Columns],
    vertex: np.ndarray,
    channel_names: Sequence[str],
    detector: OpenDetector,
    resample: bool,
) -> np.ndarray:
    """The image of an event `(channels, 280, 360)`, float32, in the channels' units.

    Cells are seen from the middle of the detector, hits from the primary vertex; tracks are where they enter the ECAL.

    Args:
        tables: Columns of `calo_hits`, `tracker_hits` and `tracks`; mm, GeV.
        vertex: x, y, z of the primary vertex [mm].
        resample: Average ECAL energies in the endcaps as CMS's converters do.

    Raises:
        EventError: for cells of an unknown calorimeter, and tracks without a momentum.
    """
    planes = _calorimeters(tables["calo_hits"], detector, resample) | _tracks(tables["tracks"], vertex, detector)
    hits = tables["tracker_hits"]
    radius = np.hypot(hits["x"], hits["y"])
    seen = direction(np.stack([hits[axis] - from_ for axis, from_ in zip("xyz", vertex)], axis=1))
    for name, (code, nearest, farthest) in detector.layers.items():
        chosen = (hits["detector"] == code) & (radius >= nearest) & (radius < farthest)
        pixel, inside = _pixels(*(angle[chosen] for angle in seen))
        planes[name] = _sums(pixel[inside])
    return np.stack([planes[name] for name in channel_names]).astype(np.float32)


def _pixels(eta: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat crystal of each direction, and whether it is on the grid."""
    row, column = (np.floor(place).astype(np.int64) for place in position_in_grid(eta, phi))
    return row * COLUMNS + column, (row >= 0) & (row < ROWS)


def _sums(pixel: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    return np.bincount(pixel, values, minlength=ROWS * COLUMNS).reshape(ROWS, COLUMNS)


def _calorimeters(cells: Columns, detector: OpenDetector, resample: bool) -> dict[str, np.ndarray]:
    energy = cell_energies(cells, detector)
    pixel, inside = _pixels(*direction(np.stack([cells[axis] for axis in "xyz"], axis=1)))
    planes = {}
    for name, scales in detector.energy_scales.items():
        chosen = inside & np.isin(cells["detector"], [*scales])
        planes[name] = _sums(pixel[chosen], energy[chosen])
    if resample:
        resample_endcaps(planes["ecal"][None])
    towers = planes["hcal"].reshape(ROWS // TOWER, TOWER, COLUMNS // TOWER, TOWER).sum(axis=(1, 3))
    planes["hcal"] = (towers / TOWER**2).repeat(TOWER, axis=0).repeat(TOWER, axis=1)
    return planes


def _tracks(tracks: Columns, vertex: np.ndarray, detector: OpenDetector) -> dict[str, np.ndarray]:
    """Sum of pT and unweighted means of d0 = -dxy and dz in each crystal, as MLAnalyzer's."""
    if (tracks["qop"] == 0).any():
        raise EventError("`qop` of a track is 0, so it has no momentum")
    x, y, z = vertex * MM
    momentum = 1 / np.abs(tracks["qop"])
    chosen = momentum * np.sin(tracks["theta"]) > MIN_TRACK_PT
    theta, phi, d0, z0 = (tracks[name][chosen] for name in ("theta", "phi", "d0", "z0"))
    momentum, d0, z0 = momentum[chosen], d0 * MM, z0 * MM
    pt, pz, sin, cos = momentum * np.sin(theta), momentum * np.cos(theta), np.sin(phi), np.cos(phi)
    # the closest point to the z axis
    start = np.stack([-d0 * sin, d0 * cos, z0], axis=1)
    four = np.stack([pt * cos, pt * sin, pz, momentum], axis=1)
    radius, half_length = (size * MM for size in detector.ecal_face)
    entry, reached = propagate(four, np.sign(tracks["qop"][chosen]), start, radius, half_length, detector.field)
    pixel, inside = _pixels(*direction(entry))
    inside &= reached
    pixel, number = pixel[inside], np.maximum(_sums(pixel[inside]), 1)
    d0 = -(d0 + x * sin - y * cos)[inside]
    dz = (z0 - z + (x * cos + y * sin) / np.tan(theta))[inside]
    return {
        "trk_pt": _sums(pixel, pt[inside]),
        "trk_d0": _sums(pixel, d0) / number,
        "trk_dz": _sums(pixel, dz) / number,
    }
