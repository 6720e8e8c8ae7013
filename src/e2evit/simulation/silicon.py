"""Hits of the silicon layers, placed in the direction in which the primary vertex sees them."""

import numpy as np

from e2evit.data.grid import COLUMNS, ROWS, position_in_grid
from e2evit.data.helix import Trajectories

from .batch import EventBatch
from .cells import Frames, pick, structured
from .clusters import merged_clusters
from .geometry import Geometry
from .modules import from_working_modules
from .streams import Random, draw

__all__ = ["SILICON", "hit_channels", "silicon_hits", "without_lost_hits"]

SILICON = np.dtype([("event", "i4"), ("layer", "i1"), ("z", "f4"), ("phi", "f4")])  # z in cm, phi in radians

EFFICIENCY = 0.99  # JINST 9 (2014) P10009 section 3
# share of hits lost for each other collision in a layer 4.4 cm from the beam, where buffers overflow; farther out in
# proportion to the rate of hits (chosen: 1.3 % at 21 collisions; same paper, section 3)
LOST, LOST_RADIUS = 6e-4, 4.4
STEREO_ANGLE = 0.100  # radians, JINST 3 (2008) S08004 section 3.2


def silicon_hits(batch: EventBatch, start, geometry: Geometry, rng: Random) -> np.ndarray:
    """Hits of charged particles that start at `start` `(n, 3)` [cm], as `SILICON`, events ascending."""
    charged = batch.charge != 0
    momentum, charge, start, event = (x[charged] for x in (batch.momentum, batch.charge, start, batch.event))
    until = batch.until[charged]
    parts, trajectories = [], Trajectories(momentum, charge, start)
    for number, layer in enumerate(geometry.layers.values()):
        point, reaches = trajectories.cross(layer.radius, layer.half_length)
        # particles that leave through the end planes do not cross the layer
        reaches &= np.abs(point[:, 2]) < layer.half_length * (1 - 1e-9)
        reaches &= layer.radius < until
        crossed, (x, y, z) = event[reaches], point[reaches].T
        phi = np.arctan2(y, x)
        if layer.strip_length:
            middle = (np.floor(z / layer.strip_length) + 0.5) * layer.strip_length
            tilted = phi + STEREO_ANGLE * (z - middle) / layer.radius
            sensors = ((middle, phi), (middle, tilted))
        else:
            sensors = ((z, phi),)
        for seen_z, seen_phi in sensors:
            detected = draw(rng, "random", crossed) < EFFICIENCY
            hits = structured(SILICON, event=crossed, layer=number, z=seen_z, phi=seen_phi)
            parts.append(pick(hits, detected))
    hits = np.concatenate(parts)
    return pick(hits, np.argsort(hits["event"], kind="stable"))


def without_lost_hits(hits: np.ndarray, number: np.ndarray, geometry: Geometry, rng: Random) -> np.ndarray:
    """Pixel hits that are read out although each event has `number` `(num_events,)` other collisions."""
    layers = geometry.layers.values()
    lost = np.array([LOST * (LOST_RADIUS / layer.radius) ** 2 * (not layer.strip_length) for layer in layers])
    return pick(hits, draw(rng, "random", hits["event"]) >= lost[hits["layer"]] * number[hits["event"]])


def hit_channels(frames: Frames, hits, vertex_z, geometry: Geometry) -> dict[str, tuple]:
    """Number of hits of each layer in each crystal."""
    layers = list(geometry.layers.values())
    if "modules" in geometry.effects:
        hits = pick(hits, from_working_modules(layers, hits["layer"], hits["phi"], hits["z"]))
    radius, seen_from = np.array([layer.radius for layer in layers])[hits["layer"]], vertex_z[hits["event"]]
    eta = np.arcsinh((hits["z"] - seen_from) / radius)
    row, column = (np.floor(x).astype(np.int32) for x in position_in_grid(eta, hits["phi"]))
    on_grid = np.flatnonzero((row >= 0) & (row < ROWS))
    frame, row, column, hit = frames.locate(hits["event"][on_grid], row[on_grid], column[on_grid], COLUMNS)
    hit = on_grid[hit]
    pixel, layer = (frame * frames.height + row) * frames.width + column, hits["layer"][hit]
    if "clusters" in geometry.effects:
        strips = np.array([layer.strip_length > 0 for layer in layers])[layer]
        group, places = frame * len(layers) + layer, (hits["phi"][hit], hits["z"][hit] - seen_from[hit])
        alone = strips | merged_clusters(group, radius[hit], *places)
        pixel, layer = pixel[alone], layer[alone]
    return {
        name: tuple(np.unique(pixel[layer == number], return_counts=True))
        for number, name in enumerate(geometry.layers)
    }
