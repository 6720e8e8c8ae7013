"""Where files lie: in a local folder, or behind any address that fsspec opens (`hf://`, `https://`, `root://`)."""

from fnmatch import fnmatch
from pathlib import Path

import fsspec

__all__ = ["file_size", "file_stamp", "is_remote", "list_files", "open_file", "relative_name"]


def is_remote(path: str | Path) -> bool:
    """Whether `path` is an address and not a path on this machine."""
    return "://" in str(path)


def list_files(folder: str | Path, pattern: str) -> list[str]:
    """Files below `folder` that match a glob, in the order of their names; `folder` itself if it is a file
    (an address: if it has such a name).

    Raises:
        FileNotFoundError: if there is no such folder.
        OSError: if an address does not answer.
    """
    if not is_remote(folder):
        folder = Path(folder)
        if folder.is_file():
            return [str(folder)]
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is neither a folder nor a file.")
        # hidden files are what an interrupted run left
        return sorted(str(path) for path in folder.glob(pattern) if path.is_file() and path.name[0] != ".")
    system, root = fsspec.core.url_to_fs(str(folder))
    if fnmatch(root.rsplit("/", 1)[-1], pattern.rsplit("/", 1)[-1]):
        return [str(folder)]
    return sorted(system.unstrip_protocol(path) for path in system.glob(f"{root.rstrip('/')}/{pattern}"))


def open_file(path: str):
    """The path itself if it is local, else a file object that reads pieces of it on demand."""
    if not is_remote(path):
        return path
    system, root = fsspec.core.url_to_fs(path)
    return system.open(root, "rb")


def relative_name(path: str, folder: str | Path) -> str:
    """The name of a file within its folder; the same wherever the folder lies."""
    folder = str(folder).rstrip("/")
    return path[len(folder) + 1 :] if path.startswith(folder + "/") else path.rsplit("/", 1)[-1]


def file_size(path: str) -> int:
    """In bytes."""
    if not is_remote(path):
        return Path(path).stat().st_size
    system, root = fsspec.core.url_to_fs(path)
    return system.size(root)


def file_stamp(path: str) -> str:
    """What changes when a file does."""
    if not is_remote(path):
        found = Path(path).stat()
        return f"{found.st_size}:{found.st_mtime_ns}"
    system, root = fsspec.core.url_to_fs(path)
    found = system.info(root)
    return ":".join(str(found.get(key)) for key in ("size", "ETag", "etag", "last_commit", "mtime", "created"))
