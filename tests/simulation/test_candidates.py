"""Candidates: single particles, real jets, and the files that hold them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import concatenate_datasets

from e2evit import load_e2e
from e2evit.cli import prepare
from e2evit.data import find_schema
from e2evit.data.columns import CANDIDATE_COLUMNS, CANDIDATE_TRUTH
from e2evit.data.formats import FileError
from e2evit.data.grid import seed_towers
from e2evit.data.sparse import COLUMN_ENCODINGS
from e2evit.simulation import ParticleImages, SimulationSettings, particle_flow, shards, simulate
from e2evit.simulation.batch import EventBatch
from e2evit.simulation.detector import detect
from e2evit.simulation.geometry import GEOMETRIES
from e2evit.simulation.hcal import tower_energy
from e2evit.simulation.images import jet_windows, render
from e2evit.simulation.particle_flow import MAX_CANDIDATES, find_candidates

EVENTS = 200
MASS = {11: 0.0005, 13: 0.1057, 22: 0.0, 130: 0.4976, 211: 0.1396}


def candidates_of(*particles, pileup: bool = False) -> np.ndarray:
    """Candidates of many events with the same particles: (PDG code, charge, pT, eta, phi)."""
    code, charge, pt, eta, phi = np.tile(np.array(particles, float), (EVENTS, 1)).T
    energy = np.sqrt((pt * np.cosh(eta)) ** 2 + np.array([MASS[abs(one)] for one in code.astype(int).tolist()]) ** 2)
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), energy], axis=1)
    event = np.repeat(np.arange(EVENTS), len(particles))
    batch = EventBatch(EVENTS, event, code.astype(int), charge, momentum, np.zeros((len(event), 3)))
    rng, detector, each = np.random.default_rng(0), GEOMETRIES["run1"].without(["all"]), np.arange(EVENTS)
    response = detect(batch, detector, rng)
    for hits in (response.tracks, response.ecal, response.hcal):
        hits["pileup"] = pileup
    axes = np.full(EVENTS, particles[0][3]), np.full(EVENTS, particles[0][4])
    towers = tower_energy(EVENTS, response.hcal, detector, rng)
    frames = jet_windows(each, *seed_towers(towers, each, *axes))
    image = render(frames, response, towers, detector, rng)
    return find_candidates(frames, *axes, image, response, towers, detector, rng)


def of(candidates: np.ndarray, *codes: int) -> np.ndarray:
    return candidates[np.isin(np.abs(candidates["id"]), codes)]


@pytest.mark.parametrize("eta", [0.3, 1.2])
def test_a_photon(eta):
    found = candidates_of((22, 0, 50.0, eta, 1.0))
    hard = found[found["pt"] > 25]
    assert set(hard["id"].tolist()) == {22}
    assert len(hard) == pytest.approx(EVENTS, abs=2)
    assert np.median(hard["pt"]) == pytest.approx(50, rel=0.03)
    # seen from the vertex, which lies some 5 cm from the middle of the detector
    assert np.std(hard["eta"] - eta) < 0.005
    assert np.std(hard["phi"] - 1.0) < 0.005
    assert (hard["d0"] == 0).all()


@pytest.mark.parametrize(("code", "charge", "efficiency"), [(211, 1, 0.93), (-11, 1, 0.74), (13, -1, 0.88)])
def test_charged_particles_leave_a_track_and_hardly_anything_else(code, charge, efficiency):
    """The energy of their showers is that of the track, within the resolution: an excess of one sigma makes more."""
    found = candidates_of((code, charge, 30.0, 0.3, 1.0))
    tracks = found[found["id"] == code]
    assert len(tracks) / EVENTS == pytest.approx(efficiency, abs=0.06)
    assert (tracks["charge"] == charge).all()
    assert np.median(tracks["pt"]) == pytest.approx(30, rel=0.01)
    assert np.std(tracks["dz"]) < 0.02
    with_track = np.isin(found["jet"], found["jet"][found["charge"] != 0])
    neutral = found[with_track & (found["charge"] == 0)]
    assert neutral["pt"].sum() / EVENTS < (6 if code == 211 else 2)
    energy = found["energy"] / np.cosh(found["eta"]) / found["pt"]
    assert energy == pytest.approx(1, abs=0.02)


def test_a_neutral_hadron():
    found = of(candidates_of((130, 0, 60.0, 0.3, 1.0)), 22, 130)
    total = np.bincount(found["jet"], found["pt"], minlength=EVENTS)
    assert np.median(total) == pytest.approx(60, rel=0.2)  # showers in the ECAL alone look like photons
    assert of(found, 130)["pt"].sum() > 0.4 * found["pt"].sum()


def test_a_photon_behind_a_track_is_their_excess():
    """In the crystal that the track hits: what exceeds the track's energy."""
    (hit,) = {round(float(x), 3) for x in candidates_of((211, 1, 20.0, 0.3, 1.0))["phi"][:1]}
    bent = hit - 0.0034 * 1.29 * 3.8 / (2 * 20) * 88  # the track turns to negative phi: where it reaches the ECAL
    found = candidates_of((211, 1, 20.0, 0.3, 1.0), (22, 0, 80.0, 0.3, bent))
    photons = of(found, 22)
    assert np.median(np.bincount(photons["jet"], photons["pt"], minlength=EVENTS)) == pytest.approx(80, rel=0.12)


