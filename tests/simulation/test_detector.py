"""Sub-detectors against hand-computed cases and published numbers."""

import math

import numpy as np
import pytest

from e2evit.data.grid import TOWER, seed_towers
from e2evit.simulation import calorimeters, ecal, hcal, silicon, tracker
from e2evit.simulation.batch import EventBatch
from e2evit.simulation.cells import IMPACT, Frames, join, lateral_shares, spread, structured
from e2evit.simulation.detector import detect
from e2evit.simulation.geometry import GEOMETRIES

RUN1, RUN3 = (GEOMETRIES[name].without(["all"]) for name in ("run1", "run3"))  # effects have tests of their own


def particles(pdg_id, charge, momentum, vertex=(0.0, 0.0, 0.0), num_events=1):
    """The same particle in each event."""
    mass = {211: 0.1396, 22: 0.0, 11: 0.0005, 13: 0.1057, 130: 0.4976}[pdg_id]
    four = np.array([*momentum, math.sqrt(np.square(momentum).sum() + mass**2)])
    event = np.arange(num_events)
    return EventBatch(
        num_events,
        event,
        np.full(num_events, pdg_id),
        np.full(num_events, float(charge)),
        np.tile(four, (num_events, 1)),
        np.tile(np.array(vertex, float), (num_events, 1)),
    )


def frame(row=0, column=0, height=280, width=360):
    return Frames(np.array([0]), np.array([row]), np.array([column]), height, width)


def test_lateral_shares_are_those_of_a_photon():
    shares = lateral_shares([0.5], [0.5], 2, 0.105)[0]
    # CMS: about 0.8 of E(5 x 5) in the central crystal, 0.97 in 3 x 3
    assert shares[2, 2] == pytest.approx(0.84, abs=0.01)
    assert shares[1:4, 1:4].sum() == pytest.approx(0.975, abs=0.01)
    assert shares.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(shares, shares.T, rtol=1e-5)
    np.testing.assert_allclose(shares, shares[::-1], rtol=1e-5)
    assert lateral_shares([0.01], [0.5], 2, 0.105)[0, 1, 2] > shares[1, 2]


def test_shares_are_the_integral_of_the_profile():
    fine = (np.arange(400) + 0.5) / 400
    u, v = np.meshgrid(fine - 0.3 + 1, fine - 0.6, indexing="ij")  # the cell one row further
    profile = 0.2 / (2 * np.pi * (0.2**2 + u**2 + v**2) ** 1.5)
    middle = 0.2 / (2 * np.pi * (0.2**2 + (u - 1) ** 2 + v**2) ** 1.5)
    shares = lateral_shares([0.3], [0.6], 1, 0.2)[0]
    assert shares[2, 1] / shares[1, 1] == pytest.approx(profile.mean() / middle.mean(), rel=1e-3)


def test_join_gives_all_pairs():
    left, right = join(np.array([2, 0, 2, 5]), np.array([0, 0, 2, 3]))
    assert list(zip(left.tolist(), right.tolist())) == [(0, 2), (1, 0), (1, 1), (2, 2)]


def impacts(*entries):
    columns = zip(*entries)
    return structured(IMPACT, **dict(zip(IMPACT.names, map(np.array, columns))))


def test_showers_wrap_in_phi_and_stop_at_the_frame():
    shower = impacts((0, 100.5, 359.9, 10.0, 0.105))
    whole = spread(frame(), shower, 2, 280, 360)[0]
    assert whole.sum() == pytest.approx(10, rel=1e-5)
    assert whole[100, 0] > 1
    around = spread(frame(90, 350, 20, 20), shower, 2, 280, 360)[0]
    np.testing.assert_allclose(around, np.roll(whole, -350, axis=1)[90:110, :20], rtol=1e-5)
    # a shower that starts outside leaves its tail inside; energy beyond the detector's last row is lost
    np.testing.assert_allclose(spread(frame(101, 0, 5, 5), shower, 2, 280, 360)[0], whole[101:106, :5], rtol=1e-5)
    edge = spread(frame(270, 0, 20, 360), impacts((0, 279.5, 5.5, 10.0, 0.105)), 2, 280, 360)[0]
    assert edge[10:].sum() == 0 < edge[9].sum()


