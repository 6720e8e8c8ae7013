"""A parametrised CMS-like detector: particles to tracks, showers and silicon hits, vectorised over events.

Not a full simulation; [`EFFECTS`] are those that can be switched off, docs/simulation.md lists the limits.
"""

from dataclasses import dataclass

import numpy as np

from e2evit.data.grid import ROWS, position_in_grid
from e2evit.data.helix import direction, momentum_at, propagate

from .batch import EventBatch
from .calorimeters import calorimeter_impacts
from .geometry import Geometry
from .material import cross_material
from .silicon import silicon_hits
from .streams import Random, draw
from .tracker import reconstruct_tracks
from .vertices import RESOLUTION

__all__ = ["BEAM_SPOT_LENGTH", "ECAL_HALF_LENGTH", "ECAL_RADIUS", "VERSION", "Response", "detect"]

# raise it when the response, noise or pile-up changes: caches and data sets record it, so that none mixes two
VERSION = 3
ECAL_RADIUS, ECAL_HALF_LENGTH = 129.0, 317.0  # front face, cm: JINST 3 (2008) S08004 section 4
BEAM_SPOT_LENGTH = 5.0  # standard deviation of vertices along the beam [cm]: JINST 9 (2014) P10009 section 6


@dataclass
class Response:
    """The detector's response to some events, before noise; structured arrays in which `event` ascends.

    Args:
        vertex_z: `(num_events,)` position along the beam of what is taken for the primary vertex [cm].
        tracks, ecal, hcal, silicon: See [`TRACK`], [`IMPACT`] twice and [`SILICON`].
    """

    vertex_z: np.ndarray
    tracks: np.ndarray
    ecal: np.ndarray
    hcal: np.ndarray
    silicon: np.ndarray

    @property
    def layers(self) -> dict[str, np.ndarray]:
        """Everything but the vertices, by name."""
        return {name: value for name, value in vars(self).items() if name != "vertex_z"}


def detect(batch: EventBatch, geometry: Geometry, rng: Random) -> Response:
    """Response to all particles of a batch.

    Vertices are drawn from the beam spot; with the effect `vertex` what is measured of them is smeared. Of the other
    [`EFFECTS`] it applies `conversions`, `bremsstrahlung`, `nuclear`, `showers`, `decays`, `tails`, `dense_cores` and
    `fakes`. [`Overlay`] adds what pile-up does, [`render`] and [`tower_energy`] what the read-out does.
    """
    vertex_z = draw(rng, "normal", np.arange(batch.num_events), 0.0, BEAM_SPOT_LENGTH)
    batch = cross_material(batch, geometry, rng)
    start = batch.vertex.copy()
    start[:, 2] += vertex_z[batch.event]
    point, reaches = propagate(batch.momentum, batch.charge, start, ECAL_RADIUS, ECAL_HALF_LENGTH)
    row, column = position_in_grid(*direction(point))
    on_grid = reaches & (row >= 0) & (row < ROWS)
    tracks = reconstruct_tracks(batch, vertex_z, row, column, on_grid, geometry, rng)
    arrival = None
    if "showers" in geometry.effects:
        arrival = point, momentum_at(batch.momentum, batch.charge, start, point), batch.charge
    ecal, hcal = calorimeter_impacts(batch, row, column, on_grid & np.isinf(batch.until), rng, arrival)
    silicon = silicon_hits(batch, start, geometry, rng)
    if "vertex" in geometry.effects:
        vertex_z = vertex_z + draw(rng, "normal", np.arange(batch.num_events), 0.0, RESOLUTION)
    return Response(vertex_z, tracks, ecal, hcal, silicon)
