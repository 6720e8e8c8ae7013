"""Steps of studies: processes of their own that do not outlive the study."""

import os
import signal
import subprocess
import sys
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
