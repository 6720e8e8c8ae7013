"""Kinematics against hand-computed cases."""

import math

import numpy as np
import pytest

from e2evit.data.helix import FIELD_TESLA, impact_parameters, propagate


def momentum(px, py, pz):
    return np.array([[px, py, pz, math.sqrt(px**2 + py**2 + pz**2 + 0.14**2)]])


ORIGIN = np.zeros((1, 3))


def test_a_track_bends_by_the_textbook_angle():
    """sin(Δφ) = R_cylinder / (2 R_curvature): clockwise for positive charge in a field along +z."""
    curvature = 5.0 / (0.003 * FIELD_TESLA)  # cm, for 5 GeV
    point, reached = propagate(momentum(5.0, 0.0, 1.0), np.array([1.0]), ORIGIN, 129.0, 317.0)
    assert reached.all()
    phi = math.atan2(point[0, 1], point[0, 0])
    assert phi == pytest.approx(-math.asin(129.0 / (2 * curvature)), rel=1e-9)
    # z grows with the arc length, not the chord
    arc = 2 * curvature * math.asin(129.0 / (2 * curvature))
    assert point[0, 2] == pytest.approx(arc / 5.0, rel=1e-9)
    opposite, _ = propagate(momentum(5.0, 0.0, 1.0), np.array([-1.0]), ORIGIN, 129.0, 317.0)
    assert opposite[0, 1] == pytest.approx(-point[0, 1])


def test_neutral_particles_fly_straight_from_their_vertex():
    vertex = np.array([[10.0, 20.0, 30.0]])
    point, reached = propagate(momentum(3.0, 4.0, 0.5), np.array([0.0]), vertex, 129.0, 317.0)
    assert reached.all()
    assert np.hypot(*point[0, :2]) == pytest.approx(129.0)
    direction = (point - vertex)[0]
    np.testing.assert_allclose(direction / direction[0] * 3.0, [3.0, 4.0, 0.5])


def test_loopers_and_outsiders():
    slow = momentum(0.2, 0.0, 0.0)  # radius of curvature 17.5 cm: never reaches the ECAL
    assert not propagate(slow, np.array([1.0]), ORIGIN, 129.0, 317.0)[1].any()
    spiral, reached = propagate(momentum(0.2, 0.0, 0.4), np.array([1.0]), ORIGIN, 129.0, 317.0)
    assert reached.all()
    assert spiral[0, 2] == pytest.approx(317.0)
    assert not propagate(momentum(5, 0, 0), np.array([0.0]), np.array([[130.0, 0, 0]]), 129.0, 317.0)[1].any()


def test_impact_parameters():
    # a nearly straight track along x at y = 0.1 cm: dxy = -x py/pT + y px/pT = +0.1, d0 = -dxy
    d0, dz = impact_parameters(momentum(1000.0, 0.0, 500.0), np.array([1.0]), np.array([[2.0, 0.1, 3.0]]))
    assert d0[0] == pytest.approx(-0.1, abs=1e-4)
    assert dz[0] == pytest.approx(3.0 - 2.0 * 0.5, abs=1e-3)
    for charge in (1.0, -1.0):
        prompt = impact_parameters(momentum(1.0, 2.0, 3.0), np.array([charge]), ORIGIN)
        np.testing.assert_allclose(prompt, 0.0, atol=1e-9)
        # moved along its own helix, a track keeps its impact parameters
        point, _ = propagate(momentum(1.0, 0.0, 0.3), np.array([charge]), np.array([[0.0, 0.2, 1.0]]), 30.0, 300.0)
        curvature = 1.0 / (0.003 * FIELD_TESLA)
        centre = np.array([0.0, 0.2 - charge * curvature])
        radial = (point[0, :2] - centre) / curvature
        moved = momentum(charge * radial[1], -charge * radial[0], 0.3)
        np.testing.assert_allclose(
            impact_parameters(moved, np.array([charge]), point),
            impact_parameters(momentum(1.0, 0.0, 0.3), np.array([charge]), np.array([[0.0, 0.2, 1.0]])),
            atol=1e-9,
        )
