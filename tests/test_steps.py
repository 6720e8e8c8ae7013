"""Steps of studies: processes of their own that do not outlive the study."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
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


@pytest.mark.slow
def test_a_terminated_study_ends_its_step(tmp_path):
    (tmp_path / "study.py").write_text(STUDY)
    (tmp_path / "step.py").write_text(STEP)
    command = [sys.executable, "-u", tmp_path / "study.py", tmp_path / "step.py"]
    study = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    study.stdout.readline(), study.stdout.readline()  # an empty line and the command
    step = int(study.stdout.readline())
    try:
        study.terminate()
        _, error = study.communicate(timeout=60)
        assert study.returncode == os.EX_TEMPFAIL
        assert "the same command resumes" in error
        with pytest.raises(ProcessLookupError):
            os.kill(step, 0)
    finally:
        with suppress(ProcessLookupError):
            os.kill(step, signal.SIGKILL)
