"""One forked process for a file: a crash, a hang or a bomb in it ends nothing else."""

import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from e2evit.cli.errors import is_for_user

from .case import EXECUTED, SECRET, Case, write_secrets
from .crafted_texts import COMPANIONS
from .readers import Outside, Reader, Wrong, refused_wrongly

__all__ = ["FAULTS", "run_cases"]

SECONDS, KILLED_AFTER = 30, 60
MEMORY, ADDRESSES = 2**30, 6 * 2**30  # bytes resident, and mapped, beyond those of the process that forks
FAULTS = ("wrong value", "refused a good file", "traceback", "crash", "slow", "memory", "outside read", "code run")
LONGEST_MESSAGE = 3000
NOT_WRITTEN = 99  # exit code of a process that could not write its file


@dataclass
class _Child:
    """A process that gives one file to several readers, and what it has said."""

    case: Case
    readers: dict[str, Reader]
    pid: int
    pipe: int
    folder: Path
    began: float = field(default_factory=time.monotonic)
    heard: bytes = b""

    def listen(self) -> list[dict] | None:
        """Outcomes that are new; None once the process has ended."""
        data = os.read(self.pipe, 1 << 16)
        *lines, self.heard = (self.heard + data).split(b"\n")
        outcomes = [json.loads(line) for line in lines]
        for outcome in outcomes:
            del self.readers[outcome["reader"]]
            self.began = time.monotonic()
        return outcomes if data or outcomes else None


def run_cases(
    cases: Iterable[Case],
    readers_of: Callable[[Case], Mapping[str, Reader]],
    folder: Path,
    num_processes: int,
) -> Iterator[dict]:
    """Give each case to its readers.

    Yields:
        `case`, `reader`, `outcome` (`equal`, `read`, `changed`, `refused` or one of [`FAULTS`]), `seconds`, `mib` and
        `detail` of each.
    """
    waiting, children = iter(cases), {}
    ended = False
    while children or not ended:
        while len(children) < num_processes and not ended:
            case = next(waiting, None)
            ended = case is None
            if case is not None and (readers := dict(readers_of(case))):
                child = _start(case, readers, folder)
                children[child.pipe] = child
        ready, *_ = select.select(list(children), [], [], 1.0) if children else ([],)
        for child in [children[pipe] for pipe in ready]:
            outcomes = child.listen()
            if outcomes is None:
                del children[child.pipe]
                yield from _end(child)
                if child.readers:
                    again = _start(child.case, child.readers, folder)
                    children[again.pipe] = again
            else:
                yield from outcomes
        for child in [child for child in children.values() if time.monotonic() - child.began > KILLED_AFTER]:
            os.killpg(child.pid, signal.SIGKILL)


def _start(case: Case, readers: dict[str, Reader], folder: Path) -> _Child:
    own = folder / f"{os.getpid()}-{time.monotonic_ns()}"
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return _Child(case, readers, pid, read, own)
    code = NOT_WRITTEN
    try:
        os.setsid()
        _write(case, own)
        code = 0
        _read(case, readers, own, write)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _end(child: _Child) -> Iterator[dict]:
    """Clean up, and say which reader the process died in, if it did."""
    os.close(child.pipe)
    code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    shutil.rmtree(child.folder, ignore_errors=True)
    if code == NOT_WRITTEN:
        raise RuntimeError(f"The file of {child.case.name!r} cannot be written; the reason is above.")
    if not child.readers:
        return
    reader = next(iter(child.readers))
    del child.readers[reader]
    seconds = time.monotonic() - child.began
    outcome = "slow" if seconds > KILLED_AFTER else "crash"
    detail = signal.Signals(-code).name if code < 0 else f"ended with {code}"
    yield _outcome(child.case, reader, outcome, seconds, 0, detail)


def _outcome(case: Case, reader: str, outcome: str, seconds: float, mib: float, detail: str) -> dict:
    return {"case": case.name, "kind": case.kind, "reader": reader, "outcome": outcome} | {
        "seconds": round(seconds, 2),
        "mib": round(mib),
        "detail": detail,
    }


def _write(case: Case, folder: Path) -> None:
    """In the child: the file, and what is beside it."""
    data = folder / "data"
    data.mkdir(parents=True)
    write_secrets(folder / "outside")
    for name, content in COMPANIONS.get(case.kind, {}).items():
        (data / name).write_bytes(content)
    case.write(folder)


def _read(case: Case, readers: dict[str, Reader], folder: Path, pipe: int) -> None:
    """In the child: give the file to one reader after the other."""
    with (folder / "output").open("w", encoding="utf-8") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    os.chdir(folder / "outside")  # where a relative path must not be looked for
    size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESSES, hard))
    before = _peak()
    for reader in list(readers):
        began = time.monotonic()
        outcome, detail = _try(case, readers[reader], folder)
        seconds, peak = time.monotonic() - began, _peak() - before
        if outcome == "refused" and refused_wrongly(case, reader):
            outcome = "refused a good file"
        if EXECUTED in os.environ:
            outcome = "code run"
        if outcome not in FAULTS and seconds > SECONDS:
            outcome = "slow"
        if outcome not in FAULTS and peak > MEMORY:
            outcome = "memory"
        line = json.dumps(_outcome(case, reader, outcome, seconds, peak / 2**20, detail))
        os.write(pipe, line.encode() + b"\n")


def _try(case: Case, reader: Reader, folder: Path) -> tuple[str, str]:
    try:
        return reader(case, folder), ""
    except Outside as error:
        return "outside read", str(error)
    except Wrong as error:
        return "wrong value", str(error)
    except MemoryError as error:
        return "memory", str(error)
    except Exception as error:
        message = str(error)
        if SECRET.decode() in message:
            return "outside read", message[:LONGEST_MESSAGE]
        clean = is_for_user(error) and message.strip() and len(message) < LONGEST_MESSAGE
        detail = f"{type(error).__name__}: {message}".replace(str(folder), "")[:300]
        return "refused" if clean else "traceback", detail


def _peak() -> int:
    """Bytes resident at most, so far, in this process or one of its own."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return 1024 * max(resource.getrusage(one).ru_maxrss for one in who)
