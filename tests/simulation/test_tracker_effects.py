"""Each effect in the tracker gives the number it was tuned to."""

import numpy as np
import pytest

from e2evit.simulation import clusters, fakes, modules, silicon, tracker, vertices
from e2evit.simulation.batch import EventBatch
from e2evit.simulation.crowding import crowding
from e2evit.simulation.detector import detect
from e2evit.simulation.effects import EFFECTS
from e2evit.simulation.events import generate
from e2evit.simulation.geometry import GEOMETRIES, Geometry
from e2evit.simulation.jets import find_jets
from e2evit.simulation.processes import PROCESSES

RUN1 = GEOMETRIES["run1"]
PLAIN = RUN1.without(["all"])


def only(*names: str) -> Geometry:
    return RUN1.without(set(EFFECTS) - set(names))


def pions(pt, eta, phi, radius=0.0, num_events=None) -> EventBatch:
    """Charged pions, one in each event unless their number is given: then they are shared out in order."""
    pt, eta, phi, radius = np.broadcast_arrays(*map(np.asarray, (pt, eta, phi, radius)))
    number = len(pt)
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), np.hypot(pt * np.cosh(eta), 0.1396)])
    return EventBatch(
        num_events=num_events or number,
        event=np.sort(np.arange(number) % (num_events or number)),
        pdg_id=np.full(number, 211),
        charge=np.ones(number),
        momentum=momentum.T,
        vertex=np.stack([radius * np.cos(phi), radius * np.sin(phi), radius * np.sinh(eta)], axis=1),
    )


def tracks_of(batch: EventBatch, geometry: Geometry, seed: int = 0) -> np.ndarray:
    vertex_z, grid, everywhere = np.zeros(batch.num_events), np.full(len(batch.event), 100), batch.charge != 0
    return tracker.reconstruct_tracks(batch, vertex_z, grid, grid, everywhere, geometry, np.random.default_rng(seed))


@pytest.mark.parametrize(("radius", "published"), [(0.0, 1.0), (4.0, 0.81), (10.0, 0.63), (24.0, 0.59), (45.0, 0.5)])
def test_tracks_of_late_decays_are_found_as_often_as_published(radius, published):
    """JINST 9 (2014) P10009, figure 12, for t tbar events: 0.94 for particles from the beam."""
    number = 20000
    tracks = tracks_of(pions(np.full(number, 5.0), 0.1, 0.3, radius), only("decays"))
    efficiency = len(tracks) / number / tracker.EFFICIENCY * 0.94
    assert efficiency == pytest.approx(published * (1 if radius else 0.94), abs=0.04)
    if radius == 24:  # 1 to 3 mm at 1 GeV in the 20 real jets, in proportion to 1 / pT
        soft = tracks_of(pions(np.full(number, 1.0), 0.1, 0.3, radius), only("decays"))
        assert 0.07 < np.median(soft["d0_error"]) < 0.3
        assert np.std(soft["d0"]) == pytest.approx(np.median(soft["d0_error"]), rel=0.05)


def test_tails_leave_the_core_as_published():
    tracks = tracks_of(pions(np.full(40000, 100.0), 0.1, 0.3), only("tails"))
    for name, width in (("d0", 10e-4), ("dz", 30e-4)):
        half = np.diff(np.percentile(tracks[name], [16, 84]))[0] / 2
        assert half == pytest.approx(width, rel=0.07)
        beyond = (np.abs(tracks[name]) > 3 * tracks[f"{name}_error"]).mean()
        # 0.27 % of a normal distribution, 32 % of one three times as wide
        assert beyond == pytest.approx(0.0027 + tracker.TAIL * 0.317, rel=0.15)
    together = pions(np.full(40000, 100.0), np.full(40000, 0.1), np.full(40000, 0.3), num_events=10000)
    crowded = tracks_of(together, only("tails"))
    assert (np.abs(crowded["d0"]) > 3 * crowded["d0_error"]).mean() > 2 * 0.0217


