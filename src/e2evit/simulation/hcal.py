"""Towers: noise, threshold, and the coarse phi of the endcap."""

from dataclasses import replace
from functools import cache

import numpy as np

from e2evit.data.grid import COLUMNS, ROWS, TOWER

from .cells import Frames, spread
from .channels import COARSE, ChannelMap, miscalibrate, read_out, towers
from .geometry import Geometry
from .streams import Random, white_noise

__all__ = ["NOISE", "TOWER_COLUMNS", "TOWER_ROWS", "tower_energy"]

TOWER_ROWS, TOWER_COLUMNS = ROWS // TOWER, COLUMNS // TOWER
NOISE, THRESHOLD = 0.200, 0.600  # GeV per tower: CMS-PAS-JME-10-003 and the zero suppression of its towers


def tower_energy(num_events: int, impacts, geometry: Geometry, rng: Random) -> np.ndarray:
    """Energy of each tower above threshold [GeV], `(num_events, 56, 72)`, 0 elsewhere.

    Beyond |ieta| = 20 CMS's towers are ten degrees wide; in the image each half of such a tower has half its energy.
    """
    everything = Frames(
        np.arange(num_events), np.zeros(num_events, int), np.zeros(num_events, int), TOWER_ROWS, TOWER_COLUMNS
    )
    half_width = np.where(impacts["width"] < 0, 0, 1) if "out_of_time" in geometry.effects else 1
    energy = spread(everything, impacts, half_width, TOWER_ROWS, TOWER_COLUMNS)
    if "calibration" in geometry.effects:
        miscalibrate(energy, everything, towers())
    if "channels" in geometry.effects:
        energy[:, COARSE, ::2] += energy[:, COARSE, 1::2]
        energy[:, COARSE, 1::2] = 0
        read_out(energy, everything, _channels(), NOISE, THRESHOLD / NOISE, rng)
        wide = energy[:, COARSE, ::2] / 2
    else:
        wide = energy[:, COARSE].reshape(num_events, len(COARSE), -1, 2).sum(axis=3)
        wide = _read_out(wide, rng) / 2
        energy = _read_out(energy, rng)
    energy[:, COARSE] = np.repeat(wide, 2, axis=2)
    return energy


@cache
def _channels() -> ChannelMap:
    """The towers; the second half of a coarse one has no channel of its own."""
    alive = towers().alive.copy()
    alive[COARSE, 1::2] = False
    return replace(towers(), alive=alive)


def _read_out(energy: np.ndarray, rng: Random) -> np.ndarray:
    energy = energy + white_noise(rng, energy.shape) * np.float32(NOISE)
    return np.where(energy < THRESHOLD, np.float32(0), energy)
