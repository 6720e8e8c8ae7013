"""ROOT ntuples: every layout comes back equal, cut as a slow twin cuts it; what is ambiguous or damaged is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from ntuple_files import LAYOUTS, events, expected, resampled, rows_of, variant, vector_events, write

from e2evit import load_e2e
from e2evit.cli.command import run
from e2evit.data import find_schema, ntuple, rntuple, root
from e2evit.data.batches import BadRows, number_of_rows
from e2evit.data.formats import FileError
from e2evit.data.grid import resample_endcaps
from e2evit.data.prepare import prepare
from e2evit.data.schema import Source, parse_schema
from e2evit.data.sparse import sparse_to_dense

VECTORS, RNTUPLE = (Path(__file__).parent / f"data/ntuple/{name}.root" for name in ("vectors", "rntuple"))


def compare(rows, wanted, schema):
    assert len(rows) == len(wanted)
    for row, want in zip(rows, wanted):
        image = sparse_to_dense(row["pixel_index"], row["pixel_value"], schema.image_shape)
        assert np.array_equal(image, want["image"])
        assert image.any()
        for column in {*row} - {"pixel_index", "pixel_value"}:
            assert row[column] == want.get(column), column


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
@pytest.mark.parametrize(("name", "version", "images"), LAYOUTS)
def test_every_layout_comes_back_equal(name, version, images, kind, tmp_path):
    schema = variant(name, version)
    branches = events(schema, (1, 1) if "AOD" in version else (2, 0, 1))
    write(tmp_path / "ntuple.root", branches, images=images, kind=kind)
    assert find_schema(name, tmp_path) == schema
    compare(rows_of(tmp_path / "ntuple.root", schema), expected(schema, branches), schema)


@pytest.mark.parametrize("path", [VECTORS, RNTUPLE], ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["ntuple_5", "ntuple_photons"])
def test_files_that_root_wrote(name, path):
    schema = find_schema(name, path)
    compare(rows_of(path, schema), expected(schema, vector_events()), schema)


def test_windows_at_the_edges_of_the_grid(tmp_path):
    schema = variant("ntuple_5", "a to tau tau")
    branches = events(schema, (4,))
    branches["jetSeed_ieta"], branches["jetSeed_iphi"] = [np.float32([12, 12, 43, 43])], [np.float32([0, 71, 0, 71])]
    write(tmp_path / "ntuple.root", branches)
    compare(rows_of(tmp_path / "ntuple.root", schema), expected(schema, branches), schema)


def test_endcaps_are_resampled_as_in_the_converter():
    image = np.random.default_rng(0).exponential(2, (2, 280, 360)).astype(np.float32)
    wanted = [resampled(one) for one in image]
    resample_endcaps(image)
    # sums of four numbers, rounded once
    assert np.allclose(image, wanted, rtol=2e-7)
    assert np.array_equal(image[0, 0, :2], np.repeat(image[0, 0, 0], 2))


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
def test_few_entries_at_once_give_the_same_rows(kind, tmp_path, monkeypatch):
    schema = variant("ntuple_5", "a to tau tau")
    write(tmp_path / "ntuple.root", events(schema, (2, 1, 1, 2)), images="lists", kind=kind)
    whole = rows_of(tmp_path / "ntuple.root", schema)
    monkeypatch.setattr(ntuple, "MAX_PIXELS", 2)
    monkeypatch.setattr(ntuple, "JETS_AT_ONCE", 1)
    for reader in (root, rntuple):
        monkeypatch.setattr(reader, "RUN_BYTES", 1)
    assert rows_of(tmp_path / "ntuple.root", schema) == whole


NAN = np.full((280, 360), np.nan, np.float32)
COLUMNS = ("jetSeed_ieta", "jetSeed_iphi", "a_m", "a_pt", "TaudR", "jetM", "jetPt")
CHANGES = [
    (
        {"jetSeed_ieta": [[12, 44], [20]]},
        r"entry 0: `jetSeed_ieta`, .*: the window around seed tower \(44, .*\) leaves the grid \(rows",
    ),
    ({"jetSeed_iphi": [[12, 44], [np.nan]]}, r"entry 1: .*: the window around seed tower \(.*, nan\) leaves the grid"),
    ({"jetSeed_iphi": [[12.5, 44], [0]]}, r"entry 0: .*: the window around seed tower \(.*, 12.5\) leaves the grid"),
    (
        {"jetM": [[1], [2]]},
        "entry 0: `jetM` has 1 values and `jetSeed_ieta` 2: cannot tell which value belongs",
    ),
    ({"a_m": [[1, 2], [200]]}, "entry 1: a mass of 200 GeV, outside -10-100"),
    ({"ECAL_energy": [NAN, NAN]}, "entries 0-1: NaN or infinite pixels in channel ecal"),
    ({"HBHE_energy": [np.ones((56, 72)), np.ones(2448)]}, "entry 1: `HBHE_energy`: it has 2448 values, expected 280"),
    ({key: [[20] * 65, [20]] for key in COLUMNS}, "entry 0: 65 jets in an event, more than 64"),
]


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_events_that_do_not_fit(change, message, kind, tmp_path):
    schema = variant("ntuple_5", "a to tau tau")
    branches = events(schema, (2, 1)) | {k: [np.float32(value) for value in v] for k, v in change.items()}
    write(tmp_path / "ntuple.root", branches, kind=kind)
    with pytest.raises(FileError, match=rf"ntuple\.root, {message}"):
        rows_of(tmp_path / "ntuple.root", schema)
    bad = []
    assert len(rows_of(tmp_path / "ntuple.root", schema, bad.append)) < 3
    assert bad


def test_labels_by_particle_are_not_paired_with_jets_by_their_order(tmp_path):
    schema = variant("ntuple_5", "a in Run 3 with AOD and miniAOD")
    branches = events(schema, (2, 1, 1, 1))
    branches["a_mass"] = [np.float32(masses) for masses in ([5, 6], [7], [8, 9], [-1])]
    branches["a_pt"] = [np.float32(masses) for masses in ([50, 60], [70], [80, 90], [-1])]
    write(tmp_path / "ntuple.root", branches)
    bad = []
    rows = rows_of(tmp_path / "ntuple.root", schema, bad.append)
    assert [(row["mass_labels"], row["apt"]) for row in rows] == [(7, 70), (None, None)]
    told = "of `a_mass`, which is stored per generated particle: the file does not say which belongs to which jet"
    assert str(bad[0]).endswith(f"entry 0: 2 jets and 2 values {told}")
    assert str(bad[1]).endswith(f"entry 2: 1 jet but 2 values {told}")
    assert [(rows.first, rows.last) for rows in bad] == [(0, 0), (2, 2)]


@pytest.mark.parametrize(
    ("key", "other", "message"),
    [
        ("HBHE_energy", None, "missing branch HBHE_energy"),
        ("a_pt", None, "a to tau tau: missing branch a_pt"),
        ("HBHE_energy", "a_m", r"`HBHE_energy` \(hcal\): it has 2 values, expected 280 x 360 crystals or 56 x 72 tow"),
        ("HBHE_energy", "runId", r"`HBHE_energy` \(hcal\): it is uint64, expected a list of numbers in each entry"),
        ("jetSeed_ieta", "runId", r"`jetSeed_ieta` \(ieta\): it is uint64, expected one number for each jet"),
    ],
)
def test_files_that_do_not_fit(key, other, message, tmp_path):
    branches = events(variant("ntuple_5", "a to tau tau"), (2, 1))
    del branches[key]
    if other is not None:
        branches[key] = branches[other]
    write(tmp_path / "ntuple.root", branches)
    with pytest.raises(ValueError, match=message) as caught:
        find_schema("ntuple_5", tmp_path)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused_with_one_line(tmp_path, monkeypatch):
    schema, path = variant("ntuple_5", "a to tau tau"), tmp_path / "ntuple.root"

    def refused(message):
        with pytest.raises(FileError, match=message) as caught:
            rows_of(path, schema)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    write(path, events(schema, (1,)), tree="other/Tree")
    refused(r"no tree `fevt/RHTree` \(it holds other/Tree\)")
    data = VECTORS.read_bytes()
    for size in (3, 50, 400, len(data) // 2, len(data) - 60):
        path.write_bytes(data[:size])
        refused("not a readable ROOT file .*truncated")
    path.write_bytes(b"<!DOCTYPE html>")
    refused("not a readable ROOT file")
    path.write_bytes(data)
    monkeypatch.setattr(root, "MAX_BASKET", 100_000)
    refused(r"`ECAL_tracksPt_atECALfixIP` is unreadable \(a basket unpacks to 0.4 MB\)")
    with pytest.raises(FileError, match=r"it declares 1000000000000 rows .* in a file of 0.0 MB"):
        root.TTree(str(path), SimpleNamespace(num_entries=10**12, branches=[]))


def test_prepared_and_resumed(tmp_path, capsys):
    schema = variant("ntuple_5", "quark and gluon")
    (tmp_path / "raw/crab/0000").mkdir(parents=True)
    branches = [events(schema, (2, 0, 1), one_in=997), events(schema, (1, 1), one_in=991)]
    for number, held in enumerate(branches):
        held["runId"] = [number + 1] * len(held["runId"])
        write(tmp_path / f"raw/crab/0000/ntuple_{number}.root", held)
    damaged = tmp_path / "raw/crab/0000/ntuple_1.root"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:1000] + bytes(100) + whole[1100:])
    with pytest.raises(FileError, match=r"ntuple_1\.root, entr"):
        prepare("ntuple_5", tmp_path / "raw", tmp_path / "out", shard_megabytes=1e-4)
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/data/*.parquet")}
    assert first
    damaged.write_bytes(whole)
    other = replace(schema, resample_endcaps=True)
    with pytest.raises(ValueError, match=r"other settings .source_schema: "):
        prepare("custom", tmp_path / "raw", tmp_path / "out", schema=other, shard_megabytes=1e-4)
    folder = prepare("ntuple_5", tmp_path / "raw", tmp_path / "out", shard_megabytes=1e-4)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert "Preparing: 5/5 events" in capsys.readouterr().out
    rows = [row for path in folder.glob("data/*.parquet") for row in pq.read_table(path).to_pylist()]
    wanted = [row for held in branches for row in expected(schema, held)]
    key = lambda row: (row["event_id"], row["ieta"], row["iphi"])  # noqa: E731
    compare(sorted(rows, key=key), sorted(wanted, key=key), schema)
    loaded = load_e2e("ntuple_5", folder, cache_dir=tmp_path / "cache")
    straight = load_e2e("ntuple_5", tmp_path / "raw", cache_dir=tmp_path / "cache")
    for split, part in loaded.items():
        assert sorted(part["event_id"]) == sorted(straight[split]["event_id"])
    assert loaded["train"].features["labels"].names == ["gluon", "quark"]
    manifest = json.loads((folder / "e2evit.json").read_text())
    with pytest.raises(ValueError, match=r"other settings .source_schema: "):
        prepare("custom", tmp_path / "raw", folder, schema=other, shard_megabytes=1e-4)
    del manifest["source_schema"]  # a folder of an earlier version
    (folder / "e2evit.json").write_text(json.dumps(manifest))
    assert prepare("ntuple_5", tmp_path / "raw", folder, shard_megabytes=1e-4) == folder
    assert manifest["schema"]["format"] == "rows"
    assert "branches" not in manifest["schema"]


def test_a_schema_of_your_own(tmp_path):
    own = {"format": "root", "pattern": "*.root", "description": "mine", "source": "here", "licence": "CC0"}
    own |= {"tree": "Events", "branches": {"ecal": "E"}, "one_row": "event", "image_size": [280, 360]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own))
    image = np.zeros((280, 360), np.float32)
    image[3, 5] = 7
    write(tmp_path / "mine.root", {"E": [image, image]}, tree="Events")
    rows = load_e2e("custom", tmp_path, schema=tmp_path / "mine.yaml", cache_dir=tmp_path / "cache")
    rows = [row for part in rows.values() for row in part]
    assert [row["pixel_index"] for row in rows] == [[3 * 360 + 5]] * 2
    assert sorted(row["event_id"] for row in rows) == ["mine.root:0", "mine.root:1"]
    for change, message in (
        ({"one_row": "jet"}, "`columns` lacks ieta, iphi, the seed tower"),
        ({"image_size": [125, 125]}, r"`image_size` of events is \[280, 360\], got \[125, 125\]"),
        ({"channel_names": ["hcal"]}, "`branches` must name a branch for each of `channel_names`"),
        ({"columns": {"pt": {"keys": "p", "column": 1}}}, "`pt.column` is not for `format: root`"),
        ({"columns": {"labels": {"keys": "p", "one_hot": [0]}}, "labels": {"a": "b"}}, "`labels.one_hot` is not for"),
        ({"columns": {"pt": {"stack": ["p", "q"]}}}, "`pt.stack` is not for `format: root`"),
        ({"columns": {"image": "E"}, "channels_last": True}, "`channels_last`, `columns.image` is not for"),
        ({"branches": {"trk_pt": "E"}, "resample_endcaps": True}, "`resample_endcaps` needs a channel `ecal`"),
        (
            {"format": "hdf5", "columns": {"image": "E", "pt": {"keys": "p", "per": "particle"}}},
            "`tree`, `branches`, `one_row`, `pt.per` is for `format: root`, not hdf5",
        ),
    ):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own | change))
        with pytest.raises(ValueError, match=message):
            find_schema("custom", tmp_path, tmp_path / "mine.yaml")


def test_event_ids_of_one_branch_or_of_none(tmp_path):
    branches = events(variant("ntuple_events"), (1, 1))
    write(tmp_path / "mine.root", branches)
    for source, wanted in (
        (Source(("eventId",)), [str(2**40), str(2**40 + 1)]),
        (Source(stack=("runId", "block")), ["mine.root:0", "mine.root:1"]),
    ):
        schema = replace(variant("ntuple_events"), columns={"event_id": source}, extra={"run": Source(("runId",))})
        assert [row["event_id"] for row in rows_of(tmp_path / "mine.root", schema)] == wanted


def test_background_files_have_the_task_of_the_signal_beside_them(tmp_path):
    tau, electron, top = (variant("ntuple_5", name) for name in ("tau", "electron", "boosted top"))
    qcd = events(electron, (2, 1)) | {
        key: [np.zeros(n, np.float32) for n in (2, 1)] for key in ("jet_IsTau", "jet_IsEle")
    }
    write(tmp_path / "a/qcd.root", qcd)
    with pytest.raises(ValueError, match="tau, electron at once; choose one with a schema of your own"):
        find_schema("ntuple_5", tmp_path)
    for signal in (tau, electron):
        write(tmp_path / "b.root", events(signal, (1,)))
        assert find_schema("ntuple_5", tmp_path) == signal
        assert [row["labels"] for row in rows_of(tmp_path / "a/qcd.root", signal)] == [0, 0, 0]
    write(tmp_path / "b.root", events(top, (1,)))
    with pytest.raises(ValueError, match="tau, electron at once"):
        find_schema("ntuple_5", tmp_path)


def test_entries_beside_an_unreadable_basket_are_kept():
    tree = root.TTree(str(VECTORS), SimpleNamespace(num_entries=6, branches=[]))
    sizes = [0, 2**40, 0]
    branch = SimpleNamespace(entry_offsets=[0, 2, 4, 6], basket_uncompressed_bytes=sizes.__getitem__)
    assert [run[:2] for run in tree._runs(branch, 0, 6)] == [(0, 2), (2, 4), (4, 6)]


def test_dropped_events_are_counted_once_and_known_ones_are_silent(tmp_path):
    schema = variant("ntuple_5", "a to tau tau")
    branches = events(schema, (3, 0, 1, 2, 1))
    lists = {"jetSeed_ieta": [[44, 20, 50], [], [44], [20, 20], [20]], "jetM": [[1] * 3, [], [1], [1], [1]]}
    branches |= {key: [np.float32(value) for value in values] for key, values in lists.items()}
    branches["jetSeed_iphi"] = [np.full(len(value), 9, np.float32) for value in branches["jetSeed_iphi"]]
    (tmp_path / "raw").mkdir()
    path = write(tmp_path / "raw/ntuple.root", branches)
    folder = prepare("ntuple_5", tmp_path / "raw", tmp_path / "out", on_bad_rows="skip")
    report = json.loads((folder / "bad_rows.json").read_text())
    assert report["number"] == 3
    assert sorted((bad["first"], bad["last"]) for bad in report["events"]) == [(0, 0), (0, 0), (2, 2), (3, 3)]
    assert json.loads((folder / "e2evit.json").read_text())["num_bad_events"] == 3
    assert "rows of 3 events failed the checks" in (folder / "README.md").read_text()
    bad = []
    rows = rows_of(path, replace(schema, bad_rows={"*.root": ((0, 3),)}), bad.append)
    assert (len(rows), bad) == (1, [])


def test_known_rows_are_taken_out_of_ranges():
    bad = BadRows("a", 2, 9, "why")
    known = [(8, 20), (0, 2), (4, 5), (4, 4)]
    assert [(rows.first, rows.last) for rows in bad.without(known)] == [(3, 3), (6, 7)]
    assert [(rows.first, rows.last) for rows in bad.without([(30, 40)])] == [(2, 9)]
    assert list(bad.without([(0, 9)])) == []
    assert number_of_rows([("b", 0, 4), ("a", 2, 9), ("a", 3, 3), ("a", 5, 11), ("b", 4, 5)]) == 16


def test_uproot_is_needed_for_root_files_alone(monkeypatch, capsys, tmp_path):
    loaded = "import sys, e2evit.cli.prepare, e2evit.cli.inspect; assert not {'uproot', 'awkward'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True)
    monkeypatch.setitem(sys.modules, "uproot", None)
    with pytest.raises(SystemExit):
        run("prepare", ["ntuple_5", "--data_dir", str(VECTORS.parent), "--output_dir", str(tmp_path / "out")])
    told = capsys.readouterr().err
    assert "rntuple.root needs uproot: pip install 'e2evit[root]'" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_means_missing_is_single_precision(tmp_path):
    schema = variant("ntuple_5", "a to tau tau")
    branches = events(schema, (2,))
    branches["jetPt"] = [np.float32([-99.9, 80])]
    write(tmp_path / "ntuple.root", branches)
    columns = schema.columns | {"pt": Source(("jetPt",), missing=(-99.9,))}
    assert [row["pt"] for row in rows_of(tmp_path / "ntuple.root", replace(schema, columns=columns))] == [None, 80]


def test_classes_by_file(tmp_path):
    """Where the sample is the class."""
    schema = replace(variant("ntuple_5", "a to tau tau"), labels={"qcd": "", "top": ""})
    schema = replace(schema, class_of_files={"qcd": "QCD*", "top": "TT*"})
    for name in ("QCD_Pt", "TTJets"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "ntuple.root", events(schema, (2,)))
    parts = load_e2e("custom", tmp_path, schema=schema, cache_dir=tmp_path / "cache")
    rows = [row for part in parts.values() for row in part]
    assert sorted(row["labels"] for row in rows) == [0, 0, 1, 1]
    folder = prepare("custom", tmp_path, tmp_path / "prepared", schema=schema)
    found = [row["labels"] for part in load_e2e("ntuple_5", folder).values() for row in part]
    assert sorted(found) == [0, 0, 1, 1]
    (tmp_path / "TTJets").rename(tmp_path / "other")
    with pytest.raises(FileError, match=r"other/ntuple\.root has no class by `class_of_files`"):
        load_e2e("custom", tmp_path, schema=schema, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match="`class_of_files` needs a glob for each of `labels`"):
        parse_schema("custom", schema.to_dict() | {"class_of_files": {"qcd": "*"}}, "here")


def test_events_without_jets(tmp_path):
    schema = variant("ntuple_5", "a to tau tau")
    write(tmp_path / "ntuple.root", events(schema, (0, 0)))
    with pytest.raises(ValueError, match=r"Data set 'ntuple_5': the files in .* hold no rows"):
        load_e2e("ntuple_5", tmp_path, cache_dir=tmp_path / "cache")
