"""Which storage an HDF5 file may read: its own, and files below the data set's folder that its links name.

HDF5 itself follows external links, virtual data sets and external raw storage to any file of the machine, and reads
what is missing as zeros. Here each of them is resolved, or refused with a reason, before anything is read.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod

import h5py
import numpy as np

from .batches import FileError
from .budget import megabytes, row_problem
from .hdf5_chunks import filter_problem, unpacked_chunk_problem
from .storage import file_size, file_stamp, is_remote, open_file
from .unpacked import CACHE_SLOTS, CHUNK_RATIO, HDF5_ERRORS, MAX_UNPACKED, heap_problem

__all__ = ["StoredArray", "VirtualPart", "find_arrays", "open_dataset", "open_hdf5"]

MAX_DEPTH, MAX_OBJECTS = 32, 10_000  # nested groups or links; groups and arrays in all
MAX_STEPS, MAX_PARTS = 30_000, 50_000  # links followed in all; sources of a virtual array, and of these, and so on
MAX_BLOCKS = 500  # of an irregular selection: HDF5 takes the third power of it


@dataclass(frozen=True)
class StoredArray:
    """An array and the file that holds it, which links can make a different file from their own.

    `offset` is where the bytes of a contiguous array begin, if they can be mapped as they are; `external` says that
    they lie in files of their own; `parts` are what a virtual array is made of.
    """

    path: str
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None = None
    external: bool = False
    is_chunked: bool = False
    parts: tuple["VirtualPart", ...] = ()

    @cached_property
    def num_parts(self) -> int:
        """How many sources it has, counting those of its sources each time."""
        return sum(1 + part.origin.num_parts for part in self.parts)


@dataclass(frozen=True)
class VirtualPart:
    """Rows `[start, stop)` of a virtual array, and the rows of another array that they come from."""

    start: int
    stop: int
    origin: StoredArray
    origin_start: int
    origin_stop: int

    def origin_rows(self, start: int, stop: int) -> tuple[int, int]:
        """Rows of the origin that the rows `[start, stop)` need, of those in this part."""
        if start >= self.stop or stop <= self.start:
            return 0, 0
        if self.stop - self.start != self.origin_stop - self.origin_start:  # rows are not mapped to rows
            return self.origin_start, self.origin_stop
        shift = self.origin_start - self.start
        return max(start, self.start) + shift, min(stop, self.stop) + shift


class _Refused(Exception):
    """A link or an array that must not, or cannot, be read."""


@contextmanager
def open_hdf5(path: str) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises:
        FileError: if it is truncated, or not HDF5.
    """
    try:
        if not is_remote(path) and (problem := heap_problem(path)):
            raise OSError(problem)
        file = h5py.File(open_file(path), "r", rdcc_nbytes=MAX_UNPACKED, rdcc_nslots=CACHE_SLOTS)
    except HDF5_ERRORS as error:
        raise FileError(f"{path}: not a readable HDF5 file ({error}); is it truncated, or an expired link?") from error
    with file:
        yield file


def open_dataset(file: h5py.File, array: StoredArray) -> h5py.Dataset:
    """A data set whose external storage, if it has any, is looked for beside the file."""
    if not array.external:
        item = file[array.key]
        if not isinstance(item, h5py.Dataset):
            raise FileError(f"{array.path}: `{array.key}` is no longer an array.")
        return item
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_efile_prefix(os.path.dirname(array.path).encode())
    return h5py.Dataset(h5py.h5d.open(file.id, array.key.encode(), access))


