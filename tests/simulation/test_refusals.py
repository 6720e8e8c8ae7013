"""What cannot be simulated, or made into images, is refused at once, in one line that says where."""

import json
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forked import run_python

from e2evit import load_e2e
from e2evit.cli.errors import is_for_user
from e2evit.data.jobs import _do
from e2evit.simulation import ParticleImages, SimulationSettings, early_veto, events, pool_cache, shards, simulate
from e2evit.simulation.gun import MassGun
from e2evit.simulation.jets import Jets
from e2evit.simulation.pileup import MinimumBiasPool
from e2evit.simulation.processes import PROCESSES, Gun

DATA = Path(__file__).parents[1] / "data"
PARTICLES, NAN, INF = DATA / "particles", float("nan"), float("inf")
GUN = MassGun(Gun((7000.0, 7900.0)), 6, 8000.0, (50.0, 60.0), (7000.0, 7900.0), 1)
FILE = sorted(PARTICLES.glob("*.parquet"))[0]


@pytest.fixture(scope="module")
def pool():
    return MinimumBiasPool.load(DATA / "jets/minimum_bias.npz")


@pytest.fixture(scope="module")
def table():
    return pq.read_table(FILE).slice(0, 3)


def changed(table, name, change):
    """The table with another value in its last row."""
    values = table[name].to_pylist()
    values[-1] = change(values[-1]) if callable(change) else change
    return table.set_column(table.column_names.index(name), name, pa.array(values, table.field(name).type))


BAD_ROWS = [
    ("particle_pt", lambda values: [*values[:-1], -2.0], "-2 in particle_pt"),
    ("particle_pt", lambda values: [*values[:-1], 0.0], "0 in particle_pt"),
    ("particle_pt", lambda values: [*values[:-1], INF], "inf in particle_pt"),
    ("particle_pt", lambda values: [*values[:-1], NAN], "nan in particle_pt"),
    ("particle_pt", lambda values: values[:-1], "entries in particle_id and"),
    ("particle_y", None, "entries in particle_id and nan in particle_y"),
    ("eta", NAN, "nan as eta"),
    ("eta", 1.5, "1.5 as eta"),
    ("eta", None, "nan as eta"),
    ("phi", NAN, "nan as phi"),
    ("phi", None, "nan as phi"),
    ("phi", 1e30, r"1e\+30 as phi"),
    ("event_id", None, "no event_id"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD_ROWS)
def test_rows_without_an_image(table, tmp_path, name, change, message):
    """By the loader, which names the file, and where images are made."""
    bad = changed(table, name, change)
    pq.write_table(bad, tmp_path / "qcd-00000-3.parquet")
    with pytest.raises(ValueError, match=rf"qcd-00000-3\.parquet.* row 2: .*{message}"):
        load_e2e("particles", tmp_path, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=f"row 2: .*{message}"):
        ParticleImages("run1")(bad)


@pytest.mark.parametrize("name", ["eta", "phi", "event_id"])
def test_columns_that_place_an_image_are_needed(table, tmp_path, name):
    pq.write_table(table.drop_columns([name]), tmp_path / "qcd-00000-3.parquet")
    with pytest.raises(ValueError, match=f"missing key '{name}'"):
        load_e2e("particles", tmp_path, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=f"these rows lack {name}: select columns after"):
        ParticleImages("run1")(table.drop_columns([name]))


def test_lists_whose_lengths_differ_in_rows_but_not_in_all(table):
    lists = table["particle_pt"].to_pylist()
    with pytest.raises(ValueError, match=r"row 0: .* entries in particle_id and"):
        ParticleImages("run1")(table.to_pydict() | {"particle_pt": lists[1:] + lists[:1]})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("event_id", [1, 2, 3], "`event_id` cannot be read"),
        ("eta", ["a", "b", "c"], "`eta` cannot be read"),
        ("particle_pt", [object()] * 3, "`particle_pt` cannot be read"),
        ("particle_id", [[999], [211], [11]], "row 0: .*PDG code 999"),
    ],
)
def test_batches_of_other_types(table, name, value, message):
    rows = table.to_pydict() | {name: value}
    if name == "particle_id":
        rows |= {other: [entries[:1] for entries in rows[other]] for other in rows if other.startswith("particle_")}
        rows[name] = value
    with pytest.raises(ValueError, match=message):
        ParticleImages("run1")(rows)


