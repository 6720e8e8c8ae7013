"""What is read of a tree in a ROOT file, be it a TTree or an RNTuple: branches of numbers or lists of numbers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .batches import BadRows, FileError
from .budget import row_problem
from .storage import file_size

__all__ = ["MAX_BASKET", "RUN_BYTES", "Branch", "BranchFact", "Entries", "Tree", "TreeFacts", "short"]

MAX_BASKET, RUN_BYTES = 2**27, 2**26  # bytes of one unpacked basket or page; of entries read together (at least one)


@dataclass(frozen=True)
class BranchFact:
    """What a branch that can be read declares.

    Args:
        kind: Its type, for people.
        depth: 0 for a number in each entry, 1 for a list of numbers, 2 for a list of lists.
    """

    kind: str
    dtype: np.dtype
    depth: int


@dataclass(frozen=True)
class Branch:
    """A branch that can be read."""

    fact: BranchFact


@dataclass(frozen=True)
class TreeFacts:
    """What a tree declares: see [`Tree`]."""

    num_entries: int
    branches: dict[str, BranchFact]
    unusable: dict[str, str]
    counters: frozenset[str]


@dataclass(frozen=True)
class Entries:
    """Entries of a branch from `first` on, `n` of them.

    Args:
        counts: Length of each entry's list `(n,)`; of numbers None.
        lengths: Of lists of lists: the length of each inner one.
        values: All numbers, one after the other.
    """

    first: int
    counts: np.ndarray | None
    lengths: np.ndarray | None
    values: np.ndarray


class Tree(ABC):
    """The branches of a TTree, or the fields of an RNTuple.

    Attributes:
        branches: Those that can be read.
        unusable: The others, with the reason.
        counters: Those that only count the entries of others.
        num_entries: Of the tree; its branches have as many.
    """

    branches: Mapping[str, Branch]
    unusable: dict[str, str]
    counters: frozenset[str] = frozenset()

    def __init__(self, path: str, num_entries: int):
        self.path, self.num_entries = path, num_entries
        if problem := row_problem((num_entries,), 0, False, file_size(path)):
            raise FileError(f"{path}: {problem}.")

    @abstractmethod
    def read(self, key: str, start: int, stop: int) -> Iterator[Entries | BadRows]:
        """Entries `[start, stop)` of a branch, as many at once as fit into memory; what is damaged as `BadRows`."""

    def first_lengths(self, key: str) -> tuple[int, ...]:
        """The length of the list in the first entry of a branch, or of its inner lists; none if it cannot be read."""
        for run in self.read(key, 0, min(1, self.num_entries)):
            if isinstance(run, Entries) and run.counts is not None:
                return tuple((run.counts if run.lengths is None else run.lengths).tolist())
        return ()

    def unreadable(self, key: str, first: int, last: int, problem: str | Exception) -> BadRows:
        """Entries `[first, last)` of a branch that are damaged, and why."""
        reason = short(problem) if isinstance(problem, Exception) else problem
        return BadRows(self.path, first, last - 1, f"`{key}` is unreadable ({reason})", True)


def short(error: Exception) -> str:
    """The last paragraph of a message, before which uproot tells what it was reading, on many lines."""
    text = str(error).partition("\nin file")[0].strip().rpartition("\n\n")[2].partition(" from ObjectSource")[0]
    nothing = "its description is damaged" if isinstance(error, AssertionError) else type(error).__name__
    text = " ".join(text.split()) or nothing
    return text if len(text) <= 160 else f"{text[:157]}..."
