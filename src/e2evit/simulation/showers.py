"""Shapes of single showers: how deep they start and how wide they are, and the clusters a hadron's energy falls into.

The energy of a shower is shared among cells, never changed. Numbers are chosen where no source is cited.
"""

import numpy as np

from e2evit.data.grid import COLUMNS, TOWER
from e2evit.data.helix import FIELD_TESLA

from .streams import Random, draw

__all__ = ["CLUSTER_REACH", "FAINT", "MAX_TURN", "half_widths", "shaped_showers"]

# JINST 3 (2008) S08004, section 4 for lead tungstate, 5 for brass; the gap is from the face of the ECAL to the HCAL.
# All in cm, the critical energy in GeV
CRYSTAL_LENGTH, CRYSTAL_RADIATION, CRYSTAL_INTERACTION, CRITICAL_ENERGY = 23.0, 0.89, 20.7, 0.0096
HCAL_GAP, BRASS_INTERACTION = 48.0, 16.4
# columns that a particle moves on between the face of the ECAL and its shower; below 2 GeV it would be more
MAX_TURN = 2 * TOWER
WIDTH_SPREAD = 0.15  # relative, of the width of a shower
CLUSTER_WIDTH = 0.2  # crystals: most clusters of a hadron's shower in the ECAL are electromagnetic
# clusters of a hadron's shower in ECAL and HCAL: least energy of the shower [GeV], their number, and their distance
# from the first one in cells; the first one has on average twice the energy of another
ECAL_CLUSTERS, HCAL_CLUSTERS = (1.0, 5, 1.3), (5.0, 2, 0.2)
CLUSTER_REACH = 2.3  # standard deviations of this distance
FAINT = 3.0  # GeV; a fainter shower leaves less than 5 MeV in each crystal beyond 3 x 3


def shaped_showers(ecal, hcal, pdg_id, late, slant, arrival, rng: Random) -> tuple[np.ndarray, np.ndarray]:
    """Showers in ECAL and HCAL, as `IMPACT`, with a shape of their own.

    Args:
        ecal, hcal: What each particle leaves there, at the point where it crosses the face of the ECAL.
        pdg_id: Absolute value, of the particles.
        late: Depth at which a hadron starts to shower, in interaction lengths behind the ECAL; negative inside.
        slant: 1 / sin(theta).
        arrival: Points [cm], momenta [GeV] and charges of the particles at the face of the ECAL.
    """
    event, electromagnetic = ecal["event"], np.isin(pdg_id, (11, 22))
    in_ecal = (late < 0) & ~electromagnetic & (pdg_id != 13)
    start = np.where(pdg_id == 22, draw(rng, "exponential", event, 9 / 7), 0.0)  # radiation lengths: RPP 2022, 34.5
    maximum = np.log(np.maximum(ecal["energy"], 0.05) / CRITICAL_ENERGY) - 0.5
    depth = np.where(
        electromagnetic,
        CRYSTAL_RADIATION * (start + maximum),
        np.where(in_ecal, CRYSTAL_LENGTH + CRYSTAL_INTERACTION * (late + 0.2), CRYSTAL_LENGTH / 2),
    )
    ecal["column"] += _turn(arrival, depth.clip(0, CRYSTAL_LENGTH))
    behind = BRASS_INTERACTION * (late.clip(0, 4) + 0.5)
    hcal["column"] += _turn(arrival, HCAL_GAP * slant + behind) / TOWER

    # ionisation alone lights the crystal that is crossed
    width = np.where(electromagnetic, ecal["width"], np.where(in_ecal, CLUSTER_WIDTH, 0.0))
    shape = WIDTH_SPREAD**-2
    ecal["width"] = width * draw(rng, "gamma", event, shape) / shape
    ecal = _divided(ecal, in_ecal, ECAL_CLUSTERS, COLUMNS, rng)
    return ecal, _divided(hcal, pdg_id != 13, HCAL_CLUSTERS, COLUMNS // TOWER, rng)


def _turn(arrival, path) -> np.ndarray:
    """Columns that particles move on over a path [cm] behind the face of the ECAL, in the field."""
    point, momentum, charge = arrival
    step = path / np.sqrt((momentum[:, :3] ** 2).sum(axis=1)).clip(1e-9)
    bend = -0.0015 * FIELD_TESLA * charge * step  # the chord of an arc turns by half its angle
    px, py = momentum[:, 0] - bend * momentum[:, 1], momentum[:, 1] + bend * momentum[:, 0]
    turn = np.arctan2(point[:, 1] + step * py, point[:, 0] + step * px) - np.arctan2(point[:, 1], point[:, 0])
    turn = np.degrees(np.mod(turn + np.pi, 2 * np.pi) - np.pi)
    return turn.clip(-MAX_TURN, MAX_TURN)


def _divided(impacts, selected, clusters: tuple[float, int, float], period: int, rng: Random) -> np.ndarray:
    """The selected showers above an energy fall into clusters around the first one, with random shares of it; columns
    are again less than `period`."""
    least, number, distance = clusters
    counts = np.where(selected & (impacts["energy"] > least), number, 1)
    shower = np.repeat(np.arange(len(impacts)), counts)
    pieces = impacts.take(shower)
    first = np.diff(shower, prepend=-1) > 0
    weight = draw(rng, "gamma", pieces["event"], np.where(first, 2.0, 1.0))
    pieces["energy"] *= weight / np.bincount(shower, weight, minlength=len(impacts))[shower]
    later = np.flatnonzero(~first)
    for name in ("row", "column"):
        away = draw(rng, "normal", pieces["event"][later], 0.0, distance)
        pieces[name][later] += away.clip(-CLUSTER_REACH * distance, CLUSTER_REACH * distance)
    column = np.mod(pieces["column"], period)
    pieces["column"] = np.where(column < period, column, 0)  # single precision rounds up
    return pieces


def half_widths(impacts: np.ndarray, faint: float) -> np.ndarray:
    """Crystals on each side of the one that is hit over which a shower spreads: fewer below `faint` [GeV]."""
    return np.where(impacts["width"] <= 0, 0, np.where(impacts["energy"] < faint, 1, 2))
