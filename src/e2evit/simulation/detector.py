"""A first parametrised CMS-like detector: tracks, ECAL, HCAL and pixel hits on the E2E grid, vectorised over events.

Not a full simulation: no material before the calorimeters, static shower profiles, no pile-up. Constants are cited
where they stand. Every function works on flat arrays; lengths are in cm, energies in GeV.
"""

from dataclasses import dataclass

import numpy as np

from e2evit.data.grid import COLUMNS, ROWS, TOWER, position_in_grid

from .events import EventBatch

__all__ = ["Hits", "detect", "impact_parameters", "lateral_shares", "propagate"]

# CMS detector paper, JINST 3 (2008) S08004: field, ECAL front face, endcap plane, barrel pixel radii and half length
FIELD_TESLA = 3.8
ECAL_RADIUS, ECAL_HALF_LENGTH = 129.0, 317.0
PIXEL_RADII, PIXEL_HALF_LENGTH = (4.4, 7.3, 10.2), 26.5
PIXEL_EFFICIENCY = 0.99
BEAM_SPOT_LENGTH = 5.0  # standard deviation of the vertex along the beam in 2012

TRACK_MIN_PT, TRACK_MAX_ETA = 0.5, 2.5
TRACK_EFFICIENCY = 0.93  # for pions inside jets, JINST 9 (2014) P10009 figure 8
ECAL_STOCHASTIC, ECAL_CONSTANT = 0.028, 0.005  # JINST 2 (2007) P04004, constant term as achieved in situ
ECAL_NOISE, ECAL_THRESHOLD = 0.040, 0.120  # GeV a crystal
HCAL_STOCHASTIC, HCAL_CONSTANT = 1.10, 0.09  # JINST 3 (2008) S08004 section 5, ECAL and HCAL combined
HCAL_NOISE, HCAL_THRESHOLD = 0.150, 0.600  # GeV a tower
E_OVER_H = 1.39  # of the HCAL, EPJ C 60 (2009) 359
ECAL_INTERACTION = 0.67  # probability that a hadron showers in 1.1 interaction lengths of crystals
MUON_ECAL, MUON_HCAL = 0.3, 2.0  # most probable loss of a minimum-ionising particle
SHOWER_WIDTH_EM, SHOWER_WIDTH_HADRON = 0.105, 0.35  # in crystals; 0.105 gives E1/E9 = 0.86 for a central photon
SHOWER_WIDTH_TOWER = 0.10  # in towers


@dataclass
class Hits:
    """Entries of one detector layer: event, row and column of the cell, value in the layer's unit."""

    event: np.ndarray
    row: np.ndarray
    column: np.ndarray
    value: np.ndarray


def propagate(momentum, charge, vertex, radius: float, half_length: float):
    """Where particles cross a cylinder of `radius`, or before that the planes at ± `half_length`.

    Exact helices in the field along +z for charged, straight lines for neutral particles.

    Args:
        momentum: `(n, 4)` px, py, pz, E [GeV].
        charge: `(n,)` in units of e.
        vertex: `(n, 3)` starting points [cm] in the frame of the cylinder.

    Returns:
        `(n, 3)` crossing points [cm] and `(n,)` whether they exist: loopers and particles made outside do not cross.
    """
    px, py, pz = momentum[:, 0], momentum[:, 1], momentum[:, 2]
    x, y, z = vertex.T
    pt = np.maximum(np.hypot(px, py), 1e-9)
    ux, uy, slope = px / pt, py / pt, pz / pt
    with np.errstate(divide="ignore", invalid="ignore"):
        # length in the transverse plane at which the end plane is reached
        to_plane = np.where(slope != 0, (np.sign(slope) * half_length - z) / slope, np.inf)

        along = x * ux + y * uy
        to_cylinder = -along + np.sqrt(along**2 + radius**2 - x**2 - y**2)

        curvature_radius = pt / (0.003 * FIELD_TESLA * np.maximum(np.abs(charge), 1e-9))
        sign = np.sign(charge)
        centre_x, centre_y = x + sign * curvature_radius * uy, y - sign * curvature_radius * ux
        centre = np.hypot(centre_x, centre_y)
        cosine = (radius**2 - centre**2 - curvature_radius**2) / (2 * centre * curvature_radius)
        start = np.arctan2(y - centre_y, x - centre_x) - np.arctan2(centre_y, centre_x)
        crossing = np.arccos(np.where(np.abs(cosine) <= 1, cosine, np.nan))
        turns = np.stack([sign * (start - crossing), sign * (start + crossing)])
        turn = np.min(np.mod(turns, 2 * np.pi), axis=0)
        to_cylinder = np.where(charge != 0, turn * curvature_radius, to_cylinder)

    length = np.fmin(to_cylinder, to_plane)  # a looper (NaN) still reaches the plane
    inside = (np.hypot(x, y) < radius) & (np.abs(z) < half_length) & np.isfinite(length)
    length = np.where(inside, length, 0.0)
    angle = -sign * length / curvature_radius
    cos, sin = np.cos(angle), np.sin(angle)
    dx, dy = x - centre_x, y - centre_y
    helix_x, helix_y = centre_x + cos * dx - sin * dy, centre_y + sin * dx + cos * dy
    point_x = np.where(charge != 0, helix_x, x + length * ux)
    point_y = np.where(charge != 0, helix_y, y + length * uy)
    return np.stack([point_x, point_y, z + length * slope], axis=1), inside


