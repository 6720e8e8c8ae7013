"""The steps of a study: scripts, each in a process of its own, so that none holds the memory of the one before."""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
from pathlib import Path

__all__ = ["RECIPES", "run_script"]

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
POLL_SECONDS = 1.0

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["e2evit.training"])  # once instead of by every step: torch takes seconds


def run_script(script: str, *arguments) -> None:
    """Run a script, such as "scripts/train.py", in a process of its own, which gets a SIGTERM when this one does or is
    killed.

    Raises:
        SystemExit: if it fails, or at SIGTERM with the code of a training that can be resumed.
    """
    words = [str(part) for part in (script, *arguments)]
    print(f"\n$ python {' '.join(words)}", flush=True)
    process = _PROCESSES.Process(target=_run, args=(ROOT / script, words[1:]))
    is_stopped = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: is_stopped.set())
    try:
        process.start()
        while process.exitcode is None:
            process.join(POLL_SECONDS)
            if is_stopped.is_set() and process.exitcode is None:
                process.terminate()  # a training saves its state
                process.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    if is_stopped.is_set():
        print("Stopped by SIGTERM; the same command resumes.", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
    if process.exitcode:
        sys.exit(f"This step failed: python {' '.join(words)}")


def _run(script: Path, arguments: list[str]) -> None:
    """As `python script arguments`, with a SIGTERM when the study is killed."""
    study = multiprocessing.parent_process()
    assert study is not None, "this runs in steps only"

    def watch():
        study.join()
        os.kill(os.getpid(), signal.SIGTERM)  # a training saves its state

    threading.Thread(target=watch, daemon=True).start()
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
