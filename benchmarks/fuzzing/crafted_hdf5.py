"""HDF5 files that point elsewhere, lie about their size, or are merely odd."""

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from .case import Case
from .sample import IMAGES, LABELS, MASSES

__all__ = ["hdf5_cases"]

ROWS = tuple(range(len(IMAGES)))
CHUNK = (2, *IMAGES.shape[1:])
OUTSIDE = {"absolute": "{folder}/outside/{name}", "relative": "../outside/{name}"}
OTHERS = {"y": LABELS, "m": MASSES}
Write = Callable[[h5py.File, Path], None]


def hdf5_cases() -> Iterator[Case]:
    """Cases of every kind; each function below writes one."""
    for where, pattern in OUTSIDE.items():
        for write in (_link, _link_to_group, _soft_then_external, _virtual, _virtual_of_virtual, _raw, _raw_in_pieces):
            yield _case(f"{write.__name__[1:]} {where}", partial(write, pattern=pattern))
        yield _case(
            f"link of the labels {where}", partial(_link, pattern=pattern, key="y"), {"x": IMAGES, "m": MASSES}
        )
        yield _case(
            f"link of the masses {where}", partial(_link, pattern=pattern, key="m"), {"x": IMAGES, "y": LABELS}
        )
    for path in ("/proc/self/environ", "/proc/self/maps", "/dev/zero", "/etc/passwd"):
        yield _case(f"raw {path}", partial(_raw_bytes, path=path))
        yield _case(f"link {path}", partial(_link, pattern=path))
    yield _case("virtual pattern", _virtual_pattern)
    yield _case("raw in the current folder", partial(_raw, pattern="secret.raw"))
    yield _case("virtual of raw in the current folder", _virtual_of_raw)
    yield _case("virtual with an escaped name", _virtual_escaped)
    yield _case("virtual in 40000 blocks", _virtual_blocks, libver="earliest")
    yield _case("heaps within heaps", _overlapping_heaps)

    within = "sources/{name}"
    for write in (_link, _link_to_group, _soft_then_external, _virtual, _virtual_of_virtual, _raw):
        yield _case(f"{write.__name__[1:]} within", partial(_with_sources, write, within), readable=ROWS)
        yield _case(f"{write.__name__[1:]} dangling", partial(write, pattern=within))
    yield _case("virtual sources overlap", _overlapping)
    yield _case("virtual source is too short", _short_source)
    yield _case("virtual source of integers", _virtual_integers, images=np.trunc(IMAGES))

    for rows in (10**5, 10**7, 10**9, 10**12, 2**60):
        for chunk in (1, 1000):
            yield _case(f"{rows} rows never written, chunks of {chunk}", partial(_declared, rows=rows, chunk=chunk))
        yield _case(f"{rows} labels never written", partial(_declared_labels, rows=rows))
    yield _case("contiguous, never written", _unallocated)
    yield _case("half written", _half_written)
    yield _case("one huge chunk", _huge_chunk)
    for options in ({}, {"shuffle": True}, {"fletcher32": True}, {"shuffle": True, "fletcher32": True}):
        for name, payload in _payloads(**options).items():
            title = f"gzip {' '.join(options)} chunk that is {name}".replace("  ", " ")
            yield _case(title, partial(_chunk, payload=payload, **options))
    for length in (1, 7, IMAGES[:2].nbytes - 4, IMAGES[:2].nbytes + 4):
        yield _case(f"raw chunk of {length} bytes", partial(_chunk, payload=bytes(length), mask=1))
        yield _case(f"lzf chunk of {length} bytes", partial(_chunk, payload=bytes(length), compression="lzf"))
    yield _case("gzip bomb in a chunk", partial(_chunk, payload=zlib.compress(bytes(10**8), 9)))

    yield _case("3000 nested groups", partial(_nested, depth=3000))
    yield _case("30000 groups", _many_groups)
    yield _case("a group in itself", _hard_loop, readable=ROWS)
    yield _case("links in a circle", _soft_loop)
    yield _case("a dangling link that nobody needs", _dangling_extra, {"x": IMAGES} | OTHERS, readable=ROWS)
    yield _case("a link outside that nobody needs", _outside_extra, {"x": IMAGES} | OTHERS, readable=ROWS)
    yield _case("an unknown filter", _unknown_filter)
    yield _case("an unknown filter that nobody needs", _unknown_extra, {"x": IMAGES} | OTHERS, readable=ROWS)
    for kind in (">f4", "f8", ">f8"):
        yield _case(f"type {kind}", partial(_typed, kind=kind), readable=ROWS)
    for kind in ("f2", "c8", "i1", "u8", "S8", "V4", "bool"):
        yield _case(f"type {kind}", partial(_typed, kind=kind), images=_cast(kind))
    for name, value in {"nan": np.nan, "inf": np.inf, "1e38": 1e38, "-1e38": -1e38, "1e-45": 1e-45}.items():
        bad = IMAGES.copy()
        bad[3, 0, 0, 0] = value
        rest = tuple(row for row in ROWS if row != 3) if not np.isfinite(value) else None
        yield _case(f"a pixel of {name}", partial(_arrays, x=bad), images=bad, readable=rest)
    doubles = IMAGES.astype(float)
    doubles[3, 0, 0, 0] = 1e300
    yield _case("a pixel of 1e300", partial(_arrays, x=doubles), readable=tuple(row for row in ROWS if row != 3))
    yield _case("no rows", partial(_arrays, x=IMAGES[:0]), {"y": LABELS[:0], "m": MASSES[:0]}, images=IMAGES[:0])
    for name, arrays in _odd_arrays().items():
        yield _case(name, partial(_arrays, **arrays), {key: v for key, v in OTHERS.items() if key not in arrays})
    for options in ({"userblock_size": 512}, {"libver": "latest"}, {"libver": ("earliest", "v108")}):
        yield _case(f"written with {options}", _plain, {"x": IMAGES} | OTHERS, readable=ROWS, **options)
    yield _case("resizable", _resizable, readable=ROWS)
    yield _case("compact", _compact)
    yield _case("names that are not UTF-8", _bytes_names, {"x": IMAGES} | OTHERS, readable=ROWS)
    yield _case("a very long name", _long_name, {"x": IMAGES} | OTHERS, readable=ROWS)
    yield _case("attributes of 5 MB", _attributes, {"x": IMAGES} | OTHERS, readable=ROWS)


