"""`e2evit download` against a server on this machine: cuts, ranges, changed files, web pages, damage."""

import json
import signal
import subprocess
import sys
import time
from hashlib import sha256
from types import SimpleNamespace

import pytest
from file_server import downloader, hdf5_file, parquet_file, run_server
from full_disk import full_disk

from e2evit.cli.command import main
from e2evit.data import download as module
from e2evit.data import load_e2e
from e2evit.data.download import ATTEMPTS, RECORD_FILE
from e2evit.data.formats import FileError
from e2evit.data.locks import InUse, held

PAGE = (200, {"Content-Type": "text/html"}, b"<!DOCTYPE html>\n<html><title>Sign in</title></html>")
TAG, OTHER_TAG = {"ETag": '"one"'}, {"ETag": '"two"'}
DATED = {"ETag": 'W/"weak"', "Last-Modified": "Mon, 03 Mar 2025 10:00:00 GMT"}


@pytest.fixture
def server(monkeypatch):
    """It has one file, `/files/a.h5`; nobody waits between attempts."""
    monkeypatch.setattr(module, "FIRST_WAIT", 0.0)
    with run_server() as running:
        running.files["/files/a.h5"] = hdf5_file()
        running.headers = dict(TAG)
        yield running


@pytest.fixture
def fetch(server, tmp_path):
    return downloader(server, tmp_path)


def fetch_part(fetch, server, size, monkeypatch):
    """A call that ends when the connection is cut."""
    with monkeypatch.context() as once:
        once.setattr(module, "ATTEMPTS", 1)
        server.cuts = [size]
        with pytest.raises(
            OSError, match=rf"a\.h5: .* {size} bytes are kept for the next call\. .*https://mirror\.ex"
        ):
            fetch()


def names(tmp_path):
    return sorted(path.name for path in tmp_path.glob("data/*"))


def record(tmp_path):
    return json.loads((tmp_path / "data" / RECORD_FILE).read_text())


def is_whole(server, tmp_path):
    data = server.files["/files/a.h5"]
    assert (tmp_path / "data/a.h5").read_bytes() == data
    assert record(tmp_path)["a.h5"]["sha256"] == sha256(data).hexdigest()
    assert names(tmp_path) == ["a.h5", RECORD_FILE]
    return True


def test_a_file_arrives_once(server, fetch, tmp_path, caplog):
    assert fetch() == [tmp_path / "data/a.h5"]
    assert is_whole(server, tmp_path)
    assert server.requests == [("/files/a.h5", None)]
    with caplog.at_level("INFO", logger="e2evit"):
        fetch()
    assert "a.h5: already there, checked by SHA-256" in caplog.text
    assert len(server.requests) == 1
    rows = load_e2e("custom", tmp_path / "data", "test", schema=tmp_path / "mine.yaml", cache_dir=tmp_path / "cache")
    assert len(rows) > 0