def find_arrays(path: str, root: str) -> tuple[dict[str, StoredArray | str], dict[str, str]]:
    """Each array of a file by its key (`group/name`), or the reason why it cannot be read; and the other files that
    they are read from, with the stamps that these have now.

    Args:
        root: Folder that links may lead to.

    Raises:
        FileError: if the file is not readable HDF5, or has more than 10 000 groups and arrays.
    """
    arrays: dict[str, StoredArray | str] = {}
    with ExitStack() as stack:
        walk = _Walk(root, stack)
        top = walk.open(path)
        groups: list[tuple[str, h5py.Group, str, tuple[h5py.Group, ...]]] = [("", top, path, ())]
        number = 0
        while groups:
            prefix, group, file_path, above = groups.pop()
            for name in _names(group, file_path):
                key, number = prefix + name, number + 1
                if number > MAX_OBJECTS:
                    raise FileError(f"{path}: more than {MAX_OBJECTS} groups and arrays.")
                try:
                    item, item_path = walk.follow(group, name, file_path)
                    if isinstance(item, h5py.Group) and len(above) < MAX_DEPTH and item not in (group, *above):
                        groups.append((f"{key}/", item, item_path, (group, *above)))
                    elif isinstance(item, h5py.Dataset):
                        arrays[key] = walk.describe(item, item_path)
                except _Refused as reason:
                    arrays[key] = str(reason)
                except (FileError, *HDF5_ERRORS) as error:
                    arrays[key] = f"it cannot be opened ({error})"
        return arrays, {name: file_stamp(name) for name in sorted(walk.located - {path})}


def _names(group: h5py.Group, path: str) -> list[str]:
    try:
        # damaged names are bytes; one with a slash would be taken for a path, which may lead through links
        return [name for name in group if isinstance(name, str) and "/" not in name and name != "."]
    except HDF5_ERRORS as error:
        raise FileError(f"{path}: not a readable HDF5 file ({error}); is it truncated?") from error


