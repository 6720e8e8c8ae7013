"""Dense files, HDF5, Parquet and npz, behind one interface: what they hold, and batches of their arrays.

Nothing here knows about channels or masses; see `files` for those.
"""

import os
from pathlib import Path

from .batches import BATCH_SIZE, BadRows, Batch, FileError, holds_text
from .hdf5 import HDF5File
from .npz import NpzFile
from .parquet import ParquetFile
from .storage import file_stamp, is_remote

__all__ = [
    "BATCH_SIZE",
    "HEAD",
    "BadRows",
    "Batch",
    "DataFile",
    "FileError",
    "file_format",
    "format_of",
    "holds_text",
    "linked_files",
    "open_data_file",
]

MAGIC = {b"\x89HDF\r\n\x1a\n": "hdf5", b"PAR1": "parquet", b"PK\x03\x04": "npz", b"root": "root"}
HEAD = 64  # bytes that tell them apart
OPEN_FILES, LARGE = 32, 4_000_000  # bytes of a footer

DataFile = HDF5File | ParquetFile | NpzFile


def file_format(path: Path) -> str:
    """`"hdf5"`, `"parquet"`, `"npz"` or `"root"`, by the file's first bytes.

    Raises:
        FileError: for a missing file, or one of another kind.
    """
    if not path.is_file():
        raise FileError(f"{path} is a folder: name a file in it." if path.is_dir() else f"There is no file {path}.")
    with path.open("rb") as file:
        return format_of(file.read(HEAD), str(path))


def format_of(head: bytes, what: str) -> str:
    """The format of a file, by its first `HEAD` bytes.

    Raises:
        FileError: for another kind; it names `what` the file is.
    """
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    if b"<html" in head.lower() or b"<!doctype" in head.lower():
        raise FileError(f"{what} is a web page: the link it was downloaded from has expired, or asks for a login.")
    raise FileError(f"{what} is neither HDF5, Parquet, npz nor ROOT (it begins with {head[:8]!r}).")


def open_data_file(path: str, file_format: str, root: str | None = None) -> DataFile:
    """The file behind its reader; small ones stay open, because rows are read in many pieces.

    Args:
        root: Folder that the links of an HDF5 file may lead to, by default the file's own.

    Raises:
        FileError: for a file that is truncated, empty or of another kind.
    """
    root = os.path.dirname(path) if root is None else root
    key = (path, file_format, root, file_stamp(path))
    file = _open_files.pop(key, None)
    if file is None or (isinstance(file, HDF5File) and not file.is_current()):
        # the parsed footer of a file with one jet a row group takes hundreds of megabytes: keep only one of them
        for other in [name for name, opened in _open_files.items() if opened.kept_bytes > LARGE]:
            del _open_files[other]
        while len(_open_files) >= OPEN_FILES:
            del _open_files[next(iter(_open_files))]
        file = _open(path, file_format, root)
    _open_files[key] = file  # the last one used comes last
    return file


def linked_files(path: str, file_format: str, root: str) -> dict[str, str]:
    """Other files that an HDF5 file is read from, with their stamps.

    Raises:
        FileError: if it cannot be opened.
    """
    if file_format != "hdf5" or is_remote(path):
        return {}
    file = open_data_file(path, file_format, root)
    return file.linked if isinstance(file, HDF5File) else {}


def _open(path: str, file_format: str, root: str) -> DataFile:
    if file_format == "hdf5":
        return HDF5File(path, root)
    return ParquetFile(path) if file_format == "parquet" else NpzFile(path)


_open_files: dict[tuple[str, str, str, str], DataFile] = {}
