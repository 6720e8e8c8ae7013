"""What is fixed in a calorimeter: dead and noisy channels, and calibration constants that are not exact.

The maps are the same in every run, as those of a detector are; they hold no information about an event.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import ndtr, ndtri

from e2evit.data.grid import COLUMNS, ENDCAP_ROWS, ROWS, TOWER, eta_centres

from .cells import Frames
from .streams import Random, draw

__all__ = ["COARSE", "ChannelMap", "crystals", "cut_out", "miscalibrate", "read_out", "towers"]

_SEED = 20120704  # of the maps
# rows |ieta| > 20 of towers, which are ten degrees of phi wide: two columns are one channel
COARSE = np.r_[: ROWS // TOWER // 2 - 20, ROWS // TOWER // 2 + 20 : ROWS // TOWER]

# dead crystals, about 1 % in all: JINST 8 (2013) P09009 section 2; chosen: two thirds of them are whole trigger towers
DEAD_CRYSTALS, DEAD_TRIGGER_TOWERS, DEAD_TOWERS = 0.003, 0.007, 2  # fraction, fraction, number of HCAL towers
NOISY_CRYSTALS, NOISY_TOWERS, NOISY_FACTOR = 0.002, 4, 3.0  # chosen: fraction, number, noise in units of the others'
# spread of the crystals' constants in |eta| < 1, at the barrel's end, and in the endcaps: JINST 8 (2013) P09009
# section 4; of the towers': JINST 5 (2010) T03012
CRYSTAL_SPREAD, TOWER_SPREAD = (0.004, 0.010, 0.020), 0.025


@dataclass(frozen=True)
class ChannelMap:
    """The channels of a calorimeter, `(rows, columns)` each.

    Args:
        alive: Whether a channel is read out.
        noisy: Whether its noise is larger than that of the others.
        gain: Measured over true energy.
    """

    alive: np.ndarray
    noisy: np.ndarray
    gain: np.ndarray


@cache
def crystals() -> ChannelMap:
    """Those of the ECAL, pseudo-crystals of the endcaps included."""
    rng = np.random.default_rng(_SEED)
    groups = rng.random((ROWS // TOWER, COLUMNS // TOWER)) > DEAD_TRIGGER_TOWERS
    alive = np.kron(groups, np.ones((TOWER, TOWER), bool)) & (rng.random((ROWS, COLUMNS)) > DEAD_CRYSTALS)
    eta, (centre, edge, endcap) = np.abs(eta_centres(np.arange(ROWS))), CRYSTAL_SPREAD
    width = np.interp(eta, (1.0, eta[ENDCAP_ROWS]), (centre, edge))
    width = np.where(eta > eta[ENDCAP_ROWS], endcap, width)
    gain = 1 + width[:, None] * rng.standard_normal((ROWS, COLUMNS))
    return ChannelMap(alive, rng.random((ROWS, COLUMNS)) < NOISY_CRYSTALS, gain.astype(np.float32))


@cache
def towers() -> ChannelMap:
    """Those of the HCAL; both halves of a coarse one are alike."""
    rng, shape = np.random.default_rng(_SEED + 1), (ROWS // TOWER, COLUMNS // TOWER)
    gain = 1 + TOWER_SPREAD * rng.standard_normal(shape)
    channel = np.arange(gain.size).reshape(shape)
    channel[COARSE, 1::2] = channel[COARSE, ::2]
    first = np.unique(channel)
    special = np.zeros(gain.size, int)
    special[first] = rng.permutation(len(first))
    gain, special = gain.flat[channel], special[channel]
    noisy = (special >= DEAD_TOWERS) & (special < DEAD_TOWERS + NOISY_TOWERS)
    return ChannelMap(special >= DEAD_TOWERS, noisy, gain.astype(np.float32))


def miscalibrate(energy: np.ndarray, frames: Frames, channels: ChannelMap) -> None:
    """Multiply the cells of frames `(n, height, width)` by their gain, in place; frames are in cells here."""
    for image, gain in zip(energy, cut_out(channels.gain, frames)):
        image *= gain


def read_out(
    energy: np.ndarray, frames: Frames, channels: ChannelMap, noise: float | np.ndarray, cut: float, rng: Random
) -> None:
    """Add noise, drop what is below threshold or not read out; in place, `energy` is `(n, height, width)`.

    Cells without energy are not drawn one by one: those whose noise exceeds the threshold are found by the number of
    cells between them, which is geometric, and their noise is the tail of a normal distribution.

    Args:
        noise: In GeV, of all cells or of each row `(n, height)`.
        cut: Threshold in units of the noise.
    """
    noise = np.broadcast_to(noise, energy.shape[:2]).reshape(-1)
    flat, size = energy.reshape(-1), frames.height * frames.width
    frame, cell = _noisy_cells(frames, channels)
    loud = frame * size + cell
    flat[loud] += NOISY_FACTOR * noise[loud // frames.width] * draw(rng, "standard_normal", frame)
    lit = np.flatnonzero(flat != 0)  # of floats it takes three times as long
    own = noise[lit // frames.width]
    measured = flat[lit] + own * draw(rng, "standard_normal", lit // size)

    tail = float(ndtr(-cut))
    frame, cell = _fired(len(frames), size, tail, rng)
    fired = frame * size + cell
    fake = -noise[fired // frames.width] * ndtri(tail * (1 - draw(rng, "random", frame)))
    empty = flat[fired] == 0
    flat[lit] = np.where(measured < cut * own, 0, measured)
    flat[fired[empty]] = fake[empty]
    for image, alive in zip(energy, cut_out(channels.alive, frames)):
        image *= alive


def cut_out(values: np.ndarray, frames: Frames):
    """The part of a map that each frame sees; zero in a row beyond the detector."""
    around = np.pad(np.pad(values, ((1, 1), (0, 0))), ((0, 0), (0, frames.width)), mode="wrap")
    columns = frames.column % values.shape[1]
    for row, column in zip((frames.row + 1).tolist(), columns.tolist()):
        yield around[row : row + frames.height, column : column + frames.width]


def _fired(number: int, size: int, probability: float, rng: Random) -> tuple[np.ndarray, np.ndarray]:
    """Frames and cells of independent events of some probability in each of `size` cells of `number` frames."""
    expected = size * probability
    enough = int(expected + 8 * expected**0.5 + 8)
    gaps = draw(rng, "geometric", np.repeat(np.arange(number), enough), probability)
    cell = gaps.astype(np.int64).reshape(number, enough).cumsum(axis=1) - 1
    frame, drawn = np.nonzero(cell < size)
    return frame, cell[frame, drawn]


def _noisy_cells(frames: Frames, channels: ChannelMap) -> tuple[np.ndarray, np.ndarray]:
    """Frame and cell of the noisy channels."""
    row, column = np.nonzero(channels.noisy & channels.alive)
    row = row - frames.row[:, None]
    column = (column - frames.column[:, None]) % channels.noisy.shape[1]
    frame, which = np.nonzero((row >= 0) & (row < frames.height) & (column < frames.width))
    return frame, row[frame, which] * frames.width + column[frame, which]
