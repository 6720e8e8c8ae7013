"""Crystals: noise, threshold, and the endcaps as CMS's converter writes them."""

import numpy as np

from e2evit.data.grid import COLUMNS, ENDCAP_FACTOR, ENDCAP_ROWS, ROWS

from .cells import Frames, pick, shower_cells, spread
from .channels import crystals, miscalibrate, read_out
from .geometry import Geometry
from .showers import FAINT, half_widths
from .streams import Random, white_noise

__all__ = ["CUT", "ENDCAP_NOISE", "NOISE", "REACH", "crystal_energy", "resample_endcap"]

# crystals beyond a window from which energy comes into it: a shower, and one of a 2 x 2 block of the endcap
REACH = 3
# GeV per crystal in barrel and endcaps, half of the thresholds of cells in table 2 of JINST 12 (2017) P10003; cut at
# three times that
NOISE, ENDCAP_NOISE, CUT = 0.040, 0.150, 3.0


def crystal_energy(frames: Frames, impacts, geometry: Geometry, rng: Random) -> np.ndarray:
    """Energy E, not E_T, of each crystal above threshold [GeV], `(n, height, width)`, 0 elsewhere."""
    # one more crystal on each side, for the 2 x 2 blocks of the endcap that the border cuts
    grown = frames.grown(1) if frames.width < COLUMNS else frames
    faint = FAINT if "showers" in geometry.effects else 0.0
    late = impacts["width"] < 0
    in_time, late = pick(impacts, ~late), pick(impacts, late)
    energy = spread(grown, in_time, half_widths(in_time, faint), ROWS, COLUMNS)
    if len(late):
        # a crystal whose signal comes mostly at other times is recognised by its pulse, and dropped
        index, rest = shower_cells(grown, late, 0, ROWS, COLUMNS)
        rest, flat = np.bincount(index, rest, minlength=energy.size)[index], energy.reshape(-1)
        flat[index] = np.where(np.abs(rest) < flat[index], flat[index] + rest, 0)
    if "calibration" in geometry.effects:
        miscalibrate(energy, grown, crystals())
    rows = grown.row[:, None] + np.arange(grown.height)
    in_endcap = (rows < ENDCAP_ROWS) | (rows >= ROWS - ENDCAP_ROWS)
    noise = np.where(in_endcap, np.float32(ENDCAP_NOISE), np.float32(NOISE))
    if "channels" in geometry.effects:
        read_out(energy, grown, crystals(), noise, CUT, rng)
    else:
        energy += white_noise(rng, energy.shape) * noise[:, :, None]
        energy[energy < CUT * noise[:, :, None]] = 0.0
        energy[(rows < 0) | (rows >= ROWS)] = 0.0
    energy = resample_endcap(energy, grown)
    return energy if grown is frames else energy[:, 1:-1, 1:-1]


def resample_endcap(energy: np.ndarray, frames: Frames) -> np.ndarray:
    """Endcap pseudo-crystals in blocks of 2 x 2, each with a sixteenth of the block's sum.

    CMS's converter (resample_EE of MLAnalyzer's convertRootFiles) divides by four twice, so energies in the endcaps
    are a quarter of the measured ones; networks trained on CMS images expect that. Blocks start at an even column; in
    rows they start next to the barrel on the positive side, one row outside the grid on the negative side.
    """
    rows = np.arange(-1, ROWS + 1)
    # the block of each row of the grid, -1 for the barrel
    block = np.where(
        rows < ENDCAP_ROWS, (rows + 1) // 2, np.where(rows >= ROWS - ENDCAP_ROWS, (rows - ROWS + ENDCAP_ROWS) // 2, -1)
    )
    touched = (frames.row < ENDCAP_ROWS) | (frames.row + frames.height > ROWS - ENDCAP_ROWS)
    for frame in np.flatnonzero(touched):
        inside = np.clip(frames.row[frame] + np.arange(frames.height), -1, ROWS)
        row_block, image = block[inside + 1], energy[frame]
        odd = int(frames.column[frame]) % 2
        endcap = np.flatnonzero(row_block >= 0)
        # sum over pairs of rows (where the block number changes), then over pairs of columns
        starts = np.flatnonzero(np.diff(row_block[endcap] * 2 + (inside[endcap] > ROWS // 2), prepend=-1))
        pairs = np.add.reduceat(image[endcap], starts, axis=0)
        padded = np.pad(pairs, ((0, 0), (odd, (frames.width + odd) % 2)))
        summed = padded[:, ::2] + padded[:, 1::2]
        wide = np.repeat(summed, 2, axis=1)[:, odd : odd + frames.width] / (4 * ENDCAP_FACTOR)
        image[endcap] = np.repeat(wide, np.diff(starts, append=len(endcap)), axis=0)
    return energy
