"""RNTuples: lists as uproot itself reads them, damage told by entry, sizes checked before memory is taken."""

import json
from pathlib import Path
from types import SimpleNamespace

import awkward as ak
import numpy as np
import pytest
import uproot
from ntuple_files import events, expected, rows_of, variant, write

from e2evit.data import rntuple
from e2evit.data.batches import BadRows
from e2evit.data.branches import Entries
from e2evit.data.formats import FileError
from e2evit.data.inspect import inspect_file
from e2evit.data.prepare import prepare
from e2evit.data.root import describe_trees, open_tree

WRITTEN_BY_ROOT = Path(__file__).parent / "data/ntuple/rntuple.root"


def columns(number, seed=0):
    """Columns of each kind; some lists are empty."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, number)
    flat = rng.normal(size=counts.sum())
    inner = ak.unflatten(rng.normal(size=3 * counts.sum()).astype(np.float32), [3] * counts.sum())
    return {
        "number": rng.integers(0, 2**60, number, dtype=np.uint64),
        "sign": rng.integers(-9, 9, number, dtype=np.int16),
        "flag": rng.random(number) < 0.5,
        "list": ak.unflatten(flat, counts),
        "integers": ak.unflatten((100 * flat).astype(np.int32), counts),
        "flags": ak.unflatten(flat > 0, counts),
        "fixed": rng.normal(size=(number, 4, 5)).astype(np.float32),
        "crops": ak.unflatten(inner, counts),
        "text": ak.Array(["word"] * number),
        "record": ak.zip({"x": np.arange(number), "y": np.arange(number)}),
    }


@pytest.fixture
def path(tmp_path):
    """Three clusters of 5, 1 and 6 entries."""
    with uproot.recreate(tmp_path / "a.root") as file:
        written = file.mkrntuple("tree", columns(5))
        for seed, number in enumerate((1, 6)):
            written.extend(columns(number, seed + 1))
    return tmp_path / "a.root"


def assert_as_uproot(path, name):
    """All branches in all ranges of entries."""
    with uproot.open(path) as file, open_tree(str(path), name) as tree:
        for key, branch in tree.branches.items():
            whole = file[name][key].array()
            for start in range(tree.num_entries):
                for stop in range(start + 1, tree.num_entries + 1):
                    reached = start
                    for run in tree.read(key, start, stop):
                        assert isinstance(run, Entries)
                        assert run.first == reached
                        reached += len(run.values if run.counts is None else run.counts)
                        part = whole[run.first : reached]
                        assert run.values.dtype == branch.fact.dtype
                        assert run.values.tolist() == ak.flatten(part, axis=None).tolist()
                        if branch.fact.depth == 1:
                            assert run.counts.tolist() == [ak.count(entry, axis=None) for entry in part]
                        elif branch.fact.depth == 2:
                            assert run.counts.tolist() == ak.num(part, axis=1).tolist()
                            assert run.lengths.tolist() == ak.flatten(ak.num(part, axis=2)).tolist()
                    assert reached == stop


def test_every_kind_of_branch_as_uproot_reads_it(path, monkeypatch):
    assert_as_uproot(path, "tree")
    monkeypatch.setattr(rntuple, "RUN_BYTES", 1)  # one entry at once
    assert_as_uproot(path, "tree")
    assert_as_uproot(WRITTEN_BY_ROOT, "fevt/RHTree")


def test_what_can_be_read_is_told(path):
    lines = []
    assert sorted(describe_trees(str(path), lines)) == sorted(columns(1).keys() - {"text", "record"})
    text = "\n".join(lines)
    assert "tree: ROOT::RNTuple, 12 entries" in text
    assert "fixed                               array<array<float,5>,4> 20 in the first entry" in text
    assert "crops                               vector<vector<float>>" in text
    assert "text                                it holds std::string, not numbers" in text
    assert "record                              it holds a record, not numbers" in text
    lines, _, schema = inspect_file(WRITTEN_BY_ROOT)
    assert "  fevt/RHTree: ROOT::RNTuple, 2 entries" in lines
    assert any("fits: ntuple_5 (a to tau tau), ntuple_photons; read as ntuple_5" in line for line in lines)
    assert schema == variant("ntuple_5", "a to tau tau")


def damage(path, key, number):
    """Change a byte in the middle of a page of the column of numbers of a branch."""
    with open_tree(str(path), "fevt/RHTree") as tree:
        _, pages = tree._pages(0, tree.branches[key].numbers)
        locator = pages[number].locator
    data = bytearray(path.read_bytes())
    data[locator.offset + locator.num_bytes // 2] ^= 1
    path.write_bytes(data)


def test_damage_is_noticed_and_told_by_entry(tmp_path):
    """ROOT has a checksum behind each page."""
    path = tmp_path / "a.root"
    path.write_bytes(WRITTEN_BY_ROOT.read_bytes())
    schema, bad = variant("ntuple_5", "a to tau tau"), []
    rows = rows_of(path, schema)
    damage(path, "ECAL_energy", 0)
    told = r"a\.root, entr.* 0.*`ECAL_energy` is unreadable \(a page is damaged \(checksum\)"
    with pytest.raises(FileError, match=told):
        rows_of(path, schema)
    kept = rows_of(path, schema, bad.append)
    assert len(kept) < len(rows)
    assert all(row in rows for row in kept)


def test_entries_beside_a_damaged_page_are_kept(path, monkeypatch):
    with open_tree(str(path), "tree") as tree:
        read = tree._page

        def fail(cluster, column, number):
            if cluster == 2:
                raise ValueError("no")
            return read(cluster, column, number)

        monkeypatch.setattr(tree, "_page", fail)
        found = list(tree.read("fixed", 0, 12))
        assert [run.first for run in found] == [0, 5, 6]
        assert str(found[2]).endswith("entries 6-11: `fixed` is unreadable (no)")
        bounds = np.array([0, 3, 3, 7, 9])
        pages = [SimpleNamespace(num_elements=n) for n in (2, 4, 3)]
        monkeypatch.setattr(tree, "_pages", lambda *_: (0, pages))
        for broken, wanted in ((0, [(0, 1), (1, 4)]), (1, [(0, 3), (3, 4)]), (2, [(0, 2), (2, 4)])):

            def one(cluster, column, number, broken=broken):
                if number == broken:
                    raise ValueError("no")
                return np.zeros(pages[number].num_elements)

            monkeypatch.setattr(tree, "_page", one)
            runs = list(tree._values(tree.branches["list"], 0, bounds))
            assert [run[:2] for run in runs] == wanted
            assert [isinstance(run[2], str) for run in runs] == ([True, False] if broken < 2 else [False, True])


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (100, r"the header of its RNTuple takes 0\.0 MB"),
        (100_000, r"`ECAL_tracksPt_atECALfixIP` is unreadable \((an entry takes|a page unpacks to) 0\.\d MB\)"),
    ],
)
def test_sizes_are_checked_before_memory_is_taken(limit, message, monkeypatch, tmp_path):
    monkeypatch.setattr(rntuple, "MAX_BASKET", limit)
    with pytest.raises(FileError, match=message):
        rows_of(WRITTEN_BY_ROOT, variant("ntuple_5", "a to tau tau"))


def test_descriptions_that_contradict_themselves(path, monkeypatch):
    with open_tree(str(path), "tree") as tree:
        ntuple = tree.ntuple
        links, summaries = ntuple.page_link_list, ntuple.cluster_summaries
        summaries[1].num_first_entry += 1
        with pytest.raises(FileError, match=r"a\.root: the clusters of its RNTuple overlap, or some are missing\."):
            rntuple.RNTuple(str(path), ntuple)
        summaries[1].num_first_entry -= 1
        summaries[2].num_entries = 10**12
        with pytest.raises(FileError, match=r"it declares 1000000000006 rows .* in a file of 0\.0 MB"):
            rntuple.RNTuple(str(path), ntuple)
        summaries[2].num_entries = 6
        for key, wanted in (("number", "a cluster has 4 numbers instead of 5"), ("list", "a cluster has 4 lists")):
            field = tree.branches[key]
            _, pages = tree._pages(0, field.lists[0] if field.lists else field.numbers)
            pages[0].num_elements -= 1
            (bad,) = [run for run in tree.read(key, 0, 6) if isinstance(run, BadRows)]
            assert wanted in bad.reason
            pages[0].num_elements += 1
        links[1].clear()
        (bad,) = [run for run in tree.read("number", 0, 12) if isinstance(run, BadRows)]
        assert (bad.first, bad.last, bad.reason) == (5, 5, "`number` is unreadable (a cluster lacks it)")


def test_prepared_and_resumed(tmp_path):
    """Shards of an RNTuple are those of the same events in a TTree."""
    schema = variant("ntuple_5", "quark and gluon")
    branches = events(schema, (2, 0, 1, 1), one_in=997)
    for kind in ("TTree", "RNTuple"):
        write(tmp_path / kind / "ntuple.root", branches, kind=kind)
        prepare("ntuple_5", tmp_path / kind, tmp_path / f"of {kind}", shard_megabytes=1e-4)
    shards = [json.loads((tmp_path / f"of {kind}/e2evit.json").read_text())["shards"] for kind in ("TTree", "RNTuple")]
    assert shards[0] == shards[1]
    assert len(rows_of(tmp_path / "RNTuple/ntuple.root", schema)) == len(expected(schema, branches)) == 4
