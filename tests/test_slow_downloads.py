"""Servers that send hardly anything, and archives."""

import tarfile
import time
from io import BytesIO

import pytest
from file_server import downloader, hdf5_file, run_server

from e2evit.data import download as module
from e2evit.data.download import ATTEMPTS, RECORD_FILE
from e2evit.data.formats import FileError


@pytest.fixture
def server(monkeypatch):
    """It has one file, `/files/a.h5`; nobody waits between attempts."""
    monkeypatch.setattr(module, "FIRST_WAIT", 0.0)
    with run_server() as running:
        running.files["/files/a.h5"] = hdf5_file()
        running.headers = {"ETag": '"one"'}
        yield running


@pytest.mark.parametrize("block", [1, 100], ids=["within the first bytes", "after them"])
def test_a_byte_now_and_then_is_given_up(block, server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MIN_SECONDS", 0.1)
    server.block, server.pause = block, 0.02
    start = time.monotonic()
    with pytest.raises(
        OSError, match=r"a\.h5: the server is too slow, \d+ bytes in 0 s\..* --url_base https://mirror"
    ):
        downloader(server, tmp_path)()
    assert len(server.requests) == ATTEMPTS
    assert time.monotonic() - start < 10
    server.block, server.pause = 1 << 16, 0.0
    downloader(server, tmp_path)()
    assert (tmp_path / "data/a.h5").read_bytes() == hdf5_file()


def test_a_slow_server_is_not_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MIN_SECONDS", 0.02)
    monkeypatch.setattr(module, "MIN_BYTES", 10_000)
    server.pause = 0.05
    downloader(server, tmp_path)()
    assert (tmp_path / "data/a.h5").read_bytes() == hdf5_file()
    assert len(server.requests) == 1


def test_connections_that_drop_at_once_are_given_up(server, tmp_path):
    """Each brings something new, but too little."""
    server.cuts = [1_000] * 20
    with pytest.raises(OSError, match="5000 bytes are kept"):
        downloader(server, tmp_path)()
    assert len(server.requests) == ATTEMPTS


def test_archives_are_checked_and_left_to_tar(server, tmp_path):
    """One bit of the data, or the last byte, is enough to refuse them."""
    buffer, fetch = BytesIO(), downloader(server, tmp_path)
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("val/a.h5")
        member.size = len(hdf5_file())
        archive.addfile(member, BytesIO(hdf5_file()))
    whole = buffer.getvalue()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    sizes = {"a.tar.gz": None}
    for damaged in (bytes(flipped), whole[:-1]):
        server.files["/files/a.tar.gz"] = damaged
        with pytest.raises(FileError, match=r"a\.tar\.gz\.part is damaged: .* It was removed"):
            fetch(sizes)
    server.files["/files/a.tar.gz"] = hdf5_file()
    with pytest.raises(FileError, match=r"a\.tar\.gz is a file of the format hdf5, expected \.tar\.gz"):
        fetch(sizes)
    server.files["/files/a.tar.gz"] = whole
    (path,) = fetch(sizes)
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.tar.gz", RECORD_FILE]
    assert path.read_bytes() == whole
    server.files["/files/a.h5"] = whole
    with pytest.raises(FileError, match=r"a\.h5 is a file of the format \.tar\.gz, expected hdf5"):
        fetch()
