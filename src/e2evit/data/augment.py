"""Augmentations of sparse rows that the detector's symmetries allow; applied before the scatter, nearly free."""

from collections.abc import Sequence

import numpy as np

__all__ = ["eta_flip", "phi_flip"]


def eta_flip(
    pixel_index: np.ndarray, pixel_value: np.ndarray, channel_names: Sequence[str], image_size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mirror z -> -z: rows are reversed and dz changes sign.

    Args:
        pixel_index, pixel_value: Of any number of images, one after the other.
        channel_names, image_size: As for a row.
    """
    height, width = image_size
    line, column = np.divmod(pixel_index.astype(np.int32), np.int32(width))
    channel = line // np.int32(height)
    # row r of channel c becomes height - 1 - r: the line c * height + r becomes (2 c + 1) * height - 1 - line
    mirrored = ((2 * channel + 1) * height - 1 - line) * width + column
    return mirrored, pixel_value * _signs(channel_names, ("trk_dz", "trk_dz_sig"))[channel]


def phi_flip(
    pixel_index: np.ndarray, pixel_value: np.ndarray, channel_names: Sequence[str], image_size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mirror y -> -y: columns are reversed and d0 changes sign; arguments as for [`eta_flip`]."""
    height, width = image_size
    line, column = np.divmod(pixel_index.astype(np.int32), np.int32(width))
    channel = line // np.int32(height)
    return line * width + (width - 1 - column), pixel_value * _signs(channel_names, ("trk_d0", "trk_d0_sig"))[channel]


def _signs(channel_names: Sequence[str], changing: Sequence[str]) -> np.ndarray:
    """-1 for channels whose values change sign, else 1."""
    return np.array([-1 if name in changing else 1 for name in channel_names], np.float32)
