"""Two runs into one folder: the second is refused before it writes anything, and `kill -9` leaves no lock behind."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings

import pytest

from e2evit.data.locks import LOCK_FILE, InUse, held

HOLD = """
import sys, time
from e2evit.data.locks import held
with held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_forgotten(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        expected = rf"run is in use by another process \(pid {process.pid}, host {socket.gethostname()}\): wait for it"
        with pytest.raises(InUse, match=expected), held(folder):
            pass
        process.send_signal(signal.SIGKILL)
    assert (folder / LOCK_FILE).exists()
    with held(folder):
        pass
    assert list(tmp_path.iterdir()) == [folder]
    assert list(folder.iterdir()) == []


def test_a_process_that_waits_gets_the_lock(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        timer = threading.Timer(0.3, process.kill)
        timer.start()
        with held(folder, wait=True):
            assert process.wait(10) == -signal.SIGKILL


def test_nothing_is_left_of_a_run_that_wrote_nothing(tmp_path):
    with held(tmp_path / "runs/first"):
        assert (tmp_path / "runs/first" / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []


def test_files_of_one_folder_are_held_one_by_one(tmp_path):
    refused = pytest.raises(InUse, match=r"xcit\.json is in use")
    with held(tmp_path, "xcit.json"), held(tmp_path, "vit.json"), refused, held(tmp_path, "xcit.json"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("note", ["", "{", "5", "{}", "[]", '{"pid": 1}'])
def test_the_note_of_the_holder_is_not_needed(note, tmp_path):
    with held(tmp_path):
        (tmp_path / LOCK_FILE).write_text(note)
        with pytest.raises(InUse, match="in use by another process: wait"), held(tmp_path):
            pass


def without_locks(monkeypatch, number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_whose_locks_fail_gets_a_warning(number, tmp_path, monkeypatch, caplog):
    without_locks(monkeypatch, number)
    with held(tmp_path / "run"), held(tmp_path / "run"):
        assert "nothing keeps a second run out of it" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_flock_locks_by_the_file(tmp_path, monkeypatch):
    without_locks(monkeypatch, errno.ENOSYS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flock not supported")
        with held(tmp_path / "run"):
            expected = rf"pid {os.getpid()}, host .* or remove .*{LOCK_FILE} if it has been killed"
            with pytest.raises(InUse, match=expected), held(tmp_path / "run"):
                pass
        with held(tmp_path / "run"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass(tmp_path, monkeypatch):
    without_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"), held(tmp_path / "run"):
        pass
