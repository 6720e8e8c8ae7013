"""Pile-up: a pool of minimum-bias collisions, simulated once."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path

import numpy as np

from e2evit.data.splits import SPLIT_FRACTIONS

from .batch import EventBatch
from .cells import IMPACT
from .detector import Response, detect
from .geometry import Geometry
from .overlay import Overlay, PileUp
from .silicon import SILICON
from .streams import Random
from .tracker import TRACK

__all__ = ["MinimumBiasPool"]


class MinimumBiasPool:
    """Detector response to minimum-bias collisions.

    Each split of a data set draws from its own part of the pool, so no collision is in both training and test.

    Args:
        starts: First hit of each collision in each layer, and their number; by default counted.
        folder: Where it was opened; other processes open it there too, instead of getting a copy.
    """

    def __init__(self, response: Response, starts: Mapping[str, np.ndarray] | None = None, folder: Path | None = None):
        self.response, self.folder = response, folder
        self._starts = starts or _starts(response)
        bounds = np.round(np.cumsum([0, *SPLIT_FRACTIONS.values()]) * len(self)).astype(int)
        self._parts = {name: (low, high) for name, low, high in zip(SPLIT_FRACTIONS, bounds[:-1], bounds[1:])}

    def __len__(self) -> int:
        return len(self.response.vertex_z)

    def __reduce__(self):
        if self.folder is not None:
            return type(self).open, (self.folder,)
        return type(self), (self.response, self._starts)

    @classmethod
    def simulate(cls, size: int, seed: int, energy: float, geometry: Geometry, extra=()) -> "MinimumBiasPool":
        """`size` collisions at `energy` [GeV], determined by the arguments and the versions."""
        from .events import minimum_bias  # needs Pythia

        return cls.of(minimum_bias(seed, energy, extra), size, geometry, np.random.default_rng(seed))

    @classmethod
    def of(
        cls, collisions: Iterable[EventBatch], size: int, geometry: Geometry, rng: np.random.Generator
    ) -> "MinimumBiasPool":
        """The response to the first `size` of some collisions."""
        responses, made = [], 0
        for batch in collisions:
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
        """Read what [`save`] wrote.

        Raises:
            ValueError: for the pool of a version whose hits had other fields.
        """
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            response = Response(**{name: arrays[name] for name in arrays.files})
        if [hits.dtype for hits in response.layers.values()] != [TRACK, IMPACT, IMPACT, SILICON]:
            raise ValueError("it is of an earlier version")
        return cls(response)

    @classmethod
    def write(cls, folder: Path, pools: Iterable["MinimumBiasPool"]) -> None:
        """Write `pools`, one after the other, as one into `folder`, which [`open`] maps into memory."""
        made = 0
        pieces: dict[str, list[np.ndarray]] = {}
        for pool in pools:
            for name, values in vars(pool.response).items():
                values = values.copy()
                if name != "vertex_z":
                    values["event"] += made
                pieces.setdefault(name, []).append(values)
            made += len(pool)
        whole = Response(**{name: np.concatenate(values) for name, values in pieces.items()})
        arrays = vars(whole) | {f"{name}_starts": starts for name, starts in _starts(whole).items()}
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", values, allow_pickle=False)

    @classmethod
    def open(cls, folder: Path) -> "MinimumBiasPool":
        """The pool that [`write`] left in `folder`, mapped into memory: processes share it."""

        def mapped(name: str) -> np.ndarray:
            return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))

        response = Response(**{field.name: mapped(field.name) for field in fields(Response)})
        return cls(response, {name: mapped(f"{name}_starts") for name in response.layers}, folder)

    def overlay(
        self, response: Response, splits, mean, geometry: Geometry, rng: Random
    ) -> tuple[Response, np.ndarray]:
        """The response to events and the pile-up drawn for them, and the number of collisions; see [`Overlay`]."""
        overlay = Overlay(response, geometry, rng, PileUp(self, splits, mean))
        return overlay.whole(), overlay.number

    def part(self, split: str) -> tuple[int, int]:
        """The first collision of a split, and the one after its last."""
        return self._parts[split]

    @cached_property
    def num_layers(self) -> int:
        """Silicon layers of the detector that it was simulated for."""
        return int(self.response.silicon["layer"][:100_000].max(initial=-1)) + 1

    @property
    def num_tracks(self) -> np.ndarray:
        """Of each collision."""
        return np.diff(self._starts["tracks"])

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Of the hits in each layer that has rows: picked out of whole hits they take four times as long."""
        layers = self.response.layers.items()
        return {name: np.ascontiguousarray(hits["row"]) for name, hits in layers if "row" in hits.dtype.names}

    def hits(self, name: str, collision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The hits of collisions in one layer, and which of the collisions each belongs to, as indices."""
        starts = self._starts[name]
        counts = starts[collision + 1] - starts[collision]
        hit = np.arange(counts.sum()) + np.repeat(starts[collision] - np.cumsum(counts) + counts, counts)
        return hit, np.repeat(np.arange(len(counts)), counts)


def _starts(response: Response) -> dict[str, np.ndarray]:
    events = np.arange(len(response.vertex_z) + 1)
    return {name: np.searchsorted(hits["event"], events) for name, hits in response.layers.items()}
