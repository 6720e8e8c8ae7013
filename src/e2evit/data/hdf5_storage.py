"""Which storage an HDF5 file may read: its own, and files below the data set's folder that its links name.

HDF5 itself follows external links, virtual data sets and external raw storage to any file of the machine, and reads
what is missing as zeros. Here each of them is resolved, or refused with a reason, before anything is read.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import h5py
import numpy as np

from .batches import FileError
from .storage import is_remote, open_file

__all__ = ["HDF5_ERRORS", "StoredArray", "find_arrays", "open_dataset", "open_hdf5"]

CHUNK_CACHE = 64 * 2**20  # bytes: a chunk of 128 jets is then decompressed once, not once a batch
MAX_CHUNK = 2**30  # bytes of an unpacked chunk
MAX_DEPTH, MAX_OBJECTS = 32, 10_000  # nested groups or links; groups and arrays in all
# HDF5 reports damage to its trees of metadata as any of these
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)


@dataclass(frozen=True)
class StoredArray:
    """An array and the file that holds it, which links can make a different file from their own.

    `offset` is where the bytes of a contiguous array begin; `external` says that they lie in files of their own.
    """

    path: str
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None
    external: bool


class _Refused(Exception):
    """A link or an array that must not, or cannot, be read."""


@contextmanager
def open_hdf5(path: str) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises:
        FileError: if it is truncated, or not HDF5.
    """
    try:
        file = h5py.File(open_file(path), "r", rdcc_nbytes=CHUNK_CACHE)
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


def find_arrays(path: str, root: str) -> Iterator[tuple[str, StoredArray | str]]:
    """Each array of a file by its key (`group/name`), or the reason why it cannot be read.

    Args:
        root: Folder that links may lead to.

    Raises:
        FileError: if the file is not readable HDF5, or has more than 10 000 groups and arrays.
    """
    with ExitStack() as stack:
        walk = _Walk(root, stack)
        groups: list[tuple[str, h5py.Group, str, int]] = [("", walk.open(path), path, 0)]
        number = 0
        while groups:
            prefix, group, file_path, depth = groups.pop()
            for name in _names(group, file_path):
                key, number = prefix + name, number + 1
                if number > MAX_OBJECTS:
                    raise FileError(f"{path}: more than {MAX_OBJECTS} groups and arrays.")
                try:
                    item, item_path = walk.follow(group, name, file_path)
                    if isinstance(item, h5py.Group) and depth < MAX_DEPTH:
                        groups.append((f"{key}/", item, item_path, depth + 1))
                    elif isinstance(item, h5py.Dataset):
                        yield key, walk.describe(item, item_path)
                except _Refused as reason:
                    yield key, str(reason)
                except (FileError, *HDF5_ERRORS) as error:
                    yield key, f"it cannot be opened ({error})"


def _names(group: h5py.Group, path: str) -> list[str]:
    try:
        return [name for name in group if isinstance(name, str)]  # damaged names are bytes
    except HDF5_ERRORS as error:
        raise FileError(f"{path}: not a readable HDF5 file ({error}); is it truncated?") from error


class _Walk:
    """Follows links as HDF5 does, but only to files below `root`."""

    def __init__(self, root: str, stack: ExitStack):
        self.root, self.stack = root, stack
        self.files: dict[str, h5py.File] = {}

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
        return target

    def follow(self, group: h5py.Group, name: str, path: str, depth: int = 0):
        """The object behind a link, and the file that it is in."""
        if depth > MAX_DEPTH:
            raise _Refused("its links never end")
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            path = self.locate(link.filename, path, "it links to")
            return self.step(self.open(path), link.path, path, depth)
        if isinstance(link, h5py.SoftLink):
            return self.step(group.file if link.path.startswith("/") else group, link.path, path, depth)
        return group[name], path

    def step(self, place, names: str, path: str, depth: int = 0):
        """The object at a path of names, each of which may be a link."""
        for name in filter(lambda name: name not in ("", "."), names.split("/")):
            if not isinstance(place, h5py.Group) or name not in place:
                raise _Refused(f"it links to {names} in {os.path.basename(path)}, which is not there")
            place, path = self.follow(place, name, path, depth + 1)
        return place, path

    def describe(self, array: h5py.Dataset, path: str, depth: int = 0) -> StoredArray:
        """Where an array lies, once all of its bytes are known to be there."""
        if depth > MAX_DEPTH:
            raise _Refused("its virtual sources never end")
        properties = array.id.get_create_plist()
        for number in range(properties.get_nfilters()):
            code, _, _, name = properties.get_filter(number)
            if not h5py.h5z.filter_avail(code):
                raise _Refused(
                    f"it is compressed with filter {code} ({name.decode(errors='replace') or 'unnamed'}), which is "
                    "not installed here: repack the file with `h5repack -f GZIP=4 IN OUT`, or install hdf5plugin "
                    "and set HDF5_PLUGIN_PATH to its plugins"
                )
        external, size = bool(array.external), int(array.size or 0)
        if array.is_virtual:
            self.check_sources(array, path, size, depth)
        elif external:
            self.check_external(array, path, size)
        elif size:
            self.check_size(array, size)
        offset = None if array.chunks or external or not size else array.id.get_offset()
        return StoredArray(path, array.name or "", array.shape, array.dtype, offset, external)

    def check_size(self, array: h5py.Dataset, size: int) -> None:
        declared = size * array.dtype.itemsize
        if array.chunks and (chunk := int(np.prod(array.chunks)) * array.dtype.itemsize) > MAX_CHUNK:
            raise _Refused(f"its chunks unpack to {chunk / 1e9:.1f} GB each: use chunks of some MB")
        if array.id.get_space_status() != h5py.h5d.SPACE_STATUS_ALLOCATED:
            stored = array.id.get_storage_size()
            raise _Refused(
                f"it declares {array.shape[0] if array.shape else 1} rows ({declared / 1e6:.1f} MB), but not all were "
                f"written ({stored / 1e6:.1f} MB are in the file): HDF5 would make up the others"
            )

    def check_external(self, array: h5py.Dataset, path: str, size: int) -> None:
        for name, offset, length in array.external or ():
            target = self.locate(os.fsdecode(name), path, "its bytes are in")
            needed = offset + (size * array.dtype.itemsize if length == h5py.h5f.UNLIMITED else length)
            if os.path.getsize(target) < needed:
                raise _Refused(f"its bytes are in {os.fsdecode(name)}, which is too short ({needed} bytes are needed)")

    def check_sources(self, array: h5py.Dataset, path: str, size: int, depth: int) -> None:
        covered = 0
        for source in array.virtual_sources():
            if "%" in source.file_name:
                raise _Refused(f"its virtual sources are a pattern, {source.file_name}: name each file")
            target = path
            if source.file_name != ".":
                target = self.locate(source.file_name, path, "its virtual source is")
            origin, origin_path = self.step(self.open(target), source.dset_name, target)
            if not isinstance(origin, h5py.Dataset):
                raise _Refused(f"its virtual source {source.dset_name} in {source.file_name} is not an array")
            self.describe(origin, origin_path, depth + 1)
            number = source.vspace.get_select_npoints()
            if source.src_space.get_select_type() == h5py.h5s.SEL_ALL:
                fits = origin.size == number
            else:
                _, last = source.src_space.get_select_bounds()
                fits = len(last) == origin.ndim and all(np.less(last, origin.shape))
            if not fits:
                raise _Refused(f"its virtual source {source.dset_name} in {source.file_name} has shape {origin.shape}")
            covered += number
        if covered < size:
            raise _Refused(f"its virtual sources hold {covered} of {size} values")
