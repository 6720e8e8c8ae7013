"""Sparse images of windows around jets, or of the whole detector, from the detector's response."""

import numpy as np

from e2evit.data.grid import COLUMNS, ROWS, SEED_ROWS, TOWER, WINDOW
from e2evit.data.sparse import list_array

from .cells import Frames
from .detector import Response
from .ecal import crystal_energy
from .geometry import Geometry
from .silicon import hit_channels
from .streams import Random
from .tracker import track_channels

__all__ = ["jet_windows", "render", "whole_detector"]


def jet_windows(event, ieta, iphi) -> Frames:
    """The 125 x 125 crystals around each seed tower.

    Raises:
        ValueError: for a seed whose window leaves the grid.
    """
    if len(ieta) and (ieta.min() < SEED_ROWS[0] or ieta.max() > SEED_ROWS[1]):
        raise ValueError(f"Seed rows must lie in {SEED_ROWS} for a whole window, got {ieta.min()}..{ieta.max()}.")
    reach = WINDOW // TOWER // 2
    return Frames(event, (ieta - reach) * TOWER, (iphi - reach) * TOWER, WINDOW, WINDOW)


def whole_detector(event) -> Frames:
    """All 280 x 360 crystals of each event."""
    zero = np.zeros(len(event), int)
    return Frames(event, zero, zero, ROWS, COLUMNS)


def render(frames: Frames, response: Response, towers: np.ndarray, geometry: Geometry, rng: Random):
    """Images of frames that start at the corner of a tower, as sparse columns.

    Args:
        towers: Energy of the HCAL towers `(num_events, 56, 72)` [GeV]; each becomes 5 x 5 equal pixels of 1/25 of its
            energy, as in CMS's converter.

    Returns:
        `pixel_index` (uint32, ascending) and `pixel_value` (float32), Arrow lists with one entry for each frame.
    """
    crystals = crystal_energy(frames, response.ecal, geometry, rng).reshape(-1)
    pixel = np.flatnonzero(crystals != 0)
    channels = {"ecal": (pixel, crystals[pixel]), "hcal": _tower_pixels(frames, towers)}
    channels |= track_channels(frames, response.tracks, response.vertex_z, COLUMNS)
    channels |= hit_channels(frames, response.silicon, response.vertex_z, geometry)

    size, number = frames.height * frames.width, len(geometry.channel_names)
    keys, values = [], []
    for channel, name in enumerate(geometry.channel_names):
        pixel, value = channels[name]
        value = np.asarray(value, np.float32)
        pixel, value = pixel[value != 0], value[value != 0]
        keys.append(pixel + (pixel // size * (number - 1) + channel) * size)
        values.append(value)
    key, value = np.concatenate(keys), np.concatenate(values)
    order = np.argsort(key, kind="stable")
    frame, index = np.divmod(key[order], number * size)
    counts = np.bincount(frame, minlength=len(frames))
    return list_array(index.astype(np.uint32), counts), list_array(value[order], counts)


def _tower_pixels(frames: Frames, towers: np.ndarray):
    rows = frames.row[:, None] // TOWER + np.arange(frames.height // TOWER)
    columns = (frames.column[:, None] // TOWER + np.arange(frames.width // TOWER)) % towers.shape[2]
    energy = towers[frames.event[:, None, None], rows[:, :, None], columns[:, None, :]] / TOWER**2
    frame, row, column = np.nonzero(energy != 0)
    within = np.arange(TOWER)
    pixel = (frame[:, None, None] * frames.height + row[:, None, None] * TOWER + within[:, None]) * frames.width
    pixel = pixel + column[:, None, None] * TOWER + within
    return pixel.reshape(-1), np.repeat(energy[frame, row, column], TOWER**2)
