"""Conversions, bremsstrahlung and nuclear interactions have the published probabilities, and conserve energy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import gammainc

from e2evit.simulation import SimulationSettings
from e2evit.simulation.detector import detect
from e2evit.simulation.events import generate
from e2evit.simulation.geometry import GEOMETRIES
from e2evit.simulation.material import PION_MASS, cross_material
from e2evit.simulation.processes import PROCESSES
from e2evit.simulation.shards import make_pool

from .test_detector import particles

RUN1 = GEOMETRIES["run1"]
DATA = Path(__file__).parents[1] / "data"
NUMBER = 20000


def crossing(effect, pdg_id, charge, energy, eta):
    """Particles before and behind the material, if it has one effect."""
    momentum = energy / np.cosh(eta) * np.array([0.6, 0.8, np.sinh(eta)])
    batch = particles(pdg_id, charge, momentum, num_events=NUMBER)
    before = batch.momentum.copy()
    behind = cross_material(batch, replace(RUN1, effects=frozenset({effect})), np.random.default_rng(0))
    # other particles are made of it later
    assert np.array_equal(batch.momentum, before)
    assert np.isinf(batch.until).all()
    assert (np.diff(behind.event) >= 0).all()
    return batch, behind


def energy_of(batch, chosen=slice(None)):
    return np.bincount(batch.event[chosen], batch.momentum[chosen, 3], minlength=batch.num_events)


@pytest.mark.parametrize(("eta", "lengths"), [(0.0, 0.4), (1.45, 1.8), (2.5, 1.0)])
def test_photons_convert(eta, lengths):
    """Radiation lengths of JINST 3 (2008) S08004; at high energies 9/7 of one to a conversion."""
    batch, behind = crossing("conversions", 22, 0, 200.0, eta)
    photon, electron = behind.pdg_id == 22, np.abs(behind.pdg_id) == 11
    ended = np.isfinite(behind.until[photon])
    assert ended.mean() == pytest.approx(1 - np.exp(-7 / 9 * lengths), abs=0.01)
    # a pair each, less the electrons below 0.1 GeV
    assert electron.sum() == pytest.approx(2 * ended.sum(), rel=0.02)
    assert behind.charge[electron].mean() == pytest.approx(0, abs=0.01)
    np.testing.assert_allclose(energy_of(behind, np.isinf(behind.until)), 200.0, atol=0.7)
    # in the photon's direction, from a point on its way
    unit = behind.momentum[electron, :3] / behind.momentum[electron, 3:]
    np.testing.assert_allclose(unit, np.tile(batch.momentum[0, :3] / 200, (len(unit), 1)), atol=1e-6)
    x, y, z = behind.vertex[electron].T
    np.testing.assert_allclose(np.stack([y / x, z / x], axis=1), [[4 / 3, np.sinh(eta) / 0.6]] * len(x), rtol=1e-4)
    radius = behind.until[photon][ended]
    assert 2.4 < radius.min() < 3.6
    assert radius.max() < 280 / max(np.sinh(eta), 2)
    if eta == 0:  # 16 parts of 100 lie within the third layer of pixels
        assert (radius < 11).mean() == pytest.approx(0.16, abs=0.03)
    # the variance of 1 - 4/3 x (1 - x) on [0, 1] is 13/140
    assert (behind.momentum[electron, 3] / 200).var() == pytest.approx(13 / 140, rel=0.03)


@pytest.mark.parametrize(("energy", "pairs"), [(0.1, 0.71), (1.0, 0.96)])
def test_soft_photons_convert_less_often(energy, pairs):
    _, behind = crossing("conversions", 22, 0, energy, 1.45)
    ended = np.isfinite(behind.until[behind.pdg_id == 22])
    assert ended.mean() == pytest.approx(1 - np.exp(-7 / 9 * pairs * 1.8), abs=0.015)


def test_electrons_radiate():
    """Bethe and Heitler: exp(-t) of the energy is kept on average, much less by some."""
    for eta, lengths in ((0.0, 0.4), (1.45, 1.8)):
        _, behind = crossing("bremsstrahlung", 11, -1, 20.0, eta)
        electron = np.abs(behind.pdg_id) == 11
        kept = behind.momentum[electron, 3] / 20
        assert kept.mean() == pytest.approx(np.exp(-lengths), abs=0.01)
        np.testing.assert_allclose(energy_of(behind), 20.0)
        # -ln(kept) has a gamma distribution of shape t / ln 2
        assert (kept > 0.95).mean() == pytest.approx(gammainc(lengths / np.log(2), -np.log(0.95)), abs=0.01)
        photon = behind.momentum[~electron]
        np.testing.assert_allclose(np.sqrt((photon[:, :3] ** 2).sum(axis=1)), photon[:, 3], rtol=1e-5)


@pytest.mark.parametrize(("eta", "lengths"), [(0.0, 0.13), (1.45, 0.55)])
def test_hadrons_interact(eta, lengths):
    """Interaction lengths of JINST 9 (2014) P10009."""
    batch, behind = crossing("nuclear", 211, 1, 10.0, eta)
    ended = np.isfinite(behind.until)
    assert ended.sum() / NUMBER == pytest.approx(1 - np.exp(-lengths), abs=0.01)
    energy = energy_of(behind, ~ended)
    assert energy.mean() == pytest.approx(batch.momentum[0, 3], rel=0.01)  # less what is too soft to be followed
    secondary = behind.secondary
    per_event = np.bincount(behind.event[secondary], minlength=NUMBER)
    assert 3 < per_event[per_event > 0].mean() < 4.5
    mass = np.sqrt(np.maximum(behind.momentum[:, 3] ** 2 - (behind.momentum[:, :3] ** 2).sum(axis=1), 0))
    np.testing.assert_allclose(mass[secondary & (behind.charge != 0)], PION_MASS, atol=1e-3)


def test_what_ends_leaves_no_more_hits():
    for until, layers in ((3.0, []), (6.0, [0]), (90.0, [0, 1, 2])):
        pion = particles(211, 1, (20.0, 0.0, 1.0))
        pion.until[:] = until
        response = detect(pion, RUN1.without(["all"]), np.random.default_rng(0))
        assert response.silicon["layer"].tolist() == layers
        assert not len(response.ecal)
        assert not len(response.hcal)


@pytest.mark.parametrize(("low", "high", "published"), [(0.0, 0.9, 0.94), (0.9, 2.5, 0.85)])
def test_pions_are_found_as_often_as_published(low, high, published):
    """JINST 9 (2014) P10009, abstract: most of the others interact early."""
    layout = replace(RUN1, effects=frozenset({"nuclear"}))
    pions = particles(211, 1, (4.0, 3.0, 1.0), num_events=NUMBER)
    pions.momentum[:, 2] = 5 * np.sinh(np.linspace(low, high, NUMBER))
    pions.momentum[:, 3] = np.sqrt((pions.momentum[:, :3] ** 2).sum(axis=1) + PION_MASS**2)
    tracks = detect(pions, layout, np.random.default_rng(1)).tracks
    prompt = (np.abs(tracks["d0"]) < 0.05) & (np.abs(tracks["pt"] / 5 - 1) < 0.1)
    assert np.unique(tracks["event"][prompt]).size / NUMBER == pytest.approx(published, abs=0.02)


def test_far_tracks_are_as_frequent_as_in_real_jets():
    """Of 20 jets of CMS full simulation, most of whose candidates are pile-up: a few collisions would not do."""
    pool = make_pool(SimulationSettings(pool_size=200))
    candidates = np.load(DATA / "pfnano/pfnano_ak8_window_pfcands.npz")["cands"]
    real = np.abs(candidates["d0"][(candidates["charge"] != 0) & (candidates["pt"] > 0.5)])
    batch = next(generate(PROCESSES["qcd"], 11, 8000.0, (400.0, 1000.0), batch_size=100))
    far, rng = {}, np.random.default_rng(0)
    response, _ = pool.overlay(detect(batch, RUN1, rng), ["train"] * batch.num_events, 21.0, RUN1, rng)
    without = detect(batch, RUN1.without(["conversions", "nuclear", "bremsstrahlung"]), rng)
    for name, tracks in (("on", response.tracks), ("off", without.tracks)):
        far[name] = np.abs(tracks["d0"][np.abs(tracks["eta"]) < 1.5])
    # 1 772 real tracks: 0.6 % and 0.4 % are their errors
    for least, tolerance in ((1.0, 0.015), (5.0, 0.01)):
        assert (far["on"] > least).mean() == pytest.approx((real > least).mean(), abs=tolerance)
        assert (far["off"] > least).mean() < 0.4 * (real > least).mean()
