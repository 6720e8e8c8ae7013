"""Images from files that anyone may have written: what a file claims is compared with its size before it is read.

Only numbers stored in the file itself are read, in compressions whose length can be measured.
"""

import json
import os
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .unpacked_e2e import (
    CACHE_SLOTS,
    CHECKED_FILTERS,
    CHUNK_RATIO,
    COMPRESSORS,
    HDF5_ERRORS,
    MAX_UNPACKED,
    chunk_length,
    heap_problem,
    mapped,
    page_problem,
)

__all__ = ["Description", "checked_channels", "describe_file", "file_channels", "read_images"]

MAX_ENTRIES = 2**26  # of the lists of a row group
MAX_OBJECTS, MAX_DEPTH = 1000, 16  # groups and arrays of an HDF5 file; nested groups
ROWS_AT_ONCE = 64


class FileError(ValueError):
    """A file that its library could read, and we do not."""


class Description(NamedTuple):
    """What a Parquet file or a `Dataset` of e2evit says about its images."""

    channel_names: list[str]
    image_size: list[int]
    is_physical: bool


def read_images(path: str | os.PathLike, image_shape: tuple[int, int, int]) -> Iterator:
    """The images of a file, one at a time: dense from `.npy` and `.h5`, sparse rows from `.parquet`.

    Args:
        path: `.npy` holds an image or a batch of images; `.h5` and `.hdf5` a data set of images, of which the first
            with the right shape is read; `.parquet` rows with `pixel_index` and `pixel_value` (`pt`, `ieta`, `iphi`).
        image_shape: Channels, height, width; dense images may have their channels last.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another kind of file, one without such images, or one that claims more than it holds.
        ImportError: if the library for this kind of file is missing (h5py, pyarrow).
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}.")
    readers = {".npy": _read_npy, ".h5": _read_hdf5, ".hdf5": _read_hdf5, ".parquet": _read_parquet}
    ending = os.path.splitext(path)[1].lower()
    if ending not in readers:
        raise ValueError(f"{path}: expected a file that ends in {', '.join(readers)}, got {ending or 'no ending'}.")
    return readers[ending](path, image_shape)


def describe_file(path: str | os.PathLike) -> Description | None:
    """What a Parquet file of e2evit says about its images; `None` for other files.

    Raises:
        ValueError: if what it says is damaged.
    """
    if not os.fspath(path).lower().endswith(".parquet") or not os.path.isfile(path):
        return None
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError:
        return None  # reading its rows says what is wrong
    try:
        text = (pq.read_schema(path).metadata or {}).get(b"e2evit")
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError):
        return None
    if text is None:
        return None
    try:
        description = json.loads(text)
        names, size = description["channel_names"], description["image_size"]
        if not all(isinstance(name, str) for name in names) or not all(isinstance(side, int) for side in size):
            raise ValueError(f"channels {names}, size {size}")
        return Description(list(names), list(size), description.get("normalisation", "physical") == "physical")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: its description of the images is damaged ({error}).") from error


def checked_channels(
    described: Description | None,
    expected: Sequence[str],
    image_size: Sequence[int],
    channel_names: Sequence[str] | None = None,
) -> Sequence[str] | None:
    """`channel_names`, by default those that physical images are described with.

    Args:
        expected, image_size: Channels and size of the model's images.

    Raises:
        ValueError: if the images are described as having another size, or other channels than `channel_names`, or
            other normalised ones than the model's.
    """
    if described is None:
        return channel_names
    if described.image_size != list(image_size):
        raise ValueError(
            f"Expected images of {' x '.join(map(str, image_size))} pixels, got "
            f"{' x '.join(map(str, described.image_size))}."
        )
    names = channel_names or (None if described.is_physical else expected)
    if names is not None and list(names) != described.channel_names:
        raise ValueError(f"Expected the channels {', '.join(names)}, got {', '.join(described.channel_names)}.")
    return described.channel_names if described.is_physical else channel_names


def file_channels(path: str | os.PathLike) -> list[str] | None:
    """What the channels of a Parquet file of e2evit hold; `None` for other files and for normalised images."""
    described = describe_file(path)
    return described.channel_names if described is not None and described.is_physical else None


def _is_image(shape: tuple, image_shape: tuple[int, int, int]) -> bool:
    channels, height, width = image_shape
    return tuple(shape) in ((channels, height, width), (height, width, channels))


def _megabytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB"


def _read_npy(path: str, image_shape) -> Iterator[np.ndarray]:
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with open(path, "rb") as file:
            shape, fortran_order, dtype = headers[np.lib.format.read_magic(file)](file)
            begins = file.tell()
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which only pickle reads")
    except Exception as error:  # NumPy parses the header as Python, whose parsers each have their own
        raise ValueError(f"{path}: not a readable array ({error}).") from error
    if _is_image(shape, image_shape):
        shape = (1, *shape)
    if len(shape) != 4 or not _is_image(shape[1:], image_shape) or dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: expected numbers of shape {image_shape}, alone or in a batch, got {dtype} of shape {shape}."
        )
    declared, stored = prod(shape) * dtype.itemsize, os.path.getsize(path) - begins
    if not 0 <= declared <= stored:
        raise ValueError(
            f"{path}: it declares {_megabytes(declared)} (shape {shape}), but {_megabytes(stored)} are in the file."
        )
    if declared:
        order = "F" if fortran_order else "C"
        for image in np.memmap(path, dtype, "r", begins, shape, order):
            yield np.array(image)


def _read_hdf5(path: str, image_shape) -> Iterator[np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("Reading HDF5 files needs h5py: pip install h5py.") from error
    try:
        if problem := heap_problem(path):
            raise OSError(problem)
        with h5py.File(path, "r", rdcc_nbytes=MAX_UNPACKED, rdcc_nslots=CACHE_SLOTS) as file:
            images = _find_images(file, path, image_shape)
            checked = -1  # last row whose chunk has been measured
            for number in range(images.shape[0]):
                if images.chunks and number > checked:
                    _check_chunks(images, number)
                    checked = number // images.chunks[0] * images.chunks[0] + images.chunks[0] - 1
                yield images[number]
    except HDF5_ERRORS as error:
        if isinstance(error, FileError):
            raise
        raise ValueError(f"{path}: not a readable HDF5 file ({error}).") from error


def _find_images(file, path: str, image_shape) -> Any:
    """The first data set of images, without following any link."""
    import h5py

    groups, number, others = [(file["/"], 0)], 0, []
    while groups:
        group, depth = groups.pop(0)
        for name in group:
            number += 1
            if number > MAX_OBJECTS:
                raise FileError(f"{path}: more than {MAX_OBJECTS} groups and data sets.")
            # a name with a slash would be taken for a path, which may lead through links
            plain = isinstance(name, str) and "/" not in name and name != "."
            if not plain or not isinstance(group.get(name, getlink=True), h5py.HardLink):
                others.append(f"{name!r}, a link, which is not followed")
                continue
            item = group[name]
            if isinstance(item, h5py.Group) and depth < MAX_DEPTH:
                groups.append((item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                shape = _declared_shape(item)
                if len(shape) != 4 or not _is_image(shape[1:], image_shape) or item.dtype.kind not in "fiu":
                    others.append(f"{item.name} {shape}")
                elif problem := _storage_problem(item, path):
                    raise FileError(f"{path}: {item.name} {shape} cannot be read: {problem}.")
                else:
                    return item
    got = "; ".join(others[:10]) or "nothing"
    raise FileError(f"{path}: expected a data set of images of shape {image_shape}, got {got}.")


def _declared_shape(array) -> tuple[int, ...]:
    """Shape of a data set; a virtual one must not be asked, which may open its sources."""
    import h5py

    properties = array.id.get_create_plist()
    if properties.get_layout() != h5py.h5d.VIRTUAL:
        return array.shape or ()
    return properties.get_virtual_vspace(0).shape if properties.get_virtual_count() else ()


def _storage_problem(array, path: str) -> str | None:
    """Why the values of a data set are not all in this file, or cannot be read safely."""
    import h5py

    properties, stored, file_bytes = array.id.get_create_plist(), array.id.get_storage_size(), os.path.getsize(path)
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
        return "its values lie in other files"
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    if not CHECKED_FILTERS.issuperset(filters) or sum(code in COMPRESSORS for code in filters) > 1:
        return "its compression is none that can be checked: repack the file with `h5repack -f GZIP=4 IN OUT`"
    shape, itemsize = array.shape, array.id.get_type().get_size()
    declared = prod(shape) * itemsize
    claim = f"it declares {_megabytes(declared)}, but {_megabytes(min(stored, file_bytes))} of it"
    if not declared:
        return None
    if array.id.get_space_status() != h5py.h5d.SPACE_STATUS_ALLOCATED or shape[0] > file_bytes:
        return f"{claim} are in the file"
    if not array.chunks:
        stored = min(stored, file_bytes - (array.id.get_offset() or 0))
        return f"{claim} are in the file" if stored < declared else None
    at_once = array.chunks[0] * itemsize
    at_once *= prod(-(-side // chunk) * chunk for side, chunk in zip(shape[1:], array.chunks[1:]))
    one, lengths = prod(array.chunks) * itemsize, set()
    if not filters:  # HDF5 itself believes what the index says of their lengths
        array.id.chunk_iter(lambda chunk: lengths.add(chunk.size))
    if wrong := lengths - {one}:
        return f"a chunk of it holds {min(wrong)} bytes instead of {one}"
    if one > MAX_UNPACKED or (at_once > MAX_UNPACKED and declared > CHUNK_RATIO * stored):
        return f"{claim} are in the file, in chunks of {_megabytes(at_once)}, more than {_megabytes(MAX_UNPACKED)}"
    return None


def _check_chunks(array, row: int) -> None:
    """Raise an error if a chunk of this row does not unpack to its shape: HDF5 would read beyond its end."""
    properties = array.id.get_create_plist()
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    expected = prod(array.chunks) * array.id.get_type().get_size()
    first = row // array.chunks[0] * array.chunks[0]
    sides = zip(array.shape[1:], array.chunks[1:])
    for offset in product(*(range(0, side, chunk) for side, chunk in sides)):
        skipped, packed = array.id.read_direct_chunk((first, *offset))
        length = chunk_length(packed, filters, skipped, expected)
        if length != expected:
            raise OSError(f"a chunk of {array.name} holds {length} bytes instead of {expected}")


def _read_parquet(path: str, image_shape) -> Iterator[dict]:
    try:
        import pyarrow
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("Reading Parquet files needs pyarrow: pip install pyarrow.") from error
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        known = file.schema_arrow.names
        if len(set(known)) < len(known):
            raise ValueError(f"{path}: several of its columns have one name.")
        missing = [name for name in ("pixel_index", "pixel_value") if name not in known]
        if missing:
            raise ValueError(
                f"{path}: the column {', '.join(missing)} is missing, got {', '.join(known[:50])}; "
                "`e2evit prepare` converts public files to sparse rows."
            )
        columns = [name for name in ("pixel_index", "pixel_value", "pt", "ieta", "iphi") if name in known]
        row, num_pixels = 0, prod(image_shape)
        _check_claims(file, path, columns, num_pixels)
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns, use_threads=False):
            for name in ("pixel_index", "pixel_value"):
                lengths = pc.call_function("list_value_length", [batch.column(name)]).to_pylist()
                for number, length in enumerate(lengths, row):
                    if length is None or length > num_pixels:
                        raise FileError(
                            f"{path}, row {number}: {length} entries in {name}; an image of shape {image_shape} has "
                            f"{num_pixels} pixels."
                        )
            yield from batch.to_pylist()
            row += batch.num_rows
        if row != file.metadata.num_rows:
            raise FileError(f"{path}: its footer promises {file.metadata.num_rows} rows, and its columns hold {row}.")
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, MemoryError, OverflowError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error}).") from error


def _check_claims(file, path: str, columns: list[str], num_pixels: int) -> None:
    """Refuse columns that are not numbers, and row groups that claim more than they can hold."""
    import pyarrow.types as kinds

    for name in columns:
        kind, lists = file.schema_arrow.field(name).type, name.startswith("pixel_")
        if lists and (kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)):
            kind, lists = kind.value_type, False
        whole = kinds.is_integer(kind)
        if lists or not (whole or (kinds.is_floating(kind) and name != "pixel_index")):
            expected = "lists of whole numbers" if name == "pixel_index" else "numbers"
            raise ValueError(f"{path}: the column {name} holds {file.schema_arrow.field(name).type}, not {expected}.")
    metadata, file_bytes = file.metadata, os.path.getsize(path)
    chosen = [i for i in range(len(file.schema)) if file.schema.column(i).path.split(".")[0] in columns]
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    rows = [group.num_rows for group in groups]
    if min(rows, default=0) < 0 or sum(rows) > file_bytes:
        raise ValueError(f"{path}: it declares {sum(rows)} rows in {file_bytes} bytes.")
    with mapped(path) as data:
        for number, group in enumerate(groups):
            for column in map(group.column, chosen):
                entries, unpacked = column.num_values, column.total_uncompressed_size
                most = min(group.num_rows * num_pixels, MAX_ENTRIES)
                problem = None
                if not 0 <= entries <= most or not 0 <= unpacked <= MAX_UNPACKED:
                    problem = (
                        f"it declares {entries} entries ({_megabytes(unpacked)}) for {group.num_rows} images of "
                        f"{num_pixels} pixels; at most {MAX_ENTRIES} are read"
                    )
                if problem := problem or page_problem(data, column):
                    stored = _megabytes(column.total_compressed_size)
                    raise ValueError(
                        f"{path}, row group {number}, {column.path_in_schema} ({stored} are in the file): {problem}."
                    )
