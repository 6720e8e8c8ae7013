"""Charged and neutral particles in the field of the solenoid; lengths in cm, momenta in GeV."""

import numpy as np

__all__ = ["FIELD_TESLA", "direction", "impact_parameters", "momentum_at", "propagate"]

FIELD_TESLA = 3.8  # CMS detector paper, JINST 3 (2008) S08004, section 2


def propagate(momentum, charge, vertex, radius: float, half_length: float):
    """Where particles cross a cylinder of `radius`, or the planes at ± `half_length` if they reach those first.

    Charged particles follow exact helices in the field along +z, neutral ones straight lines.

    Args:
        momentum: `(n, 4)` px, py, pz, E [GeV].
        charge: `(n,)` in units of e.
        vertex: `(n, 3)` starting points [cm] in the frame of the cylinder.

    Returns:
        `(n, 3)` crossing points [cm] and `(n,)` whether they exist: loopers and particles from outside do not cross.
    """
    px, py, pz = momentum[:, 0], momentum[:, 1], momentum[:, 2]
    x, y, z = vertex.T
    pt = np.maximum(np.hypot(px, py), 1e-9)
    ux, uy, slope = px / pt, py / pt, pz / pt
    with np.errstate(divide="ignore", invalid="ignore"):
        # transverse path length to the end plane
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


def momentum_at(momentum, charge, vertex, point):
    """Momentum `(n, 4)` [GeV] of particles at points of their trajectories, less than a turn after their vertex."""
    pt = np.maximum(np.hypot(momentum[:, 0], momentum[:, 1]), 1e-9)
    radius = pt / (0.003 * FIELD_TESLA * np.maximum(np.abs(charge), 1e-9))
    # from the vertex to the centre of the circle, and on to the point
    centre = np.stack([momentum[:, 1], -momentum[:, 0]], axis=1) * (np.sign(charge) * radius / pt)[:, None]
    x, y = (point[:, :2] - vertex[:, :2] - centre).T
    angle = np.where(charge != 0, np.arctan2(y, x) - np.arctan2(-centre[:, 1], -centre[:, 0]), 0.0)
    cos, sin = np.cos(angle), np.sin(angle)
    px, py = momentum[:, 0], momentum[:, 1]
    return np.stack([px * cos - py * sin, px * sin + py * cos, momentum[:, 2], momentum[:, 3]], axis=1)


def impact_parameters(momentum, charge, vertex):
    """Signed d0 = -dxy and dz [cm] of charged particles relative to the origin, at the closest approach in the
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


def direction(point):
    """Pseudorapidity and azimuth [radians] of points `(n, 3)` seen from the origin."""
    radius = np.maximum(np.hypot(point[:, 0], point[:, 1]), 1e-9)
    return np.arcsinh(point[:, 2] / radius), np.arctan2(point[:, 1], point[:, 0])