def test_crystals_have_noise_and_a_threshold():
    rng = np.random.default_rng(0)
    energy = ecal.crystal_energy(frame(60, 0, 125, 125), impacts((0, 100.5, 50.5, 5.0, 0.105)), RUN1, rng)[0]
    lit = energy > 0
    assert energy[lit].min() >= ecal.CUT * ecal.NOISE
    assert energy[40, 50] == pytest.approx(5 * 0.84, abs=0.2)
    # 1.35 per mille of 15 625 crystals: 21 noise hits beside the shower's
    assert 10 < lit.sum() - 9 < 40


def test_endcaps_are_resampled_as_by_the_converter():
    """Twice a quarter: each pseudo-crystal of a 2 x 2 block gets a sixteenth of the block's sum."""
    rng = np.random.default_rng(1)
    image = rng.random((1, 280, 360), dtype=np.float32)
    found = ecal.resample_endcap(image.copy(), frame())[0]
    padded = {"minus": np.pad(image[0, :55], ((1, 0), (0, 0))), "plus": np.pad(image[0, 225:], ((0, 1), (0, 0)))}
    wanted = {
        side: np.kron(rows.reshape(28, 2, 180, 2).sum(axis=(1, 3)) / 16, np.ones((2, 2)))
        for side, rows in padded.items()
    }
    np.testing.assert_allclose(found[:55], wanted["minus"][1:], rtol=1e-5)
    np.testing.assert_allclose(found[225:], wanted["plus"][:-1], rtol=1e-5)
    assert np.array_equal(found[55:225], image[0, 55:225])
    # a window with its margin, odd column first: the same pixels
    around = Frames(np.array([0]), np.array([155 - 1]), np.array([350 - 1]), 127, 127)
    rows = np.pad(image[0], ((0, 1), (0, 0)))[154:281]
    window = ecal.resample_endcap(np.roll(rows, -349, axis=1)[None, :, :127].copy(), around)[0]
    np.testing.assert_allclose(window[1:-1, 1:-1], np.roll(found, -350, axis=1)[155:, :125], rtol=1e-5)


def test_coarse_towers_share_their_energy():
    rng = np.random.default_rng(2)
    # rows 3 and 30: |ieta| = 25 is ten degrees wide, |ieta| = 3 is not
    towers = hcal.tower_energy(1, impacts((0, 3.5, 7.5, 40.0, 0.1), (0, 30.5, 7.5, 40.0, 0.1)), RUN1, rng)[0]
    assert towers[3, 6] == towers[3, 7] > 15
    assert towers[30, 7] > 30 > 5 > towers[30, 6]
    # noise: 1.35 per mille of 4 032 towers
    assert (towers > 0).sum() < 40


def seeds(towers, eta, phi):
    energy = np.zeros((1, 56, 72), np.float32)
    for row, column, value in towers:
        energy[0, row, column] = value
    return [int(x[0]) for x in seed_towers(energy, np.array([0]), np.array([eta]), np.array([phi]))]


def test_seed_is_the_hottest_tower_near_the_axis():
    # the axis at eta = 0.01, phi = 2.5 degrees lies in tower (28, 2); 30 is two away, 34 is out of reach
    assert seeds([(28, 2, 5.0), (30, 71, 9.0), (34, 2, 99.0)], 0.01, 0.0436) == [30, 71]
    # only noise: the axis itself
    assert seeds([(30, 71, 1.0)], 0.01, 0.0436) == [28, 2]


def deposits(pdg_id, charge, energy, number=4000, eta=0.0):
    batch = particles(pdg_id, charge, (energy / math.cosh(eta), 0.0, energy * math.tanh(eta)), num_events=number)
    grid = np.full(number, 100.5)
    ecal_hits, hcal_hits = calorimeters.calorimeter_impacts(
        batch, grid, grid, np.ones(number, bool), np.random.default_rng(3)
    )
    in_ecal, in_hcal = (
        np.bincount(hits["event"], hits["energy"], minlength=number) for hits in (ecal_hits, hcal_hits)
    )
    return in_ecal, in_hcal


