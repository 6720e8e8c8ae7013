"""Kinematics against hand-computed cases; shards are reproducible, resumed, and plausible."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from e2evit.data import SCHEMAS
from e2evit.simulation import SimulationSettings, simulate
from e2evit.simulation.detector import FIELD_TESLA, Hits, impact_parameters, lateral_shares, propagate
from e2evit.simulation.images import Jets, crop_windows, seed_towers
from e2evit.simulation.produce import make_shard


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
    # z grows with the length of the arc, not of the chord
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
    # a straight-ish track along x that passes y = 0.1 cm: dxy = -x py/pT + y px/pT = +0.1, d0 = -dxy
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


def test_lateral_shares_are_those_of_a_photon():
    shares = lateral_shares([0.5], [0.5], 2, 0.105)[0]
    assert shares[2, 2] == pytest.approx(0.81, abs=0.01)
    assert shares[1:4, 1:4].sum() == pytest.approx(0.94, abs=0.01)
    np.testing.assert_allclose(shares, shares.T)
    np.testing.assert_allclose(shares, shares[::-1])
    assert lateral_shares([0.01], [0.5], 2, 0.105)[0, 1, 2] > shares[1, 2]


def hits(*entries):
    return Hits(*(np.array(column) for column in zip(*entries)))


def test_windows_wrap_in_phi_and_spread_towers():
    """Two events; tower (20, 71) of the second is the seed, its neighbour across phi = 0 belongs to the window."""
    empty = hits((0, 0, 0, 1.0))
    hcal = hits((0, 20, 71, 100.0), (1, 20, 71, 50.0), (1, 20, 0, 25.0), (1, 40, 71, 99.0))
    ecal = hits((1, 102, 357, 7.0), (1, 102, 59, 3.0), (1, 102, 60, 4.0), (1, 40, 357, 5.0))
    names = ("ecal", "hcal", "bpix1")
    layers = {"ecal": ecal, "hcal": hcal, "bpix1": empty}
    index, value = crop_windows(layers, names, np.array([1]), np.array([20]), np.array([71]), 2)
    image = np.zeros(3 * 125 * 125)
    image[index[0].as_py()] = value[0].as_py()
    image = image.reshape(3, 125, 125)
    assert image[0, 62, 62] == 7.0  # the middle crystal of the seed tower
    assert image[0, 62, 124] == 3.0  # 62 columns further, across the seam
    assert image[0, 0, 62] == 5.0  # 62 rows before
    assert image[0].sum() == 15.0  # column 60 is one too far
    np.testing.assert_allclose(image[1, 60:65, 60:65], 2.0)
    np.testing.assert_allclose(image[1, 60:65, 65:70], 1.0)
    assert image[1].sum() == pytest.approx(75.0)
    assert not image[2].any()
    with pytest.raises(ValueError, match="Seed rows"):
        crop_windows(layers, names, np.array([1]), np.array([11]), np.array([71]), 2)


def test_seed_is_the_hottest_tower_near_the_axis():
    hcal = hits((0, 28, 2, 5.0), (0, 30, 71, 9.0), (0, 34, 2, 99.0))
    # the axis at eta = 0.01, phi = 2.5 degrees lies in tower (28, 2); 30 is two away, 34 is out of reach
    jets = Jets(np.array([0]), momentum(500 * math.cos(0.0436), 500 * math.sin(0.0436), 5.0), np.array([np.nan]))
    assert [int(x[0]) for x in seed_towers(hcal, jets, 1)] == [30, 71]


@pytest.fixture(scope="module")
def shards():
    settings = SimulationSettings(seed=3)
    return {process: make_shard(process, 0, 60, settings) for process in ("qcd", "top")}


def test_shards_are_reproducible(shards):
    again = make_shard("top", 0, 60, SimulationSettings(seed=3))
    assert again.equals(shards["top"])
    assert not make_shard("top", 1, 60, SimulationSettings(seed=3))["pt"].equals(again["pt"])


def test_shards_look_like_jets(shards):
    for process, table in shards.items():
        rows = table.to_pylist()
        assert len(rows) == 60
        assert all(400 < row["pt"] < 1000 and 12 <= row["ieta"] <= 43 and 0 <= row["iphi"] < 72 for row in rows)
        assert {row["labels"] for row in rows} == {SCHEMAS["simulated"].label_names.index(process)}
        assert all((row["mass_labels"] is None) == (process == "qcd") for row in rows)
        pixels = np.array([len(row["pixel_index"]) for row in rows])
        assert 0.97 < 1 - pixels.mean() / 125000 < 0.995  # CMS: 98.5 % empty
        images = np.zeros((60, 8 * 125 * 125))
        for image, row in zip(images, rows):
            assert (np.diff(row["pixel_index"]) > 0).all()
            image[row["pixel_index"]] = row["pixel_value"]
        images = images.reshape(60, 8, 125, 125)
        towers = images[:, 4].reshape(60, 25, 5, 25, 5)
        assert np.array_equal(towers, np.broadcast_to(towers[:, :, :1, :, :1], towers.shape))
        assert towers[:, 12, 0, 12, 0].min() > 0  # the seed tower is in the middle
        assert (images[:, [0, 3, 4, 5, 6, 7]] >= 0).all()
        assert (images[:, 1] < 0).any()
        assert (images[:, 2] > 0).any()
        # tracks and calorimeters see the jet: the sum of their energies is of the size of its own
        energy = (images[:, 3] + images[:, 4]).sum(axis=(1, 2))
        assert 0.6 < np.median(energy / np.array([row["pt"] for row in rows])) < 2.5
    top = np.array(shards["top"]["jet_mass"])
    assert 160 < np.median(top) < 195
    assert np.median(np.array(shards["top"]["mass_labels"])) == pytest.approx(172, abs=3)
    assert np.median(np.array(shards["qcd"]["jet_mass"])) < 130


def test_simulate_resumes_and_refuses_other_settings(tmp_path):
    settings = SimulationSettings(seed=5, shard_size=8)
    simulate(tmp_path, ["qcd"], 16, settings)
    files = sorted(tmp_path.glob("*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files] == [8, 8]
    kept, lost = files
    before = lost.read_bytes()
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / "qcd-00001-8.tmp1").write_bytes(b"half a file of a killed worker")
    simulate(tmp_path, ["qcd"], 16, settings, num_proc=2)
    assert lost.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="seed: 5 there, 6 now"):
        simulate(tmp_path, ["qcd"], 16, SimulationSettings(seed=6, shard_size=8))
    assert json.loads((tmp_path / "simulation.json").read_text())["pythia8mc"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"processes": ["qcd", "susy"]}, "Unknown process susy; known ones: qcd, top"),
        ({"num_jets": 0}, "num_jets"),
        ({"settings": SimulationSettings(min_pt=1000.0, max_pt=400.0)}, "min_pt < max_pt"),
        ({"settings": SimulationSettings(energy=1500.0)}, "energy"),
    ],
)
def test_bad_requests_write_nothing(tmp_path, change, message):
    arguments = {"processes": ["qcd"], "num_jets": 10} | change
    with pytest.raises(ValueError, match=message):
        simulate(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_without_the_sim_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "e2evit.simulation.events", raising=False)
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with pytest.raises(ImportError, match=r"e2evit\[sim\]"):
        simulate(tmp_path / "out", ["qcd"], 10)
