"""ROOT files in the layout of RecHitAnalyzer: as ROOT and uproot write them, damaged, and made to deceive."""

import io
import zlib
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import awkward as ak
import numpy as np
import uproot

from e2evit.data import SCHEMAS, DatasetSchema
from e2evit.data.files import list_pieces, read_rows

from .case import Case
from .sample import Intact, Ranges

__all__ = ["FILE_NAME", "root_cases", "root_formats", "root_rows", "root_schema"]

FILES = Path(__file__).parents[2] / "tests/data/ntuple"
FILE_NAME, TREE, VARIANT = "jets.root", "fevt/RHTree", "a to tau tau"
BOMB = 3 * 10**9  # bytes
COMPRESSION = uproot.ZLIB(1)


def root_schema() -> DatasetSchema:
    """Of all ROOT files here."""
    return next(schema for schema in SCHEMAS["ntuple_5"] if schema.variant == VARIANT)


@cache
def root_rows() -> list[dict]:
    """The three jets of every intact file, as its readers must return them."""
    path, schema = FILES / "vectors.root", root_schema()
    pieces = list_pieces(str(path), path.name, schema, 100)
    return [row for piece in pieces for table in read_rows(piece, schema) for row in table.to_pylist()]


def root_formats() -> dict[str, Intact]:
    """A file of each kind; checksums cover the descriptions of RNTuples, and of ROOT's the pages, too."""
    wholes = {
        "root, TTree": (FILES / "vectors.root").read_bytes(),
        "root, RNTuple": (FILES / "rntuple.root").read_bytes(),
        "root, TTree of uproot": _written(_columns(), "TTree"),
        "root, RNTuple of uproot": _written(_columns(), "RNTuple"),
    }
    return {
        name: Intact(FILE_NAME, "root", data, _covered(data) if "RNTuple" in name else [], len(root_rows()))
        for name, data in wholes.items()
    }


def _columns() -> dict[str, np.ndarray | ak.Array]:
    """What the branches hold that are read."""
    schema = root_schema()
    ids = [key for source in schema.sources.values() for key in source.stack]
    keys = [*schema.branches.values(), *ids, *(key for source in schema.sources.values() for key in source.keys)]
    with uproot.open(FILES / "vectors.root") as file:
        arrays = {key: file[TREE][key].array() for key in keys}
    flat = {key: ak.to_numpy(array) for key, array in arrays.items() if key in ids or key in schema.branches.values()}
    return arrays | flat


def _written(held: dict, kind: str, compression=COMPRESSION) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, FILE_NAME)
        with uproot.recreate(path, compression=compression) as file:
            if kind == "RNTuple":
                file.mkrntuple(TREE, held)
            else:
                types = {key: str(ak.type(array)).partition(" * ")[2] for key, array in held.items()}
                file.mktree(TREE, types).extend(held)
        return path.read_bytes()


def _covered(data: bytes) -> Ranges:
    """Header, footer, lists of pages, and pages with their checksum."""
    with uproot.open(io.BytesIO(data)) as file:
        ntuple = file[TREE]
        seeks = [(ntuple.member(f"fSeek{part}"), ntuple.member(f"fNBytes{part}")) for part in ("Header", "Footer")]
        links = [group.page_list_link.locator for group in ntuple.footer.cluster_group_records]
        pages = [page for cluster in ntuple.page_link_list for column in cluster for page in column.pages]
    ranges = [(begin, begin + size) for begin, size in seeks]
    ranges += [(link.offset, link.offset + link.num_bytes) for link in links]
    checked = [page.locator for page in pages if page.has_checksum]
    return ranges + [(page.offset, page.offset + page.num_bytes + 8) for page in checked]


def root_cases() -> Iterator[Case]:
    """Files that lie about their size."""
    held = _columns()
    noise = np.random.default_rng(0).random((2, 500_000)).astype(np.float32)
    for kind in ("TTree", "RNTuple"):
        data = _written(held | {"ECAL_energy": noise}, kind)
        yield _case(f"a block that unpacks to 3 GB, {kind}", _with_bomb(data))
        yield _case(f"not compressed, {kind}", _written(held, kind, None), readable=True)
        for compression in (uproot.LZMA(1), uproot.LZ4(1), uproot.ZSTD(1)):
            name = f"{type(compression).__name__}, {kind}"
            yield _case(name, _written(held, kind, compression), readable=True)
    yield _case("ten million empty events", _written({"ECAL_energy": np.zeros(10**7, np.float32)}, "TTree"))
    yield _case("a tree without entries", _written({key: values[:0] for key, values in held.items()}, "TTree"))
    data = bytearray(_written(held, "TTree"))
    for offset in (8, 12, 16, 20, 24, 28, 41, 45):  # of the file's header: where it begins, ends, and what is free
        lying = data.copy()
        lying[offset : offset + 4] = b"\x7f\xff\xff\xff"
        yield _case(f"its header says 2^31 at byte {offset}", bytes(lying))


def _with_bomb(data: bytes) -> bytes:
    """The largest compressed block, replaced by one of the same length that unpacks to more."""
    begins, found = 0, []
    while (begins := data.find(b"ZL\x08", begins + 1)) > 0:
        found.append((int.from_bytes(data[begins + 3 : begins + 6], "little"), begins))
    size, begin = max(found)
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(10**6)) for _ in range(BOMB // 10**6)) + packer.flush()
    assert len(bomb) < size, (len(bomb), size)
    return data[: begin + 9] + bomb + data[begin + 9 + len(bomb) :]


def _case(name: str, data: bytes, readable: bool = False) -> Case:
    rows = tuple(range(len(root_rows()))) if readable else None
    return Case(f"crafted root {name}", "root", FILE_NAME, partial(_write, data), True, None, rows)


def _write(data: bytes, folder: Path) -> None:
    (folder / "data" / FILE_NAME).write_bytes(data)
