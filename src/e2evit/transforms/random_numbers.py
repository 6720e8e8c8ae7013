"""Random numbers that are a function of integers: the same in any batch and order, on all devices up to rounding."""

import math

import torch

__all__ = ["largest_count", "normal", "poisson", "uniform"]

_MASK = 0xFFFFFFFF
# "lowbias32" of https://github.com/skeeto/hash-prospector; the second multiplier is negative modulo 2**32, so that no
# product leaves 64 bits
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32


def uniform(*keys: torch.Tensor | int) -> torch.Tensor:
    """Numbers in [0, 1), float32, for integer keys that broadcast, at least one of them a tensor."""
    return (_hash(*keys) >> 8).float() * 2**-24


def normal(*keys: torch.Tensor | int) -> torch.Tensor:
    """Normal numbers of mean 0 and deviation 1, float32; keys as for [`uniform`]."""
    radius = (-2 * torch.log1p(-uniform(*keys, 0))).sqrt()
    return radius * torch.cos(2 * math.pi * uniform(*keys, 1))


def poisson(mean: float, *keys: torch.Tensor | int) -> torch.Tensor:
    """Poisson numbers, int64, at most [`largest_count`]; keys as for [`uniform`]."""
    drawn = uniform(*keys)
    counts = torch.arange(largest_count(mean), dtype=torch.float64, device=drawn.device)
    logarithm = counts * math.log(mean) - mean - torch.lgamma(counts + 1)
    return torch.searchsorted(logarithm.exp().cumsum(0), drawn.double(), right=True)


def largest_count(mean: float) -> int:
    """A bound that a Poisson number of this mean exceeds with a probability below 1e-9."""
    return math.ceil(mean + 7 * math.sqrt(mean) + 12)


def _hash(*keys: torch.Tensor | int):
    """32 bits that depend on all bits of all keys and on their order."""
    value = 0x9E3779B9
    for key in keys:
        for part in (key & _MASK, (key >> 32) & _MASK):
            value = _mix(value ^ part)
    return value


def _mix(value):
    value = value ^ (value >> 16)
    value = (value * _FIRST) & _MASK
    value = value ^ (value >> 15)
    value = (value * _SECOND) & _MASK
    return value ^ (value >> 16)