def test_a_cut_file_is_resumed(server, fetch, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(module, "MIN_BYTES", 10_000)
    server.cuts = [100_000, *[20_000] * ATTEMPTS]
    fetch()
    assert is_whole(server, tmp_path)
    assert [start for _, start in server.requests[:3]] == [None, "bytes=100000-", "bytes=120000-"]
    assert caplog.text.count("next attempt in 0 s") == ATTEMPTS + 1


@pytest.mark.parametrize("headers", [TAG, DATED])
def test_the_next_call_resumes(headers, server, fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.headers, server.cuts = headers, [150_000]
    with pytest.raises(
        OSError, match=r"a\.h5: .* 150000 bytes are kept for the next call\. .*https://mirror\.example"
    ):
        fetch()
    assert names(tmp_path) == ["a.h5.part", RECORD_FILE]
    fetch()
    assert is_whole(server, tmp_path)
    assert server.requests[1] == ("/files/a.h5", "bytes=150000-")


def test_a_server_without_ranges_begins_again(server, fetch, tmp_path):
    server.ranges, server.cuts = False, [200_000, 100_000]
    fetch()
    assert is_whole(server, tmp_path)
    assert len(server.requests) == 3


def test_without_a_version_nothing_is_glued(server, fetch, tmp_path):
    server.headers, server.cuts = {}, [100_000]
    fetch()
    assert is_whole(server, tmp_path)
    assert [start for _, start in server.requests] == [None, None]


def test_a_part_from_another_place_is_not_continued(server, fetch, tmp_path, monkeypatch):
    fetch_part(fetch, server, 150_000, monkeypatch)
    server.files = {"/elsewhere/a.h5": hdf5_file(1), "/files/a.h5": hdf5_file(1)}
    fetch(url_base=f"{server.address}/elsewhere")
    assert is_whole(server, tmp_path)


def test_attempts_that_bring_nothing_new_end(server, fetch, tmp_path):
    server.ranges, server.cuts = False, [100_000] * 20
    with pytest.raises(OSError, match="100000 bytes are kept"):
        fetch()
    assert len(server.requests) == ATTEMPTS
    server.cuts, server.ranges = [], True
    fetch()
    assert is_whole(server, tmp_path)


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize(("rows", "headers"), [(1200, OTHER_TAG), (600, OTHER_TAG), (1300, {})])
def test_a_file_that_changed_between_two_calls(obeys, rows, headers, server, fetch, tmp_path, monkeypatch):
    """Of a server that ignores `If-Range`, the tag of the answer or its range tells."""
    fetch_part(fetch, server, 150_000, monkeypatch)
    server.files["/files/a.h5"], server.headers, server.obeys_if_range = hdf5_file(1, rows), headers, obeys
    fetch()
    assert is_whole(server, tmp_path)
    assert len(server.requests) == (2 if obeys else 3)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "answers 404 Not Found"),
        (403, "403 Forbidden, login required"),
        (416, "416"),
        (206, "206"),
        (204, "204"),
    ],
)
def test_refusals_end_at_once(status, message, server, fetch, tmp_path):
    server.answers = [(status, {}, b"")]
    with pytest.raises(OSError, match=rf"files/a\.h5: .*{message}.* For another place: --url_base https://mirror"):
        fetch()
    assert len(server.requests) == 1
    assert not (tmp_path / "data").exists()


def test_a_busy_server_is_asked_again(server, fetch, tmp_path):
    server.answers = [(503, {"Retry-After": "0"}, b""), (429, {"Retry-After": "soon"}, b"")]
    fetch()
    assert is_whole(server, tmp_path)


def test_a_server_that_is_not_there(fetch, tmp_path):
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9/a\.h5: .*refused.* --url_base https://mirror"):
        fetch(url="http://127.0.0.1:9")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (PAGE[2], "is a web page: the link it was downloaded from has expired, or asks for a login"),
        (parquet_file(), "is a file of the format parquet, expected hdf5"),
        (b"", "is neither HDF5, Parquet"),
    ],
)
def test_another_file_is_refused(body, message, server, fetch, tmp_path):
    server.files["/files/a.h5"] = body
    with pytest.raises(FileError, match=rf"The answer of http.*/files/a\.h5 {message}.* --url_base https://mirror"):
        fetch()
    assert not (tmp_path / "data").exists()


def test_a_page_does_not_replace_a_part(server, fetch, tmp_path, monkeypatch):
    fetch_part(fetch, server, 150_000, monkeypatch)
    server.answers = [PAGE]
    with pytest.raises(FileError, match="is a web page"):
        fetch()
    fetch()
    assert is_whole(server, tmp_path)
    assert server.requests[-1] == ("/files/a.h5", "bytes=150000-")


