"""Pile-up: a pool of minimum-bias collisions, simulated once and overlaid at random angles in phi."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from e2evit.data.grid import COLUMNS, TOWER, column_of
from e2evit.data.splits import SPLIT_FRACTIONS

from .batch import EventBatch
from .cells import IMPACT
from .detector import Response, detect
from .fakes import with_chance_tracks
from .geometry import Geometry
from .hcal import TOWER_COLUMNS
from .out_of_time import LEAST, WIDTH, fractions
from .silicon import SILICON, without_lost_hits
from .streams import Random, draw
from .tracker import MIN_PT, TRACK
from .vertices import chosen_vertices

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
        arrays = {
            path.stem: np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)) for path in folder.glob("*.npy")
        }
        starts = {name.removesuffix("_starts"): arrays.pop(name) for name in list(arrays) if name.endswith("_starts")}
        return cls(Response(**arrays), starts, folder)

    def overlay(
        self,
        response: Response,
        splits,
        mean,
        geometry: Geometry,
        rng: Random,
        window: tuple[np.ndarray, np.ndarray, int] | None = None,
    ) -> tuple[Response, np.ndarray]:
        """Add a Poisson number of collisions to each event, each rotated in phi by a random number of towers.

        Args:
            splits: Name of the split of each event.
            mean: Mean number of collisions besides the hard one, for all events or for each.
            geometry: The detector, which loses hits and makes chance tracks with many collisions, and may take another
                vertex for the primary one.
            window: Row and column `(n,)` of a crystal of each event, and the distance from it beyond which hits are
                not needed.

        Returns:
            The response to everything, and the number of collisions added to each event.
        """
        events = np.arange(len(response.vertex_z))
        mean = np.broadcast_to(mean, len(events))
        bounds = np.array([self._parts[split] for split in splits]).reshape(-1, 2)
        number = draw(rng, "poisson", events, mean)
        target = np.repeat(events, number)
        low, high = bounds.T
        collision = draw(rng, "integers", target, low[target], high[target]).astype(int)
        chosen = target, collision, draw(rng, "integers", target, 0, TOWER_COLUMNS).astype(int)
        vertex_z, layers = response.vertex_z, {}
        if "vertex" in geometry.effects:
            own, others = np.bincount(response.tracks["event"], minlength=len(number)), np.diff(self._starts["tracks"])
            vertex_z = chosen_vertices(
                vertex_z, own, target, self.response.vertex_z[collision], others[collision], rng
            )
        added = {name: [self._hits(name, chosen, window)] for name in self.response.layers}
        if "out_of_time" in geometry.effects:
            late, shares = _late_collisions(mean, bounds, fractions(geometry.bunch_spacing), rng)
            for name, share in zip(("ecal", "hcal"), shares.T):
                left = np.flatnonzero(share)
                added[name].append(self._hits(name, [values[left] for values in late], window, share[left]))
        for name, hits in added.items():
            both = np.concatenate([vars(response)[name], *hits])
            layers[name] = both.take(np.argsort(both["event"], kind="stable"))
        if "fakes" in geometry.effects:
            layers["tracks"] = with_chance_tracks(layers["tracks"], number, MIN_PT, rng)
        if "lost_hits" in geometry.effects:
            layers["silicon"] = without_lost_hits(layers["silicon"], number, geometry, rng)
        return Response(vertex_z, **layers), number

    def _hits(self, name: str, collisions, window, share=None) -> np.ndarray:
        """Hits of collisions in one layer; those near the window.

        Args:
            collisions: Event of each, its number in the pool, and the number of towers by which it is turned.
            share: Of the energy of each collision that is left, all in one cell.
        """
        target, collision, turn = collisions
        hits, starts = vars(self.response)[name], self._starts[name]
        counts = starts[collision + 1] - starts[collision]
        hit = np.arange(counts.sum()) + np.repeat(starts[collision] - np.cumsum(counts) + counts, counts)
        of = np.repeat(np.arange(len(counts)), counts)
        cells, period = (1, TOWER_COLUMNS) if name == "hcal" else (TOWER, COLUMNS)  # of a tower
        moved = {}

        def keep(chosen):
            nonlocal hit, of
            chosen = np.flatnonzero(chosen)
            hit, of = hit[chosen], of[chosen]
            moved.update({field: values[chosen] for field, values in moved.items()})

        if window is not None:
            middle_row, middle_column, reach = (np.asarray(value, np.float32) / (TOWER // cells) for value in window)
        if window is not None and "row" in hits.dtype.names:  # of silicon hits, the vertex decides on it
            keep(np.abs(hits["row"][hit] - middle_row[target][of]) <= reach)
        if share is not None:
            moved["energy"] = hits["energy"][hit] * share.astype(np.float32)[of]
            keep(np.abs(moved["energy"]) > LEAST)
            moved["width"] = np.full(len(hit), WIDTH)
        if "phi" in hits.dtype.names:
            moved["phi"] = hits["phi"][hit] + np.radians(360 / TOWER_COLUMNS * turn).astype(np.float32)[of]
        if "column" in hits.dtype.names:
            column = hits["column"][hit] + (cells * turn)[of]
            moved["column"] = np.where(column < period, column, column - period).astype(hits.dtype["column"])
        if window is not None:
            column = moved["column"] if "column" in moved else column_of(moved["phi"])
            apart = np.abs(column - middle_column[target][of])
            keep(np.minimum(apart, period - apart) <= reach)
        added = hits.take(hit)
        added["event"] = target[of]
        for field, values in moved.items():
            added[field] = values
        if "pileup" in hits.dtype.names:
            added["pileup"] = True
        return added


def _late_collisions(mean, bounds, shares, rng: Random):
    """Collisions in other crossings as [`MinimumBiasPool._hits`] wants them, and which shares of their energy are
    left: one of `shares` `(n, 2)` for each crossing."""
    event, crossing = (index.ravel() for index in np.indices((len(mean), len(shares))))
    number = draw(rng, "poisson", event, mean[event])
    event, crossing = np.repeat(event, number), np.repeat(crossing, number)
    (low, high), chance = bounds[event].T, draw(rng, "random", np.repeat(event, 2)).reshape(-1, 2).T
    collision, turn = low + (chance[0] * (high - low)).astype(int), (chance[1] * TOWER_COLUMNS).astype(int)
    return (event, collision, turn), shares[crossing]


def _starts(response: Response) -> dict[str, np.ndarray]:
    events = np.arange(len(response.vertex_z) + 1)
    return {name: np.searchsorted(hits["event"], events) for name, hits in response.layers.items()}