def test_photons_have_the_resolution_of_the_ecal():
    in_ecal, in_hcal = deposits(22, 0, 50.0)
    assert in_ecal.mean() == pytest.approx(50, rel=2e-3)
    # 2.8 % / sqrt(50) and 0.5 %: 0.64 %, to 2 % with 4 000 photons
    assert in_ecal.std() / 50 == pytest.approx(0.0064, rel=0.05)
    assert not in_hcal.any()


@pytest.mark.parametrize("energy", [5.0, 50.0, 300.0])
def test_pions_have_the_response_and_resolution_of_both_calorimeters(energy):
    in_ecal, in_hcal = deposits(211, 1, energy)
    seen = in_ecal + in_hcal
    # e/h of 1.39 makes the response rise with the energy; EPJ C 60 (2009) 359 has 0.8 at 10 to 0.95 at 300 GeV
    response = seen.mean() / energy
    assert 0.70 < response < 0.95
    width = np.hypot(calorimeters.HCAL_STOCHASTIC / math.sqrt(energy), calorimeters.HCAL_CONSTANT)
    # leakage and shower depth add to the intrinsic resolution
    assert width < seen.std() / seen.mean() < 1.35 * width
    if energy < 50:
        return  # late and early showers cannot be told apart
    late = in_ecal < 2
    assert late.mean() == pytest.approx(math.exp(-calorimeters.ECAL_LENGTHS), abs=0.1)
    assert np.median(in_ecal[late & (in_ecal > 0.01)]) == pytest.approx(0.28, abs=0.1)


@pytest.mark.parametrize("eta", [0.0, 1.3, 2.0])
def test_the_ecal_is_as_deep_at_every_eta(eta):
    """Its crystals point at the beam spot; two thirds of all hadrons start to shower in it."""
    in_ecal, _ = deposits(130, 0, 50.0, eta=eta)
    # standard error 0.007
    assert (in_ecal > 0.01).mean() == pytest.approx(1 - math.exp(-calorimeters.ECAL_LENGTHS), abs=0.025)


@pytest.mark.parametrize(("eta", "path"), [(0.0, 1.0), (1.0, math.cosh(1.0)), (2.0, 10.6 / 5.82)])
def test_muons_leave_a_track_of_ionisation(eta, path):
    in_ecal, in_hcal = deposits(13, -1, 100.0, eta=eta)
    assert np.median(in_ecal) == pytest.approx(0.28, abs=0.02)
    assert np.median(in_hcal) == pytest.approx(1.85 * path, rel=0.05)


def test_paths_depend_on_directions_not_on_masses():
    """A slow hadron at eta 0 has an energy far above its pT, and crosses no more of the HCAL than a fast one."""
    batch = particles(130, 0, (20.0, 0.0, 0.0), num_events=20000)
    batch.momentum[:, 3] = 100.0
    grid = np.full(20000, 100.5)
    hits = calorimeters.calorimeter_impacts(batch, grid, grid, np.ones(20000, bool), np.random.default_rng(0))
    seen = np.zeros(20000, bool)
    for layer in hits:
        seen[layer["event"]] = True
    # those that start behind both calorimeters
    assert 1 - seen.mean() == pytest.approx(math.exp(-1.1 - 5.82), abs=8e-4)


def tracks_of(geometry, pt, number=20000):
    rng = np.random.default_rng(4)
    batch = particles(211, 1, (pt, 0.0, 0.0), num_events=number)
    grid = np.full(number, 100.5)
    vertex_z = rng.normal(0, 5, number)
    everywhere = np.ones(number, bool)
    return tracker.reconstruct_tracks(batch, vertex_z, grid, grid, everywhere, geometry, rng), vertex_z


def test_tracks_have_the_published_resolution():
    """JINST 9 (2014) P10009: 2.8 % in pT, 10 µm in d0, 30 µm in dz at 100 GeV."""
    tracks, vertex_z = tracks_of(RUN1, 100.0)
    assert len(tracks) / 20000 == pytest.approx(tracker.EFFICIENCY, abs=0.01)
    assert tracks["pt"].std() / 100 == pytest.approx(0.028, rel=0.03)
    assert tracks["d0"].std() == pytest.approx(10e-4, rel=0.03)
    assert (tracks["dz"] - vertex_z[tracks["event"]]).std() == pytest.approx(30e-4, rel=0.03)
    assert tracks["d0_error"][0] == pytest.approx(10e-4, rel=0.01)
    soft, _ = tracks_of(RUN1, 0.7)
    assert len(soft) / 20000 == pytest.approx(tracker.SOFT_EFFICIENCY, abs=0.01)
    assert len(tracks_of(RUN1, 0.49)[0]) == 0


