"""Files in a local folder, or behind any address fsspec opens (`hf://`, `https://`, `root://`).

Local paths are made absolute here, so that `raw`, `./raw` and `~/raw` are one folder with the same event ids.
"""

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from glob import glob
from pathlib import Path

import fsspec

__all__ = ["absolute", "file_size", "file_stamp", "is_remote", "list_files", "open_file", "relative_name"]


def is_remote(path: str | Path) -> bool:
    """Whether `path` is an address and not a path on this machine."""
    return "://" in str(path)


def absolute(path: str | Path) -> str:
    """A local path without `~`, `.` and `..`; symbolic links stay, and so do addresses.

    Raises:
        ValueError: if it is not UTF-8, as Arrow and JSON need it.
    """
    return _utf8(str(path).rstrip("/") if is_remote(path) else os.path.abspath(os.path.expanduser(path)))


def _utf8(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"The name {os.fsencode(path)!r} is not UTF-8: rename it.") from None
    return path


def _matches(folder: str, pattern: str) -> Iterator[str]:
    """Paths below a folder that match a glob. `**` follows links and enters each folder once: where two links lead
    back, `glob` alone would take for ever."""
    head, recursive, rest = pattern.partition("**/")
    paths = (os.path.join(folder, name) for name in glob(head or pattern, root_dir=folder))
    if not recursive:
        yield from paths
        return
    entered: set[str] = set()
    for base in paths if head else (folder,):
        for below, folders, _ in os.walk(base, followlinks=True):
            entered.add(os.path.realpath(below))
            visible = (name for name in sorted(folders) if not name.startswith("."))
            folders[:] = [name for name in visible if os.path.realpath(os.path.join(below, name)) not in entered]
            yield from _matches(below, rest)


def list_files(folder: str | Path, pattern: str) -> list[str]:
    """Absolute paths of the files below `folder` that match a glob, sorted, and by links, too, but each file once;
    `folder` itself if it is a file (an address: if its name matches).

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: for a file whose name is not UTF-8.
        OSError: if an address does not answer.
    """
    if not is_remote(folder):
        folder = Path(absolute(folder))
        if folder.is_file():
            return [str(folder)]
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is neither a folder nor a file.")
        # by the file itself, which two links may name; hidden ones are leftovers of an interrupted run
        found: dict[str, str] = {}
        for path in sorted(_matches(str(folder), pattern)):
            if os.path.isfile(path):
                found.setdefault(os.path.realpath(path), _utf8(path))
        return sorted(found.values())
    try:
        system, root = fsspec.core.url_to_fs(str(folder))
        if fnmatch(root.rsplit("/", 1)[-1], pattern.rsplit("/", 1)[-1]):
            return [str(folder)]
        return sorted(system.unstrip_protocol(path) for path in system.glob(f"{root.rstrip('/')}/{pattern}"))
    except (ImportError, OSError, ValueError):
        raise
    except Exception as error:  # each protocol has its own, such as httpx's
        raise OSError(f"{folder} does not answer: {error}") from error


def open_file(path: str):
    """The path itself if it is local, else a file object that reads pieces of it on demand."""
    if not is_remote(path):
        return path
    system, root = fsspec.core.url_to_fs(path)
    return system.open(root, "rb")


def relative_name(path: str, folder: str | Path) -> str:
    """The path of a file (as [`list_files`] gives it) within its folder; the same wherever the folder lies."""
    folder = absolute(folder)
    return path[len(folder) + 1 :] if path.startswith(folder + "/") else path.rsplit("/", 1)[-1]


def file_size(path: str) -> int:
    """Size in bytes."""
    if not is_remote(path):
        return Path(path).stat().st_size
    system, root = fsspec.core.url_to_fs(path)
    return system.size(root)


def file_stamp(path: str) -> str:
    """A string that changes when the file does."""
    if not is_remote(path):
        status = Path(path).stat()
        return f"{status.st_size}:{status.st_mtime_ns}"
    system, root = fsspec.core.url_to_fs(path)
    about = system.info(root)
    return ":".join(str(about.get(key)) for key in ("size", "ETag", "etag", "last_commit", "mtime", "created"))