def _case(name: str, write: Write, arrays: dict = OTHERS, images=IMAGES, readable=None, **options) -> Case:
    return Case(
        f"crafted hdf5 {name}", "hdf5", "jets.h5", partial(_write, write, arrays, options), True, images, readable
    )


def _write(write: Write, arrays: dict, options: dict, folder: Path) -> None:
    with h5py.File(folder / "data/jets.h5", "w", **options) as file:
        for key, values in arrays.items():
            file[key] = values
        write(file, folder)


def _with_sources(write: Write, pattern: str, file: h5py.File, folder: Path) -> None:
    """Also what the links lead to, below the folder of the data."""
    sources = folder / "data/sources"
    sources.mkdir()
    with h5py.File(sources / "secret.h5", "w") as source:
        source["x"] = source["group/x"] = IMAGES
    (sources / "secret.raw").write_bytes(IMAGES.tobytes())
    write(file, folder, pattern=pattern)


def _plain(file, folder):
    pass


def _link(file, folder, pattern, key="x"):
    file[key] = h5py.ExternalLink(pattern.format(folder=folder, name="secret.h5"), "x")


def _link_to_group(file, folder, pattern):
    file["far"] = h5py.ExternalLink(pattern.format(folder=folder, name="secret.h5"), "/group")
    file["x"] = h5py.SoftLink("/far/x")


def _soft_then_external(file, folder, pattern):
    file["far"] = h5py.ExternalLink(pattern.format(folder=folder, name="secret.h5"), "/x")
    file["x"] = h5py.SoftLink("far")


def _virtual(file, folder, pattern):
    layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
    layout[...] = h5py.VirtualSource(pattern.format(folder=folder, name="secret.h5"), "x", IMAGES.shape)
    file.create_virtual_dataset("x", layout)


def _virtual_of_virtual(file, folder, pattern):
    layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
    layout[...] = h5py.VirtualSource(pattern.format(folder=folder, name="secret.h5"), "group/x", IMAGES.shape)
    file.create_virtual_dataset("inner", layout)
    layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
    layout[...] = h5py.VirtualSource(".", "inner", IMAGES.shape)
    file.create_virtual_dataset("x", layout)


def _virtual_pattern(file, folder):
    """Sources by number, of which there may be any."""
    block = h5py.h5s.create_simple(IMAGES.shape)
    space = h5py.h5s.create_simple(IMAGES.shape, (h5py.h5s.UNLIMITED, *IMAGES.shape[1:]))
    space.select_hyperslab((0, 0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1, 1), IMAGES.shape, IMAGES.shape)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_virtual(space, f"{folder}/outside/secret-%b.h5".encode(), b"x", block)
    (folder / "outside/secret.h5").rename(folder / "outside/secret-0.h5")
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, properties)


