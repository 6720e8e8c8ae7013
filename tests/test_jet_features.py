"""Jet variables against cases computed by hand, and on simulated jets."""

import json

import numpy as np
import pytest
from datasets import Dataset
from samples import row_table
from simulation_checks import mass_baseline, nuisances, occupancy, percentiles, response, tagging_baseline

from e2evit.baselines.jet_features import FEATURE_GROUPS, jet_features, read_pixels, variables
from e2evit.data import find_schema, load_e2e
from e2evit.data.grid import window_centres

SCHEMA = find_schema("simulated")


def jet_of(*pixels):
    """One jet at seed tower (28, 10) from `(channel, row, column, value)`."""
    channels = SCHEMA.channel_names
    entries = sorted(((channels.index(c) * 125 + row) * 125 + column, value) for c, row, column, value in pixels)
    index, value = zip(*entries)
    return Dataset(row_table(1, ieta=[28], iphi=[10], pixel_index=[list(index)], pixel_value=[list(value)]))


def test_two_prongs():
    """Equal deposits 30 crystals apart: e2 = z1 z2 ΔR, width half of ΔR, τ21 zero, no triple."""
    eta, _ = window_centres(28, 10)
    jets = jet_of(("ecal", 62, 47, 100.0), ("ecal", 62, 77, 100.0))
    found = {name: value[0] for name, value in jet_features(jets, SCHEMA).items()}
    distance = np.radians(30)
    assert found["pt"] == pytest.approx(200 / np.cosh(eta[62]), rel=1e-6)
    assert found["width"] == pytest.approx(distance / 2, rel=1e-6)
    assert found["e2"] == pytest.approx(distance / 4, rel=1e-6)
    assert found["c2"] == found["tau21"] == found["d2"] == 0
    assert found["tau1"] == pytest.approx(distance / 2 / 0.8, rel=1e-6)
    assert found["major"] == pytest.approx((distance / 2) ** 2, rel=1e-6)
    assert found["minor"] == pytest.approx(0, abs=1e-9)
    assert found["mass_2_subjets"] == pytest.approx(found["mass"], rel=1e-6)
    assert found["ring_2"] == pytest.approx(1)  # both 0.26 from the centre
    assert (found["num_crystals"], found["num_towers"], found["ecal_fraction"]) == (2, 0, 1)


def test_three_prongs_correlate():
    """Three equal deposits at the corners of a triangle: e3 = z³ times the product of the sides."""
    places = [(62, 42), (62, 82), (92, 62)]
    found = jet_features(jet_of(*(("ecal", row, column, 60.0) for row, column in places)), SCHEMA)
    eta, phi = window_centres(28, 10)
    points = [(eta[row], phi[column]) for row, column in places]
    sides = [np.hypot(points[i][0] - points[j][0], points[i][1] - points[j][1]) for i, j in ((0, 1), (0, 2), (1, 2))]
    pt = np.array([60 / np.cosh(point[0]) for point in points])
    z = pt / pt.sum()
    e2 = sum(z[i] * z[j] * side for (i, j), side in zip(((0, 1), (0, 2), (1, 2)), sides))
    assert found["e2"][0] == pytest.approx(e2, rel=1e-6)
    assert found["d2"][0] == pytest.approx(z.prod() * np.prod(sides) / e2**3, rel=1e-6)
    assert found["tau32"][0] == pytest.approx(0, abs=1e-9)


def test_a_track_without_impact_parameters_has_zeros():
    """A pixel of exactly zero is not in a sparse row, and the values of its neighbours are not taken for it."""
    tracks = [("trk_pt", 62, 62, 10.0), ("trk_pt", 62, 70, 5.0), ("trk_pt", 62, 71, 3.0), ("trk_d0", 62, 71, 0.1)]
    place = ("ecal", 62, 62, 1.0)
    jet = {name: value[0] for name, value in jet_features(jet_of(*tracks, place), SCHEMA).items()}
    assert (jet["d0_1"], jet["d0_2"], jet["num_tracks"]) == (pytest.approx(0.1), 0, 3)
    jet = jet_features(jet_of(*tracks, ("trk_d0", 50, 50, 9.0), place), SCHEMA)
    assert jet["d0_1"][0] == pytest.approx(0.1)
    assert jet_features(jet_of(*tracks[:2], place), SCHEMA)["d0_1"][0] == 0


def test_tracks_and_impact_parameters():
    tracks = [(62, 62, 10.0, -0.03, 0.1), (62, 70, 5.0, 0.2, 0.05), (70, 62, 20.0, 0.001, 5.0)]
    pixels = [("ecal", 62, 62, 50.0)]
    for row, column, pt, d0, dz in tracks:
        pixels += [("trk_pt", row, column, pt), ("trk_d0", row, column, d0), ("trk_dz", row, column, dz)]
    found = {name: value[0] for name, value in jet_features(jet_of(*pixels), SCHEMA).items()}
    assert (found["num_tracks"], found["num_all_tracks"]) == (2, 3)  # the third track comes from another vertex
    assert (found["track_pt"], found["all_track_pt"]) == (15, 35)
    assert (found["num_d0_0.02"], found["num_d0_0.1"]) == (2, 1)
    np.testing.assert_allclose([found["d0_1"], found["d0_2"], found["d0_3"]], [0.2, 0.03, 0], rtol=1e-6)


