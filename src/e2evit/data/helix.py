"""Charged and neutral particles in the field of the solenoid; lengths in cm, momenta in GeV."""

import numpy as np

__all__ = ["FIELD_TESLA", "Trajectories", "direction", "impact_parameters", "momentum_at", "propagate"]

FIELD_TESLA = 3.8  # CMS detector paper, JINST 3 (2008) S08004, section 2


class Trajectories:
    """Charged and neutral particles on their way; what they have in common for all surfaces is computed once.

    Args:
        momentum: `(n, 4)` px, py, pz, E [GeV].
        charge: `(n,)` in units of e.
        vertex: `(n, 3)` starting points [cm].
        field: Of the solenoid [T].
    """

    def __init__(self, momentum, charge, vertex, field: float = FIELD_TESLA):
        px, py, pz = momentum[:, 0], momentum[:, 1], momentum[:, 2]
        pt = np.maximum(np.hypot(px, py), 1e-9)
        self.vertex, self.ux, self.uy, self.slope = vertex, px / pt, py / pt, pz / pt
        self.bent = bent = np.flatnonzero(charge)
        x, y, self.sign = vertex[bent, 0], vertex[bent, 1], np.sign(charge[bent])
        self.curvature_radius = pt[bent] / (0.003 * field * np.abs(charge[bent]))
        self.centre_x = x + self.sign * self.curvature_radius * self.uy[bent]
        self.centre_y = y - self.sign * self.curvature_radius * self.ux[bent]
        self.centre = np.hypot(self.centre_x, self.centre_y)
        self.dx, self.dy = x - self.centre_x, y - self.centre_y
        self.start = np.arctan2(self.dy, self.dx) - np.arctan2(self.centre_y, self.centre_x)

    def cross(self, radius, half_length: float):
        """Where particles cross a cylinder of `radius`, or the planes at ± `half_length` if they reach those first.

        Charged particles follow exact helices in the field along +z, neutral ones straight lines.

        Args:
            radius: Of one cylinder [cm], or `(n,)` of one for each particle.

        Returns:
            `(n, 3)` crossing points [cm] and `(n,)` whether they exist: loopers and particles from outside do not
            cross.
        """
        (x, y, z), bent, slope = self.vertex.T, self.bent, self.slope
        with np.errstate(divide="ignore", invalid="ignore"):
            # transverse path length to the end plane
            to_plane = np.where(slope != 0, (np.sign(slope) * half_length - z) / slope, np.inf)
            along = x * self.ux + y * self.uy
            to_cylinder = -along + np.sqrt(along**2 + radius**2 - x**2 - y**2)

            outer = radius[bent] if np.ndim(radius) else radius
            cosine = (outer**2 - self.centre**2 - self.curvature_radius**2) / (2 * self.centre * self.curvature_radius)
            crossing = np.arccos(np.where(np.abs(cosine) <= 1, cosine, np.nan))
            turns = np.stack([self.sign * (self.start - crossing), self.sign * (self.start + crossing)])
            to_cylinder[bent] = np.min(np.mod(turns, 2 * np.pi), axis=0) * self.curvature_radius

        length = np.fmin(to_cylinder, to_plane)  # a looper (NaN) still reaches the plane
        inside = (np.hypot(x, y) < radius) & (np.abs(z) < half_length) & np.isfinite(length)
        length = np.where(inside, length, 0.0)
        point = np.stack([x + length * self.ux, y + length * self.uy, z + length * slope], axis=1)
        angle = -self.sign * length[bent] / self.curvature_radius
        cos, sin = np.cos(angle), np.sin(angle)
        point[bent, 0] = self.centre_x + cos * self.dx - sin * self.dy
        point[bent, 1] = self.centre_y + sin * self.dx + cos * self.dy
        return point, inside


def propagate(momentum, charge, vertex, radius, half_length: float, field: float = FIELD_TESLA):
    """Where particles cross one surface, see [`Trajectories.cross`]."""
    return Trajectories(momentum, charge, vertex, field).cross(radius, half_length)


def momentum_at(momentum, charge, vertex, point):
    """Momentum `(n, 4)` [GeV] of particles at points of their trajectories, less than a turn after their vertex."""
    there, bent = momentum.copy(), np.flatnonzero(charge)
    px, py = momentum[bent, 0], momentum[bent, 1]
    # from the vertex to the centre of the circle, and from there to the point
    centre_x, centre_y = np.stack([py, -px]) / (0.003 * FIELD_TESLA * charge[bent])
    x, y = (point[bent, :2] - vertex[bent, :2]).T
    angle = np.arctan2(y - centre_y, x - centre_x) - np.arctan2(-centre_y, -centre_x)
    cos, sin = np.cos(angle), np.sin(angle)
    there[bent, 0], there[bent, 1] = px * cos - py * sin, px * sin + py * cos
    return there


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