def test_a_single_row_is_no_batch(table):
    with pytest.raises(ValueError, match=r"got one row: write `jets\[:1\]`"):
        ParticleImages("run1")(table.slice(0, 1).to_pylist()[0])


def test_equal_detectors_have_equal_descriptions():
    ways = (["fakes", "clusters"], ["clusters", "fakes", "fakes"])
    assert len({str(ParticleImages("run1", without=way).description) for way in ways}) == 1
    assert ParticleImages("run1", without=["fakes", "all"]).without == ("all",)


def test_no_rows_are_no_images(table, pool):
    for images in (ParticleImages("run1"), ParticleImages("run1", pool, (0, 20))):
        assert images(table.slice(0, 0)).schema.equals(images(table).schema)
        assert images({name: [] for name in table.column_names})["pixel_index"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"geometry": "run2"}, "run1, run3"),
        ({"geometry": "run3", "pileup": 10}, "3 silicon layers; run3 has 8"),
        ({"without": ["x"]}, "Unknown effect x"),
        ({"without": "fakes"}, r"write \['fakes'\]"),
        ({"seed": -1}, "`seed`"),
        ({"seed": 0.5}, "`seed`"),
        ({"epoch": -1}, "`epoch`"),
        ({"split": "half"}, "`split`"),
        ({"pileup": INF}, "`pileup`"),
        ({"pileup": 1e6}, "`pileup`"),
        ({"pileup": "many"}, "`pileup`"),
    ],
)
def test_images_of_impossible_settings(pool, arguments, message):
    with pytest.raises(ValueError, match=message):
        ParticleImages(**{"geometry": "run1", "pool": pool} | arguments)


def described(table, change):
    """The table with other settings of its simulation."""
    record = json.loads(table.schema.metadata[b"e2evit"])
    change(record["simulation"])
    return table.replace_schema_metadata(table.schema.metadata | {b"e2evit": json.dumps(record).encode()})