def test_a_file_that_ends_early(server, fetch, tmp_path):
    """All that the server has arrived, but that is cut: it is not kept."""
    server.files = {"/files/a.h5": hdf5_file()[:-20], "/files/a.parquet": parquet_file()[:-20]}
    with pytest.raises(FileError, match=r"not a readable HDF5 file .*It was removed"):
        fetch()
    parquet = {"format": "parquet", "pattern": "*.parquet"}
    with pytest.raises(FileError, match=r"a Parquet file ends with PAR1\. It was removed\."):
        fetch({"a.parquet": None}, changes=parquet)
    assert names(tmp_path) == [RECORD_FILE]
    server.files["/files/a.parquet"] = parquet_file()
    assert fetch({"a.parquet": len(parquet_file())}, changes=parquet) == [tmp_path / "data/a.parquet"]


def test_redirections(server, fetch, tmp_path):
    server.moved = {"/files/a.h5": "/there/a.h5", "/files/b.h5": "/files/b.h5"}
    server.files["/there/a.h5"], server.cuts = server.files["/files/a.h5"], [100_000]
    fetch()
    assert is_whole(server, tmp_path)
    assert server.requests[1::2] == [("/there/a.h5", start) for start in (None, "bytes=100000-")]
    with pytest.raises(OSError, match="redirects"):
        fetch({"a.h5": None, "b.h5": None})
    assert len(server.requests) < 30


@pytest.mark.parametrize("location", ["ftp://example.org/a.h5", "http://example.org/a.h5", "file:///etc/passwd"])
def test_redirections_to_other_protocols(location, server, fetch, tmp_path):
    server.moved = {"/files/a.h5": location}
    with pytest.raises(ValueError, match="is refused: only https:// addresses"):
        fetch()
    assert not (tmp_path / "data").exists()


def test_the_size_is_known_and_right(server, fetch, tmp_path):
    size = len(server.files["/files/a.h5"])
    with pytest.raises(FileError, match=f"has {size} bytes, expected 30: it is another file"):
        fetch({"a.h5": 30})
    server.tells_size = False
    with pytest.raises(OSError, match="does not state the file's size"):
        fetch()
    with pytest.raises(FileError, match="sends more bytes than the file has"):
        fetch({"a.h5": size - 1})
    assert names(tmp_path) == [RECORD_FILE]
    server.cuts = [100_000]
    fetch({"a.h5": size})
    assert is_whole(server, tmp_path)


def test_files_fetched_by_other_means_are_checked_and_added(server, fetch, tmp_path, caplog):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/a.h5"
    for content, message in ((PAGE[2], "is a web page"), (hdf5_file()[:-9], "not a readable HDF5 file")):
        path.write_bytes(content)
        with pytest.raises(FileError, match=rf"a\.h5.*{message}.*Move it away"):
            fetch()
    path.write_bytes(hdf5_file())
    with pytest.raises(FileError, match=r"bytes, expected 30\. Move it away"):
        fetch({"a.h5": 30})
    fetch()
    assert is_whole(server, tmp_path)
    assert server.requests == []


@pytest.mark.parametrize("kind", ["changed", "cut"])
def test_damage_on_the_disk_is_noticed(kind, server, fetch, tmp_path):
    (path,) = fetch()
    content = bytearray(path.read_bytes())
    content[100_000] ^= 1
    path.write_bytes(content if kind == "changed" else content[:-1])
    told = r"has changed \(SHA-256\)" if kind == "changed" else r"has \d+ bytes, not \d+"
    with pytest.raises(FileError, match=rf"a\.h5 {told}: it is not the file that was downloaded\. Move it away"):
        fetch()
    assert len(server.requests) == 1
    path.unlink()
    fetch()
    assert is_whole(server, tmp_path)


