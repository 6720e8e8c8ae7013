"""How a command ends: one line for a user's mistake, a traceback for a bug, an exit code for both."""

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

__all__ = ["UsageError", "is_for_user", "one_line_errors", "suggest"]

EXPECTED = (FloatingPointError, ImportError, OSError, ValueError)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
HINTS = {
    FileExistsError: "exists already",
    IsADirectoryError: "is a folder, not a file",
    NotADirectoryError: "is not in a folder",
}
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class UsageError(ValueError):
    """The command line is wrong."""

    exit_code = 2


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """End the process with `program: message` instead of a traceback where the message is meant for the user.

    The exit code is the exception's `exit_code`, else 1. Of several processes on a machine, only the first prints.
    `E2EVIT_DEBUG=1` shows the traceback of every error.

    A full disk gets one line whatever error a library makes of it.

    Raises:
        SystemExit: for an exception that is meant for the user; all others pass.
    """
    try:
        yield
    except KeyboardInterrupt:
        _print(f"{program}: interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        disk = None if is_for_user(error) else _disk_error(error)
        if os.environ.get("E2EVIT_DEBUG") or not (disk or is_for_user(error)):
            raise
        _print(f"{program}: {_in_words(disk or error)}")
        sys.exit(getattr(error, "exit_code", 1))


def _in_words(error: Exception) -> str:
    hint = HINTS.get(type(error))
    if hint is not None and isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} {hint}: choose another path."
    return str(error).strip() or type(error).__name__


def suggest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """` (did you mean ...?)` for a misspelt word, or nothing."""
    close = get_close_matches(word.lstrip("-_"), list(known), n=1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


def is_for_user(error: Exception) -> bool:
    """Whether the message explains the error; a `RuntimeError` does so only if e2evit raised it, or its worker."""
    if isinstance(error, EXPECTED) or hasattr(error, "exit_code"):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = getattr(error, "raised_in", frame.f_globals["__name__"])
    return isinstance(error, RuntimeError) and module.split(".")[0] == "e2evit"


def _disk_error(error: BaseException | None) -> OSError | None:
    """What the system said of the disk, behind an error of a library; safetensors has only its number in a text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error
        if (number := re.search(r"\(os error (\d+)\)", str(error))) and int(number[1]) in NO_ROOM:
            return OSError(int(number[1]), f"{os.strerror(int(number[1]))} ({error})")
        error = error.__cause__ or error.__context__
    return None


def _print(line: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        sys.stdout.flush()
        print(line, file=sys.stderr, flush=True)
