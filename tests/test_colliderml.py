"""ColliderML: images and jets that are known by hand, their labels, preparation."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from colliderml_files import DATA_SETS, FILE, TOP, Event, rows_of, ttbar, write

from e2evit.data import SCHEMAS, find_schema, load_e2e, row_features, truth
from e2evit.data.formats import FileError
from e2evit.data.inspect import inspect_file
from e2evit.data.prepare import prepare
from e2evit.data.schema import parse_schema
from e2evit.data.sparse import sparse_to_dense

JETS, EVENTS = (SCHEMAS[name][0] for name in ("colliderml", "colliderml_events"))


def pixels(row, schema):
    """Values by channel, row and column."""
    image = sparse_to_dense(row["pixel_index"], row["pixel_value"], schema.image_shape)
    return {(schema.channel_names[c], int(y), int(x)): float(image[c, y, x]) for c, y, x in zip(*np.nonzero(image))}


def test_each_pixel_of_an_event(tmp_path):
    """The grid begins at eta -3 and at -10 degrees; the barrel's crystals are 0.0174 wide, from row 55 on."""
    event = Event()
    event.particle(211, 1.0, 0.0, 0.0)
    event.particle(211, 1.0, 0.0, 0.0, vertex=2, at=(0, 0, -70.0))
    event.cell(10, 6.0, 0.05, math.radians(0.5))  # crystal 140 + 2, column 10
    event.cell(10, 4.0, 0.0522 - 1e-3, math.radians(0.6), radius=1300.0)  # the same crystal, behind the other cell
    event.cell(13, 50.0, 0.05, math.radians(-12.0))  # tower 28, column 358: its crystals are 140-144, 355-359
    event.cell(11, 32.0, 2.0, math.radians(20.5))  # row 225 + 29, column 30, in the endcap
    event.cell(12, 9.0, -3.2, 0.0, radius=100.0)  # beyond the grid
    for layer, (code, radius) in enumerate(((1, 34.0), (1, 70.0), (1, 116.0), (1, 172.0), (4, 260.0), (4, 360.0))):
        event.hit(code, radius, 0.05, math.radians(10 * layer + 0.5))
    event.hit(4, 500.0, 0.05, 0.0)  # no channel
    event.hit(7, 820.0, 0.05, math.radians(70.5))
    event.hit(7, 820.0, 0.05, math.radians(70.5))
    event.hit(7, 1020.0, 0.05, math.radians(80.5))
    event.hit(0, 34.0, 1.4, 0.0)  # a disk of the endcap
    event.track(1, 2.0, 0.1, 0.5, d0=0.3, z0=35.0)
    event.track(1, 3.0, 0.1, 0.4035, d0=-0.1, z0=30.0)
    event.track(-1, 0.4, 0.1, 0.5)  # too soft
    write(tmp_path, "ttbar_pu0", {3: event})
    (row,) = rows_of(tmp_path, schema=EVENTS)
    assert (row["event_id"], row["num_pileup"], row["labels"]) == ("ttbar_pu0:3", 1, None)
    found = pixels(row, EVENTS)
    wanted = {("ecal", 142, 10): 10.0}
    wanted |= {("hcal", y, x): 2.0 for y in range(140, 145) for x in range(355, 360)}
    # resampled: the 28 blocks of an endcap begin with its first row
    wanted |= {("ecal", y, x): 2.0 for y in (253, 254) for x in (30, 31)}
    names = ("bpix1", "bpix2", "bpix3", "bpix4", "tib1", "tib2")
    wanted |= {(name, 142, 10 + 10 * n): 1.0 for n, name in enumerate(names)}
    wanted |= {("tob1", 142, 80): 2.0, ("tob2", 142, 90): 1.0}
    # sin(Δφ) = R_cylinder / (2 R_curvature), clockwise; both tracks end in one crystal
    columns = {
        math.floor(math.degrees(phi - math.asin(0.3 * 3.0 * 1.25 / (2 * pt))) + 10)
        for pt, phi in ((2.0, 0.5), (3.0, 0.4035))
    }
    assert len(columns) == 1
    tracks = [key for key in found if key[0] == "trk_pt"]
    assert {x for _, _, x in tracks} == columns
    for key in tracks:
        wanted[key] = 5.0
        # d0 = -dxy and dz are means, in cm, from the vertex at z = 3 cm
        wanted[("trk_d0", *key[1:])], wanted[("trk_dz", *key[1:])] = -0.01, 0.25
    assert len(tracks) == 1
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        # single precision in the file
        assert found[key] == pytest.approx(value, rel=1e-5), key


