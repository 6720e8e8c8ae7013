"""A server of files over HTTP on this machine, with and without ranges, that cuts, redirects and changes them."""

import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from e2evit.data.download import download

__all__ = ["FileServer", "downloader", "hdf5_file", "parquet_file", "run_server"]

SCHEMA = """
description: Jets
source: here
licence: none
format: hdf5
pattern: "*.h5"
channel_names: [ecal, hcal]
image_size: [5, 5]
columns: {image: X, labels: "y"}
labels: {background: b, signal: s}
"""


def hdf5_file(seed=0, rows=1200):
    """240 KB, four blocks of the server."""
    buffer, rng = BytesIO(), np.random.default_rng(seed)
    with h5py.File(buffer, "w") as file:
        file["X"] = rng.random((rows, 2, 5, 5)).astype(np.float32)
        file["y"] = np.arange(rows) % 2
    return buffer.getvalue()


def parquet_file():
    buffer = BytesIO()
    pq.write_table(pa.table({"X": [[1.0, 2.0]] * 50}), buffer)
    return buffer.getvalue()


@dataclass
class FileServer:
    """What the server has and how it behaves; each may be changed while it runs.

    Args:
        files: Contents by path.
        headers: Sent with each file, e.g. `ETag`.
        ranges: Whether ranges are offered.
        obeys_if_range: Whether a part of another version of a file is completed with all of this one, as it must be.
        tells_size: Whether answers have `Content-Length`; those without end with the connection.
        moved: Where paths are redirected to.
        answers: Status, headers and body of the next answers, whatever was asked.
        cuts: Bytes of the next answers after which the connection ends.
        block: Bytes that are sent at once.
        pause: Seconds between blocks.
        requests: Paths that were asked for, and their `Range`.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    obeys_if_range: bool = True
    tells_size: bool = True
    moved: dict[str, str] = field(default_factory=dict)
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    block: int = 1 << 16
    pause: float = 0.0
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: FileServer

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        state, asked = self.server_state, self.headers.get("Range")
        assert self.headers["Accept-Encoding"] == "identity"
        state.requests.append((self.path, asked))
        if state.answers:
            return self._send(*state.answers.pop(0))
        if self.path in state.moved:
            return self._send(302, {"Location": state.moved[self.path]}, b"")
        if self.path not in state.files:
            return self._send(404, {"Content-Type": "text/html"}, b"<!DOCTYPE html><html>Not found</html>")
        data, status, headers = state.files[self.path], 200, dict(state.headers)
        known = self.headers.get("If-Range") in (None, *(headers.get(name) for name in ("ETag", "Last-Modified")))
        if asked and state.ranges and (known or not state.obeys_if_range):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(data):
                return self._send(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data = data[start:]
        return self._send(status, headers, data, state.cuts.pop(0) if state.cuts else None)

    def _send(self, status: int, headers: dict[str, str], data: bytes, cut: int | None = None) -> None:
        state = self.server_state
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if state.tells_size:
            self.send_header("Content-Length", str(len(data)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        sent = data if cut is None else data[:cut]
        with suppress(OSError):  # the client has gone
            for first in range(0, len(sent), state.block):
                self.wfile.write(sent[first : first + state.block])
                time.sleep(state.pause)
        self.close_connection = self.close_connection or cut is not None or not state.tells_size


@contextmanager
def run_server():
    """A running [`FileServer`] without files."""
    state = FileServer()
    handler = type("Handler", (_Handler,), {"server_state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        state.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        server.shutdown()


def downloader(server, tmp_path):
    """A function that downloads the files of a schema, by default `a.h5`, into the folder `data`."""

    def call(sizes=None, url=None, changes=(), **options):
        share = {"urls": [url or f"{server.address}/files", "https://mirror.example"]}
        share["files"] = sizes or {"a.h5": None}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(SCHEMA) | dict(changes) | {"downloads": {"mine": [share]}}))
        return download("mine", tmp_path / "data", schema=path, **options)

    return call