@pytest.mark.parametrize(
    ("row", "energy", "seen"),
    [
        (28, 0.9, True),  # the barrel, |ieta| = 1
        (44, 1.0, False),  # the endcap, |ieta| = 17
        (44, 1.2, True),
        (11, 1.0, False),
        (50, 1.0, False),  # |ieta| = 23: ten degrees, in two halves
        (50, 1.2, True),
    ],
)
def test_endcaps_have_seeds_of_their_own(row, energy, seen):
    towers = np.zeros((1, 56, 72))
    towers[0, row, 10:12] = (energy / 2, energy / 2) if row == 50 else (energy, 0)
    frames = jet_windows(np.zeros(1, int), np.array([np.clip(row, 12, 43)]), np.array([10]))
    found = particle_flow._hcal_clusters(frames, towers)
    assert len(found) == seen
    assert found.energy.sum() == pytest.approx(energy if seen else 0)


@pytest.mark.parametrize(("row", "energy", "seen"), [(140, 0.22, 0), (140, 0.24, 1), (240, 0.55, 0), (240, 0.65, 1)])
def test_a_seed_of_the_endcaps_ecal_is_a_block(row, energy, seen):
    """Of 2 x 2 pixels, each with a sixteenth of its energy."""
    frames = jet_windows(np.zeros(1, int), np.array([40]), np.array([10]))
    crystals, wide = np.zeros((125, 125)), row >= 225
    place = row - frames.row[0]
    crystals[place : place + 1 + wide, 60 : 61 + wide] = energy / 16 if wide else energy
    pixel = np.flatnonzero(crystals)
    image = [pa.array([values]) for values in (pixel + 3 * 125**2, crystals.flat[pixel])]
    found = particle_flow._ecal_clusters(frames, image, GEOMETRIES["run1"])
    assert len(found) == seen
    assert found.energy.sum() == pytest.approx(energy * seen)


def test_pileup_is_told_of_tracks_and_clusters():
    particles = (211, 1, 20.0, 0.3, 1.0), (22, 0, 20.0, 0.5, 1.2), (130, 0, 40.0, 0.1, 0.8)
    for pileup in (False, True):
        found = candidates_of(*particles, pileup=pileup)
        assert {211, 22, 130} <= set(found["id"].tolist())
        hard = found[found["pt"] > 2]
        assert (hard["is_pileup"] == pileup).all()


@pytest.fixture(scope="module")
def settings():
    return SimulationSettings(seed=2, pool_size=60, candidates=True)


@pytest.fixture(scope="module")
def jets(settings, pool) -> pa.Table:
    return shards.make_shard("qcd", 0, 60, settings, pool)


def flat(table: pa.Table, name: str) -> np.ndarray:
    return table[f"candidate_{name}"].combine_chunks().flatten().to_numpy(zero_copy_only=False)


def test_candidates_of_jets(jets):
    columns = [jets[name].combine_chunks() for name in (CANDIDATE_COLUMNS | CANDIDATE_TRUTH)]
    counts = np.diff(columns[0].offsets.to_numpy())
    assert all(np.array_equal(np.diff(column.offsets.to_numpy()), counts) for column in columns)
    assert 20 < np.median(counts) <= counts.max() <= MAX_CANDIDATES
    jet, pt = np.repeat(np.arange(len(counts)), counts), flat(jets, "pt")
    assert (np.diff(pt)[np.diff(jet) == 0] <= 0).all()  # the hardest first
    eta, phi = jets["eta"].to_numpy()[jet], jets["phi"].to_numpy()[jet]
    across = np.mod(flat(jets, "phi") - phi + np.pi, 2 * np.pi) - np.pi
    assert np.hypot(flat(jets, "eta") - eta, across).max() < 0.801
    code, charge = np.abs(flat(jets, "id")), flat(jets, "charge")
    assert set(code.tolist()) <= {211, 11, 13, 22, 130}
    assert ((charge != 0) == np.isin(code, (211, 11, 13))).all()
    pileup = flat(jets, "is_pileup")
    charged = charge != 0
    assert (
        np.median(np.abs(flat(jets, "dz")[charged & pileup]))
        > 1
        > np.median(np.abs(flat(jets, "dz")[charged & ~pileup]))
    )
    assert 0.01 < pt[pileup].sum() / pt.sum() < 0.3
    response = jets["reco_pt"].to_numpy() / jets["pt"].to_numpy()
    assert np.median(response) == pytest.approx(0.936, abs=0.03)  # of 3000 jets; standard error 0.01
    assert (np.quantile(response, 0.84) - np.quantile(response, 0.16)) / 2 < 0.09  # CMS: 5 %
    shares = {one: pt[code == one].sum() / pt.sum() for one in (211, 22, 130)}
    # of 3000 jets 0.54, 0.38 and 0.07; a jet's share varies by 0.15, so the mean of 60 by 0.02
    assert shares[211] == pytest.approx(0.54, abs=0.06)
    assert shares[22] == pytest.approx(0.38, abs=0.06)
    assert shares[130] == pytest.approx(0.07, abs=0.03)


