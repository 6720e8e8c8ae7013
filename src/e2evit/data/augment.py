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
    height, width = np.array(image_size, np.uint32)
    line, column, channel = _locate(pixel_index, height, width)
    # line c * height + r becomes c * height + (height - 1 - r)
    mirrored = ((2 * channel + 1) * height - 1 - line) * width + column
    return mirrored, _negate(pixel_value, channel, channel_names, ("trk_dz", "trk_dz_sig"))


def phi_flip(
    pixel_index: np.ndarray, pixel_value: np.ndarray, channel_names: Sequence[str], image_size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mirror y -> -y: columns are reversed and d0 changes sign; arguments as for [`eta_flip`]."""
    height, width = np.array(image_size, np.uint32)
    line, column, channel = _locate(pixel_index, height, width)
    mirrored = line * width + (width - 1 - column)
    return mirrored, _negate(pixel_value, channel, channel_names, ("trk_d0", "trk_d0_sig"))


def _locate(pixel_index, height, width):
    """Line (channel * height + row), column and channel; unsigned, which numpy divides several times faster."""
    index = pixel_index.astype(np.uint32)
    line = index // width
    return line, index - line * width, line // height


def _negate(pixel_value, channel, channel_names, changing):
    """Values with the other sign in the channels called `changing`."""
    for number, name in enumerate(channel_names):
        if name in changing:
            pixel_value = np.where(channel == number, -pixel_value, pixel_value)
    return pixel_value
