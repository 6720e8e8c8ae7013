"""Random numbers of many events: from one generator, or from one for each event.

With one for each, an event's numbers do not depend on the events that it is simulated with.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["EventStreams", "Random", "draw", "white_noise"]


class EventStreams:
    """A generator for each event of a batch.

    Args:
        generators: In the order of the events.
    """

    def __init__(self, generators: Sequence[np.random.Generator]):
        self.generators = list(generators)


Random = np.random.Generator | EventStreams


def draw(rng: Random, distribution: str, event: np.ndarray, *parameters) -> np.ndarray:
    """A random number for each entry of `event`, which ascends.

    Args:
        distribution: Name of a method of NumPy's generators.
        parameters: Of the distribution, numbers or arrays as long as `event`.
    """
    if not isinstance(rng, EventStreams):
        return getattr(rng, distribution)(*parameters, size=len(event))
    bounds = np.searchsorted(event, np.arange(len(rng.generators) + 1)).tolist()
    spans = [span for span in zip(rng.generators, bounds[:-1], bounds[1:]) if span[1] < span[2]]
    if distribution in _STANDARD:
        name, scaled = _STANDARD[distribution]
        numbers = np.empty(len(event))
        for generator, start, stop in spans:
            getattr(generator, name)(out=numbers[start:stop])
        return scaled(numbers, *parameters)
    each = [np.ndim(values) > 0 for values in parameters]
    parts = []
    for generator, start, stop in spans:
        own = [values[start:stop] if is_array else values for values, is_array in zip(parameters, each)]
        parts.append(getattr(generator, distribution)(*own, size=stop - start))
    return np.concatenate(parts) if parts else np.zeros(0)


# distributions that are another one, scaled: NumPy computes the same numbers, faster
_STANDARD = {
    "random": ("random", lambda numbers: numbers),
    "standard_normal": ("standard_normal", lambda numbers: numbers),
    "normal": ("standard_normal", lambda numbers, mean, width: mean + width * numbers),
    "exponential": ("standard_exponential", lambda numbers, scale: scale * numbers),
}


def white_noise(rng: Random, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers in single precision; with a generator for each event, the first axis is the events."""
    if not isinstance(rng, EventStreams):
        return rng.standard_normal(shape, dtype=np.float32)
    noise = np.empty(shape, np.float32)
    for generator, own in zip(rng.generators, noise, strict=True):
        generator.standard_normal(dtype=np.float32, out=own)
    return noise
