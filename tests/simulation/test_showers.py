"""Showers fluctuate in depth, width and clusters; their energy stays."""

from dataclasses import replace

import numpy as np
import pytest

from e2evit.data.helix import direction, momentum_at, propagate
from e2evit.simulation import calorimeters, ecal
from e2evit.simulation.cells import spread
from e2evit.simulation.detector import detect
from e2evit.simulation.geometry import GEOMETRIES
from e2evit.simulation.images import whole_detector
from e2evit.simulation.showers import FAINT, half_widths

from .test_detector import particles

RUN1 = replace(GEOMETRIES["run1"], effects=frozenset({"showers"}))
STATIC = GEOMETRIES["run1"].without(["all"])


def impacts(pdg_id, charge, energy, shaped, number=2000):
    batch = particles(pdg_id, charge, (energy, 0.3 * energy, 0.01 * energy), num_events=number)
    start = batch.vertex
    point, reaches = propagate(batch.momentum, batch.charge, start, 129.0, 317.0)
    arrived = point, momentum_at(batch.momentum, batch.charge, start, point), batch.charge
    place = np.full(number, 140.5), np.full(number, 30.5)
    rng = np.random.default_rng(0)
    return calorimeters.calorimeter_impacts(batch, *place, reaches, rng, arrived if shaped else None)


@pytest.mark.parametrize(("pdg_id", "charge", "energy"), [(22, 0, 50), (211, 1, 3), (211, 1, 60), (130, 0, 300)])
def test_the_energy_of_a_shower_stays(pdg_id, charge, energy):
    for shaped, static in zip(*(impacts(pdg_id, charge, energy, shaped) for shaped in (True, False))):
        sums = [np.bincount(hits["event"], hits["energy"], minlength=2000) for hits in (shaped, static)]
        np.testing.assert_allclose(*sums, rtol=1e-4, atol=0.05)  # clusters below 10 MeV are dropped
        assert sums[0].mean() == pytest.approx(sums[1].mean(), rel=1e-3, abs=1e-3)


def images(pdg_id, charge, energy, layout, number=300):
    """ECAL of each particle alone, without noise, in the frame of the whole detector."""
    batch = particles(pdg_id, charge, (energy, 0.3 * energy, 0.01 * energy), num_events=number)
    hits = detect(batch, layout, np.random.default_rng(0)).ecal
    return spread(whole_detector(np.arange(number)), hits, half_widths(hits, FAINT), 280, 360)


def shares(image):
    """Energy of the hottest crystal and of 3 x 3 around it over that of 7 x 7, and the total."""
    total, hottest = image.sum(axis=(1, 2)), image.reshape(len(image), -1).argmax(axis=1)
    within = []
    for half in (0, 1, 3):
        around = np.arange(-half, half + 1)
        rows, columns = hottest[:, None] // 360 + around, (hottest[:, None] % 360 + around) % 360
        within.append(image[np.arange(len(image))[:, None, None], rows[:, :, None], columns[:, None]].sum(axis=(1, 2)))
    return within[0] / within[2], within[1] / within[2], total


def test_photons_keep_their_mean_profile():
    shaped, static = (shares(images(22, 0, 50.0, layout)) for layout in (RUN1, STATIC))
    assert shaped[0].mean() == pytest.approx(static[0].mean(), abs=0.01)
    assert shaped[1].mean() == pytest.approx(static[1].mean(), abs=0.005)
    # the same photons in the same places
    assert 0.02 < (shaped[0] / static[0]).std() < 0.06


def test_hadrons_light_crystals_irregularly():
    """As many as with the fixed profile, but not the same share of the energy in every shower."""
    found = []
    for image in (images(211, 1, 60.0, layout) for layout in (RUN1, STATIC)):
        image = image[image.sum(axis=(1, 2)) > 5]  # those that start in the ECAL
        within = shares(image)[1]
        found.append((within.mean(), within.std(), (image > ecal.CUT * ecal.NOISE).sum(axis=(1, 2)).mean()))
    (mean, spread, lit), (static_mean, static_spread, static_lit) = found
    assert 0.6 < mean < 0.75 < static_mean
    assert spread > 0.1 > 0.01 > static_spread
    assert lit == pytest.approx(static_lit, rel=0.15)


def test_a_track_turns_on_to_where_it_showers():
    """At 3 GeV, from the face of the ECAL to a HCAL at 1.8 to 2 m."""
    batch = particles(211, 1, (3.0, 0.0, 0.0), num_events=3000)
    columns = []
    for radius in (129.0, 180.0, 200.0):
        point, _ = propagate(batch.momentum[:1], batch.charge[:1], np.zeros((1, 3)), radius, 400.0)
        columns.append(np.degrees(direction(point)[1][0]))
    hits = detect(batch, RUN1, np.random.default_rng(0)).hcal
    mean = np.average((hits["column"] * 5 - 10 + 180) % 360 - 180, weights=hits["energy"])
    assert columns[0] > columns[1] > mean > columns[2] - 3
