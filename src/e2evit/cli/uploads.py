"""Files that strangers upload, each read in a process of its own, without secrets and within limits.

A small file can unpack to a huge one, point to other files, or crash the library that reads it. One process with an
empty environment imports the libraries and forks for each upload; see [`upload_process`][e2evit.cli.upload_process].
"""

import atexit
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np

from .upload_process import IMAGE, MESSAGE, STARTED

__all__ = ["MAX_UPLOAD", "read_upload", "start_reader"]

MAX_UPLOAD = "20mb"
READ_SECONDS, READ_BYTES = 10, 2**30  # of the process that reads an upload; memory on top of the libraries'
START_SECONDS = 120  # to import the libraries, once
_SERVE = "import sys; sys.path[:] = sys.argv[2:]; from e2evit.cli.upload_process import serve; serve(int(sys.argv[1]))"


def read_upload(path: str, channel_names: Sequence[str], image_size: tuple[int, int]) -> np.ndarray:
    """The first image of a file, `(channels, height, width)`.

    Plain energies of Parquet rows become transverse where the channels are; other files do not name their channels
    and are taken to hold these.

    Args:
        channel_names: Channels of the image.
        image_size: Height and width.

    Raises:
        ValueError: with one line that says what is wrong.
    """
    size = os.path.getsize(path) / 2**20
    if size > float(MAX_UPLOAD.removesuffix("mb")):
        raise ValueError(f"The file has {size:.0f} MB; at most {MAX_UPLOAD} are read.")
    path, name, shape = os.path.abspath(path), os.path.basename(path), (len(channel_names), *image_size)
    request = {"path": path, "channel_names": list(channel_names), "image_size": list(image_size)}
    request |= {"seconds": READ_SECONDS, "memory": READ_BYTES}
    try:
        with _reader.connect() as connection, connection.makefile("rb") as answer:
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(START_SECONDS)
            if answer.read(1) != STARTED:
                raise RuntimeError("The process that reads uploads did not start; the log says why.")
            start = time.monotonic()
            connection.settimeout(READ_SECONDS + 5)  # by then, the kernel has ended the other side
            kind, content = answer.read(1), answer.read(4 * math.prod(shape))
    except (TimeoutError, ConnectionError) as error:
        raise ValueError(f"{name} could not be read: the reader did not answer. Try again.") from error
    if kind == IMAGE and len(content) == 4 * math.prod(shape):
        return np.frombuffer(content, dtype=np.float32).reshape(shape).copy()
    if kind == MESSAGE:
        raise ValueError(content.decode(errors="replace").replace(path, name))
    if time.monotonic() - start >= READ_SECONDS:
        raise ValueError(f"{name} could not be read within {READ_SECONDS} seconds.")
    raise ValueError(f"{name} made the process that read it crash: the file is damaged.")


def start_reader() -> None:
    """Start the process that reads uploads, so that the first one need not wait for it."""
    _reader.ensure()


class _Reader:
    """The process that forks for each upload: started when it is needed, and again if it has died."""

    def __init__(self):
        self.lock = threading.Lock()
        self.process: subprocess.Popen | None = None

    def connect(self) -> socket.socket:
        """A connection to a new fork."""
        self.ensure()
        ours, theirs = socket.socketpair()
        with theirs, self.lock:
            socket.send_fds(self.requests, [b"."], [theirs.fileno()])
        return ours

    def ensure(self) -> None:
        with self.lock:
            if self.process is not None and self.process.poll() is None:
                return
            if self.process is not None:
                self.requests.close()
            self._start()

    def _start(self) -> None:
        self.requests, theirs = socket.socketpair()
        with theirs:
            modules = [os.path.abspath(folder) for folder in sys.path]
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(theirs.fileno()), *modules],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self._stop, self.requests, self.process)

    @staticmethod
    def _stop(requests: socket.socket, process: subprocess.Popen) -> None:
        requests.close()
        process.wait()


_reader = _Reader()
