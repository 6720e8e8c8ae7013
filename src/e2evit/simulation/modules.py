"""Pixel modules that give no hits; the same in every run, as in a detector."""

from functools import cache

import numpy as np

from .geometry import Layer

__all__ = ["from_working_modules"]

_SEED = 20120705  # of the map
DEAD = 0.024  # fraction of modules (chosen)
RINGS = 8  # modules on a ladder: JINST 3 (2008) S08004 section 3.2


def from_working_modules(layers: list[Layer], layer, phi, z) -> np.ndarray:
    """Whether hits lie in modules that work; strips do.

    Args:
        layer, phi, z: Of each hit: number of its layer, azimuth [radians] and position along the beam [cm].
    """
    works = np.ones(len(layer), bool)
    for number, made in enumerate(layers):
        if made.ladders:
            own = np.flatnonzero(layer == number)
            ladder = np.floor(phi[own] / (2 * np.pi) * made.ladders).astype(int) % made.ladders
            ring = np.floor((z[own] / made.half_length + 1) * RINGS / 2).astype(int).clip(0, RINGS - 1)
            works[own] = _working(number, made.ladders)[ladder, ring]
    return works


@cache
def _working(number: int, ladders: int) -> np.ndarray:
    """Which modules of a layer work, `(ladders, rings)`."""
    place = np.random.default_rng([_SEED, number]).permutation(ladders * RINGS)
    return (place >= round(DEAD * ladders * RINGS)).reshape(ladders, RINGS)