def test_crowding_counts_neighbours_around_the_detector():
    eta, phi = np.array([0.0, 0.0, 0.04, 0.0, 1.0]), np.array([3.14, -3.14, 3.14, 3.0, 3.14])
    overlap, number = crowding(np.array([0, 0, 0, 0, 0]), eta, phi)
    assert number.tolist() == [2, 2, 2, 0, 0]
    apart = 2 * np.pi - 6.28
    assert overlap[0] == pytest.approx(np.exp(-((apart / 0.008) ** 2)), abs=1e-6)
    assert crowding(np.arange(5), eta, phi)[1].tolist() == [0] * 5
    rng = np.random.default_rng(0)
    event, eta, phi = np.repeat([0, 1], 200), rng.normal(0, 0.1, 400), rng.uniform(-np.pi, np.pi, 400)
    turned = np.abs(phi[:, None] - phi)
    distance = np.hypot(np.minimum(turned, 2 * np.pi - turned), eta[:, None] - eta)
    near = (distance < 0.05) & (event[:, None] == event)
    assert np.array_equal(crowding(event, eta, phi)[1], near.sum(axis=1) - 1)


def test_dense_cores_lose_tracks_as_published():
    """Tuned to ATLAS, EPJ C 77 (2017) 673: of particles in merged clusters 6 to 9 % are lost, and within 0.02 of the
    axis of a jet of 1.4 to 1.6 TeV 80 % are found."""
    batch = next(generate(PROCESSES["qcd"], 3, 13000.0, (1400.0, 1600.0), batch_size=100))
    jets = find_jets(batch, 0, 1400.0, 1600.0)
    pt = np.hypot(*batch.momentum[:, :2].T)
    eta, phi = np.arcsinh(batch.momentum[:, 2] / pt), np.arctan2(batch.momentum[:, 1], batch.momentum[:, 0])
    charged = (batch.charge != 0) & (pt > tracker.MIN_PT) & (np.abs(eta) < tracker.MAX_ETA)
    event, eta, phi = batch.event[charged], eta[charged], phi[charged]
    overlap, _ = crowding(event, eta, phi)
    found, axis = np.exp(-tracker.CORE_LOSS * overlap), np.zeros(len(event), bool)
    for of, jet_eta, jet_phi in zip(jets.event, *jets.eta_phi):
        turned = (phi - jet_phi + np.pi) % (2 * np.pi) - np.pi
        axis |= (event == of) & (np.hypot(turned, eta - jet_eta) < 0.02)
    assert axis.sum() > 200
    assert tracker.EFFICIENCY * found[axis].mean() == pytest.approx(0.80, abs=0.04)
    assert 1 - found[overlap > 0.37].mean() == pytest.approx(0.093, abs=0.03)
    # and that is what reconstruction does
    pair = pions(np.full(40000, 10.0), np.full(40000, 0.1), np.full(40000, 0.3), num_events=20000)
    lost = 1 - len(tracks_of(pair, only("dense_cores"))) / len(tracks_of(pair, PLAIN))
    assert lost == pytest.approx(1 - np.exp(-tracker.CORE_LOSS), abs=0.006)


def test_fakes_rise_with_density_and_collisions():
    lonely, rng = pions(np.full(40000, 10.0), 0.1, 0.3), np.random.default_rng(0)
    rate = len(tracks_of(lonely, only("fakes"))) / len(tracks_of(lonely, PLAIN)) - 1
    assert rate == pytest.approx(0.009, abs=0.002)  # about 1 %
    crowd = pions(*(np.repeat(np.array([value] * 11), 4000) for value in (10.0, 0.1, 0.3)), num_events=4000)
    rate = len(tracks_of(crowd, only("fakes"))) / len(tracks_of(crowd, PLAIN)) - 1
    assert rate == pytest.approx(0.044, abs=0.004)  # with ten neighbours
    tracks = tracks_of(lonely, PLAIN)
    for number, expected in ((0, 0.0), (21, 0.015), (200, 0.14)):
        more = fakes.with_chance_tracks(tracks, np.full(40000, number), tracker.MIN_PT, rng)
        assert len(more) / len(tracks) - 1 == pytest.approx(expected, rel=0.1)
        assert (np.diff(more["event"]) >= 0).all()
    new = np.setdiff1d(more, tracks)
    assert np.median(new["pt"]) < 3
    assert new["pt"].min() >= tracker.MIN_PT
    for place, angle, seed in (("row", "eta", 0.1), ("column", "phi", 0.3)):
        np.testing.assert_allclose(new[angle] - seed, (new[place] - 100) * np.radians(1), atol=0.003)
    # six in ten have a d0 of centimetres, a third of those beyond 3 cm
    assert (np.abs(new["d0"]) > 3).mean() == pytest.approx(0.6 * np.exp(-1), abs=0.02)