def test_candidates_do_not_change_the_images(jets, settings, pool):
    again = shards.make_shard("qcd", 0, 60, settings, pool)
    assert again.equals(jets, check_metadata=True)
    images = shards.make_shard("qcd", 0, 60, SimulationSettings(seed=2, pool_size=60), pool)
    first = len(set(images["event_id"].to_pylist()[:10]))  # the first batch: later ones draw other numbers
    assert images["pixel_index"][:first].equals(jets["pixel_index"][:first])
    assert images["reco_pt"].null_count == 60
    assert images["soft_drop_mass"][:first].equals(jets["soft_drop_mass"][:first])


def test_new_images_of_particles_have_candidates_of_the_same_response(pool):
    rows = shards.make_shard("qcd", 0, 12, SimulationSettings(seed=3, keep="particles"))
    plain = ParticleImages("run1", pool, 21.0)(rows)
    images = ParticleImages("run1", pool, 21.0, candidates=True)
    both = images(rows)
    assert both["pixel_value"].equals(plain["pixel_value"])
    response = both["reco_pt"].to_numpy() / both["pt"].to_numpy()
    assert 0.85 < np.median(response) < 1.1
    images.set_epoch(1)
    assert not images(rows)["candidate_pt"].equals(both["candidate_pt"])
    alone = ParticleImages("run1", pool, 21.0, candidates=True)(rows.slice(5, 1))
    assert alone["candidate_pt"].combine_chunks().equals(both["candidate_pt"].slice(5, 1).combine_chunks())


def test_files_with_candidates_are_a_data_set(jets, tmp_path):
    folder = tmp_path / "jets"
    folder.mkdir()
    pq.write_table(jets, folder / "qcd-00000-60.parquet", **COLUMN_ENCODINGS)
    assert find_schema("simulated", folder).lists == ("candidates",)
    rows = concatenate_datasets(list(load_e2e("simulated", folder, cache_dir=tmp_path / "cache").values()))
    assert sum(map(len, rows["candidate_pt"])) == len(flat(jets, "pt"))
    assert set(CANDIDATE_TRUTH) <= set(rows.column_names)
    assert not set(CANDIDATE_TRUTH) & set(CANDIDATE_COLUMNS)
    prepare.main(["simulated", "--data_dir", str(folder), "--output_dir", str(tmp_path / "prepared")])
    prepared = load_e2e("simulated", tmp_path / "prepared", cache_dir=tmp_path / "cache")
    assert sum(map(len, concatenate_datasets(list(prepared.values()))["candidate_pt"])) == len(flat(jets, "pt"))
    plain = pq.read_table(folder / "qcd-00000-60.parquet")
    only = jets.select([name for name in jets.column_names if name not in (*CANDIDATE_COLUMNS, *CANDIDATE_TRUTH)])
    sizes = {}
    for name, table in (("with", plain), ("without", only)):
        pq.write_table(table, tmp_path / name, **COLUMN_ENCODINGS)
        sizes[name] = (tmp_path / name).stat().st_size / 60
    assert sizes["with"] - sizes["without"] < 2000  # bytes a jet


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("candidate_pt", float("nan"), "nan in candidate_pt"),
        ("candidate_eta", 30.0, "30 in candidate_eta"),
        ("candidate_pt", None, "a null in candidate_pt"),
    ],
)
def test_damaged_candidates_are_told(jets, tmp_path, name, entry, message):
    lists = jets[name].to_pylist()
    lists[4][2] = entry
    where = jets.column_names.index(name)
    table = jets.set_column(where, jets.schema.field(name), pa.array(lists, jets.schema.field(name).type))
    pq.write_table(table, tmp_path / "qcd-00000-60.parquet")
    with pytest.raises(Exception, match=message):
        load_e2e("simulated", tmp_path, cache_dir=tmp_path / "cache")


def test_lists_of_different_length_and_missing_ones(jets, tmp_path):
    lists = jets["candidate_d0"].to_pylist()
    lists[1].pop()
    where = jets.column_names.index("candidate_d0")
    field = jets.schema.field("candidate_d0")
    pq.write_table(jets.set_column(where, field, pa.array(lists, field.type)), tmp_path / "qcd-00000-60.parquet")
    with pytest.raises(Exception, match=r"entries in candidate_id and .* in candidate_d0"):
        load_e2e("simulated", tmp_path, cache_dir=tmp_path / "cache")
    pq.write_table(jets.drop_columns(["candidate_d0"]), tmp_path / "qcd-00000-60.parquet")
    with pytest.raises((FileError, ValueError), match="missing key 'candidate_d0'"):
        load_e2e("simulated", tmp_path, cache_dir=tmp_path / "cache2")


def test_candidates_are_of_images_of_jets(tmp_path):
    for other in ({"keep": "particles"}, {"whole_detector": True}):
        with pytest.raises(ValueError, match="`candidates` go with images of jets"):
            simulate(tmp_path / "out", ["qcd"], 10, SimulationSettings(candidates=True, **other))
