"""Augmentations of sparse rows that the detector's symmetries allow; applied before the scatter, nearly free."""

import numpy as np

__all__ = ["eta_flip", "phi_flip"]


def eta_flip(pixel_index, pixel_value, channel_names, image_size):
    """Mirror z -> -z: rows are reversed and dz changes sign."""
    height, width = image_size
    channel, row, column = _unravel(pixel_index, image_size)
    value = np.where(_is(channel, channel_names, ("trk_dz", "trk_dz_sig")), -pixel_value, pixel_value)
    return (channel * height + height - 1 - row) * width + column, value


def phi_flip(pixel_index, pixel_value, channel_names, image_size):
    """Mirror y -> -y: columns are reversed and d0 changes sign."""
    height, width = image_size
    channel, row, column = _unravel(pixel_index, image_size)
    value = np.where(_is(channel, channel_names, ("trk_d0", "trk_d0_sig")), -pixel_value, pixel_value)
    return (channel * height + row) * width + width - 1 - column, value


def _unravel(pixel_index, image_size):
    height, width = image_size
    rest, column = np.divmod(np.asarray(pixel_index, dtype=np.int64), width)
    return rest // height, rest % height, column


def _is(channel, channel_names, names):
    """Which entries of `channel` number one of `names`."""
    return np.isin(channel, [number for number, name in enumerate(channel_names) if name in names])