@pytest.mark.parametrize(
    ("name", "value"), [("energy", 13000.0), ("without", ["fakes"]), ("pythia", ["Tune:pp = 18"]), ("pileup", 3.0)]
)
def test_a_folder_of_two_simulations(table, tmp_path, name, value):
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(described(table, lambda settings: settings.update({name: value})), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=rf"b\.parquet was simulated with {name} .*, but .*a\.parquet with"):
        ParticleImages.of(tmp_path)
    (tmp_path / "b.parquet").unlink()  # and what was there is not remembered
    pq.write_table(described(table, lambda settings: settings.update(without=["fakes"])), tmp_path / "a.parquet")
    assert ParticleImages.of(tmp_path, 0).without == ("fakes",)


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: settings.pop("energy"),
        lambda settings: settings.update(energy="high"),
        lambda settings: settings.update(pileup=-3),
        lambda settings: settings.update(pythia=None),
        lambda settings: settings.clear(),
    ],
)
def test_files_that_do_not_say_how_they_were_made(table, tmp_path, change):
    pq.write_table(described(table, change), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet does not say with which settings"):
        ParticleImages.of(tmp_path)


def test_each_split_has_its_own_pileup(table, pool, monkeypatch):
    """Also if it is not the default division's: no collision is in two splits."""
    seen = []
    part = MinimumBiasPool.part
    monkeypatch.setattr(MinimumBiasPool, "part", lambda self, split: seen.append(split) or part(self, split))
    images = ParticleImages("run1", pool, 20.0, split="test")
    images(table)
    assert set(seen) == {"test"}
    seen.clear()
    images.with_seed(0, 1, "validation")(table)
    assert set(seen) == {"validation"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pythia": ["Random:seed = 5"]}, "Random:seed is set by the simulation itself; use seed"),
        ({"pythia": ["random::SEED=5"]}, "random:SEED is set by the simulation"),
        ({"pythia": ["Tune:pp = 18", " PhaseSpace:pTHatMin 5"]}, "use min_pt and max_pt"),
        ({"pythia": ["Beams:eCM = 1"]}, "use energy"),
        ({"pythia": ["HadronLevel:all = off"]}, "leave it out"),
        ({"pythia": ["Main:numberOfEvents = 1"]}, "leave it out"),
        ({"pythia": [""]}, "settings such as"),
        ({"energy": INF}, "`energy`"),
        ({"energy": NAN}, "`energy`"),
        ({"min_pt": NAN}, "`min_pt`"),
        ({"pileup": NAN}, "pileup >= 0"),
        ({"pileup": 1001.0}, "pileup >= 0 and <= 1000"),
        ({"seed": 2**70}, "seed >= 0"),
        ({"shard_size": 1.5}, "whole number"),
        ({"min_mass": 1.0, "max_mass": INF}, "`max_mass`"),
        ({"min_mass": 1.0, "max_mass": 20.0}, "min_mass >= 9.6"),
        ({"min_mass": 7000.0, "max_mass": 7900.0}, "beams of more than 15820 GeV"),
        ({"min_mass": 1900.0, "max_mass": 2000.0, "merged_only": True}, "no jet with a pT up to 1000 GeV holds"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SimulationSettings(**settings).validate(["x_bb"])


def test_requests_that_pythia_would_try_forever(monkeypatch):
    monkeypatch.setattr(early_veto, "BARREN_EVENTS", 30)
    settings = SimulationSettings(pileup=0.0, energy=1000.0, min_pt=499.0, max_pt=499.5)
    for number in (1, 2):
        with pytest.raises(RuntimeError, match=r"No qcd jet with pT in 499-499\.5 GeV among 30 events"):
            next(shards._events_with_jets("qcd", 1, replace(settings, hadronizations=number)))
    with pytest.raises(RuntimeError, match="Beams of 8000 GeV make no pair"):
        GUN.setEvent()


def test_pythia_is_tried_before_anything_is_written(tmp_path):
    with pytest.raises(RuntimeError, match="did not accept 'Nonsense:x = 1'"):
        simulate(tmp_path / "out", ["qcd"], 5, SimulationSettings(pythia=["Nonsense:x = 1"]))
    assert not (tmp_path / "out").exists()
    with pytest.raises(RuntimeError, match=r"made no event .* the mass too low for the decay"):
        events.try_out(PROCESSES["x_bb"], 8000.0, (400.0, 1000.0), (1.0, 2.0))


def bug():
    raise RuntimeError("a bug")


@pytest.mark.parametrize(("job", "expected"), [(GUN.setEvent, True), (bug, False)])
def test_whose_an_error_of_a_worker_is(job, expected):
    """Its traceback, which tells, stays in the worker."""
    with pytest.raises(RuntimeError) as caught:
        _do(job)
    with pytest.raises(RuntimeError) as again:
        raise pickle.loads(pickle.dumps(caught.value))
    assert is_for_user(again.value) == expected


def pairs(rng, number):
    """Jets of events with two each, of which the second is softer."""
    first = 400 + rng.exponential(300, number) % 600
    pt = np.stack([first, rng.uniform(400, first)], axis=1).ravel()
    eta, zero = rng.uniform(-1.3, 1.3, 2 * number), np.zeros(2 * number)
    return Jets(
        event=np.repeat(np.arange(number), 2),
        momentum=np.stack([pt, zero, pt * np.sinh(eta), pt * np.cosh(eta)], axis=1),
        heavy_mass=zero,
        merged=zero == 0,
        parton=zero.astype(int),
        weight=zero + 1,
        particles=ak.Array([[]] * 2 * number),
    )


def test_weights_of_matched_whole_events_add_up_to_all_events(monkeypatch):
    """An event whose hardest jet was left out is left out: it does not come back by its second."""
    rng, truth = np.random.default_rng(3), []

    def generate(*_, **__):
        while True:
            truth.append(pairs(rng, 4000))
            yield SimpleNamespace(num_events=4000, kept=np.ones(4000), jets=truth[-1])

    monkeypatch.setattr(shards, "generate", generate)
    monkeypatch.setattr(shards, "find_jets", lambda batch, *_: batch.jets)
    settings = SimulationSettings(whole_detector=True, match_pt=True)
    acceptance = shards.make_acceptance("qcd", settings)
    truth.clear()
    made = []
    for batch, jets in shards._events_with_jets("qcd", 1, settings):
        made.append(shards._accept(jets, batch.kept[jets.event], acceptance, rng))
        assert len(np.unique(made[-1].event)) == len(made[-1].event)
        if len(made) == 10:
            break
    pt, weight = (np.concatenate([getattr(jets, name) for jets in made]) for name in ("pt", "weight"))
    hardest = np.concatenate([jets.pt[::2] for jets in truth])
    assert weight.sum() == pytest.approx(40000, rel=0.05)  # standard error 1 %
    counts = np.histogram(pt, 5, (400, 1000))[0]
    assert counts.max() < 1.3 * counts.min()  # matched
    for low, high in ((400, 500), (500, 700), (700, 1000)):
        expected = ((hardest > low) & (hardest < high)).sum()
        assert weight[(pt > low) & (pt < high)].sum() == pytest.approx(expected, rel=0.06)


def test_folders_that_hold_something_else(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "try_processes", lambda *_: None)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(OSError, match=r"cannot be a folder: .*file is a file"):
            simulate(path, ["qcd"], 5)
    (tmp_path / "qcd-notes.parquet").write_text("")
    with pytest.raises(ValueError, match=r"qcd-notes\.parquet is no shard"):
        simulate(tmp_path, ["qcd"], 5)
    assert not (tmp_path / "simulation.json").exists()
    (tmp_path / "qcd-notes.parquet").unlink()
    (tmp_path / "simulation.json").write_text("[]")
    with pytest.raises(ValueError, match=r"simulation\.json is damaged"):
        simulate(tmp_path, ["qcd"], 5)


@pytest.fixture
def cached(pool, tmp_path, monkeypatch):
    """A pool in a cache, made of the committed collisions."""
    monkeypatch.setattr(pool_cache, "POOL_SIZE", len(pool))
    monkeypatch.setattr(MinimumBiasPool, "simulate", classmethod(lambda cls, *_: pool))
    settings = (8000.0, "run1", ["all"], (), tmp_path)
    return settings, pool_cache.cached_pool(*settings).folder


def test_other_files_beside_a_pool_are_not_read(cached):
    settings, folder = cached
    (folder / "._tracks.npy").write_bytes(b"of a Mac")
    np.save(folder / "extra.npy", np.zeros(3))
    pool_cache._damage.cache_clear()
    assert pool_cache.cached_pool(*settings).folder == folder


def test_a_copied_pool_is_kept_where_no_other_can_be_made(cached, monkeypatch):
    settings, folder = cached
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    manifest.unlink()
    pool_cache._damage.cache_clear()
    with monkeypatch.context() as without_pythia:
        without_pythia.delattr("e2evit.simulation.events")
        without_pythia.setitem(sys.modules, "e2evit.simulation.events", None)
        with pytest.raises(ImportError, match=r"e2evit\[sim\]"):
            pool_cache.cached_pool(*settings)
    assert (folder / "tracks.npy").exists()
    pool_cache.cached_pool(*settings)  # made again, beside the old one
    assert manifest.read_text() == text
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_file_in_place_of_a_pool(cached):
    settings, folder = cached
    shutil.rmtree(folder)
    folder.write_text("")
    with pytest.raises(OSError, match="is a file where the pile-up pool should be"):
        pool_cache.cached_pool(*settings)


def test_an_interrupt_while_workers_start_is_one_line(tmp_path):
    """The server that they are forked from imports for seconds."""
    slow, began = tmp_path / "slow.py", tmp_path / "began"
    slow.write_text(f"import pathlib, time\npathlib.Path({str(began)!r}).touch()\ntime.sleep(60)\n")
    program = f"""
import os, signal, threading, time
from e2evit.cli.errors import one_line_errors
from e2evit.data.jobs import workers

def interrupt():
    while not os.path.exists({str(began)!r}):
        time.sleep(0.05)
    os.killpg(0, signal.SIGINT)

os.environ["PYTHONPATH"] = {str(tmp_path)!r}
os.setpgrp()
threading.Thread(target=interrupt, daemon=True).start()
with one_line_errors("program"), workers(1, None, "slow") as run:
    list(run([(print, "done")]))
"""
    done = run_python("-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "program: interrupted\n")