def test_clusters_that_touch_become_one():
    def left(*hits):
        group, arc, z = np.array(hits).T
        return clusters.merged_clusters(group, 4.4, arc / 4.4, z).tolist()

    assert left((0, 0.0, 1.0), (0, 0.029, 1.0)) == [True, False]  # two cells each, and no empty one between
    assert left((0, 0.0, 1.0), (0, 0.031, 1.0)) == [True, True]
    assert left((0, 0.0, 1.0), (1, 0.0, 1.0)) == [True, True]  # in different layers
    assert left((0, 0.0, 0.0), (0, 0.01, 0.029)) == [True, False]
    assert left((0, 0.0, 0.0), (0, 0.01, 0.035)) == [True, True]
    assert left((0, 0.0, 8.8), (0, 0.01, 8.86)) == [True, False]  # at a slant of two, clusters are longer
    around = 4.4 * 2 * np.pi  # pile-up is turned
    assert left((0, 0.1, 1.0), (0, 0.11 + around, 1.0)) == [True, False]
    assert left((0, 0.04, 1.0), (0, 0.0, 1.0), (0, 0.02, 1.0)) == [False, True, False]  # a chain


@pytest.mark.parametrize("name", ["run1", "run3"])
def test_some_pixel_modules_are_dead(name):
    layers, rng = list(GEOMETRIES[name].layers.values()), np.random.default_rng(0)
    layer, phi = rng.integers(0, len(layers), 200000), rng.uniform(-np.pi, 3 * np.pi, 200000)
    z = rng.uniform(-1, 1, 200000) * np.array([made.half_length for made in layers])[layer]
    works = modules.from_working_modules(layers, layer, phi, z)
    assert np.array_equal(works, modules.from_working_modules(layers, layer, phi - 2 * np.pi, z))
    for number, made in enumerate(layers):
        dead = 1 - works[layer == number].mean()
        assert dead == pytest.approx(modules.DEAD if made.ladders else 0, abs=0.008)  # a module is 0.006 of layer 1


def test_hits_are_lost_with_the_rate_of_collisions():
    hits = np.zeros(300000, silicon.SILICON)
    hits["layer"], hits["event"] = np.arange(len(hits)) % 3, np.repeat([0, 1], len(hits) // 2)
    left = silicon.without_lost_hits(hits, np.array([21, 200]), RUN1, np.random.default_rng(0))
    for event, number in ((0, 21), (1, 200)):
        for layer, expected in enumerate((6e-4, 6e-4 * 0.363, 6e-4 * 0.186)):
            share = ((left["event"] == event) & (left["layer"] == layer)).sum() / 50000
            assert 1 - share == pytest.approx(number * expected, rel=0.15)


def test_vertices_are_off_merged_or_wrong():
    number, rng = 40000, np.random.default_rng(0)
    batch = pions(np.full(number, 100.0), 0.1, 0.3)
    shift = detect(batch, only("vertex"), np.random.default_rng(0)).vertex_z
    shift = shift - detect(batch, PLAIN, np.random.default_rng(0)).vertex_z
    assert shift.std() == pytest.approx(11e-4, rel=0.03)  # 10 to 12 um in each direction
    spread = tracks_of(batch, only("vertex"))["d0"].std()
    assert spread == pytest.approx(np.hypot(10e-4, 11e-4), rel=0.03)
    # one other collision: far, near with a third of the tracks, near without tracks
    others = np.array([3.0, 0.03, 0.03]), np.array([10, 30, 0])
    found = vertices.chosen_vertices(np.zeros(3), np.array([60, 60, 60]), np.arange(3), *others, rng)
    np.testing.assert_allclose(found, [0, 0.01, 0])
    for mean, wrong, number in ((21, 0.0042, 40000), (200, 0.04, 8000)):
        event = np.repeat(np.arange(number), mean)
        tracks = np.tile(np.arange(mean), number)
        z = np.where(tracks == mean - 1, 7.0, 3.0)
        found = vertices.chosen_vertices(np.zeros(number), np.full(number, 60), event, z, tracks, rng)
        assert set(np.unique(found)) == {0.0, 7.0}  # the collision with the most tracks
        assert (found == 7).mean() == pytest.approx(wrong, rel=0.2)
