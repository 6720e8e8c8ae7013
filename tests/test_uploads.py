"""Uploads: read without secrets and within limits, side by side, and kept for no longer than they are needed."""

import ctypes
import faulthandler
import json
import mmap
import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from samples import random_images, row_table

from e2evit.cli import demo, upload_process, uploads
from e2evit.cli.upload_folder import forget, sweep
from e2evit.data import find_schema
from e2evit.data.sparse import sparse_to_dense
from e2evit.transforms.transverse import transverse_schema, transverse_table

SHAPE = (8, 125, 125)
CHANNELS = find_schema("simulated").channel_names


def read(path) -> np.ndarray:
    return uploads.read_upload(str(path), CHANNELS, SHAPE[1:])


@pytest.fixture(scope="module")
def image():
    return random_images(1)[0]


@pytest.fixture
def jet(tmp_path, image):
    np.save(tmp_path / "jet.npy", image)
    return tmp_path / "jet.npy"


def in_a_fork(function) -> int:
    """Status of a forked process that runs the function: 0, 1 for an exception, minus the signal that ended it."""
    if (process := os.fork()) == 0:
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_a_reader_that_died_is_started_again_with_an_empty_environment(jet, image, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    reader = uploads._reader
    if reader.process is None:
        reader.process, reader.requests = subprocess.Popen(["true"]), socket.socket()
    reader.process.kill()
    reader.process.wait()
    np.testing.assert_array_equal(read(jet), image)
    assert Path(f"/proc/{reader.process.pid}/environ").read_bytes() == b""


def test_a_parquet_file_names_its_channels(simulated_jets):
    """Plain energies become transverse."""
    path = next(simulated_jets.glob("top-*.parquet"))
    table, schema = pq.read_table(path), find_schema("simulated", simulated_jets)
    row = transverse_table(table.slice(0, 1), schema).to_pylist()[0]
    expected = sparse_to_dense(row["pixel_index"], row["pixel_value"], SHAPE)
    names = transverse_schema(schema).channel_names
    np.testing.assert_allclose(uploads.read_upload(str(path), names, SHAPE[1:]), expected, rtol=1e-6)


def in_another_size(path):
    about = {"channel_names": list(CHANNELS), "image_size": [100, 100]}
    pq.write_table(row_table(1).replace_schema_metadata({"e2evit": json.dumps(about)}), path)


def with_other_channels(path):
    names = find_schema("top_mass").channel_names
    about = {"channel_names": [*names[::-1]][:8], "image_size": [125, 125], "normalisation": "scaled"}
    pq.write_table(row_table(1).replace_schema_metadata({"e2evit": json.dumps(about)}), path)


HOSTILE = {
    "pickle.npy": (lambda p: np.save(p, np.array([{}]), allow_pickle=True), "not a readable array"),
    "short.npy": (
        lambda p: (np.save(p, np.ones(SHAPE, np.float32)), os.truncate(p, 5000)),
        "it declares",
    ),
    "nan.npy": (lambda p: np.save(p, np.full(SHAPE, np.nan)), "NaN"),
    "shape.npy": (lambda p: np.save(p, np.zeros((3, 32, 32))), r"expected numbers of shape \(8, 125, 125\)"),
    "outside.parquet": (
        lambda p: pq.write_table(row_table(1, pixel_index=[[9_999_999]], pixel_value=[[1.0]]), p),
        "pixel_index reaches 9999999",
    ),
    "size.parquet": (in_another_size, r"Expected images of 125 x 125 pixels, got 100 x 100"),
    "scaled.parquet": (with_other_channels, "Expected the channels trk_pt, .*, got bpix3, "),
    "empty.parquet": (lambda p: pq.write_table(row_table(1).slice(0, 0), p), "holds no image"),
    "broken.parquet": (lambda p: p.write_bytes(b"PAR1PAR1"), "not a readable Parquet file"),
    "broken.h5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 100), "not a readable HDF5 file"),
    "text.txt": (lambda p: p.write_text("1 2 3"), "expected a file that ends in"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_one_line(tmp_path, name):
    make, message = HOSTILE[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=f"^{name}: .*({message})") as refused:
        read(tmp_path / name)
    assert str(tmp_path) not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("target", ["/proc/self/environ", "/etc/passwd", "secret"])
@pytest.mark.parametrize("kind", ["external", "virtual", "link"])
def test_an_hdf5_file_reads_no_other(tmp_path, target, kind):
    secret = tmp_path / "secret"
    with h5py.File(secret, "w") as file:
        file["X"] = np.full((1, *SHAPE), 7, np.uint8)
    target = str(secret) if target == "secret" else target
    with h5py.File(tmp_path / "jet.h5", "w") as file:
        if kind == "external":
            file.create_dataset("X", shape=(1, *SHAPE), dtype="u1", external=[(target, 0, 125_000)])
        elif kind == "link":
            file["X"] = h5py.ExternalLink(target, "X")
        else:
            layout = h5py.VirtualLayout((1, *SHAPE), "u1")
            layout[:] = h5py.VirtualSource(target, "X", (1, *SHAPE))
            file.create_virtual_dataset("X", layout)
    with pytest.raises(ValueError, match=r"^jet\.h5: .*(its values lie in other files|a link, which is not followed)"):
        read(tmp_path / "jet.h5")


def test_a_confined_process_opens_and_writes_nothing_else(jet):
    hdf5 = jet.with_suffix(".h5")
    with h5py.File(hdf5, "w") as file:
        file["X"] = [1]

    def confined(path, then, seconds=5.0):
        return in_a_fork(lambda: (upload_process._confine(str(path), seconds, 2**28), then()))

    def open_files(number):
        return [os.open(jet, os.O_RDONLY) for _ in range(number)]

    with jet.with_name("log").open("w") as log:
        assert confined(jet, lambda: log.write("x") and log.flush()) == 1
    assert confined(jet, lambda: np.load(jet, mmap_mode="r")) == 0
    assert confined(jet, lambda: open_files(5)) == 1
    assert confined(jet, lambda: mmap.mmap(-1, 2**30)) == 1  # an array may fit into memory that this process has freed
    assert confined(hdf5, lambda: h5py.File(hdf5)["X"][:]) == 0
    assert confined(hdf5, lambda: (h5py.File(hdf5), open_files(1))) == 1
    start = time.monotonic()
    assert confined(jet, lambda: time.sleep(9), 0.2) == -signal.SIGALRM
    assert time.monotonic() - start < 5


@pytest.fixture
def behaving(monkeypatch):
    """The reader forks from this process, and what a file is called says how its library behaves."""
    images = upload_process.read_images

    def misbehave(path, shape):
        if "crash" in path:
            faulthandler.disable()
            ctypes.string_at(0)
        if "hang" in path:
            time.sleep(60)
        if "grow" in path:
            np.ones(2**30)
        if "odd" in path:
            raise RuntimeError("unexpected\nmarker")
        return images(path, shape)

    class Reader(uploads._Reader):
        def _start(self):
            self.requests, theirs = socket.socketpair()
            if (child := os.fork()) == 0:
                self.requests.close()
                upload_process.serve(theirs.detach())
                os._exit(0)
            theirs.close()
            self.process = type("Process", (), {"poll": lambda self: None})()
            self.child = child

    monkeypatch.setattr(upload_process, "read_images", misbehave)
    monkeypatch.setattr(uploads, "_reader", reader := Reader())
    monkeypatch.setattr(uploads, "READ_SECONDS", 2)
    yield
    reader.requests.close()
    os.waitpid(reader.child, 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crash.npy", "made the process that read it crash: the file is damaged"),
        ("hang.npy", "could not be read within 2 seconds"),
        ("grow.npy", "needs more memory than an upload may take"),
        ("odd.npy", r"is damaged \(RuntimeError: unexpected marker\)"),
    ],
)
def test_a_library_that_fails_takes_nothing_down(behaving, jet, image, name, message):
    """Other uploads are read meanwhile, and afterwards."""
    bad = jet.with_name(name)
    bad.write_bytes(jet.read_bytes())
    with ThreadPoolExecutor() as pool:
        refused = pool.submit(read, bad)
        start = time.monotonic()
        for good in [pool.submit(read, jet) for _ in range(3)]:
            np.testing.assert_array_equal(good.result(), image)
        assert name != "hang.npy" or time.monotonic() - start < 2
        with pytest.raises(ValueError, match=rf"^{name} {message}"):
            refused.result()
    np.testing.assert_array_equal(read(jet), image)


@pytest.mark.parametrize("fault", ["silent", "gone"])
def test_a_reader_that_does_not_answer(jet, monkeypatch, fault):
    ours, theirs = socket.socketpair()
    if fault == "gone":
        theirs.close()
    monkeypatch.setattr(uploads._reader, "connect", lambda: ours)
    monkeypatch.setattr(uploads, "START_SECONDS", 0.1)
    with (
        theirs,
        pytest.raises(ValueError, match=r"^jet\.npy could not be read: the reader did not answer\. Try again"),
    ):
        read(jet)


def test_bad_files_do_not_wait_for_drawings(monkeypatch):
    """Those who wait for a drawing are few; others are told that the demo is busy."""
    gr = pytest.importorskip("gradio")
    go_on = threading.Event()

    def read_upload(path, *_):
        if "bad" in path:
            raise ValueError(f"{path} is damaged.")
        return np.zeros(SHAPE, np.float32)

    monkeypatch.setattr(demo, "read_upload", read_upload)
    shown = demo.Demo.__new__(demo.Demo)
    shown.processor = SimpleNamespace(channel_names=CHANNELS, image_size=SHAPE[1:])
    shown.start_pools()
    shown._show = lambda image, row, title, true_mass: go_on.wait(60) and (title,)
    with ThreadPoolExecutor(demo.VISITORS) as visitors:
        waiting = [visitors.submit(shown.show_upload, "good.npy") for _ in range(demo.MAX_DRAWINGS)]
        while shown.drawings.acquire(blocking=False):
            shown.drawings.release()
            time.sleep(0.01)
        for name, message in (("bad.npy", r"bad\.npy is damaged"), ("good.npy", "The demo is busy")):
            with pytest.raises(gr.Error, match=message):
                visitors.submit(shown.show_upload, name).result(30)
        go_on.set()
        assert [future.result() for future in waiting] == [("good.npy",)] * demo.MAX_DRAWINGS
    assert shown.show_upload("good.npy") == ("good.npy",)


def test_large_files_are_refused(jet, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_UPLOAD", "0.1mb")
    with pytest.raises(ValueError, match=r"at most 0\.1mb are read"):
        read(jet)


def test_uploads_are_forgotten(tmp_path):
    files = [tmp_path / name for name in ("used/a.npy", "old/a.npy", "new/a.npy", "broken_off")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    forget(str(files[0]))
    forget(str(files[0]))  # a second time
    assert not files[0].parent.exists()
    for file in (files[1], files[3]):
        os.utime(file, (0, 0))
    sweep(tmp_path, 600)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.npy", "new"]
