"""Pile-up: a pool of minimum-bias collisions, simulated once and overlaid at random angles in phi."""

import io
from pathlib import Path

import numpy as np

from e2evit.data.grid import COLUMNS, TOWER
from e2evit.data.splits import SPLIT_FRACTIONS

from .detector import Response, detect
from .events import minimum_bias
from .geometry import Geometry
from .hcal import TOWER_COLUMNS

__all__ = ["MinimumBiasPool"]


class MinimumBiasPool:
    """Detector response to minimum-bias collisions.

    Each split of a data set draws from its own part of the pool, so no collision is in both training and test.
    """

    def __init__(self, response: Response):
        self.response = response
        events = np.arange(len(response.vertex_z) + 1)
        self._starts = {name: np.searchsorted(hits["event"], events) for name, hits in response.layers.items()}
        bounds = np.round(np.cumsum([0, *SPLIT_FRACTIONS.values()]) * len(self)).astype(int)
        self._parts = {name: (low, high) for name, low, high in zip(SPLIT_FRACTIONS, bounds[:-1], bounds[1:])}

    def __len__(self) -> int:
        return len(self.response.vertex_z)

    @classmethod
    def simulate(cls, size: int, seed: int, energy: float, geometry: Geometry, extra=()) -> "MinimumBiasPool":
        """`size` collisions at `energy` [GeV], determined by the arguments and the versions."""
        rng, responses, made = np.random.default_rng(seed), [], 0
        for batch in minimum_bias(seed, energy, extra):
            response = detect(batch, geometry, rng)
            for hits in response.layers.values():
                hits["event"] += made
            responses.append(response)
            made += batch.num_events
            if made >= size:
                break
        vertex_z = np.concatenate([response.vertex_z for response in responses])[:size]
        layers = {name: np.concatenate([vars(response)[name] for response in responses]) for name in response.layers}
        return cls(Response(vertex_z, **{name: hits[hits["event"] < size] for name, hits in layers.items()}))

    def save(self, path: Path) -> None:
        """Write the pool to `path` in NumPy's npz format, whatever its suffix."""
        with path.open("wb") as file:
            np.savez(file, vertex_z=self.response.vertex_z, **self.response.layers)

    @classmethod
    def load(cls, path: Path) -> "MinimumBiasPool":
        """Read what [`save`] wrote."""
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return cls(Response(**{name: arrays[name] for name in arrays.files}))

    def overlay(
        self, response: Response, splits, mean: float, rng: np.random.Generator
    ) -> tuple[Response, np.ndarray]:
        """Add a Poisson number of collisions to each event, each rotated in phi by a random number of towers.

        Args:
            splits: Name of the split of each event.
            mean: Mean number of collisions besides the hard one.

        Returns:
            The response to everything, and the number of collisions added to each event.
        """
        number = rng.poisson(mean, len(response.vertex_z))
        target = np.repeat(np.arange(len(number)), number)
        low, high = np.array([self._parts[split] for split in splits]).reshape(-1, 2).T
        collision = rng.integers(low[target], high[target])
        turn = rng.integers(0, TOWER_COLUMNS, len(target))
        layers = {}
        for name, hits in self.response.layers.items():
            starts = self._starts[name]
            counts = starts[collision + 1] - starts[collision]
            pick = np.repeat(np.arange(len(target)), counts)
            first = np.cumsum(counts) - counts
            added = hits[np.arange(counts.sum()) + (starts[collision] - first)[pick]]
            added["event"], towers = target[pick], turn[pick]
            if name == "silicon":
                added["phi"] += np.radians(360 / TOWER_COLUMNS * towers).astype(np.float32)
            elif name == "hcal":
                added["column"] = (added["column"] + towers) % TOWER_COLUMNS
            else:
                added["column"] = (added["column"] + TOWER * towers) % COLUMNS
            both = np.concatenate([vars(response)[name], added])
            layers[name] = both[np.argsort(both["event"], kind="stable")]
        return Response(response.vertex_z, **layers), number
