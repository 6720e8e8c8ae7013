"""One process at a time: a lock in the folder that a run writes, which the system releases when the process ends."""

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

__all__ = ["LOCK_FILE", "InUse", "held"]

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class InUse(OSError):
    """Another process writes there."""


@contextmanager
def held(folder: str | Path, file: str | None = None, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of `folder`, or only away from its `file`; folders left empty are removed again.

    The lock is the system's (flock), so `kill -9` releases it. On NFS and Lustre it holds for all machines, unless
    they are mounted with `nolock` or `localflock`: then for one machine only. Where flock does not exist, the file
    itself is the lock, and one left by a process that was killed on another machine must be removed by hand; where it
    fails, a warning says that nothing keeps a second run out.

    Args:
        wait: Until another process that holds it lets go, instead of raising an error.

    Raises:
        InUse: if another process holds it.
    """
    folder = Path(folder)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file_there = next(path for path in (folder, *folder.parents) if path.exists())
        raise type(error)(f"{folder} cannot be a folder: {file_there} is a file. Choose another path.") from None
    path = folder / (LOCK_FILE if file is None else f".{file}{LOCK_FILE}")
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            what = folder if file is None else folder / file
            if not wait:
                raise InUse(_refusal(what, path, lock)) from None
            logger.info(f"Waiting for another process that writes {what}")
            lock.acquire(poll_interval=1)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            logger.warning(f"{folder} cannot be locked ({error.strerror}): nothing keeps a second run out of it.")
            with suppress(OSError):
                if not path.stat().st_size:  # one that holds it has written its note
                    path.unlink()
        else:
            if not isinstance(lock, SoftFileLock):  # that one notes its process itself
                with suppress(OSError):
                    path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
        yield
    finally:
        if lock.is_locked and not isinstance(lock, SoftFileLock):
            with suppress(OSError):
                path.unlink()  # while it is held: a process that has just opened it sees that it is gone
        lock.release()
        for path in created:
            with suppress(OSError):  # not empty
                path.rmdir()


def _refusal(what: Path, path: Path, lock) -> str:
    who, remedy = "", "wait for it to end"
    with suppress(OSError, ValueError, KeyError, TypeError):
        text = path.read_text(encoding="utf-8")
        if isinstance(lock, SoftFileLock):
            pid, host = text.splitlines()[:2]
            remedy += f", or remove {path} if it has been killed"
        else:
            pid, host = (json.loads(text)[key] for key in ("pid", "host"))
        who = f" (pid {pid}, host {host})"
    return f"{what} is in use by another process{who}: {remedy}, or choose another folder."
