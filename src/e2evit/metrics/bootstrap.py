"""Intervals from resampled jets, or from resampled events where jets share them."""

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

__all__ = ["event_numbers", "intervals_of", "resamples", "weighted", "with_intervals"]


def event_numbers(event_ids: Sequence[str] | np.ndarray | None) -> np.ndarray | None:
    """The number of each jet's event; None if no two jets share one, or if none are given."""
    if event_ids is None:
        return None
    found, numbers = np.unique(np.asarray(event_ids), return_inverse=True)
    return None if len(found) == len(numbers) else numbers


def resamples(
    num_jets: int, num_resamples: int, seed: int = 0, events: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Rows of bootstrap samples: `num_jets` drawn with replacement, `num_resamples` times.

    Args:
        events: From [`event_numbers`]: whole events are drawn, since their jets are not independent.
    """
    rng = np.random.default_rng(seed)
    if events is None:
        for _ in range(num_resamples):
            yield rng.integers(0, num_jets, num_jets)
        return
    order, (_, counts) = np.argsort(events, kind="stable"), np.unique(events, return_counts=True)
    starts = np.cumsum(counts) - counts
    for _ in range(num_resamples):
        drawn = rng.integers(0, len(counts), len(counts))
        lengths = counts[drawn]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        yield order[np.repeat(starts[drawn], lengths) + within]


def weighted(*arrays: np.ndarray, weights=None) -> tuple[np.ndarray, ...]:
    """The arrays of some jets, and last their weights, if there are any.

    Raises:
        ValueError: for weights that are negative, not finite, all zero or not one for each jet.
    """
    if weights is None:
        return arrays
    weights, number = np.asarray(weights, dtype=float), len(arrays[0])
    if weights.shape != (number,) or not (np.isfinite(weights) & (weights >= 0)).all() or number > 0 == weights.sum():
        raise ValueError(f"Need a finite weight >= 0 for each of {number} jets, and not only zeros.")
    return *arrays, weights


def with_intervals(
    statistics: Callable[..., dict[str, float]],
    *arrays: np.ndarray,
    num_resamples: int = 1000,
    seed: int = 0,
    centred: Collection[str] = (),
    events: np.ndarray | None = None,
) -> dict[str, float]:
    """`statistics(*arrays)` with 95 % percentile bootstrap intervals over jets.

    All statistics of a resample use the same jets; undefined ones, e.g. where a class is missing, are dropped.

    Args:
        centred: Statistics that any fluctuation increases, such as distances between histograms. Resampling adds
            fluctuations and biases them upwards: their draws are shifted so that the mean is the measured value.
        events: As in [`resamples`].

    Returns:
        `{name: value, name_low: ..., name_high: ...}` for each statistic.
    """
    values = statistics(*arrays)
    num_jets = len(arrays[0])
    if num_jets == 0:
        return values
    draws_of_all = [
        statistics(*(array[rows] for array in arrays)) for rows in resamples(num_jets, num_resamples, seed, events)
    ]
    result = {}
    for name, value in values.items():
        draws = np.array([draw[name] for draw in draws_of_all])
        draws = draws[np.isfinite(draws)]
        if name in centred and draws.size:
            draws += value - draws.mean()
        low, high = np.percentile(draws, [2.5, 97.5]) if draws.size else (np.nan, np.nan)
        result |= {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
    return result


def intervals_of(
    jets: np.ndarray,
    statistics: Callable[..., dict[str, float]],
    *arrays: np.ndarray,
    weights: np.ndarray | None = None,
    events: np.ndarray | None = None,
    **options,
) -> dict[str, float]:
    """[`with_intervals`] of some `jets` alone, a mask, with their weights as the last array if there are any."""
    weights, events = (None if values is None else values[jets] for values in (weights, events))
    chosen = weighted(*(array[jets] for array in arrays), weights=weights)
    return with_intervals(statistics, *chosen, events=events, **options)