class _Walk:
    """Follows links as HDF5 does, but only to files below `root`."""

    def __init__(self, root: str, stack: ExitStack):
        self.root, self.stack = root, stack
        self.files: dict[str, h5py.File] = {}
        self.sizes: dict[str, int] = {}
        self.located: set[str] = set()  # files that links name
        # by file, name and depth, at which what is too deep depends
        self.described: dict[tuple[str, str, int], StoredArray] = {}
        self.found: dict[tuple[str, str, str, int], tuple] = {}  # objects, by their paths of names too
        self.steps = 0

    def open(self, path: str) -> h5py.File:
        if path not in self.files:
            self.files[path] = self.stack.enter_context(open_hdf5(path))
        return self.files[path]

    def locate(self, name: str, path: str, what: str) -> str:
        """The file that `path` names; relative names begin at its folder."""
        if is_remote(path):
            raise _Refused(f"{what} {name}, which is another file: only local files may have links")
        target = os.path.abspath(os.path.join(os.path.dirname(path), name))
        if os.path.commonpath([target, os.path.abspath(self.root)]) != os.path.abspath(self.root):
            raise _Refused(f"{what} {name}, which is outside {self.root}")
        if not os.path.isfile(target):
            raise _Refused(f"{what} {name}, and there is no such file")
        self.located.add(target)
        return target

    def follow(self, group: h5py.Group, name: str, path: str, depth: int = 0):
        """The object behind a link, and the file that it is in."""
        if depth > MAX_DEPTH:
            raise _Refused("its links never end")
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise _Refused(f"following its links takes more than {MAX_STEPS} steps")
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            path = self.locate(link.filename, path, "it links to")
            return self.step(self.open(path), link.path, path, depth)
        if isinstance(link, h5py.SoftLink):
            return self.step(group.file if link.path.startswith("/") else group, link.path, path, depth)
        return group[name], path

    def step(self, place, names: str, path: str, depth: int = 0):
        """The object at a path of names, each of which may be a link, and the file that it is in."""
        key = (path, place.name or "", names, depth)
        if key not in self.found:
            self.found[key] = self.walk(place, names, path, depth)
        return self.found[key]

    def walk(self, place, names: str, path: str, depth: int):
        for name in filter(lambda name: name not in ("", "."), names.split("/")):
            if not isinstance(place, h5py.Group) or name not in place:
                raise _Refused(f"it links to {names} in {os.path.basename(path)}, which is not there")
            place, path = self.follow(place, name, path, depth + 1)
        return place, path

    def describe(self, array: h5py.Dataset, path: str, depth: int = 0) -> StoredArray:
        """Where an array lies, once all of its bytes are known to be there."""
        if depth > MAX_DEPTH:
            raise _Refused("its virtual sources never end")
        key = (path, array.name or "", depth)
        if key not in self.described:
            self.described[key] = self.describe_new(array, path, depth)
        return self.described[key]

    def describe_new(self, array: h5py.Dataset, path: str, depth: int) -> StoredArray:
        properties, parts = array.id.get_create_plist(), ()
        if problem := filter_problem(properties):
            raise _Refused(problem)
        if virtual := properties.get_layout() == h5py.h5d.VIRTUAL:  # asking for its shape may open its sources
            parts = tuple(self.find_parts(array, path, depth))
            if sum(1 + part.origin.num_parts for part in parts) > MAX_PARTS:
                raise _Refused(f"it has more than {MAX_PARTS} virtual sources, with those of its sources")
        shape, kind = array.shape or (), array.id.get_type()
        size = 0 if array.shape is None else prod(shape)
        row_bytes = kind.get_size() * prod(shape[1:])
        external = bool(properties.get_external_count())
        if virtual:
            if (covered := _num_covered(array)) < size:
                raise _Refused(f"its virtual sources hold {covered} of {size} values")
        elif external:
            self.check_external(array, path, size * kind.get_size())
        elif size:
            self.check_size(array, shape, row_bytes, path)
        is_text = kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str()
        if problem := row_problem(shape, kind.get_size(), is_text, self.bytes_behind(parts, array, path)):
            raise _Refused(problem)
        offset = None
        if size and properties.get_layout() == h5py.h5d.CONTIGUOUS and not external:
            # types that NumPy lacks, such as 24-bit numbers, are converted by HDF5
            offset = array.id.get_offset() if kind.equal(h5py.h5t.py_create(array.dtype)) else None
        return StoredArray(path, array.name or "", shape, array.dtype, offset, external, bool(array.chunks), parts)

    def bytes_behind(self, parts: tuple[VirtualPart, ...], array: h5py.Dataset, path: str) -> int:
        """Size of all files that an array is read from."""
        names = {part.origin.path for part in parts} or {path}
        names |= {self.locate(os.fsdecode(name), path, "its bytes are in") for name, _, _ in array.external or ()}
        return sum(map(self.file_size, names))

    def file_size(self, path: str) -> int:
        if path not in self.sizes:
            self.sizes[path] = file_size(path)
        return self.sizes[path]

    def check_size(self, array: h5py.Dataset, shape: tuple[int, ...], row_bytes: int, path: str) -> None:
        declared = row_bytes * (shape[0] if shape else 1)
        if array.chunks:
            rows, *sides = array.chunks
            at_once = rows * array.id.get_type().get_size()
            at_once *= prod(-(-side // chunk) * chunk for side, chunk in zip(shape[1:], sides))
            one = prod(array.chunks) * array.id.get_type().get_size()
            sparse = declared > CHUNK_RATIO * array.id.get_storage_size()
            if one > MAX_UNPACKED or (at_once > MAX_UNPACKED and sparse):
                stored = megabytes(array.id.get_storage_size())
                raise _Refused(
                    f"its chunks of {rows} rows unpack to {megabytes(at_once)} ({stored} are in the file), more than "
                    f"{megabytes(MAX_UNPACKED)}: repack it with smaller chunks, `h5repack -l CHUNK=32x... IN OUT`"
                )
        stored = array.id.get_storage_size()
        if array.id.get_space_status() != h5py.h5d.SPACE_STATUS_ALLOCATED:
            raise _Refused(
                f"it declares {shape[0] if shape else 1} rows ({megabytes(declared)}), but not all were written "
                f"({megabytes(stored)} are in the file): HDF5 would make up the others"
            )
        stored = min(stored, self.file_size(path) - (array.id.get_offset() or 0)) if not array.chunks else declared
        if stored < declared:
            raise _Refused(f"it declares {megabytes(declared)}, but {megabytes(max(stored, 0))} are in the file")
        if problem := unpacked_chunk_problem(array):
            raise _Refused(problem)

    def check_external(self, array: h5py.Dataset, path: str, declared: int) -> None:
        available = 0
        for name, offset, length in array.external or ():
            target = self.locate(os.fsdecode(name), path, "its bytes are in")
            length = declared if length == h5py.h5f.UNLIMITED else length
            if offset < 0 or length < 0 or os.path.getsize(target) < offset + length:
                raise _Refused(
                    f"its bytes are in {os.fsdecode(name)}, which is too short ({offset + length} bytes are needed)"
                )
            available += length
        if available < declared:
            raise _Refused(f"it declares {megabytes(declared)}, but {megabytes(available)} are in its external files")

    def find_parts(self, array: h5py.Dataset, path: str, depth: int) -> Iterator[VirtualPart]:
        """The parts of a virtual array, each of which is there."""
        for source in array.virtual_sources():
            for name in (source.file_name, source.dset_name):
                if "%" in name:  # even `%%` is another name to HDF5
                    raise _Refused(f"its virtual sources are a pattern, {name}: name each file and array, without %")
            target = path
            if source.file_name != ".":
                target = self.locate(source.file_name, path, "its virtual source is")
            origin, origin_path = self.step(self.open(target), source.dset_name, target)
            if not isinstance(origin, h5py.Dataset):
                raise _Refused(f"its virtual source {source.dset_name} in {source.file_name} is not an array")
            stored = self.describe(origin, origin_path, depth + 1)
            if stored.external:  # HDF5 would look for its files in the current folder
                raise _Refused(
                    f"its virtual source {source.dset_name} in {source.file_name} has its bytes in other files: "
                    "copy them into it"
                )
            first, last = source.vspace.get_select_bounds()
            if source.src_space.get_select_type() == h5py.h5s.SEL_ALL:
                origin_first, origin_last = (0,) * len(stored.shape), [side - 1 for side in stored.shape]
                fits = prod(stored.shape) == source.vspace.get_select_npoints()
            else:
                origin_first, origin_last = source.src_space.get_select_bounds()
                fits = len(origin_last) == len(stored.shape) and all(np.less(origin_last, stored.shape))
            if not fits:
                raise _Refused(f"its virtual source {source.dset_name} in {source.file_name} has shape {stored.shape}")
            yield VirtualPart(first[0], last[0] + 1, stored, origin_first[0], origin_last[0] + 1)


def _num_covered(array: h5py.Dataset) -> int:
    """How many values of a virtual array come from a source; those that several sources hold count once."""
    covered = array.id.get_space()
    covered.select_none()
    for source in array.virtual_sources():
        space = source.vspace
        if space.get_select_type() == h5py.h5s.SEL_ALL:
            covered.select_all()
            break
        if space.is_regular_hyperslab():
            start, stride, count, block = space.get_regular_hyperslab()
            covered.select_hyperslab(start, count, stride, block, op=h5py.h5s.SELECT_OR)
            continue
        if (blocks := space.get_select_hyper_nblocks()) > MAX_BLOCKS:
            raise _Refused(f"a virtual source fills {blocks} separate blocks of it, more than {MAX_BLOCKS}")
        for first, last in space.get_select_hyper_blocklist().astype(int):
            ones = (1,) * len(first)
            covered.select_hyperslab(tuple(first), ones, block=tuple(last - first + 1), op=h5py.h5s.SELECT_OR)
    return covered.get_select_npoints()
