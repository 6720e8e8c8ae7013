"""Pixel clusters: their size, and how two become one."""

import numpy as np

from .crowding import close_pairs

__all__ = ["merged_clusters"]

# JINST 3 (2008) S08004 section 3.2: cells of 100 x 150 um² in r phi and z, sensors 285 um thick [cm]
PITCH, LENGTH, THICKNESS = 0.0100, 0.0150, 0.0285
WIDTH = 2  # cells in r phi: in 3.8 T the charge drifts at 25 degrees, 0.013 cm over the thickness


def merged_clusters(group, radius, phi, z) -> np.ndarray:
    """Which hits are left of the pixel hits given, if those whose clusters touch become one: the one of smaller phi.

    A cluster is two cells wide and as long as the particle's path in the sensor. Two touch if no cell between them is
    empty.

    Args:
        group: Of each hit, the layer and the frame.
        radius, phi, z: Of each hit, relative to the vertex [cm, radians, cm].
    """
    arc, width = radius * np.mod(phi, 2 * np.pi), (WIDTH + 1) * PITCH
    first, second = close_pairs(group, arc, width)
    length = THICKNESS * np.abs(z) / radius + 2 * LENGTH
    touch = np.abs(z[second] - z[first]) < np.maximum(length[first], length[second])
    kept = np.ones(len(arc), bool)
    kept[second[touch]] = False
    return kept