def impact_parameters(momentum, charge, vertex):
    """Signed d0 = -dxy and dz [cm] of charged particles with respect to the origin, at the closest approach in the
    transverse plane; dxy = (-x py + y px) / pT as in CMS."""
    px, py, pz = momentum[:, 0], momentum[:, 1], momentum[:, 2]
    x, y, z = vertex.T
    pt, sign = np.hypot(px, py), np.sign(charge)
    curvature_radius = pt / (0.003 * FIELD_TESLA * np.abs(charge))
    centre_x, centre_y = x + sign * curvature_radius * py / pt, y - sign * curvature_radius * px / pt
    centre = np.hypot(centre_x, centre_y)
    closest = np.arctan2(-centre_y, -centre_x)
    produced = np.arctan2(y - centre_y, x - centre_x)
    turn = np.mod(sign * (closest - produced) + np.pi, 2 * np.pi) - np.pi
    return sign * (centre - curvature_radius), z - pz / pt * curvature_radius * turn


def lateral_shares(row_fraction, column_fraction, half_width: int, shower_width: float):
    """Share of a shower in the `(2 half_width + 1)²` cells around the one it hits, `(n, side, side)`.

    Integral of the Lednev profile b / (2π (b² + r²)^1.5) over each cell (NIM A 366 (1995) 292); fractions are the
    place inside the central cell, `shower_width` is b in cells.
    """

    def cumulative(u, v):
        return (
            np.arctan(u / shower_width)
            + np.arctan(v / shower_width)
            + np.arctan(u * v / (shower_width * np.sqrt(shower_width**2 + u**2 + v**2)))
        ) / (2 * np.pi)

    edges = np.arange(-half_width, half_width + 2)
    u = (edges[None, :] - np.asarray(row_fraction)[:, None])[:, :, None]
    v = (edges[None, :] - np.asarray(column_fraction)[:, None])[:, None, :]
    corner = cumulative(u, v)
    return corner[:, 1:, 1:] - corner[:, :-1, 1:] - corner[:, 1:, :-1] + corner[:, :-1, :-1]


def _spread(event, row, column, energy, half_width, shower_width, shape) -> Hits:
    """Deposits at continuous grid positions to cells; what leaves the grid in eta is lost, phi wraps."""
    num_rows, num_columns = shape
    cell_row, cell_column = np.floor(row).astype(np.int64), np.floor(column).astype(np.int64)
    shares = lateral_shares(row - cell_row, column - cell_column, half_width, shower_width)
    offsets = np.arange(-half_width, half_width + 1)
    rows = np.broadcast_to(cell_row[:, None, None] + offsets[:, None], shares.shape)
    columns = np.broadcast_to((cell_column[:, None, None] + offsets) % num_columns, shares.shape)
    value = energy[:, None, None] * shares
    keep = (rows >= 0) & (rows < num_rows) & (value > 1e-3)  # an MeV is below every threshold
    events = np.broadcast_to(event[:, None, None], shares.shape)
    return Hits(events[keep], rows[keep], columns[keep], value[keep])


