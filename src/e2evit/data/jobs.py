"""Long work in pieces, on local processes or a Dask cluster, with progress; files are written whole or not at all."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, get_all_start_methods, get_context, parent_process, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from traceback import walk_tb

from tqdm import tqdm

from .manifest import sync

__all__ = [
    "cannot_write",
    "check_replaceable",
    "claim",
    "follow",
    "remove_leftovers",
    "workers",
    "write_whole",
    "write_whole_text",
]

SCHEDULER_TIMEOUT = 30  # seconds
SHOWN, LONG = 3, 80  # entries of a setting that differ, and characters of each


@contextmanager
def workers(num_proc: int, scheduler: str | None, preload: str) -> Iterator[Callable]:
    """A function that starts jobs (tuples of a function and its arguments) and yields results as they come.

    Args:
        num_proc: Local processes; 0 to run the jobs in this one.
        scheduler: Address of a Dask scheduler (`tcp://...`) whose workers run the jobs instead.
        preload: Module the functions need.

    Raises:
        ImportError: for a scheduler, if the `cluster` extra is not installed.
        OSError: if the scheduler does not answer.
        RuntimeError: if a worker dies.
    """
    if scheduler is None and num_proc == 0:
        yield lambda jobs: (function(*arguments) for function, *arguments in jobs)
        return
    if scheduler is None:
        pool = ProcessPoolExecutor(num_proc, mp_context=_context(preload), initializer=_start_worker)
        try:
            yield lambda jobs: (future.result() for future in as_completed([pool.submit(_do, *job) for job in jobs]))
        except BrokenExecutor as error:
            raise RuntimeError(
                "A worker process was killed, perhaps for lack of memory. Run the same command again, with fewer "
                "processes; finished shards are kept."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
        return
    try:
        import distributed.scheduler
    except ImportError as error:
        raise ImportError(f"{error}. A scheduler needs Dask: pip install 'e2evit[cluster]'.") from error
    try:
        client = distributed.Client(scheduler, timeout=SCHEDULER_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OSError(f"No Dask scheduler answers at {scheduler} within {SCHEDULER_TIMEOUT} s ({error}).") from error
    with client:

        def run(jobs):
            # a shard is the same wherever it is made: another worker takes over the tasks of one that dies
            futures = [client.submit(_do, *job, pure=False) for job in jobs]
            for future in distributed.as_completed(futures, loop=client.loop):
                yield future.result()

        try:
            yield run
        except distributed.scheduler.KilledWorker as error:
            raise RuntimeError(f"{error} Run the same command again; finished shards are kept.") from error


def _do(function: Callable, *arguments):
    """A job, whose error keeps the module that raised it: its traceback stays in the worker."""
    try:
        return function(*arguments)
    except Exception as error:
        *_, (frame, _) = walk_tb(error.__traceback__)
        vars(error)["raised_in"] = frame.f_globals["__name__"]
        raise


def _start_worker() -> None:
    """End this worker when its parent is killed, so that it does not keep writing into the folder."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that a job removes its half file
    parent = parent_process()
    assert parent is not None, "this runs in workers only"

    def watch():
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _context(preload: str):
    """Fork workers from a server that only imports: the threads of this process do not survive a fork."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.interrupts", preload])
    resource_tracker.ensure_running()  # or the server starts it, which unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()  # until `interrupts` is imported, Ctrl-C would show its traceback
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def follow(results: Iterator[int], what: str, unit: str, total: int, kept: int = 0) -> None:
    """Show progress, rate and time left: a bar on a terminal, lines elsewhere.

    Args:
        results: Number of units each finished job made.
        kept: Units that were there before.
    """
    if kept == total:
        return
    start, made = time.perf_counter(), 0
    scale = total >= 10**6  # k, M and G instead of digits
    with tqdm(
        desc=what, unit=unit, unit_scale=scale, total=total, initial=kept, smoothing=0, disable=None
    ) as progress:
        for number in results:
            made += number
            progress.update(number)
            if progress.disable:
                rate = max(made, 1) / (time.perf_counter() - start)
                left = (total - kept - made) / rate
                print(f"{what}: {kept + made}/{total} {unit}s, {rate:.3g} a second, {left:.0f} s left", flush=True)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then move it there; another worker may be making the same file.

    Raises:
        OSError: if `path` is not a file, or writing fails, e.g. on a full disk; it says what to do. No half file is
            left.
    """
    check_replaceable(path)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        write(temporary)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_replaceable(path: Path) -> None:
    """Refuse a path that is a folder, a device or a pipe: renaming a file to it would replace it.

    Raises:
        OSError: naming it.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} cannot be written: it is a {'folder' if path.is_dir() else 'device or a pipe'}.")


def write_whole_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all, as [`write_whole`] does."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def cannot_write(path: Path, error: OSError) -> OSError:
    """An error that says which file, why, and what to do."""
    return OSError(
        f"{path} cannot be written: {error.strerror or error}. Free space or choose another folder, then run the same "
        "command again; what is finished is kept."
    )


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of a run that was killed."""
    for left_over in folder.glob(".*.tmp"):
        left_over.unlink(missing_ok=True)


def claim(path: Path, record: dict, newer: Collection[str] = ()) -> None:
    """Write the settings of a run to `path`, or compare them with those an earlier run left there.

    Args:
        newer: Settings that records of earlier versions lack, and that are compared only where they are there.

    Raises:
        ValueError: if they differ, naming the settings, or cannot be read.
    """
    if path.exists():
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(earlier, dict):
                raise ValueError(f"a {type(earlier).__name__} instead of settings")
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): restore it, or choose another folder.") from error
        compared = [key for key in record if key in earlier or key not in newer]
        differing = [key for key in compared if earlier.get(key) != record[key]]
        if differing:
            changes = ", ".join(_difference(key, earlier.get(key), record.get(key)) for key in differing)
            raise ValueError(f"{path.parent} was made with other settings ({changes}); choose another folder.")
    else:
        write_whole_text(path, json.dumps(record, indent=2) + "\n")


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= LONG else f"{text[:LONG]}..."


def _difference(key: str, there, now) -> str:
    """A setting that differs; of mappings, as of many files and their sizes, the first entries that do."""
    if not (isinstance(there, dict) and isinstance(now, dict)):
        return f"{key}: {_short(there)} there, {_short(now)} now"
    names = sorted(name for name in there.keys() | now.keys() if there.get(name) != now.get(name))
    shown = {name: [_short(side.get(name, "none")) for side in (there, now)] for name in names[:SHOWN]}
    told = [f"{key} {name}: {before} there, {after} now" for name, (before, after) in shown.items()]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(told)}{more}"
