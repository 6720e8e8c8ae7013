"""One file to read, what it should give, and damage to whole files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from zlib import crc32

import h5py
import numpy as np

from .sample import IMAGES, Intact, Ranges

__all__ = ["EXECUTED", "SECRET", "Case", "Payload", "mutants", "whole", "write_secrets"]

SECRET = b"SENTINEL"
EXECUTED = "FUZZ_EXECUTED"  # in the environment of a process that ran code out of a file
WEIGHTS = (0.4, 0.15, 0.1, 0.1, 0.1, 0.1, 0.05)


@dataclass(frozen=True)
class Case:
    """A file that someone else wrote.

    Attributes:
        name: The same in every run.
        kind: What it claims to be, by which readers are chosen.
        file_name: The file to read, in the folder `data`.
        write: Writes `data` and, beside it, whatever links lead to.
        detectable: Whether the damage is to bytes that a checksum covers, so that other values are a fault.
        images: What a reader that accepts it must return; None where that is not the question.
        readable: Rows that `e2evit prepare --on_bad_rows skip` must deliver; None if it may refuse the file.
    """

    name: str
    kind: str
    file_name: str
    write: Callable[[Path], None]
    detectable: bool = True
    images: np.ndarray | None = field(default_factory=lambda: IMAGES, repr=False)
    readable: tuple[int, ...] | None = None


class Payload:
    """Leaves a trace where it is unpickled."""

    def __reduce__(self):
        return exec, (f"import os; os.environ[{EXECUTED!r}] = '1'",)


def write_secrets(folder: Path) -> None:
    """Files beside `data` that no case may make a reader open."""
    folder.mkdir()
    values = np.frombuffer(SECRET * (IMAGES.nbytes // len(SECRET)), np.float32).reshape(IMAGES.shape)
    (folder / "secret.raw").write_bytes(values.tobytes())
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = file["group/x"] = values


def whole(kind: str, intact: Intact) -> Case:
    """The file as it is, which its readers must accept."""
    every = tuple(range(intact.rows))
    return Case(
        f"whole {kind}",
        intact.format,
        intact.file_name,
        partial(_write, intact.file_name, intact.data),
        readable=every,
    )


def mutants(kind: str, intact: Intact, number: int, seed: int) -> Iterator[Case]:
    """Damaged copies of a file, the same for the same seed."""
    for index in range(number):
        rng = np.random.default_rng([seed, crc32(kind.encode()), index])
        data, touched = _mutate(intact.data, rng)
        covered = all(
            any(first <= start and stop <= last for first, last in intact.covered) for start, stop in touched
        )
        yield Case(
            f"mutated {kind} {index:04d}",
            intact.format,
            intact.file_name,
            partial(_write, intact.file_name, data),
            detectable=covered or data == intact.data,
        )


def _write(file_name: str, data: bytes, folder: Path) -> None:
    (folder / "data" / file_name).write_bytes(data)


def _mutate(data: bytes, rng: np.random.Generator) -> tuple[bytes, Ranges]:
    """Damage in up to three places, and the bytes it touches.

    A truncation touches nothing: every format but a bare array says how long it is.
    """
    places = sorted({_place(len(data), rng) for _ in range(rng.integers(1, 4))}, reverse=True)
    mutated, touched = bytearray(data), []
    for first in places:  # from the back, so that places stay what they are
        length = int(min(rng.geometric(0.05), len(data) - first))
        match rng.choice(["bit", "byte", "zeros", "noise", "delete", "repeat", "truncate"], p=WEIGHTS):
            case "bit":
                mutated[first] ^= 1 << int(rng.integers(8))
                length = 1
            case "byte":
                mutated[first] = int(rng.integers(256))
                length = 1
            case "zeros":
                mutated[first : first + length] = bytes(length)
            case "noise":
                mutated[first : first + length] = rng.bytes(length)
            case "delete":
                del mutated[first : first + length]
            case "repeat":
                mutated[first:first] = mutated[first : first + length]
            case "truncate":
                del mutated[first:]
                continue
        touched.append((first, first + length))
    return bytes(mutated), touched


def _place(size: int, rng: np.random.Generator) -> int:
    """Anywhere, or near one of the ends, where headers and footers are."""
    place = int(rng.integers(size))
    near = place // 20
    return int(rng.choice([place, near, size - 1 - near], p=(0.6, 0.2, 0.2)))