@pytest.fixture(scope="module")
def simulated(simulated_jets, tmp_path_factory):
    dataset = load_e2e("simulated", simulated_jets, cache_dir=tmp_path_factory.mktemp("cache"))
    from datasets import concatenate_datasets

    return concatenate_datasets(list(dataset.values())), find_schema("simulated", simulated_jets)


def test_simulated_jets(simulated):
    jets, schema = simulated
    found, labels = jet_features(jets, schema), np.array(jets["labels"])
    assert list(found) == [name for group in FEATURE_GROUPS.values() for name in group]
    assert all(value.shape == (len(jets),) and np.isfinite(value).all() for value in found.values())
    names = list(schema.label_names)
    by_class = {name: {k: v[labels == names.index(name)] for k, v in found.items()} for name in names}
    assert np.median(by_class["top"]["mass"]) > 1.3 * np.median(by_class["qcd"]["mass"])
    # sums of d0 hang on few tracks of hadrons that met material, and are alike; of the twenty jets of each class, ten
    # and five tracks are beyond 50 micrometres
    assert np.median(by_class["x_bb"]["num_d0_0.005"]) > 1.5 * np.median(by_class["x_qq"]["num_d0_0.005"])
    assert by_class["x_gammagamma"]["ecal_fraction"].mean() > 0.9
    # the two subjets are the photons: their mass is the particle's
    merged = np.array(jets["merged"], dtype=bool)[labels == names.index("x_gammagamma")]
    masses = np.array(jets["mass_labels"], dtype=float)[labels == names.index("x_gammagamma")]
    ratio = by_class["x_gammagamma"]["mass_2_subjets"][merged] / masses[merged]
    assert 0.6 < np.median(ratio) < 1.6


def test_occupancy_counts_towers(simulated):
    jets, schema = simulated
    counts, pixels = occupancy(jets, schema), read_pixels(jets, schema)
    for name, per_jet in counts.items():
        scale = 25 if name == "hcal" else 1
        np.testing.assert_allclose(per_jet * scale, np.bincount(pixels[name].jet, minlength=len(jets)))
    assert 20 < counts["hcal"].mean() < 80


def test_baselines_on_separable_numbers():
    rng = np.random.default_rng(0)
    labels, ids = np.repeat([0, 1], 3000), np.arange(6000) // 2
    x = np.stack([labels + rng.normal(0, 1, 6000), rng.normal(0, 1, 6000)], axis=1)
    found = tagging_baseline(x, labels, ids)
    assert found["auc"] == pytest.approx(0.76, abs=0.03)  # Φ(1 / √2)
    assert 0 < found["error"] < 0.02
    masses = rng.uniform(50, 300, 6000)
    found = mass_baseline(masses[:, None] * rng.normal(1, 0.1, (6000, 1)), masses, ids)
    assert found["resolution"] == pytest.approx(0.1, abs=0.02)
    assert found["constant"] == pytest.approx(62.5, abs=3)
    assert found["mae"] < 0.5 * found["constant"]
    assert variables({name: x[:, 0] for name in FEATURE_GROUPS["tracks"]}, ["tracks"]).shape == (6000, 14)


def test_response_in_bins():
    true = np.linspace(400, 999, 6000)
    rows = response(true, true * np.tile([0.8, 0.9, 1.0], 2000), [400, 700, 1000])
    assert [(row["low"], row["high"]) for row in rows] == [(400, 700), (700, 1000)]
    assert rows[0]["response"] == pytest.approx(0.9)
    assert rows[0]["resolution"] == pytest.approx(0.1 / 0.9, rel=1e-6)
    assert percentiles([1.0, 2.0, 3.0])["median"] == 2
    (empty,) = response(true, true, [1000, 1100])
    assert np.isnan([empty["response"], empty["resolution"]]).all()


def test_nuisances_of_a_known_row():
    rows = Dataset(row_table(2, ieta=[12, 43], iphi=[3, 4], num_pileup=[20, 21]))
    found = nuisances(rows)
    assert found[:, :2].tolist() == [[20, 12], [21, 43]]
    assert found[:, -2:].tolist() == [[55, 0], [0, 55]]


def test_the_fixture_says_what_made_it(simulated_jets):
    settings = json.loads((simulated_jets / "simulation.json").read_text())
    assert (settings["pileup"], settings["pool_size"], settings["shard_size"]) == (21.0, 100, 2000)
    size = sum(path.stat().st_size for path in simulated_jets.iterdir())
    assert size < 2 * 2**20
