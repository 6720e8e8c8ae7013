"""Kept particles give the window that all particles give; images of them depend on seed, epoch and jet alone."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from e2evit.data.grid import SEED_ROWS, TOWER, WINDOW
from e2evit.data.sparse import COLUMN_ENCODINGS, table_to_dense
from e2evit.simulation import ParticleImages, SimulationSettings, pool_cache, shards, simulate
from e2evit.simulation.batch import SPECIES
from e2evit.simulation.detector import detect
from e2evit.simulation.events import _pythia, generate
from e2evit.simulation.geometry import GEOMETRIES
from e2evit.simulation.hcal import tower_energy
from e2evit.simulation.images import jet_windows, render
from e2evit.simulation.jets import find_jets
from e2evit.simulation.kept import axis_crystal, keep_particles, read_particles, rounded
from e2evit.simulation.processes import PROCESSES

SETTINGS = SimulationSettings(seed=3, keep="particles")
MATERIAL = ("conversions", "bremsstrahlung", "nuclear")


class Typical(np.random.Generator):
    """A detector without fluctuations: every number is a typical one of its distribution.

    Args:
        vertex_z: Of all events [cm].
        aside: Standard deviations of all other normal numbers from their mean.
    """

    def __init__(self, vertex_z: float, aside: float = 0.0):
        super().__init__(np.random.PCG64(0))
        self.vertex_z: float | None = vertex_z
        self.aside = aside

    def normal(self, loc, scale, size):
        vertex_z, self.vertex_z = self.vertex_z, None
        return np.full(size, loc + self.aside * scale if vertex_z is None else vertex_z)

    def random(self, size):
        return np.full(size, 0.5)

    def exponential(self, scale, size):
        return np.full(size, 0.3 * scale)

    def gamma(self, shape, scale=1.0, size=None):
        return np.broadcast_to(np.asarray(shape) * scale, (size,)).astype(float)

    def beta(self, a, b, size):
        return np.full(size, a / (a + b))

    def standard_normal(self, size, dtype=float):
        return np.zeros(size, dtype)

    def geometric(self, p, size):  # no noise anywhere
        return np.full(size, 10**9)


@pytest.fixture(scope="module")
def kept():
    return {process: shards.make_shard(process, 0, 80, SETTINGS) for process in ("qcd", "top")}


@pytest.fixture
def images(pool):
    return ParticleImages("run1", pool, 21.0)


def both_windows(layout, vertex_z, taken, shift, aside=0.0):
    """Images of all particles and of the kept ones, with seeds that are some towers from the axis, if the vertex at
    `taken` is taken for that of the event."""
    batch = next(generate(PROCESSES["top"], 11, 8000.0, (400.0, 1000.0), batch_size=100))
    jets = find_jets(batch, 6, 400.0, 1000.0)
    assert len(jets.event) > 50
    row, column = (place // TOWER for place in axis_crystal(*jets.eta_phi))
    kept = read_particles(pa.table(keep_particles(batch, jets, layout)))
    seeds = np.clip(row + shift, *SEED_ROWS), (column + shift) % 72
    for events, particles in ((jets.event, rounded(batch)), (np.arange(len(row)), kept)):
        rng = Typical(vertex_z, aside)
        response = detect(particles, layout, rng)
        response.vertex_z += taken - vertex_z
        towers = tower_energy(particles.num_events, response.hcal, layout, rng)
        sparse = render(jet_windows(events, *seeds), response, towers, layout, rng)
        shape = (len(layout.channel_names), WINDOW, WINDOW)
        yield table_to_dense(pa.table(dict(zip(("pixel_index", "pixel_value"), sparse))), shape)


@pytest.mark.parametrize(
    ("geometry", "vertex_z", "taken"), [("run1", -20.0, -20.0), ("run1", 4.0, -7.0), ("run3", 11.0, 15.0)]
)
def test_kept_particles_give_the_window_of_the_whole_event(geometry, vertex_z, taken):
    """Also if the seed lies at a corner of the square in which it is searched, or another vertex is taken for that of
    the event."""
    layout = GEOMETRIES[geometry].without(MATERIAL)
    for shift in (-3, 3):
        whole, kept = both_windows(layout, vertex_z, taken, shift)
        # d0 is a difference of radii, of which double precision leaves 1e-12 cm
        np.testing.assert_allclose(kept, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("aside", [0.0, 1.0])
def test_few_secondaries_of_particles_that_are_not_kept_come_into_the_window(aside):
    """Here every photon converts; with `aside`, secondaries of hadrons have large angles."""
    whole, kept = both_windows(GEOMETRIES["run1"], 4.0, 4.0, 3, aside)
    different = (np.abs(kept - whole) > 1e-9).sum(axis=(0, 2, 3)) / (whole != 0).sum(axis=(0, 2, 3))
    # measured: 1.5 per mille of the pixels of the ECAL, 1 of the HCAL; no track, no hit
    assert different.max() < 0.003
    assert not different[[0, 1, 2, 5, 6, 7]].any()
    np.testing.assert_allclose(kept.sum(axis=(0, 2, 3)), whole.sum(axis=(0, 2, 3)), rtol=3e-4)


def test_labels_and_occupancies_are_those_of_images(kept, images, pool):
    """The same events, once with the detector, once with particles that go through it later."""
    for process, particles in kept.items():
        other = shards.make_shard(process, 0, 80, SimulationSettings(seed=3, pool_size=60), pool)
        made = images(particles)
        names = ["event_id", "pt", "eta", "jet_mass", "mass_labels", "merged", "parton", "labels"]
        rows = [{row["event_id"] + str(row["pt"]): row for row in t.select(names).to_pylist()} for t in (made, other)]
        both = rows[0].keys() & rows[1].keys()
        assert len(both) > 70  # a seed near the border of the grid may lie on either side of it
        assert {key: rows[0][key] for key in both} == {key: rows[1][key] for key in both}
        dense = [table_to_dense(table, (8, WINDOW, WINDOW)) for table in (made, other)]
        counts = [(image != 0).sum(axis=(0, 2, 3)) / 80 for image in dense]
        np.testing.assert_allclose(*counts, rtol=0.12)  # a jet's occupancy varies by 30 %
        energies = [image[:, 3:5].sum(axis=(0, 2, 3)) / 80 for image in dense]
        np.testing.assert_allclose(*energies, rtol=0.1)
        apart = np.array(made["ieta"]) - np.array(other["ieta"])
        assert np.median(np.abs(apart)) <= 1


def test_masses_and_charges_are_those_of_pythia():
    data = _pythia(("HardQCD:all = on", "Beams:eCM = 8000.", "PhaseSpace:pTHatMin = 400."), 1).particleData
    for code, (charge, mass) in SPECIES.items():
        assert data.charge(code) == charge
        assert data.m0(code) == pytest.approx(mass, abs=1e-5)


def test_rounding_is_far_below_the_resolution():
    batch = next(generate(PROCESSES["qcd"], 5, 8000.0, (400.0, 1000.0), batch_size=100))
    again = rounded(batch)
    assert np.array_equal(again.pdg_id, batch.pdg_id)
    assert np.array_equal(again.charge, batch.charge)
    pt = [np.hypot(*momentum[:, :2].T) for momentum in (batch.momentum, again.momentum)]
    # half a step: of twelve binary digits, and of directions and lengths in single precision
    np.testing.assert_allclose(pt[1], pt[0], rtol=2**-12)
    eta, phi = (
        [values(momentum.T) for momentum in (batch.momentum, again.momentum)]
        for values in (lambda p: np.arcsinh(p[2] / np.hypot(p[0], p[1])), lambda p: np.arctan2(p[1], p[0]))
    )
    np.testing.assert_allclose(eta[1], eta[0], rtol=0, atol=1.001 * 2**-14)
    turn = np.mod(phi[1] - phi[0] + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_allclose(turn, 0, atol=1.001 * 2**-14)
    np.testing.assert_allclose(again.momentum[:, 3], batch.momentum[:, 3], rtol=1e-3)
    np.testing.assert_allclose(again.vertex, batch.vertex, rtol=1e-7, atol=1.001 * 2**-14)


def test_a_particle_of_unknown_mass_is_refused():
    batch = next(generate(PROCESSES["qcd"], 5, 8000.0, (400.0, 1000.0), batch_size=100))
    batch.pdg_id[3] = 4900101
    with pytest.raises(RuntimeError, match="PDG code 4900101"):
        rounded(batch)


def test_a_jet_takes_few_bytes(kept, tmp_path):
    for process, table in kept.items():
        pq.write_table(table, tmp_path / process, row_group_size=1000, **COLUMN_ENCODINGS)
        assert (tmp_path / process).stat().st_size / table.num_rows < 2500


def test_images_depend_on_seed_epoch_and_jet_alone(kept, images):
    table = kept["qcd"].slice(0, 40)
    fixed = images(table)
    assert images(table).equals(fixed)
    order = np.random.default_rng(0).permutation(40)
    assert images(table.take(pa.array(order))).equals(fixed.take(pa.array(order)))
    assert pa.concat_tables([images(table.slice(i, 1)) for i in range(5)]).equals(fixed.slice(0, 5))
    first = images.with_seed(0, 0)(table)
    others = [fixed, images.with_seed(0, 1)(table), images.with_seed(1, 0)(table)]
    assert images.with_seed(0, 0)(table).equals(first)
    for other in others:
        different = [a != b for a, b in zip(first["pixel_index"].to_pylist(), other["pixel_index"].to_pylist())]
        assert all(different)
        assert first["pt"].equals(other["pt"])
    assert not first["num_pileup"].equals(others[1]["num_pileup"])
    assert pickle.loads(pickle.dumps(images))(table).equals(fixed)  # to another process


def test_pileup_is_a_mean_or_a_range(kept, pool):
    table = pa.concat_tables([kept["qcd"], kept["top"].cast(kept["qcd"].schema)])
    number = {mean: np.array(ParticleImages("run1", pool, mean)(table)["num_pileup"]) for mean in (0, 21, (0, 60))}
    assert not number[0].any()
    assert number[21].mean() == pytest.approx(21, abs=1.5)  # standard error 0.4
    assert number[21].var() == pytest.approx(21, abs=10)
    assert number[0, 60].mean() == pytest.approx(30, abs=6)  # standard error 1.4
    assert number[0, 60].std() == pytest.approx(60 / 12**0.5, abs=3)
    for wrong in (-1, (60, 0), (1, 2, 3), float("nan")):
        with pytest.raises(ValueError, match="mean number of collisions, or the smallest and the largest"):
            ParticleImages("run1", pool, wrong)
    with pytest.raises(ValueError, match="needs a pool"):
        ParticleImages("run1", None, 21.0)


@pytest.mark.slow
def test_the_pool_is_made_once_and_again_if_damaged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pool_cache, "POOL_SIZE", 30)
    monkeypatch.setattr(pool_cache, "PART_SIZE", 20)
    made, write_part = [], pool_cache._write_part

    def counted(path, *arguments):
        made.append(path.name)
        if made == ["00000.npz", "00001.npz"]:
            raise KeyboardInterrupt
        return write_part(path, *arguments)

    monkeypatch.setattr(pool_cache, "_write_part", counted)
    # diffraction takes Pythia seconds to set up
    settings = (8000.0, "run1", (), ("SoftQCD:inelastic = off", "SoftQCD:nonDiffractive = on"), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        pool_cache.cached_pool(*settings)
    pool = pool_cache.cached_pool(*settings)
    assert made == ["00000.npz", "00001.npz", "00001.npz"]
    assert len(pool) == 30
    assert [path.name for path in (tmp_path / "minimum_bias").iterdir()] == [pool.folder.name]
    for name, hits in pool.response.layers.items():
        assert not hits.flags.writeable, name  # the map of a file that all runs read
        assert np.array_equal(np.unique(hits["event"]), np.unique(hits["event"] % 30))
    again = pool_cache.cached_pool(*settings)
    assert len(made) == 3
    assert pickle.loads(pickle.dumps(again)).folder == pool.folder  # to another process
    before = np.array(pool.response.tracks)
    with (pool.folder / "tracks.npy").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"oops")
    pool_cache._damage.cache_clear()
    again = pool_cache.cached_pool(*settings)
    assert "tracks.npy has changed (SHA-256)): it is made again" in caplog.text
    assert np.array_equal(again.response.tracks, before)


def test_a_production_of_particles_resumes(tmp_path):
    settings = SimulationSettings(seed=1, keep="particles", shard_size=8)
    whole, parts = (simulate(tmp_path / name, ["qcd"], 16, settings) for name in ("whole", "parts"))
    (parts / "qcd-00001-8.parquet").unlink()
    simulate(parts, ["qcd"], 16, settings)
    files = sorted(path.name for path in whole.glob("*.parquet"))
    assert files == ["qcd-00000-8.parquet", "qcd-00001-8.parquet"]
    assert all((whole / name).read_bytes() == (parts / name).read_bytes() for name in files)
    assert not (whole / "minimum_bias.npz").exists()
    with pytest.raises(ValueError, match="keep: particles there, images now"):
        simulate(parts, ["qcd"], 16, SimulationSettings(seed=1, shard_size=8))
    for wrong in ({"keep": "tracks"}, {"keep": "particles", "whole_detector": True}):
        with pytest.raises(ValueError, match="keep"):
            simulate(tmp_path / "wrong", ["qcd"], 16, SimulationSettings(**wrong))
