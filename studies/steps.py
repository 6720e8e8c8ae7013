"""The steps of a study: scripts, each in a process of its own, so that none holds the memory of the one before."""

import json
import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from e2evit.data.jobs import write_whole_text

__all__ = [
    "RECIPES",
    "Job",
    "ParallelArguments",
    "check_unchanged",
    "digest",
    "is_unchanged",
    "run_jobs",
    "run_script",
]

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
POLL_SECONDS = 0.5

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["e2evit.training"])  # once instead of by every step: torch takes seconds


@dataclass
class ParallelArguments:
    """How many trainings of a study run at once, and where.

    Raises:
        ValueError: for another device, one that is not there, or no run at all.
    """

    device: str = field(
        default="auto",
        metadata={"help": "cuda: GPUs, in turn if there are several; cpu; or auto: cuda if there is one."},
    )
    parallel_runs: int = field(
        default=1,
        metadata={"help": "Trainings at once, several on one GPU if need be; their output goes to log files."},
    )

    def __post_init__(self):
        import torch

        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"`device` is auto, cpu or cuda, got {self.device!r}.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("`device: cuda`: PyTorch sees no GPU here (docs/gpu.md says why that may be).")
        if self.parallel_runs < 1:
            raise ValueError(f"`parallel_runs` must be 1 or more, got {self.parallel_runs}.")
        if self.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for all steps of the study

    @property
    def gpus(self) -> list[str]:
        """Those that this process sees, by the names that its steps can be given."""
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = list(map(str, range(torch.cuda.device_count()))) if visible is None else visible.split(",")
        return names[: torch.cuda.device_count()]


@dataclass
class Job:
    """Steps that follow one another, such as training a model and measuring it.

    Args:
        steps: A script, such as "scripts/train.py", and its arguments.
    """

    name: str
    steps: list[tuple]


def digest(*parts: Path | dict | list | str) -> str:
    """A hash of what defines a training: recipes, whose text counts, and settings."""
    texts = [part.read_text(encoding="utf-8") if isinstance(part, Path) else json.dumps(part) for part in parts]
    return sha256("".join(texts).encode()).hexdigest()


def is_unchanged(note: Path, digest: str) -> bool:
    """Whether a training was begun with the recipe that it has now; `note` was left by [`check_unchanged`]."""
    return note.exists() and note.read_text(encoding="utf-8") == digest


def check_unchanged(note: Path, digest: str) -> None:
    """Note the recipe of a training before it starts.

    Raises:
        ValueError: if it was begun with another one.
    """
    if note.exists() and not is_unchanged(note, digest):
        raise ValueError(
            f"The recipe of {note.name} has changed since it was begun: choose another `--output_dir`, or remove "
            f"{note} and what was trained and measured."
        )
    note.parent.mkdir(parents=True, exist_ok=True)
    write_whole_text(note, digest)


def run_script(script: str, *arguments) -> None:
    """Run a script in a process of its own, which gets a SIGTERM when this one does or is killed.

    Raises:
        SystemExit: if it fails, or at SIGTERM with the code of a training that can be resumed.
    """
    run_jobs([Job(script, [(script, *arguments)])])


