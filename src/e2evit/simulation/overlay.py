"""Events with pile-up: collisions of a pool at random angles in phi, as a whole or as far as windows see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from e2evit.data.grid import COLUMNS, TOWER, column_of

from .cells import Frames, join, pick
from .detector import Response
from .ecal import REACH as ECAL_REACH
from .fakes import SHIFT, with_chance_tracks
from .geometry import Geometry
from .hcal import TOWER_COLUMNS
from .out_of_time import LEAST, WIDTH, fractions
from .silicon import without_lost_hits
from .streams import Random, draw
from .tracker import MIN_PT
from .vertices import chosen_vertices

if TYPE_CHECKING:
    from .pileup import MinimumBiasPool

__all__ = ["Overlay", "PileUp"]

# crystals beyond a window in which hits still matter to it; a track there may lend its hits to a fake
_BEYOND = {"tracks": 5 * round(SHIFT), "ecal": ECAL_REACH, "hcal": TOWER, "silicon": 0}


@dataclass
class PileUp:
    """Where the collisions of some events come from, and how many there are.

    Args:
        pool: Of the collisions.
        splits: Name of the split of each event, whose part of the pool it gets.
        mean: Mean number of collisions besides the hard one, for all events or for each.
    """

    pool: "MinimumBiasPool"
    splits: Sequence[str]
    mean: float | np.ndarray


class Overlay:
    """Some events with a Poisson number of collisions each, turned in phi by random numbers of towers.

    Args:
        response: To the events' own particles.
        geometry: The detector, which loses hits and makes chance tracks with many collisions, and may take another
            vertex for the primary one.
        pileup: Without it there is only the hard collision.

    Attributes:
        number: Of collisions added to each event.
        vertex_z: Of what is taken for the primary vertices, see [`Response`].
    """

    def __init__(self, response: Response, geometry: Geometry, rng: Random, pileup: PileUp | None = None):
        self._response, self._geometry, self._rng = response, geometry, rng
        self._pool = None if pileup is None else pileup.pool
        self.vertex_z, events = response.vertex_z, np.arange(len(response.vertex_z))
        self.number = np.zeros(len(events), int)
        if pileup is None:
            return
        pool, mean = pileup.pool, np.broadcast_to(pileup.mean, len(events))
        bounds = np.array([pool.part(split) for split in pileup.splits]).reshape(-1, 2)
        self.number = draw(rng, "poisson", events, mean)
        target = np.repeat(events, self.number)
        low, high = bounds.T
        collision = draw(rng, "integers", target, low[target], high[target]).astype(int)
        turn = draw(rng, "integers", target, 0, TOWER_COLUMNS).astype(int)
        self._collisions = {name: [(target, collision, turn, None)] for name in response.layers}
        if "vertex" in geometry.effects:
            own = np.bincount(response.tracks["event"], minlength=len(events))
            self.vertex_z = chosen_vertices(
                self.vertex_z, own, target, pool.response.vertex_z[collision], pool.num_tracks[collision], rng
            )
        if "out_of_time" in geometry.effects:
            late, shares = _late_collisions(mean, bounds, fractions(geometry.bunch_spacing), rng)
            for name, share in zip(("ecal", "hcal"), shares.T):
                left = np.flatnonzero(share)
                self._collisions[name].append((*(values[left] for values in late), share[left]))

    @cached_property
    def hcal(self) -> np.ndarray:
        """What whole events leave in the HCAL, as `IMPACT`."""
        return self._layer("hcal")

    def whole(self) -> Response:
        """Response to whole events."""
        layers = {name: self.hcal if name == "hcal" else self._layer(name) for name in self._response.layers}
        return self._affected(Response(self.vertex_z, **layers), self.number)

    def within(self, frames: Frames) -> Response:
        """Response as far as it matters to windows; each of them is an event of its own."""
        layers = {name: self._layer(name, frames) for name in self._response.layers if name != "hcal"}
        layers["hcal"] = _near("hcal", self.hcal, frames)
        return self._affected(Response(self.vertex_z[frames.event], **layers), self.number[frames.event])

    def _affected(self, response: Response, number: np.ndarray) -> Response:
        """What many collisions do to tracks and hits."""
        if self._pool is not None and "fakes" in self._geometry.effects:
            response.tracks = with_chance_tracks(response.tracks, number, MIN_PT, self._rng)
        if self._pool is not None and "lost_hits" in self._geometry.effects:
            response.silicon = without_lost_hits(response.silicon, number, self._geometry, self._rng)
        return response

    def _layer(self, name: str, frames: Frames | None = None) -> np.ndarray:
        """Hits of events, or of frames, in one layer."""
        own = vars(self._response)[name]
        if frames is not None:
            own = _near(name, own, frames)
        if self._pool is None:
            return own
        hits = np.concatenate([own, *(self._hits(name, frames, *those) for those in self._collisions[name])])
        return pick(hits, np.argsort(hits["event"], kind="stable"))

    def _hits(self, name: str, frames: Frames | None, target, collision, turn, share) -> np.ndarray:
        """Hits of collisions in one layer.

        Args:
            target: Event of each collision.
            collision: Its number in the pool.
            turn: Number of towers by which it is turned.
            share: Of its energy that is left, all in one cell; None: all of it, as it was.
        """
        if frames is not None:
            target, index = join(frames.event, target)
            collision, turn, share = collision[index], turn[index], None if share is None else share[index]
        hits, (hit, of), moved = vars(self._pool.response)[name], self._pool.hits(name, collision), {}

        def keep(chosen):
            nonlocal hit, of
            chosen = np.flatnonzero(chosen)
            hit, of = hit[chosen], of[chosen]
            moved.update({field: values[chosen] for field, values in moved.items()})

        if frames is not None and "row" in hits.dtype.names:  # of silicon hits, the vertex decides on it
            row = self._pool.rows[name][hit] - frames.row.astype(np.float32)[target][of]
            keep((row >= -_BEYOND[name]) & (row < frames.height + _BEYOND[name]))
        if share is not None:
            moved["energy"] = hits["energy"][hit] * share.astype(np.float32)[of]
            keep(np.abs(moved["energy"]) > LEAST)
            moved["width"] = np.full(len(hit), WIDTH)
        if "phi" in hits.dtype.names:
            moved["phi"] = hits["phi"][hit] + np.radians(360 / TOWER_COLUMNS * turn).astype(np.float32)[of]
        if "column" in hits.dtype.names:
            cells, period = (1, TOWER_COLUMNS) if name == "hcal" else (TOWER, COLUMNS)  # of a tower
            column = hits["column"][hit] + (cells * turn)[of]
            moved["column"] = np.where(column < period, column, column - period).astype(hits.dtype["column"])
        if frames is not None:
            column = moved["column"] if "column" in moved else column_of(moved["phi"])
            across = (column - frames.column[target][of] + _BEYOND[name]) % COLUMNS
            keep(across < frames.width + 2 * _BEYOND[name])
        added = hits.take(hit)
        added["event"] = target[of]
        for field, values in moved.items():
            added[field] = values
        if "pileup" in hits.dtype.names:
            added["pileup"] = True
        return added


def _near(name: str, hits: np.ndarray, frames: Frames) -> np.ndarray:
    """The hits of one layer that matter to frames; each of them is an event of its own."""
    cell = TOWER if name == "hcal" else 1
    column = hits["column"] * cell if "column" in hits.dtype.names else column_of(hits["phi"])
    if "row" in hits.dtype.names:
        frame, _, _, hit = frames.locate(hits["event"], hits["row"] * cell, column, COLUMNS, _BEYOND[name])
    else:
        frame, hit = join(frames.event, hits["event"])
        near = np.flatnonzero((column[hit] - frames.column[frame]) % COLUMNS < frames.width)
        frame, hit = frame[near], hit[near]
    hits = hits.take(hit)
    hits["event"] = frame
    return hits


def _late_collisions(mean, bounds, shares, rng: Random):
    """Collisions in other crossings: event, number in the pool and turn of each; and which shares of their energy are
    left: one of `shares` `(n, 2)` for each crossing."""
    event, crossing = (index.ravel() for index in np.indices((len(mean), len(shares))))
    number = draw(rng, "poisson", event, mean[event])
    event, crossing = np.repeat(event, number), np.repeat(crossing, number)
    (low, high), chance = bounds[event].T, draw(rng, "random", np.repeat(event, 2)).reshape(-1, 2).T
    collision, turn = low + (chance[0] * (high - low)).astype(int), (chance[1] * TOWER_COLUMNS).astype(int)
    return (event, collision, turn), shares[crossing]
