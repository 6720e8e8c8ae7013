"""Steps of studies: processes of their own that do not outlive the study."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUDY = """
import sys
sys.path.insert(0, "studies")
from steps import run_script
if __name__ == "__main__":
    run_script(*sys.argv[1:])
"""
JOBS = """
import json, os, sys, time
sys.path.insert(0, "studies")
from pathlib import Path
from steps import Job, ParallelArguments, run_jobs
if __name__ == "__main__":
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    jobs = [Job(name, [(folder / "job.py", name, step) for step in "12"]) for name in json.loads(sys.argv[3])]
    run_jobs(jobs, ParallelArguments("cpu", number), folder / "logs")
"""
JOB = """
import os, sys, time
from pathlib import Path
name, step = sys.argv[1:]
print(name, step, len(os.sched_getaffinity(0)), repr(os.environ.get("CUDA_VISIBLE_DEVICES")), flush=True)
if name == "ill":
    raise OSError("no room")
if name == "endless":
    time.sleep(600)
with (Path(__file__).parent / "order").open("a") as file:
    file.write(f"{name}{step} ")
"""
STEP = """
import os, sys, time
print(os.getpid(), flush=True)
time.sleep(600)
"""


@contextmanager
def running_study(folder):
    """A study whose step runs, and the step's process number."""
    (folder / "study.py").write_text(STUDY)
    (folder / "step.py").write_text(STEP)
    command = [sys.executable, "-u", folder / "study.py", folder / "step.py"]
    study = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    step = None
    try:
        study.stdout.readline(), study.stdout.readline()  # an empty line and the command
        step = int(study.stdout.readline())
        yield study, step
    finally:
        study.kill()
        if step is not None:
            with suppress(ProcessLookupError):
                os.kill(step, signal.SIGKILL)


@pytest.mark.slow
def test_a_terminated_study_ends_its_step(tmp_path):
    with running_study(tmp_path) as (study, step):
        study.terminate()
        _, error = study.communicate(timeout=60)
        assert study.returncode == os.EX_TEMPFAIL
        assert "the same command resumes" in error
        with pytest.raises(ProcessLookupError):
            os.kill(step, 0)


@pytest.mark.slow
def test_a_killed_study_ends_its_step(tmp_path):
    with running_study(tmp_path) as (study, _):
        study.kill()
        # the step holds the study's output: this returns once it has ended, or raises TimeoutExpired
        study.communicate(timeout=60)


def run_jobs(folder, number, *names):
    (folder / "study.py").write_text(JOBS)
    (folder / "job.py").write_text(JOB)
    command = [sys.executable, "-u", folder / "study.py", folder, str(number), json.dumps(names)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_jobs_at_once(tmp_path):
    """A step that fails ends its own job; each has a log, and its share of the cores."""
    study = run_jobs(tmp_path, 2, "one", "ill", "two")
    output, error = study.communicate(timeout=100)
    assert study.returncode == 1
    assert error.strip() == f"This step failed: python {tmp_path}/job.py ill 1 (see {tmp_path}/logs/ill.log)"
    assert "FAILED: ill (" in output
    assert output.count("done: ") == 2
    assert sorted((tmp_path / "order").read_text().split()) == ["one1", "one2", "two1", "two2"]
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    for name in ("one", "two"):
        lines = [line for line in (tmp_path / f"logs/{name}.log").read_text().splitlines() if line[:1] not in "$"]
        assert [line.split()[:2] for line in lines] == [[name, "1"], [name, "2"]]
        assert all(int(line.split()[2]) in (cores, cores + 1) for line in lines)
        assert all(line.endswith("''") for line in lines)
    assert "OSError: no room" in (tmp_path / "logs/ill.log").read_text()


def test_jobs_one_by_one(tmp_path):
    """A step that fails ends the study."""
    study = run_jobs(tmp_path, 1, "one", "ill", "two")
    output, error = study.communicate(timeout=100)
    assert study.returncode == 1
    assert f"This step failed: python {tmp_path}/job.py ill 1\n" in error
    assert (tmp_path / "order").read_text() == "one1 one2 "
    assert f"$ python {tmp_path}/job.py one 2" in output
    assert not (tmp_path / "logs").exists()


def test_terminated_jobs_end(tmp_path):
    study = run_jobs(tmp_path, 2, "endless", "one", "two")
    while "one2" not in ((tmp_path / "order").read_text() if (tmp_path / "order").exists() else ""):
        assert study.poll() is None
        time.sleep(0.05)
    study.terminate()
    output, error = study.communicate(timeout=100)
    assert study.returncode == os.EX_TEMPFAIL
    assert "the same command resumes" in error
    assert "stopped: endless" in output
    assert "endless2" not in (tmp_path / "order").read_text()


@pytest.mark.parametrize(
    ("device", "number", "what"),
    [("gpu", 1, "auto, cpu or cuda, got 'gpu'"), ("cpu", 0, "1 or more, got 0"), ("cuda", 1, "sees no GPU here")],
)
def test_where_jobs_cannot_run(device, number, what, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "studies")
    from steps import ParallelArguments

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=what):
        ParallelArguments(device, number)


SLOW = """
import signal, sys, time
from pathlib import Path
def save(*_):
    time.sleep(1)
    Path(__file__).with_name(sys.argv[1] + "_saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
Path(__file__).with_name(sys.argv[1] + "_started").touch()
time.sleep(600)
"""


def test_a_signal_to_the_whole_group(tmp_path):
    """As schedulers send it: the study waits until all steps have saved; a second signal changes nothing."""
    (tmp_path / "study.py").write_text(JOBS)
    (tmp_path / "job.py").write_text(SLOW)
    command = [sys.executable, "-u", tmp_path / "study.py", tmp_path, "2", json.dumps(["one", "two"])]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    study = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **output)
    while not all((tmp_path / f"{name}_started").exists() for name in ("one", "two")):
        assert study.poll() is None
        time.sleep(0.05)
    os.killpg(study.pid, signal.SIGTERM)
    time.sleep(0.3)
    os.kill(study.pid, signal.SIGTERM)
    _, error = study.communicate(timeout=100)
    assert study.returncode == os.EX_TEMPFAIL, error
    assert all((tmp_path / f"{name}_saved").exists() for name in ("one", "two"))