def _sum_cells(hits: Hits, shape) -> Hits:
    """One entry per cell, ascending in event, row, column."""
    num_rows, num_columns = shape
    key, inverse = np.unique((hits.event * num_rows + hits.row) * num_columns + hits.column, return_inverse=True)
    value = np.bincount(inverse, hits.value, minlength=key.size)
    return Hits(key // (num_rows * num_columns), key // num_columns % num_rows, key % num_columns, value)


def _read_out(hits: Hits, shape, num_events: int, noise: float, threshold: float, rng) -> Hits:
    """Add Gaussian noise to every cell of the detector and keep what is above threshold.

    Empty cells are not simulated one by one: their number above threshold is Poisson, their energy the tail.
    """
    hits = _sum_cells(hits, shape)
    hits.value = hits.value + rng.normal(0.0, noise, hits.value.size)
    number = rng.poisson(num_events * shape[0] * shape[1] * _gaussian_tail(threshold / noise))
    # exponential tail of a Gaussian beyond t: mean excess σ / t' with t' from the Mills ratio
    excess = rng.exponential(noise**2 / threshold, number)
    event, row, column = (rng.integers(0, high, number) for high in (num_events, *shape))
    above = hits.value > threshold
    merged = Hits(
        np.concatenate([hits.event[above], event]),
        np.concatenate([hits.row[above], row]),
        np.concatenate([hits.column[above], column]),
        np.concatenate([hits.value[above], threshold + excess]),
    )
    return _sum_cells(merged, shape)


def _gaussian_tail(threshold: float) -> float:
    from math import erfc, sqrt

    return 0.5 * erfc(threshold / sqrt(2))


def _gamma_smear(energy, relative_width, rng):
    """Energies with the given relative spread and a gamma distribution, so that none is negative."""
    shape = 1.0 / np.maximum(relative_width, 1e-3) ** 2
    return energy * rng.gamma(shape) / shape


def _eta_phi(point):
    return np.arcsinh(point[:, 2] / np.maximum(np.hypot(point[:, 0], point[:, 1]), 1e-9)), np.arctan2(
        point[:, 1], point[:, 0]
    )


def detect(batch: EventBatch, rng: np.random.Generator) -> dict[str, Hits]:
    """Response to all particles of a batch: cells of the 280 x 360 grid (56 x 72 towers for `hcal`) per channel.

    `trk_pt` is summed, `trk_d0` and `trk_dz` are unweighted means over the tracks of a crystal [cm], `ecal` and
    `hcal` are energies [GeV], `bpix1`..`bpix3` hit counts at the direction seen from the primary vertex.
    """
    vertex_z = rng.normal(0.0, BEAM_SPOT_LENGTH, batch.num_events)
    start = batch.vertex.copy()
    start[:, 2] += vertex_z[batch.event]
    point, reaches = propagate(batch.momentum, batch.charge, start, ECAL_RADIUS, ECAL_HALF_LENGTH)
    row, column = position_in_grid(*_eta_phi(point))
    on_grid = reaches & (row >= 0) & (row < ROWS)
    layers = _tracks(batch, row, column, on_grid, rng)
    layers.update(_calorimeters(batch, row, column, on_grid, rng))
    layers.update(_pixels(batch, start, vertex_z, rng))
    return layers


def _tracks(batch: EventBatch, row, column, on_grid, rng) -> dict[str, Hits]:
    pt = np.hypot(batch.momentum[:, 0], batch.momentum[:, 1])
    eta = np.arcsinh(batch.momentum[:, 2] / np.maximum(pt, 1e-9))
    made_at = np.hypot(batch.vertex[:, 0], batch.vertex[:, 1])
    # seeds need pixel hits for prompt tracks; displaced ones fade out within half a metre (same paper, figure 9)
    efficiency = TRACK_EFFICIENCY * np.clip(1.0 - made_at / 50.0, 0.0, 1.0)
    found = on_grid & (batch.charge != 0) & (pt > TRACK_MIN_PT) & (np.abs(eta) < TRACK_MAX_ETA)
    found &= rng.random(found.size) < efficiency
    pt, eta = pt[found], eta[found]
    d0, dz = impact_parameters(batch.momentum[found], batch.charge[found], batch.vertex[found])
    # JINST 9 (2014) P10009 section 5: 1 % at 1 GeV to some 2 % at 100 GeV; d0 and dz 10 µm to 100 µm
    measured_pt = pt * (1 + rng.normal(0.0, np.hypot(0.01, 1.5e-4 * pt)))
    d0 = d0 + rng.normal(0.0, np.hypot(1.2e-3, 7.0e-3 / pt))
    dz = dz + rng.normal(0.0, np.hypot(3.0e-3, 1.0e-2 / pt) * np.cosh(eta))
    event = batch.event[found]
    cell = np.floor(row[found]).astype(np.int64), np.floor(column[found]).astype(np.int64)
    number = _sum_cells(Hits(event, *cell, np.ones(pt.size)), (ROWS, COLUMNS)).value
    layers = {}
    for name, value in (("trk_pt", measured_pt), ("trk_d0", d0), ("trk_dz", dz)):
        layers[name] = _sum_cells(Hits(event, *cell, value), (ROWS, COLUMNS))
    layers["trk_d0"].value /= number
    layers["trk_dz"].value /= number
    return layers


def _calorimeters(batch: EventBatch, row, column, on_grid, rng) -> dict[str, Hits]:
    event, row, column = batch.event[on_grid], row[on_grid], column[on_grid]
    energy, code = batch.momentum[on_grid, 3], np.abs(batch.pdg_id[on_grid])
    is_em, is_muon = np.isin(code, (11, 22)), code == 13
    is_hadron = ~is_em & ~is_muon

    em = np.where(is_em, _gamma_smear(energy, np.hypot(ECAL_STOCHASTIC / np.sqrt(energy), ECAL_CONSTANT), rng), 0.0)
    # Groom's electromagnetic fraction rises with the logarithm of the energy; the rest is seen 1 / (e/h) as well
    em_fraction = np.clip(0.11 * np.log(np.maximum(energy, 1.0)), 0.0, 1.0)
    response = (1 + (E_OVER_H - 1) * em_fraction) / E_OVER_H
    seen = _gamma_smear(energy * response, np.hypot(HCAL_STOCHASTIC / np.sqrt(energy), HCAL_CONSTANT), rng)
    early = rng.random(energy.size) < ECAL_INTERACTION
    share = np.where(early, rng.beta(1.2, 1.8, energy.size), 0.0)
    minimum = np.minimum(MUON_ECAL * rng.gamma(4.0, 0.25, energy.size), seen)
    in_ecal = np.where(is_hadron, np.where(early, share * seen, minimum), 0.0)
    in_hcal = np.where(is_hadron, seen - in_ecal, 0.0)
    in_ecal = np.where(is_muon, np.minimum(minimum, energy), in_ecal)
    in_hcal = np.where(is_muon, np.minimum(MUON_HCAL * rng.gamma(4.0, 0.25, energy.size), energy), in_hcal)

    def cells(deposit, half_width, width, scale, shape):
        hit = deposit > 0.01
        return _spread(event[hit], row[hit] / scale, column[hit] / scale, deposit[hit], half_width, width, shape)

    crystals, towers = (ROWS, COLUMNS), (ROWS // TOWER, COLUMNS // TOWER)
    narrow, wide = (
        cells(deposit, 2, width, 1, crystals)
        for deposit, width in ((em, SHOWER_WIDTH_EM), (in_ecal, SHOWER_WIDTH_HADRON))
    )
    ecal = Hits(*(np.concatenate(pair) for pair in zip(vars(narrow).values(), vars(wide).values())))
    hcal = cells(in_hcal, 1, SHOWER_WIDTH_TOWER, TOWER, towers)
    return {
        "ecal": _read_out(ecal, crystals, batch.num_events, ECAL_NOISE, ECAL_THRESHOLD, rng),
        "hcal": _read_out(hcal, towers, batch.num_events, HCAL_NOISE, HCAL_THRESHOLD, rng),
    }


def _pixels(batch: EventBatch, start, vertex_z, rng) -> dict[str, Hits]:
    charged = batch.charge != 0
    momentum, charge, start, event = (x[charged] for x in (batch.momentum, batch.charge, start, batch.event))
    layers = {}
    for number, radius in enumerate(PIXEL_RADII, start=1):
        point, reaches = propagate(momentum, charge, start, radius, PIXEL_HALF_LENGTH)
        # those that left through the end planes did not cross the barrel layer
        reaches &= np.abs(point[:, 2]) < PIXEL_HALF_LENGTH * (1 - 1e-9)
        reaches &= rng.random(reaches.size) < PIXEL_EFFICIENCY
        point = point[reaches]
        point[:, 2] -= vertex_z[event[reaches]]
        row, column = position_in_grid(*_eta_phi(point))
        keep = (row >= 0) & (row < ROWS)
        cell = np.floor(row[keep]).astype(np.int64), np.floor(column[keep]).astype(np.int64)
        hits = Hits(event[reaches][keep], *cell, np.ones(int(keep.sum())))
        layers[f"bpix{number}"] = _sum_cells(hits, (ROWS, COLUMNS))
    return layers
