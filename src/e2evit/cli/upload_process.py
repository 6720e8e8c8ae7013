"""The process that reads uploads: it imports the libraries once and forks for each upload.

A fork may open the upload and nothing else, and write nothing. The kernel ends it at its limits of memory and time,
even within a library's call.
"""

import json
import math
import os
import resource
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import h5py  # noqa: F401  (ahead of the forks, which can open no library)
import numpy as np
import pyarrow.compute
import pyarrow.parquet
import pyarrow.types  # noqa: F401

from e2evit.data.sparse import sparse_to_dense
from e2evit.modeling.files_e2e import checked_channels, describe_file, read_images
from e2evit.modeling.geometry_e2e import TRANSVERSE, transverse_factor, window_rows
from e2evit.modeling.image_processing_e2e import E2EImageProcessor

__all__ = ["IMAGE", "MESSAGE", "STARTED", "serve"]

STARTED, IMAGE, MESSAGE = b".", b"i", b"m"  # what an answer starts with: STARTED, then one of the others
LONGEST_MESSAGE = 500


def serve(requests: int) -> None:
    """Fork for each connection that a socket hands over, until the socket is closed.

    Args:
        requests: File descriptor of the socket. A connection brings a JSON object and gets the answer.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps finished forks
    with socket.socket(fileno=requests) as handed_over:
        while connections := socket.recv_fds(handed_over, 1, 1)[1]:
            if os.fork() == 0:
                handed_over.close()
                _answer(connections[0])
            os.close(connections[0])


def _answer(descriptor: int) -> None:
    """Read one upload, say what it holds, and end the process."""
    try:
        connection = socket.socket(fileno=descriptor)
        with connection.makefile("rb") as request:
            request = json.load(request)
        connection.sendall(STARTED)
        _confine(request["path"], request["seconds"], request["memory"])
        connection.sendall(_read(request["path"], request["channel_names"], tuple(request["image_size"])))
    finally:
        os._exit(0)


def _confine(path: str, seconds: float, memory: int) -> None:
    """Give up all that reading `path` does not need.

    Args:
        seconds: Limit of CPU time and of wall-clock time.
        memory: Limit in bytes, on top of what the libraries take.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM ends the process
    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log, 2)  # the answer already says what libraries would log
    # HDF5 gets one descriptor, so it cannot open any file that the upload names; NumPy and Arrow open the upload
    # several times
    files = 1 if path.lower().endswith((".h5", ".hdf5")) else 4
    free = [log, *(os.dup(log) for _ in range(files - 1))]
    limits = {resource.RLIMIT_AS: taken + memory, resource.RLIMIT_CPU: math.ceil(seconds)}
    limits |= {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: max(free) + 1}
    for descriptor in free:
        os.close(descriptor)
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def _read(path: str, channel_names: Sequence[str], image_size: tuple[int, int]) -> bytes:
    """The answer to a request: the image as float32, or a message of one line."""
    try:
        return IMAGE + _first_image(path, channel_names, image_size).tobytes()
    except MemoryError:
        message = f"{path} needs more memory than an upload may take."
    except (ImportError, OSError, ValueError) as error:
        message = str(error) if path in str(error) else f"{path}: {error}"
    except Exception as error:  # of a library that did not expect such a file
        message = f"{path} is damaged ({type(error).__name__}: {error})."
    return MESSAGE + " ".join(message.split())[:LONGEST_MESSAGE].encode(errors="replace")


def _first_image(path: str, expected: Sequence[str], image_size: tuple[int, int]) -> np.ndarray:
    shape = (len(expected), *image_size)
    channel_names = checked_channels(describe_file(path), expected, image_size) or expected
    image = next(iter(read_images(path, shape)), None)
    if image is None:
        raise ValueError(f"{path}: it holds no image.")
    if isinstance(image, dict):
        E2EImageProcessor(list(expected), image_size)(image, channel_names=channel_names)  # checks the row
        ieta = image.get("ieta")
        image = sparse_to_dense(image["pixel_index"], image["pixel_value"], shape)
        for number in range(shape[0]):
            if channel_names[number] != expected[number]:  # plain energies, which have a place
                rows = window_rows(np.arange(shape[1]), shape[1], ieta)
                filled = image[number].any(axis=1)
                is_ecal = np.full(filled.sum(), TRANSVERSE["ecal"] == expected[number])
                image[number, filled] *= transverse_factor(rows[filled], is_ecal)[:, None]
    image = np.asarray(image, dtype=np.float32)
    image = image if image.shape == shape else np.moveaxis(image, -1, 0)
    if not np.isfinite(image).all():
        raise ValueError(f"{path}: the image holds NaN or infinite pixels.")
    return np.ascontiguousarray(image)