def run_jobs(jobs: Iterable[Job], parallel: ParallelArguments | None = None, log_dir: Path | None = None) -> None:
    """Run all steps of all jobs, several jobs at once if `parallel` says so.

    Each step gets a SIGTERM when this process does or is killed. With several jobs at once, the output of each goes to
    `log_dir/NAME.log`, each has its share of the cores, and a step that fails ends its own job only.

    Raises:
        SystemExit: if a step failed, or at SIGTERM with the code of a training that can be resumed.
    """
    number = 1 if parallel is None else parallel.parallel_runs
    log_dir = log_dir if number > 1 else None
    waiting, running, failed = deque(job for job in jobs if job.steps), {}, []
    total = len(waiting)
    if log_dir is not None:
        log_dir.mkdir(parents=True, exist_ok=True)
    _start_server()
    with _noted_sigterm() as stopped:
        try:
            while running or (waiting and not stopped.is_set()):
                for slot in range(number):
                    if slot not in running and waiting and not stopped.is_set():
                        running[slot] = _Running(waiting.popleft(), slot, parallel, log_dir)
                for slot, job in list(running.items()):
                    if stopped.is_set():
                        job.stop()
                    if not job.is_over(POLL_SECONDS / len(running)):
                        continue
                    del running[slot]
                    if job.failed_step is not None and not stopped.is_set():
                        failed.append(job)
                        waiting = waiting if number > 1 else deque()
                    if log_dir is not None:
                        state = "stopped" if stopped.is_set() else "FAILED" if job.failed_step is not None else "done"
                        print(
                            f"{state}: {job.job.name} ({total - len(waiting) - len(running)} of {total})", flush=True
                        )
        except BaseException:  # Ctrl-C, or a log that cannot be written
            for job in running.values():
                job.stop()
                job.process.join()
            raise
    if stopped.is_set():
        print("Stopped by SIGTERM; the same command resumes.", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
    if failed:
        sys.exit("\n".join(f"This step failed: {job.failed_step}" for job in failed))


class _Running:
    """A job whose steps run one after the other, in a place that no other job has."""

    def __init__(self, job: Job, slot: int, parallel: ParallelArguments | None, log_dir: Path | None):
        self.job, self.waiting, self.failed_step = job, deque(job.steps), None
        self.log = None if log_dir is None else log_dir / f"{job.name.replace('/', '_')}.log"
        number = 1 if parallel is None else parallel.parallel_runs
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.cores = (cores[slot::number] or [cores[slot % len(cores)]]) if number > 1 and cores else []
        gpus = [] if parallel is None or number == 1 else parallel.gpus
        self.gpu = gpus[slot % len(gpus)] if len(gpus) > 1 else None
        self.is_stopped = False
        if self.log is not None:
            self.log.touch()  # an error here, before the step runs
            print(f"started: {job.name}, with its output in {self.log}", flush=True)
        self._next()

    def _next(self) -> None:
        script, *words = (str(word) for word in self.waiting.popleft())
        self.command = f"python {' '.join((script, *words))}"
        if self.log is None:
            print(f"\n$ {self.command}", flush=True)
        self.process = _PROCESSES.Process(target=_run, args=(ROOT / script, words, self.log, self.cores, self.gpu))
        self.process.start()

    def is_over(self, seconds: float) -> bool:
        """Whether no step is left, waiting for at most some seconds; starts the next one if there is one."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            return False
        if code := self.process.exitcode:
            how = f" (killed by signal {-code}; 9 is often for want of memory)" if code < 0 else ""
            self.failed_step = self.command + how + ("" if self.log is None else f" (see {self.log})")
            return True
        if self.waiting:
            self._next()
            return False
        return True

    def stop(self) -> None:
        if not self.is_stopped:  # a second signal would end a training that closes its files
            self.is_stopped = True
            self.waiting.clear()
            self.process.terminate()  # a training saves its state


def _start_server() -> None:
    """Start the process that steps fork from. It must ignore the SIGTERM that a scheduler may send to the whole group:
    without it, nobody would wait for the steps.
    """
    resource_tracker.ensure_running()  # which unblocks the signal, and would otherwise be started by the next call
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _noted_sigterm():
    """An event that is set at SIGTERM, of which a second one then changes nothing."""
    stopped = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        yield stopped
    finally:
        if not stopped.is_set():
            signal.signal(signal.SIGTERM, before)


def _run(script: Path, arguments: list[str], log: Path | None, cores: list[int], gpu: str | None) -> None:
    """As `python script arguments`, with a SIGTERM when the study is killed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    study = multiprocessing.parent_process()
    assert study is not None, "this runs in steps only"

    def watch():
        study.join()
        os.kill(os.getpid(), signal.SIGTERM)  # a training saves its state

    threading.Thread(target=watch, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before CUDA starts
    if cores:
        os.sched_setaffinity(0, cores)
    with ExitStack() as stack:
        if log is not None:
            file = stack.enter_context(log.open("a", encoding="utf-8"))
            file.write(f"\n$ python {script} {' '.join(arguments)}\n")
            file.flush()
            for stream in (sys.stdout, sys.stderr):
                os.dup2(file.fileno(), stream.fileno())
        sys.argv = [str(script), *arguments]
        sys.path.insert(0, str(script.parent))
        runpy.run_path(str(script), run_name="__main__")