def _virtual_of_raw(file, folder):
    """The bytes are below the folder of the data, and HDF5 looks for them in the current one."""
    (folder / "data/secret.raw").write_bytes(IMAGES.tobytes())
    _raw(file, folder, "secret.raw")
    file.move("x", "raw")
    layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
    layout[...] = h5py.VirtualSource(".", "raw", IMAGES.shape)
    file.create_virtual_dataset("x", layout)


def _virtual_escaped(file, folder):
    """HDF5 reads `%%` as `%`."""
    file["own%%"] = IMAGES
    file["own%"] = h5py.ExternalLink(f"{folder}/outside/secret.h5", "x")
    layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
    layout[...] = h5py.VirtualSource(".", "own%%", IMAGES.shape)
    file.create_virtual_dataset("x", layout)


def _virtual_blocks(file, folder, number=40_000):
    """Every second row, in the format that lists them one by one: HDF5 takes minutes."""
    side = IMAGES.shape[1:]
    wide, narrow = (h5py.h5s.create_simple((rows, *side)) for rows in (2 * number, number))
    wide.select_hyperslab((0, 0, 0, 0), (number, 1, 1, 1), (2, *side), (1, *side))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_virtual(wide, b".", b"source", narrow)
    whole = h5py.h5s.create_simple((2 * number, *side))
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, whole, properties)


def _overlapping_heaps(file, folder):
    """Each claims the rest of the file."""
    heap = b"GCOL\x01\0\0\0" + struct.pack("<QHHIQ", 2**23, 1, 0, 0, 16)
    file["x"] = np.frombuffer(heap * 2**18, "u1")


def _virtual_integers(file, folder):
    file["whole"] = IMAGES.astype("i4")
    layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
    layout[...] = h5py.VirtualSource(".", "whole", IMAGES.shape)
    file.create_virtual_dataset("x", layout)


def _overlapping(file, folder):
    """Sources that are as large as the array together, but leave a part of it empty."""
    file["half"] = IMAGES[:4].reshape(4, -1)
    layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
    layout[:4] = h5py.VirtualSource(".", "half", (4, IMAGES[0].size))
    layout[1:5] = h5py.VirtualSource(".", "half", (4, IMAGES[0].size))
    file.create_virtual_dataset("x", layout)


def _short_source(file, folder):
    file["half"] = IMAGES[:4].reshape(4, -1)
    layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
    layout[...] = h5py.VirtualSource(".", "half", (8, IMAGES[0].size))
    file.create_virtual_dataset("x", layout)


def _raw(file, folder, pattern):
    path = pattern.format(folder=folder, name="secret.raw")
    file.create_dataset("x", IMAGES.shape, IMAGES.dtype, external=[(path, 0, IMAGES.nbytes)])


def _raw_bytes(file, folder, path):
    file.create_dataset("x", (1, *IMAGES.shape[1:]), "u1", external=[(path, 0, IMAGES[0].size)])


def _raw_in_pieces(file, folder, pattern):
    (folder / "data/own.raw").write_bytes(IMAGES[:4].tobytes())
    path, half = pattern.format(folder=folder, name="secret.raw"), IMAGES[:4].nbytes
    file.create_dataset("x", IMAGES.shape, IMAGES.dtype, external=[("own.raw", 0, half), (path, 0, half)])


def _declared(file, folder, rows, chunk):
    file.create_dataset("x", (rows, *IMAGES.shape[1:]), "f4", chunks=(chunk, *IMAGES.shape[1:]), compression="gzip")


def _declared_labels(file, folder, rows):
    file["x"] = IMAGES
    for name in OTHERS:
        del file[name]
    file.create_dataset("y", (rows,), "i8", chunks=(1024,))


def _unallocated(file, folder):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple(IMAGES.shape), properties)


def _half_written(file, folder):
    file.create_dataset("x", IMAGES.shape, "f4", chunks=CHUNK, compression="gzip")[:4] = IMAGES[:4]


def _huge_chunk(file, folder):
    shape = (8, 3, 12000, 14000)
    data = file.create_dataset("x", shape, "f4", chunks=(1, 1, *shape[2:]), compression="gzip")
    data.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(10**6)))


