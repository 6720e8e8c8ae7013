"""Damaged ROOT files: the rows that they hold or one clear error, in little time and memory, and no code from them."""

import lzma
import time
import zlib
from pathlib import Path

import cramjam
import numpy as np
import pytest
import uproot
from ntuple_files import events, rows_of, variant, write
from test_corrupt_files import mutate

from e2evit.data import root_blocks
from e2evit.data.formats import FileError
from e2evit.data.inspect import inspect_file
from e2evit.data.root import tree_facts

MUTANTS = 50
FILES = [Path(__file__).parent / f"data/ntuple/{name}.root" for name in ("vectors", "rntuple")]


@pytest.fixture(autouse=True)
def no_code(monkeypatch):
    """uproot would compile the classes that a file describes."""

    def compile_class(*_):
        raise AssertionError("a class was compiled from a file")

    monkeypatch.setattr(uproot.deserialization, "compile_class", compile_class)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_mutated_files_give_their_rows_or_clean_errors(path, tmp_path):
    rng, mutant = np.random.default_rng(0), tmp_path / "mutant.root"
    outcomes, messages = dict.fromkeys(("equal", "part", "changed"), 0), []
    for number in range(MUTANTS):
        schema, bad = variant(["ntuple_5", "ntuple_photons"][number % 2]), []
        mutant.write_bytes(mutate(path.read_bytes(), rng))
        start = time.monotonic()
        try:
            rows = rows_of(mutant, schema, bad.append)
        except FileError as error:
            messages.append(str(error))
            continue
        finally:
            assert time.monotonic() - start < 20
        intact = rows_of(path, schema)
        kept = all(row in intact for row in rows)
        outcomes["changed" if not kept else "equal" if len(rows) == len(intact) and not bad else "part"] += 1
        messages += map(str, bad)
    assert all("mutant.root" in message and len(message) < 500 and "\n" not in message for message in messages)
    assert not any("AssertionError" in message or "<" in message for message in messages)
    assert min(len(messages), outcomes["equal"], outcomes["part"]) > 0, outcomes
    if path.stem == "rntuple":  # ROOT has checksums for all of its bytes
        assert not outcomes["changed"]


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
def test_blocks_do_not_unpack_to_more_than_they_say(kind, tmp_path):
    """A block of zeros that would take a gigabyte."""
    schema = variant("ntuple_5", "a to tau tau")
    noise = np.random.default_rng(0).random((280, 360)).astype(np.float32)
    branches = events(schema, (1, 1, 1, 1)) | {"ECAL_energy": [noise] * 4}
    path = write(tmp_path / "a.root", branches, kind=kind)
    data = path.read_bytes()
    blocks = [at for at in range(len(data)) if data[at : at + 3] == b"ZL\x08"]
    size, begin = max((int.from_bytes(data[at + 3 : at + 6], "little"), at) for at in blocks)
    bomb = zlib.compress(bytes(10**9), 9)
    assert len(bomb) < size
    path.write_bytes(data[: begin + 9] + bomb + data[begin + 9 + len(bomb) :])
    with pytest.raises(FileError, match=r"`ECAL_energy` is unreadable \(a block is cut, or larger than the \d+ bytes"):
        rows_of(path, schema)


@pytest.mark.parametrize(
    ("pack", "unpack"),
    [
        (zlib.compress, root_blocks._inflate),
        (lzma.compress, root_blocks._unpack_lzma),
        (lambda data: bytes(cramjam.zstd.compress(data)), root_blocks._unpack_zstd),
    ],
    ids=["zlib", "lzma", "zstd"],
)
def test_how_blocks_are_unpacked(pack, unpack):
    data = bytes(range(256)) * 9
    packed = pack(data)
    assert bytes(unpack(packed, len(data))) == data
    assert len(unpack(packed, len(data) + 7)) == len(data)  # uproot compares the sizes
    for wrong in (packed[:-6], pack(data * 1000)):
        with pytest.raises((ValueError, cramjam.DecompressionError)):
            unpack(wrong, len(data))


def test_uproot_unpacks_as_we_say():
    tree_facts(str(FILES[0]), "fevt/RHTree")
    ours = (root_blocks._inflate, root_blocks._unpack_lzma, root_blocks._unpack_zstd)
    for name, unpack in zip(("ZLIB", "LZMA", "ZSTD"), ours):
        assert getattr(uproot.compression, f"_decompress_{name}").decompress is unpack


def test_a_tree_that_cannot_be_read_is_tried_once(tmp_path, monkeypatch):
    """Not once for each of dozens of schemas."""
    data = bytearray(FILES[0].read_bytes())
    place = data.index(b"RHTree\x0bRecHit tree") + 40
    data[place : place + 8] = bytes(8)
    (tmp_path / "a.root").write_bytes(data)
    opened = []
    original = uproot.open
    monkeypatch.setattr(uproot, "open", lambda *given, **more: opened.append(given) or original(*given, **more))
    lines, _, schema = inspect_file(tmp_path / "a.root")
    assert schema is None
    assert any("fevt/RHTree: TTree, not a readable ROOT file" in line for line in lines)
    assert len(opened) < 6
