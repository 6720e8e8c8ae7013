"""Intervals by resampling jets."""

from collections.abc import Callable, Collection

import numpy as np

__all__ = ["with_intervals"]


def with_intervals(
    statistics: Callable[..., dict[str, float]],
    *arrays: np.ndarray,
    num_resamples: int = 1000,
    seed: int = 0,
    centred: Collection[str] = (),
) -> dict[str, float]:
    """`statistics(*arrays)` and the bounds of its 95 % percentile bootstrap interval over jets.

    All statistics of a resample are taken on the same jets; undefined ones (one class alone, say) drop out.

    Args:
        centred: Statistics that grow with any fluctuation, such as distances between histograms: resampling, which
            fluctuates once more, makes them larger than they are. The mean of theirs is shifted to the value.

    Returns:
        `{name: value, name_low: ..., name_high: ...}` for each statistic.
    """
    values = statistics(*arrays)
    if len(arrays[0]) == 0:
        return values
    rng, resampled = np.random.default_rng(seed), []
    for _ in range(num_resamples):
        chosen = rng.integers(0, len(arrays[0]), len(arrays[0]))
        resampled.append(statistics(*(array[chosen] for array in arrays)))
    result = {}
    for name, value in values.items():
        draws = np.array([draw[name] for draw in resampled])
        draws = draws[np.isfinite(draws)]
        if name in centred and draws.size:
            draws += value - draws.mean()
        low, high = np.percentile(draws, [2.5, 97.5]) if draws.size else (np.nan, np.nan)
        result |= {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
    return result