def test_a_whole_part_needs_no_server(server, fetch, tmp_path, monkeypatch):
    """Killed between the last byte and the new name, or between the name and the record."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "sha256_of", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch()
    assert names(tmp_path) == ["a.h5.part", RECORD_FILE]
    fetch()
    assert is_whole(server, tmp_path)
    entries = record(tmp_path)
    del entries["a.h5"]["sha256"]
    (tmp_path / "data" / RECORD_FILE).write_text(json.dumps(entries))
    fetch()
    assert is_whole(server, tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"a.h5": {"url": "x", "size": "many"}}'])
def test_a_damaged_record(text, fetch, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / RECORD_FILE).write_text(text)
    with pytest.raises(ValueError, match=rf"{RECORD_FILE} is damaged .* remove it"):
        fetch()


def test_several_files_and_some_of_them(server, fetch, tmp_path):
    files = {"a.h5": None, "b.h5": None}
    assert fetch(files, files=["a.h5"]) == [tmp_path / "data/a.h5"]
    with pytest.raises(OSError, match=r"b\.h5: the server answers 404"):
        fetch(files)
    server.files["/elsewhere/b.h5"] = hdf5_file(1)
    assert fetch(files, url_base=f"{server.address}/elsewhere/") == [tmp_path / "data/a.h5", tmp_path / "data/b.h5"]
    assert {*record(tmp_path)} == {*files}
    with pytest.raises(ValueError, match=r"mine has no c\.h5; its files: a\.h5, b\.h5"):
        fetch(files, files=["c.h5"])
    with pytest.raises(ValueError, match=r"holds b\.h5, which would be read together with mine"):
        fetch()


def test_two_processes_are_kept_apart(server, fetch, tmp_path):
    with held(tmp_path / "data"), pytest.raises(InUse, match="is in use"):
        fetch()
    assert server.requests == []


def test_disks_that_are_too_small(server, fetch, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
        with pytest.raises(OSError, match=r"has 5 bytes free, but a\.h5 needs \d+\."):
            fetch()
    with full_disk(100_000), pytest.raises(OSError, match=r"a\.h5\.part cannot be written: File too large.* kept\."):
        fetch()
    assert (tmp_path / "data/a.h5.part").stat().st_size == 100_000
    fetch()
    assert is_whole(server, tmp_path)
    assert server.requests[-1] == ("/files/a.h5", "bytes=100000-")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_process_leaves_a_part(number, server, fetch, tmp_path, monkeypatch):
    fetch_part(fetch, server, 90_000, monkeypatch)
    server.pause = 0.2
    # a shell starts what runs in the background with SIGINT ignored
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from e2evit.data.download import download as d; d('mine', sys.argv[1], schema=sys.argv[2])"
    command = [sys.executable, "-c", code, tmp_path / "data", tmp_path / "mine.yaml"]
    part = tmp_path / "data/a.h5.part"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while part.stat().st_size < 100_000:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
    assert process.returncode
    held_bytes, server.pause = part.stat().st_size, 0.0
    assert 100_000 <= held_bytes < len(server.files["/files/a.h5"])
    fetch()
    assert is_whole(server, tmp_path)
    assert server.requests[-1] == ("/files/a.h5", f"bytes={held_bytes}-")


def test_the_command(server, fetch, tmp_path, capsys):
    fetch()
    options = ["--output_dir", str(tmp_path / "more"), "--schema", str(tmp_path / "mine.yaml")]
    main(["download", "mine", *options])
    printed = capsys.readouterr().out
    assert f"1 file of mine in {tmp_path / 'more'}\nNext: e2evit inspect {tmp_path / 'more/a.h5'} --schema" in printed
    assert f'load_e2e("custom", "{tmp_path / "more"}", schema="{tmp_path / "mine.yaml"}")' in printed
    server.files = {}
    with pytest.raises(SystemExit, match="1"):
        main(["download", "mine", "--output_dir", str(tmp_path / "other"), *options[2:]])
    error = capsys.readouterr().err
    start = f"e2evit download: {server.address}/files/a.h5: the server answers 404 Not Found. For "
    assert error[: len(start)] == start
    assert error.count("\n") == 1
    assert not (tmp_path / "other").exists()