def _payloads(shuffle: bool = False, fletcher32: bool = False) -> dict[str, bytes]:
    whole = IMAGES[2:4].tobytes()
    if shuffle:  # the first bytes of all numbers, then the second ones, ...
        whole = np.frombuffer(whole, np.uint8).reshape(-1, 4).T.tobytes()
    packed = zlib.compress(whole)
    return {
        "short": zlib.compress(whole[: len(whole) // 2]),
        "one byte short": zlib.compress(whole[:-1]),
        "one byte long": zlib.compress(whole + b"\0"),
        "one byte": b"x",
        "noise": np.random.default_rng(0).bytes(300),
        "cut off": packed[: len(packed) // 2],
        "without its checksum": packed[:-4],
        "followed by noise": packed + b"noise",
    }


def _chunk(file, folder, payload, mask=0, compression="gzip", **options):
    data = file.create_dataset("x", IMAGES.shape, "f4", chunks=CHUNK, compression=compression, **options)
    data[:] = IMAGES
    data.id.write_direct_chunk((2, 0, 0, 0), payload, mask)


def _nested(file, folder, depth):
    file["x"] = IMAGES
    group = file
    for _ in range(depth):
        group = group.create_group("g")


def _many_groups(file, folder):
    file["x"] = IMAGES
    for number in range(30_000):
        file.create_group(f"g{number}")


def _hard_loop(file, folder):
    file["x"] = IMAGES
    group = file.create_group("group")
    group["again"] = group


def _soft_loop(file, folder):
    file["x"], file["z"] = h5py.SoftLink("/z"), h5py.SoftLink("/x")


def _dangling_extra(file, folder):
    file["other"] = h5py.SoftLink("/nowhere")
    file["far"] = h5py.ExternalLink("nowhere.h5", "/x")


def _outside_extra(file, folder):
    file["far"] = h5py.ExternalLink(f"{folder}/outside/secret.h5", "/x")


def _unknown_filter(file, folder, key=b"x"):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(CHUNK)
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())  # optional: the file is written without the filter
    space = h5py.h5s.create_simple(IMAGES.shape)
    data = h5py.Dataset(h5py.h5d.create(file.id, key, h5py.h5t.NATIVE_FLOAT, space, properties))
    for first in range(0, len(IMAGES), 2):
        data.id.write_direct_chunk((first, 0, 0, 0), IMAGES[first : first + 2].tobytes())


def _unknown_extra(file, folder):
    _unknown_filter(file, folder, b"other")


def _typed(file, folder, kind):
    with np.errstate(all="ignore"):
        file["x"] = IMAGES.view(kind) if kind == "V4" else IMAGES.astype(kind)


def _cast(kind: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return IMAGES.astype(kind).astype("f4") if kind in ("f2", "i1", "u8", "bool") else IMAGES


def _arrays(file, folder, **arrays):
    for key, values in arrays.items():
        file[key] = values


def _odd_arrays() -> dict[str, dict[str, np.ndarray]]:
    return {
        "fewer labels than images": {"x": IMAGES, "y": LABELS[:5]},
        "more masses than images": {"x": IMAGES, "m": np.arange(9.0)},
        "a scalar as image": {"x": np.float32(1)},
        "flat images": {"x": IMAGES.reshape(8, -1)},
        "images of another size": {"x": np.zeros((8, 3, 10, 8), np.float32)},
        "labels in a matrix": {"x": IMAGES, "y": np.eye(8)},
        "labels of 7": {"x": IMAGES, "y": np.full(8, 7)},
        "labels of 0.5": {"x": IMAGES, "y": np.full(8, 0.5)},
        "labels of 1e30": {"x": IMAGES, "y": np.full(8, 1e30)},
        "labels that are words": {"x": IMAGES, "y": np.array([b"qcd", b"what"] * 4)},
        "masses in MeV": {"x": IMAGES, "m": MASSES * 1000},
        "masses below zero": {"x": IMAGES, "m": -MASSES},
        "sides of zero": {"x": np.zeros((8, 0, 8, 10), np.float32)},
    }


def _resizable(file, folder):
    file.create_dataset("x", data=IMAGES, maxshape=(None, *IMAGES.shape[1:]), chunks=CHUNK)


def _compact(file, folder):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(IMAGES.shape)
    h5py.Dataset(h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, properties))[...] = IMAGES


def _bytes_names(file, folder):
    h5py.h5g.create(file.id, b"\xff\xfe")


def _long_name(file, folder):
    file.create_group("n" * 60_000)


def _attributes(file, folder):
    for number in range(100):
        file.attrs[f"a{number}"] = np.zeros(6000)