def test_jets_and_their_windows(tmp_path):
    write(tmp_path, "ttbar_pu0", {5: ttbar()})
    top, leptonic, qcd = rows_of(tmp_path)
    assert [row["labels"] for row in (top, leptonic, qcd)] == [1, None, 0]
    assert [row["merged"] for row in (top, leptonic, qcd)] == [True, None, None]
    assert [row["parton"] for row in (top, leptonic, qcd)] == [6, None, None]
    assert [row["mass_labels"] for row in (top, leptonic, qcd)] == [173, None, None]
    momenta = [(250.0, 0.4, 1.0), (250.0, 0.2, 1.1), (250.0, 0.3, 0.9)]
    px, py, pz = (sum(pt * f(eta, phi) for pt, eta, phi in momenta) for f in (_x, _y, _z))
    assert top["pt"] == pytest.approx(math.hypot(px, py))
    assert top["eta"] == pytest.approx(math.asinh(pz / math.hypot(px, py)))
    energy = sum(pt * math.cosh(eta) for pt, eta, _ in momenta)
    # a small difference of large numbers in single precision
    assert top["jet_mass"] == pytest.approx(math.sqrt(energy**2 - px**2 - py**2 - pz**2), rel=1e-4)
    # the middle of the window is the hottest tower, of the pion at (0.4, 1.0)
    assert (top["ieta"], top["iphi"]) == (28 + 4, math.floor(math.degrees(1.0) + 10) // 5)
    image = sparse_to_dense(top["pixel_index"], top["pixel_value"], JETS.image_shape)
    assert image[JETS.channel_names.index("hcal"), 60:65, 60:65].ravel() == pytest.approx(
        np.full(25, 250 * math.cosh(0.4) / 25), rel=1e-5
    )
    (whole,) = rows_of(tmp_path, schema=EVENTS)
    whole = sparse_to_dense(whole["pixel_index"], whole["pixel_value"], EVENTS.image_shape)
    for row in (top, leptonic, qcd):
        rows, columns = (5 * row[name] + 2 + np.arange(-62, 63) for name in ("ieta", "iphi"))
        window = sparse_to_dense(row["pixel_index"], row["pixel_value"], JETS.image_shape)
        assert np.array_equal(window, whole[:, rows][:, :, columns % 360])


def test_channels_of_each_data_set(tmp_path):
    write(tmp_path, "ttbar_pu0", {5: ttbar()})
    for full, name in ((JETS, DATA_SETS[1]), (EVENTS, DATA_SETS[3])):
        schema = SCHEMAS[name][0]
        chosen = [full.channel_names.index(channel) for channel in schema.channel_names]
        splits = load_e2e(name, tmp_path, cache_dir=tmp_path / "cache")
        assert splits["train"].features["labels"] == row_features(full)["labels"]
        for row, wanted in zip((row for part in splits.values() for row in part), rows_of(tmp_path, schema=full)):
            image = sparse_to_dense(wanted["pixel_index"], wanted["pixel_value"], full.image_shape)[chosen]
            assert np.array_equal(sparse_to_dense(row["pixel_index"], row["pixel_value"], schema.image_shape), image)


def _x(eta, phi):
    return math.cos(phi)


def _y(eta, phi):
    return math.sin(phi)


def _z(eta, phi):
    return math.sinh(eta)


def jets_of(tmp_path, sample, *parts):
    """Label, containment and mass of the jets of an event, hardest first."""
    event = Event()
    for part in parts:
        part(event)
    write(tmp_path, sample, {1: event})
    return [(row["labels"], row["merged"], row["mass_labels"]) for row in rows_of(tmp_path, sample)]


def decay(code, axis, products, mass, **options):
    return lambda event: event.decay(code, axis, products, mass, **options)


QQ, BB, FAR = ((1, 0.1, 0.0), (-1, -0.1, 0.0)), ((5, 0.1, 0.0), (-5, -0.1, 0.0)), ((5, 0.1, 0.0), (-5, 0.0, 1.2))
SIDE, OTHER = (0.3, 1.0), (-0.3, 1.0 - math.pi)


@pytest.mark.parametrize(
    ("sample", "parts", "wanted"),
    [
        ("zee_pu200", [decay(23, SIDE, QQ, 91.0)], [(3, True, 91)]),
        ("ggf", [decay(25, SIDE, BB, 125.0)], [(4, True, 125)]),
        # a Higgs boson of two W bosons is one, and its W bosons are no others
        ("ggf_pu0", [decay(25, SIDE, (*QQ, (3, 0.0, 0.1), (-4, 0.0, -0.1)), 125.0, through=24)], [(4, True, 125)]),
        ("jets_pu0", [lambda event: event.hadron(300.0, 0.2, 0.3)], [(0, None, None)]),
        # pile-up makes no jets
        ("jets_pu0", [lambda event: (event.particle(22, 1, 0, 0), event.hadron(300.0, 0.2, 0.3, vertex=2))], []),
        # not contained: one of two quarks is outside; its own jet is a part of the decay
        ("ggf_pu0", [decay(25, SIDE, FAR, 125.0)], [(4, False, 125), (None, None, None)]),
        # decays to leptons, or that cannot be followed
        ("zee_pu0", [decay(23, SIDE, ((1, 0.1, 0.0), (11, -0.1, 0.0)), 91.0)], [(None, None, None)]),
        ("ggf_pu0", [decay(25, SIDE, BB[:1], 125.0)], [(None, None, None)]),
        # two in one jet
        ("dihiggs_pu0", [decay(25, SIDE, BB, 125.0), decay(25, SIDE, BB, 125.0)], [(None, None, None)]),
        (
            "dihiggs_pu0",
            [decay(25, SIDE, BB, 125.0), decay(25, OTHER, BB, 126.0, share=240.0)],
            [(4, True, 125), (4, True, 126)],
        ),
        # one of two is missing: its jets would pass for QCD
        ("ttbar_pu0", [decay(6, SIDE, TOP, 173.0), lambda e: e.hadron(300.0, 0.0, -0.6)], [(None, None, None)] * 2),
        ("unknown_pu0", [decay(25, SIDE, BB, 125.0)], [(None, None, None)]),
    ],
)
def test_labels(sample, parts, wanted, tmp_path):
    assert jets_of(tmp_path, sample, *parts) == wanted


def test_links_between_particles():
    """Some parents are missing, some particles are their own, and some are each other's."""
    particles = {
        "particle_id": np.array([7, 5, 9, 3]),
        "parent_id": np.array([2, 5, 3, 9]),
        "pdg_id": np.array([211, 22, 310, 2112]),
        "primary": np.array([True, True, True, False]),
        "vertex_primary": np.ones(4, int),
    }
    assert truth._parents(particles).tolist() == [-1, -1, 3, 2]
    assert truth._ancestors(2, truth._parents(particles)) == [3, 2]
    # the K short decayed in the detector: that daughter is not primary
    assert truth.is_stable(particles).tolist() == [True, True, True, False]
    empty = {name: values[:0] for name, values in particles.items()} | dict.fromkeys(
        ("px", "py", "pz", "energy"), np.zeros(0)
    )
    assert truth.find_heavy(empty) == []


def test_energies_on_the_wrong_scale_are_refused(tmp_path):
    event = Event()
    event.particle(22, 500.0, 0.2, 0.3)
    event.cell(10, 500.0 * math.cosh(0.2), 0.2, 0.3, raw=False)
    write(tmp_path, "jets_pu0", {0: event})
    with pytest.raises(
        FileError, match=r"cells of 1.91e\+04 GeV for particles of 510 GeV .* set `raw_energy: false` in a schema"
    ):
        rows_of(tmp_path, "jets_pu0")
    calibrated = replace(JETS, open_detector=replace(JETS.open_detector, raw_energy=False))
    (row,) = rows_of(tmp_path, "jets_pu0", calibrated)
    assert pixels(row, JETS)[("ecal", *_middle(row, 0.2, 0.3))] == pytest.approx(510.033, rel=1e-5)
    raw = write(tmp_path / "raw", "ttbar_pu0", {0: ttbar()})
    with pytest.raises(FileError, match="set `raw_energy: true` in a schema of your own"):
        rows_of(raw, schema=calibrated)


def _middle(row, eta, phi):
    """Where a barrel crystal is in a row's window."""
    crystal = math.floor(eta / 0.0174) + 140, math.floor(math.degrees(phi) + 10)
    return tuple(place - 5 * row[name] - 2 + 62 for place, name in zip(crystal, ("ieta", "iphi")))


def test_prepared_and_resumed(tmp_path, capsys):
    raw = tmp_path / "raw/data"
    for shard in range(2):
        events = {10 * shard + number: ttbar(10 * shard + number) for number in range(3)}
        write(raw, "ttbar_pu0", events, f"train-0000{shard}-of-00002.parquet")
    write(raw, "jets_pu0", {1: ttbar()})
    damaged = raw / "ttbar_pu0_tracks/train-00001-of-00002.parquet"
    whole = damaged.read_bytes()
    page = pq.ParquetFile(damaged).metadata.row_group(0).column(1).data_page_offset
    damaged.write_bytes(whole[:page] + bytes(30) + whole[page + 30 :])
    with pytest.raises(
        FileError, match=r"00001-of-00002\.parquet, row 0: event 10: it cannot be read from .*_tracks/"
    ):
        prepare("colliderml", tmp_path / "raw", tmp_path / "out", shard_megabytes=1e-4)
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/data/*.parquet")}
    assert first
    damaged.write_bytes(whole)
    folder = prepare("colliderml", tmp_path / "raw", tmp_path / "out", shard_megabytes=1e-4)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert "7/7 events" in capsys.readouterr().out
    straight = load_e2e("colliderml", tmp_path / "raw", cache_dir=tmp_path / "cache")
    loaded = load_e2e("colliderml", folder, cache_dir=tmp_path / "cache")
    for split, part in straight.items():
        key = lambda row: (row["event_id"], row["phi"])  # noqa: E731
        assert sorted(loaded[split].to_list(), key=key) == sorted(part.to_list(), key=key)
    assert sum(map(len, loaded.values())) == 3 * 7
    stream = load_e2e("colliderml", tmp_path / "raw", "train", streaming=True)
    assert [row["event_id"] for row in stream] == straight["train"]["event_id"]
    manifest = json.loads((folder / "e2evit.json").read_text())
    assert len(manifest["files"]) == 4 * 3
    assert "open_detector" not in manifest["schema"]
    assert "Inferred" in (folder / "README.md").read_text()
    # another table is another data set
    write(raw, "jets_pu0", {1: ttbar(), 2: ttbar()})
    told = r"other settings \(files data/jets_pu0_calo_hits/.*: \d+ there, \d+ now.* and 1 more\)"
    with pytest.raises(ValueError, match=told):
        prepare("colliderml", tmp_path / "raw", folder, shard_megabytes=1e-4)


def test_inspected(tmp_path, monkeypatch):
    raw = write(tmp_path, "ttbar_pu0", {number: ttbar(number) for number in range(4)}, lacking={"tracks": [3]})
    monkeypatch.chdir(raw / "ttbar_pu0_particles")
    lines, survey, schema = inspect_file(FILE)
    assert schema == JETS
    assert "labels: qcd 3, top 3, w 0, z 0, h 0, without a label 3" in lines
    assert any(
        line.startswith("fits: colliderml, colliderml_8, colliderml_events, colliderml_events_8;") for line in lines
    )
    assert any("1 of the sampled events do not fit the schema, first row 3: event 3" in line for line in lines)
    lines, _, schema = inspect_file(f"../ttbar_pu0_tracks/{FILE}")
    assert schema is None
    assert any("its folder is ttbar_pu0_tracks, expected SAMPLE_particles" in line for line in lines)
    write(tmp_path / "other", "unknown", {0: ttbar()})
    _, survey, _ = inspect_file(tmp_path / f"other/unknown_particles/{FILE}")
    assert "none of 3 rows has a label" in survey.warnings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "hdf5"}, "`open_detector` is for `format: colliderml`, not hdf5"),
        ({"open_detector": None}, "`open_detector` is missing: it says how the tables become images"),
        ({"one_row": "crop"}, "`one_row` is jet or event, got crop"),
        ({"image_size": [10, 10]}, r"`image_size` of jets is \[125, 125\], got \[10, 10\]"),
        (
            {"columns": {"pt": "pt"}, "branches": {"ecal": "e"}},
            "`columns`, `branches` is not for `format: colliderml`",
        ),
        ({"extra": {"width": "width"}}, "`extra` has width, but only phi is made from the tables"),
        ({"channel_names": ["ecal", "hcal", "hcal_et"]}, "`channel_names` has hcal_et, but the tables give trk_pt"),
        ({"channel_names": ["ecal"]}, "`channel_names` lacks hcal, whose hottest tower"),
        ({"labels": {"b": "b quarks"}}, "`labels` has b, but the classes of jets are qcd, top, w, z, h"),
        ({"open_detector": {"raw_energy": "perhaps"}}, "`open_detector.raw_energy`"),
    ],
)
def test_schemas_that_contradict_themselves(change, message):
    with pytest.raises(ValueError, match=message):
        parse_schema("mine", JETS.to_dict() | change, "mine.yaml")


def test_a_schema_of_your_own_without_labels(tmp_path):
    raw = write(tmp_path / "raw", "mine", {0: ttbar()})
    own = JETS.to_dict() | {"labels": {}, "name": "custom"}
    own["open_detector"] |= {"min_jet_pt": 400.0}
    (tmp_path / "mine.yaml").write_text(json.dumps(own))  # JSON is YAML
    schema = find_schema("custom", raw, tmp_path / "mine.yaml")
    rows = rows_of(raw, "mine", schema)
    assert [round(row["pt"]) for row in rows] == [748, 499]
    assert {row["labels"] for row in rows} == {None}


def test_fastjet_is_needed_for_jets_alone(tmp_path, monkeypatch):
    code = "import sys, e2evit.cli.prepare, e2evit.data; assert not {'fastjet', 'awkward'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    raw = write(tmp_path, "ttbar_pu0", {0: ttbar()})
    monkeypatch.delitem(sys.modules, "e2evit.data.clustering", raising=False)
    monkeypatch.setitem(sys.modules, "fastjet", None)
    assert len(rows_of(raw, schema=EVENTS)) == 1
    with pytest.raises(ImportError, match=r"The jets of .*parquet need FastJet: pip install 'e2evit\[sim\]'"):
        rows_of(raw)
