"""Shards are reproducible and plausible; productions resume, share work, and fail with one clear error."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

from e2evit import load_e2e
from e2evit.baselines.jet_features import jet_features
from e2evit.data import find_schema
from e2evit.data.jobs import workers
from e2evit.simulation import SimulationSettings, produce, shards, simulate
from e2evit.simulation.pileup import MinimumBiasPool
from e2evit.simulation.processes import PROCESSES
from e2evit.simulation.spectra import Acceptance

ROOT = Path(__file__).parents[2]
QUIET = {"pileup": 0.0, "shard_size": 8}


def images_of(table):
    schema = json.loads(table.schema.metadata[b"e2evit"])
    images = np.zeros((table.num_rows, len(schema["channel_names"]), *schema["image_size"]), np.float32)
    for image, index, value in zip(images, table["pixel_index"].to_pylist(), table["pixel_value"].to_pylist()):
        assert (np.diff(index) > 0).all()
        image.reshape(-1)[index] = value
    return images


@pytest.fixture(scope="module")
def tables(pool):
    settings = SimulationSettings(seed=3, pool_size=60)
    return {process: shards.make_shard(process, 0, 60, settings, pool) for process in ("qcd", "top", "w", "x_bb")}


def test_shards_are_reproducible(tables, pool):
    settings = SimulationSettings(seed=3, pool_size=60)
    assert shards.make_shard("top", 0, 60, settings, pool).equals(tables["top"], check_metadata=True)
    other = shards.make_shard("top", 1, 60, settings, pool)
    assert not set(other["event_id"].to_pylist()) & set(tables["top"]["event_id"].to_pylist())
    assert not other["pt"].equals(tables["top"]["pt"])


def test_shards_look_like_jets(tables):
    for process, table in tables.items():
        rows = table.drop_columns(["pixel_index", "pixel_value"]).to_pylist()
        assert len(rows) == 60
        assert all(400 < row["pt"] < 1000 and abs(row["eta"]) < 1.37 for row in rows)
        assert all(12 <= row["ieta"] <= 43 and 0 <= row["iphi"] < 72 for row in rows)
        assert {row["labels"] for row in rows} == {find_schema("simulated").label_names.index(process)}
        heavy = process != "qcd"
        assert all((row["mass_labels"] is not None) == (row["merged"] is not None) == heavy for row in rows)
        # Poisson with mean 21: standard error 0.7 over some 40 events
        assert 18 < np.mean([row["num_pileup"] for row in rows]) < 24
        images = images_of(table)
        assert 0.97 < (images == 0).mean() < 0.99  # CMS: 98.5 %
        towers = images[:, 4].reshape(60, 25, 5, 25, 5)
        assert np.array_equal(towers, np.broadcast_to(towers[:, :, :1, :, :1], towers.shape))
        # the seed tower, of at least 5 GeV, is in the middle; a rare jet leaves less in every tower
        assert (towers[:, 12, 0, 12, 0] > 0.2).mean() > 0.97
        assert (images[:, [0, 3, 4, 5, 6, 7]] >= 0).all()
        assert (images[:, 1] < 0).any()
        assert (images[:, 2] > 0).any()
        # tracks and calorimeters see the jet: the sum of their energies is comparable to the jet's
        energy = (images[:, 3] + images[:, 4]).sum(axis=(1, 2))
        assert 0.6 < np.median(energy / np.array([row["pt"] for row in rows])) < 2.5
    masses = {name: np.median(table["mass_labels"].drop_null()) for name, table in tables.items() if name != "qcd"}
    assert masses["top"] == pytest.approx(172.5, abs=2)
    assert masses["w"] == pytest.approx(80.4, abs=2)
    assert 50 < np.min(tables["x_bb"]["mass_labels"]) < np.max(tables["x_bb"]["mass_labels"]) < 300
    merged = np.array(tables["top"]["merged"])
    jet_mass = np.array(tables["top"]["jet_mass"])
    assert 165 < np.median(jet_mass[merged]) < 190
    assert np.median(jet_mass[~merged]) < 165
    partons = set(tables["qcd"]["parton"].drop_null().to_pylist())
    assert 21 in partons
    assert partons <= {21, *range(-5, 0), *range(1, 6)}
    # displaced decays: b jets have tracks some millimetres from the vertex; fakes lie farther from it
    d0 = {name: np.abs(images_of(table)[:, 1]) for name, table in tables.items()}
    displaced = {name: ((x > 0.02) & (x < 0.3)).sum(axis=(1, 2)).mean() for name, x in d0.items()}
    assert displaced["x_bb"] > 1.4 * displaced["w"]


def test_processes_are_the_classes_of_the_schema():
    assert tuple(PROCESSES) == find_schema("simulated").label_names


@pytest.mark.parametrize("process", ["z", "h", "x_qq", "x_gg", "x_tautau", "x_gammagamma", "x_top"])
def test_every_process_makes_its_particle(process):
    settings = SimulationSettings(seed=1, pileup=0.0, energy=13000.0)
    table = shards.make_shard(process, 0, 30, settings)
    mass = np.array(table["mass_labels"])
    made = PROCESSES[process]
    if made.gun:
        assert (made.gun.mass[0] < mass).all()
        assert (mass < made.gun.mass[1]).all()
        assert mass.std() > 0.15 * (made.gun.mass[1] - made.gun.mass[0])
    else:
        assert np.median(mass) == pytest.approx({"z": 91.2, "h": 125.0}[process], abs=2)
    assert np.array(table["merged"]).any()
    assert set(table["parton"].to_pylist()) == {made.heavy}
    if process == "x_gammagamma":
        images = images_of(table)
        assert images[:, 3].sum() > 20 * images[:, 4].sum()


def test_a_gun_takes_other_masses():
    settings = SimulationSettings(seed=1, pileup=0.0, min_pt=30.0, max_pt=300.0, min_mass=3.6, max_mass=18.0)
    mass = np.array(shards.make_shard("x_tautau", 0, 40, settings)["mass_labels"])
    assert 3.6 < mass.min() < mass.max() < 18


def test_run3_has_thirteen_channels():
    settings = SimulationSettings(seed=1, pileup=0.0, geometry="run3", energy=13600.0)
    table = shards.make_shard("top", 0, 20, settings)
    images, names = images_of(table), json.loads(table.schema.metadata[b"e2evit"])["channel_names"]
    assert names[:5] == ["trk_pt", "trk_dz_sig", "trk_d0_sig", "ecal", "hcal"]
    assert images.shape == (20, 13, 125, 125)
    occupancy = dict(zip(names, (images != 0).mean(axis=(0, 2, 3)) * 125**2))
    assert all(occupancy[name] > 20 for name in names[5:])
    # two sensors per module: more than one hit per occupied pixel, as in CMS's data sets (1.63 to 1.69)
    strips = images[:, 9:]
    assert 1.2 < strips[strips > 0].mean() < 2.2
    significance = images[:, 2][images[:, 2] != 0]
    assert 0.5 < np.median(np.abs(significance)) < 5


def test_whole_detector(tmp_path):
    settings = SimulationSettings(seed=3, pileup=0.0, whole_detector=True)
    table = shards.make_shard("qcd", 0, 10, settings)
    images = images_of(table)
    assert images.shape == (10, 8, 280, 360)
    assert len(set(table["event_id"].to_pylist())) == 10
    pq.write_table(table, tmp_path / "qcd-00000-10.parquet")
    rows = load_e2e("simulated", tmp_path, cache_dir=tmp_path / "cache")
    jets, schema = datasets.concatenate_datasets(list(rows.values())), find_schema("simulated", tmp_path)
    assert schema.image_size == (280, 360)
    # the seed is where the image says it is, at any phi
    seen = jet_features(jets, schema)["pt"] / np.array(jets["pt"])
    assert ((seen > 0.6) & (seen < 1.2)).all()
    # both jets of an event are in the image
    assert ((images[:, 3] + images[:, 4]).sum(axis=(1, 2)) > 1.5 * np.array(table["pt"])).mean() > 0.7


def command(folder, *arguments):
    script = [sys.executable, ROOT / "scripts/simulate.py", "--output_dir", folder, "--pileup", "0", *arguments]
    return [str(part) for part in script]


def test_workers_end_with_their_main_process(tmp_path):
    """`kill -9` on the main process only: nothing is written afterwards."""
    arguments = ("--processes", "qcd", "--num_jets", "4000", "--shard_size", "10")
    process = subprocess.Popen(command(tmp_path / "out", *arguments), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    time.sleep(0.5)
    before = bytes_of(tmp_path / "out")
    assert 1 <= len(before) < 100
    time.sleep(3)  # the time of two shards
    assert bytes_of(tmp_path / "out") == before


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


@pytest.mark.slow
def test_a_killed_production_ends_with_the_same_bytes(tmp_path, capsys):
    """`kill -9` on the whole process group midway, then a restart; one or two processes."""
    settings = SimulationSettings(seed=5, pileup=0.0, shard_size=20)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = ("--processes", "qcd", "x_qq", "--num_jets", "60", "--shard_size", "20", "--seed", "5")
    process = subprocess.Popen(command(killed, *arguments), start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(killed.glob("*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = {path: path.stat().st_mtime_ns for path in killed.glob("*.parquet")}
    assert 2 <= len(left) < 6
    assert all(pq.read_metadata(path).num_rows == 20 for path in left)
    simulate(killed, ["qcd", "x_qq"], 60, settings, num_proc=2)
    assert "Simulating: 120/120 jets" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in left.items())
    simulate(whole, ["qcd", "x_qq"], 60, settings)
    assert bytes_of(killed) == bytes_of(whole)


@pytest.fixture(scope="module")
def production(tmp_path_factory):
    folder = tmp_path_factory.mktemp("production")
    simulate(folder, ["qcd", "top"], 16, SimulationSettings(seed=5, **QUIET))
    return folder


def test_a_production_is_a_data_set(production, tmp_path):
    rows = load_e2e("simulated", production, cache_dir=tmp_path / "cache")
    assert sum(map(len, rows.values())) == 32
    assert rows["train"].features["labels"].names == ["qcd", "top"]
    plain = datasets.load_dataset(str(production), cache_dir=str(tmp_path / "plain"))
    assert list(plain) == ["full"]
    assert len(plain["full"]) == 32
    loaded = DatasetCard.load(production / "README.md").data.to_dict()
    assert (loaded["license"], loaded["size_categories"]) == ("apache-2.0", ["n<1K"])
    card = (production / "README.md").read_text()
    assert "| `top` | top | 16 |" in card
    assert "Neither CMS simulation nor CMS data" in card
    assert all(f"| `{name}` |" in card for name in find_schema("simulated", production).channel_names)


def test_more_jets_of_the_same_production(tmp_path):
    settings = SimulationSettings(seed=5, **QUIET)
    simulate(tmp_path, ["qcd"], 4, settings)
    before = pq.read_table(tmp_path / "qcd-00000-4.parquet")
    simulate(tmp_path, ["qcd"], 12, settings)
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == ["qcd-00000-8.parquet", "qcd-00001-4.parquet"]
    assert pq.read_table(tmp_path / "qcd-00000-8.parquet").slice(0, 4).equals(before)
    with pytest.raises(ValueError, match="already holds 12 qcd jets"):
        simulate(tmp_path, ["qcd"], 8, settings)


@pytest.mark.parametrize("name", ["qcd-00000-8.parquet", "acceptance_qcd.json", "minimum_bias.npz", "simulation.json"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied", "deleted"])
def test_damaged_files_are_made_again(name, damage, tmp_path, monkeypatch, pool):
    """In this process, from a pool and a pilot run that cost nothing."""
    acceptance = Acceptance((400.0, 1000.0), (0.1, 0.2, 0.3, 0.4, 0.5), 0.25)
    monkeypatch.setattr(produce, "workers", lambda *_: workers(0, None, ""))
    monkeypatch.setattr(shards, "make_pool", lambda settings: pool)
    monkeypatch.setattr(shards, "make_acceptance", lambda process, settings: acceptance)
    monkeypatch.setattr(shards, "make_shard", lambda *_: rows)
    settings = SimulationSettings(seed=5, pileup=1.0, match_pt=True, shard_size=8)
    target = shards.arrow_schema("qcd", settings)
    rows = pa.table({field.name: pa.nulls(8, field.type) for field in target}, target)
    simulate(tmp_path, ["qcd"], 8, settings)
    before, path = bytes_of(tmp_path), tmp_path / name
    rewritten = [name, "README.md"]
    if name == "simulation.json":  # which alone says what they were made for
        rewritten += ["minimum_bias.npz", "acceptance_qcd.json"]
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir() if file.name not in rewritten}
    content = bytearray(path.read_bytes())
    value = {"acceptance_qcd.json": b"0.25", "simulation.json": b": 5"}.get(name)
    content[content.index(value) + len(value) - 1 if value else len(content) // 3] ^= 1
    kept = {"flipped": content, "truncated": content[:-9], "emptied": b""}
    path.unlink() if damage == "deleted" else path.write_bytes(kept[damage])
    if name == "simulation.json" and damage != "deleted":
        with pytest.raises(ValueError, match=r"simulation\.json is damaged|made with other settings"):
            simulate(tmp_path, ["qcd"], 8, settings)
    else:
        simulate(tmp_path, ["qcd"], 8, settings)
        assert bytes_of(tmp_path) == before
        assert stamps == {file: file.stat().st_mtime_ns for file in stamps}, "intact files were made again"


@pytest.mark.parametrize(("place", "bit"), [(8, 1), (10, 1), (10, 4)], ids=["encrypted", "unknown", "other method"])
def test_damage_to_the_directory_of_an_archive(place, bit, tmp_path, pool):
    pool.save(tmp_path / produce.POOL_FILE)
    content = bytearray((tmp_path / produce.POOL_FILE).read_bytes())
    content[content.index(b"PK\1\2") + place] ^= bit
    (tmp_path / produce.POOL_FILE).write_bytes(content)
    assert not produce._is_prepared(tmp_path / produce.POOL_FILE)


def test_preparations_of_unknown_settings_are_made_again(tmp_path, pool):
    """Left when shards and `simulation.json` were deleted: neither says what it was made for."""
    pool.save(tmp_path / produce.POOL_FILE)
    (tmp_path / "acceptance_qcd.json").write_text("{}")
    simulate(tmp_path, ["qcd"], 4, SimulationSettings(seed=1, pool_size=20, shard_size=4))
    assert len(MinimumBiasPool.load(tmp_path / produce.POOL_FILE)) == 20 != len(pool)
    assert not (tmp_path / "acceptance_qcd.json").exists()


def test_other_settings_need_another_folder(production):
    with pytest.raises(ValueError, match="seed: 5 there, 6 now"):
        simulate(production, ["qcd"], 16, SimulationSettings(seed=6, **QUIET))
    assert json.loads((production / "simulation.json").read_text())["pythia8mc"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"processes": ["qcd", "susy"]}, "Unknown process susy; known ones: qcd, top"),
        ({"processes": ["qcd", "qcd"]}, "named twice"),
        ({"num_jets": 0}, "num_jets"),
        ({"settings": SimulationSettings(min_pt=1000.0, max_pt=400.0)}, "min_pt < max_pt"),
        ({"settings": SimulationSettings(energy=900.0)}, "energy"),
        ({"settings": SimulationSettings(pileup=-1.0)}, "pileup >= 0"),
        ({"settings": SimulationSettings(geometry="run2")}, "run1, run3"),
        ({"settings": SimulationSettings(min_mass=3.0)}, "both min_mass and max_mass"),
        ({"settings": SimulationSettings(min_mass=3.0, max_mass=5.0)}, "mass guns"),
    ],
)
def test_bad_requests_write_nothing(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        simulate(tmp_path / "out", **({"processes": ["qcd"], "num_jets": 10} | change))
    assert not (tmp_path / "out").exists()


def test_no_jet_passes(monkeypatch):
    monkeypatch.setattr(shards, "BARREN_EVENTS", 200)
    settings = SimulationSettings(
        pileup=0.0, min_pt=30.0, max_pt=50.0, min_mass=290.0, max_mass=300.0, merged_only=True
    )
    with pytest.raises(RuntimeError, match="No x_qq jet with pT in 30-50 GeV among 200 events"):
        shards.make_shard("x_qq", 0, 10, settings)


def test_a_shower_whose_record_has_no_final_copies():
    settings = SimulationSettings(pileup=0.0, pythia=["PartonShowers:model = 2"])  # Vincia
    with pytest.raises(RuntimeError, match="only the simple shower is supported, not Vincia or Dire"):
        shards.make_shard("x_qq", 0, 10, settings)


def test_pythia_refuses():
    with pytest.raises(RuntimeError, match="did not accept 'Tune:pp : fourteen'"):
        shards.make_shard("qcd", 0, 10, SimulationSettings(pileup=0.0, pythia=["Tune:pp : fourteen"]))
    with pytest.raises(RuntimeError, match="failed to initialise"):
        shards.make_shard("qcd", 0, 10, SimulationSettings(pileup=0.0, pythia=["PhaseSpace:pTHatMin = 5000."]))


def test_a_full_disk(tmp_path, monkeypatch):
    def full(table, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match=r"qcd-00000-4\.parquet cannot be written: No space left on device"):
        produce._write_shard(tmp_path, "qcd", 0, 4, SimulationSettings(**QUIET))
    assert list(tmp_path.iterdir()) == []


def test_the_script_reports_errors_in_one_line(tmp_path):
    arguments = command(tmp_path / "out", "--processes", "susy")
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("e2evit simulate: Unknown process susy")
    assert "Traceback" not in done.stderr


def test_without_the_sim_extra(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("e2evit.simulation.")]:
        if name.rpartition(".")[2] in ("shards", "events", "gun", "card"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with pytest.raises(ImportError, match=r"e2evit\[sim\]"):
        simulate(tmp_path / "out", ["qcd"], 10)
    assert not (tmp_path / "out").exists()
