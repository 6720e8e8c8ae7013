"""Masses, directions and distances of four-momenta."""

import numpy as np

__all__ = ["distances", "eta_phi", "mass"]


def mass(momentum):
    """Invariant masses of `(n, 4)` px, py, pz, E [GeV]."""
    return np.sqrt(np.maximum(momentum[:, 3] ** 2 - (momentum[:, :3] ** 2).sum(axis=1), 0.0))


def eta_phi(momentum):
    """Pseudorapidities and azimuths [radians] of `(n, 4)` px, py, pz, E."""
    pt = np.maximum(np.hypot(momentum[:, 0], momentum[:, 1]), 1e-9)
    return np.arcsinh(momentum[:, 2] / pt), np.arctan2(momentum[:, 1], momentum[:, 0])


def distances(momentum, others):
    """ΔR between each of `(n, 4)` and each of `(m, 4)` momenta, `(n, m)`."""
    (eta, phi), (other_eta, other_phi) = eta_phi(momentum), eta_phi(others)
    delta_phi = np.mod(phi[:, None] - other_phi + np.pi, 2 * np.pi) - np.pi
    return np.hypot(eta[:, None] - other_eta, delta_phi)
