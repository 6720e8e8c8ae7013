"""Towers: noise, threshold, the coarse phi of the endcap, and the seed tower of a jet."""

from dataclasses import replace
from functools import cache

import numpy as np

from e2evit.data.grid import COLUMNS, ROWS, TOWER, position_in_grid

from .cells import Frames, spread
from .channels import COARSE, ChannelMap, miscalibrate, read_out, towers
from .geometry import Geometry
from .streams import Random, white_noise

__all__ = ["NOISE", "TOWER_COLUMNS", "TOWER_ROWS", "seed_towers", "tower_energy"]

TOWER_ROWS, TOWER_COLUMNS = ROWS // TOWER, COLUMNS // TOWER
NOISE, THRESHOLD = 0.200, 0.600  # GeV per tower: CMS-PAS-JME-10-003 and the zero suppression of its towers
SEED_SEARCH = 3  # towers on each side of the axis: 7 x 7
SEED_MIN_ENERGY = 5.0  # GeV; below it, noise and pile-up would place the window of a photon jet


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


def seed_towers(
    towers: np.ndarray, event, eta, phi, rows: tuple[int, int] = (0, TOWER_ROWS - 1)
) -> tuple[np.ndarray, np.ndarray]:
    """Row (jetSeed_ieta) and column (jetSeed_iphi) of the hottest of the 7 x 7 towers around each jet axis.

    If none reaches 5 GeV, the tower on the axis is the seed: a jet of two photons leaves nothing in the HCAL.

    Args:
        towers: `(num_events, 56, 72)` [GeV].
        event, eta, phi: `(n,)` of the jets; phi in radians.
        rows: First and last row in which a seed may lie.
    """
    row, column = (np.floor(x).astype(np.int64) // TOWER for x in position_in_grid(eta, phi))
    search = np.arange(-SEED_SEARCH, SEED_SEARCH + 1)
    near_rows = np.clip(row[:, None] + search, *rows)
    near_columns = (column[:, None] + search) % TOWER_COLUMNS
    window = towers[np.asarray(event)[:, None, None], near_rows[:, :, None], near_columns[:, None, :]]
    window = window.reshape(len(window), -1)
    hottest, index = window.argmax(axis=1), np.arange(len(window))
    real = window[index, hottest] >= SEED_MIN_ENERGY
    seed_row, seed_column = near_rows[index, hottest // search.size], near_columns[index, hottest % search.size]
    return np.where(real, seed_row, row), np.where(real, seed_column, column)