def test_track_channels_sum_pt_and_average_impact_parameters():
    tracks = structured(
        tracker.TRACK,
        event=np.array([0, 0, 0]),
        row=np.array([3, 3, 4]),
        column=np.array([7, 7, 7]),
        pt=np.array([1.0, 10.0, 5.0]),
        d0=np.array([-0.3, 0.1, 0.2]),
        dz=np.array([1.0, 2.0, 3.0]),
        d0_error=np.array([0.1, 0.1, 0.1]),
        dz_error=np.array([0.1, 0.1, 0.1]),
    )
    channels = tracker.track_channels(frame(0, 0, 10, 10), tracks, np.array([0.5]), 360)
    assert channels["trk_pt"][0].tolist() == [37, 47]
    found = {name: np.round(values, 4).tolist() for name, (_, values) in channels.items()}
    assert found["trk_pt"] == [11.0, 5.0]
    assert found["trk_d0"] == [-0.1, 0.2]  # not weighted by pT, and signed
    assert found["trk_dz"] == [1.0, 2.5]  # from the primary vertex
    assert found["trk_d0_sig"] == pytest.approx([-1.0, 2.0], rel=1e-3)


def test_silicon_hits_are_seen_from_the_primary_vertex():
    batch = particles(211, 1, (100.0, 0.0, 50.0))
    hits = silicon.silicon_hits(batch, np.array([[0.0, 0.0, 10.0]]), RUN1, np.random.default_rng(0))
    assert hits["layer"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(hits["z"], [10 + 0.5 * r for r in (4.4, 7.3, 10.2)], rtol=1e-4)
    channels = silicon.hit_channels(frame(), hits, np.array([10.0]), RUN1)
    row = 140 + int(math.asinh(0.5) / 0.0174)
    for pixels, counts in channels.values():
        assert counts.tolist() == [1]
        assert pixels[0] // 360 == row
    shifted = silicon.hit_channels(frame(), hits, np.array([0.0]), RUN1)
    assert shifted["bpix1"][0][0] // 360 > row


def test_strips_give_two_hits_at_the_middle_of_the_module():
    batch = particles(211, 1, (100.0, 0.0, 10.0))
    hits = silicon.silicon_hits(batch, np.zeros((1, 3)), RUN3, np.random.default_rng(0))
    names = [list(RUN3.layers)[layer] for layer in hits["layer"]]
    assert names == [
        "bpix1",
        "bpix2",
        "bpix3",
        "bpix4",
        *(2 * ["tib1"]),
        *(2 * ["tib2"]),
        *(2 * ["tob1"]),
        *(2 * ["tob2"]),
    ]
    first, second = hits[4:6]
    assert first["z"] == second["z"] == pytest.approx(5.85)  # crossed at 2.55 cm, in the module from 0 to 11.7
    assert second["phi"] - first["phi"] == pytest.approx(0.1 * (2.55 - 5.85) / 25.5, rel=1e-2)


def test_detector_sees_a_photon_and_a_pion():
    for pdg_id, charge in ((22, 0), (211, 1)):
        response = detect(particles(pdg_id, charge, (200.0, 0.0, 30.0)), RUN1, np.random.default_rng(5))
        assert len(response.tracks) == abs(charge)
        assert len(response.silicon) == 3 * abs(charge)
        energy = response.ecal["energy"].sum() + response.hcal["energy"].sum()
        if charge:
            # e/h and the combined resolution of 12 %: within three standard deviations
            assert energy == pytest.approx(0.9 * 202, rel=0.36)
            assert response.hcal["row"] == pytest.approx(response.ecal["row"] / TOWER)
        else:
            assert energy == pytest.approx(202, rel=0.02)
            assert not len(response.hcal)
