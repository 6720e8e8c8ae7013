"""ROOT files: their trees, and the branches of TTrees through uproot; for RNTuples see `rntuple`.

How a branch is read follows from its type alone: no expression is evaluated, and no class is compiled from the file's
description of it.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import fsspec
import numpy as np
from fsspec.core import OpenFile

from .batches import BadRows, FileError
from .branches import MAX_BASKET, RUN_BYTES, Branch, BranchFact, Entries, Tree, TreeFacts, short
from .budget import megabytes
from .extras import import_extra
from .rntuple import RNTuple
from .root_blocks import bound_blocks
from .storage import file_size, file_stamp

__all__ = ["describe_trees", "first_lengths", "list_trees", "open_tree", "tree_facts"]

VECTORS = {  # C++ types of the entries of a std::vector
    "bool": "?",
    **{"char": "i1", "short": "i2", "int": "i4", "long": "i8", "long long": "i8", "Long64_t": "i8"},
    **{f"unsigned {name}": kind for name, kind in {"char": "u1", "short": "u2", "int": "u4", "long": "u8"}.items()},
    **{"unsigned long long": "u8", "ULong64_t": "u8", "float": "f4", "double": "f8"},
}
LEAVES = {"TLeafO": "?", "TLeafB": "i1", "TLeafS": "i2", "TLeafI": "i4", "TLeafL": "i8", "TLeafG": "i8"}
LEAVES |= {"TLeafF": "f4", "TLeafD": "f8"}
SHOWN = 3  # lengths of inner lists
TTREE, RNTUPLE = "TTree", "ROOT::RNTuple"


@dataclass(frozen=True)
class TBranch(Branch):
    """A branch of a TTree as uproot has it, and how to read it."""

    branch: Any
    interpretation: Any


@contextmanager
def _open(path: str) -> Iterator[Any]:
    """The file as uproot has it.

    Raises:
        ImportError: if uproot is not installed.
        FileError: if it is damaged, or not a ROOT file.
    """
    uproot = import_extra("uproot", f"The ROOT file {path}", "root")
    bound_blocks(uproot)
    with ExitStack() as stack:
        stream = stack.enter_context(cast(OpenFile, fsspec.open(path, "rb")))
        try:
            file = stack.enter_context(uproot.open(stream, array_cache=None, object_cache=None))
            file.file._streamers = {}  # the file's description of its classes, from which uproot would compile code
            if (size := file_size(path)) < file.file.fEND:
                raise OSError(f"it has {size} bytes of {file.file.fEND}")
        except Exception as error:  # uproot, struct, zlib and others each have their own
            raise _unreadable(path, error) from error
        yield file


def _unreadable(path: str, error: Exception) -> FileError:
    return FileError(f"{path}: not a readable ROOT file ({short(error)}); is it truncated, or an expired link?")


def list_trees(path: str) -> dict[str, str]:
    """Paths of the TTrees and RNTuples in a file, with their classes.

    Raises:
        ImportError: if uproot is not installed.
        FileError: if the file is damaged, or not a ROOT file.
    """
    with _open(path) as file:
        return _trees(file, path)


def _trees(file, path: str) -> dict[str, str]:
    try:
        names = file.classnames(recursive=True, cycle=False)
    except Exception as error:
        raise _unreadable(path, error) from error
    return {name: kind for name, kind in names.items() if kind in (TTREE, RNTUPLE)}


def describe_trees(path: str, lines: list[str]) -> list[str]:
    """Add to `lines` what each tree of a file holds; returns the names of all branches that can be read.

    Raises:
        ImportError: if uproot is not installed.
        FileError: if the file is damaged, or not a ROOT file.
    """
    names: list[str] = []
    trees = list_trees(path)
    for name, kind in trees.items():
        try:
            with open_tree(path, name) as tree:
                lines.append(f"  {name}: {kind}, {tree.num_entries} entries")
                names += tree.branches
                for key, branch in tree.branches.items():
                    lengths = ", ".join(map(str, tree.first_lengths(key)[:SHOWN])) if branch.fact.depth else ""
                    told = f"{lengths} in the first entry" if lengths else ""
                    lines.append(f"    {key:<36}{branch.fact.kind:<24}{told}".rstrip())
                lines += [f"    {key:<36}{problem}" for key, problem in tree.unusable.items()]
        except FileError as error:
            lines.append(f"  {name}: {kind}, {str(error).removeprefix(f'{path}: ')}")
    if not trees:
        lines.append("  no trees")
    return names


def tree_facts(path: str, name: str) -> TreeFacts:
    """What a tree declares; cached until the file changes.

    Raises:
        ImportError: if uproot is not installed.
        FileError: if the file is damaged, or has no such tree.
    """
    facts = _tree_facts(path, name, file_stamp(path))
    if isinstance(facts, str):
        raise FileError(facts)
    return facts


def first_lengths(path: str, name: str, keys: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Lengths of the list in the first entry of some branches, or of its inner lists; none of what cannot be read.

    Raises:
        As [`tree_facts`].
    """
    return _first_lengths(path, name, keys, file_stamp(path))


@lru_cache(16)
def _tree_facts(path: str, name: str, _stamp: str) -> TreeFacts | str:
    """Facts, or why there are none: dozens of schemas may ask."""
    try:
        with open_tree(path, name) as tree:
            facts = {key: branch.fact for key, branch in tree.branches.items()}
            return TreeFacts(tree.num_entries, facts, dict(tree.unusable), tree.counters)
    except FileError as error:
        return str(error)


@lru_cache(16)
def _first_lengths(path: str, name: str, keys: tuple[str, ...], _stamp: str) -> dict[str, tuple[int, ...]]:
    with open_tree(path, name) as tree:
        return {key: tree.first_lengths(key) for key in keys}


@contextmanager
def open_tree(path: str, name: str) -> Iterator[Tree]:
    """A tree of a file; the file is open only within the context, so that processes share no position in it.

    Raises:
        ImportError: if uproot is not installed.
        FileError: if the file is damaged, or has no such tree.
    """
    with _open(path) as file:
        trees = _trees(file, path)
        if name not in trees:
            raise FileError(f"{path} has no tree `{name}` (it holds {', '.join(trees) or 'none'}).")
        try:
            tree = (RNTuple if trees[name] == RNTUPLE else TTree)(path, file[name])
        except FileError:
            raise
        except Exception as error:
            raise _unreadable(path, error) from error
        yield tree


class TTree(Tree):
    """The branches of a TTree, through uproot."""

    def __init__(self, path: str, tree):
        super().__init__(path, int(tree.num_entries))
        self.branches: dict[str, TBranch] = {}
        self.unusable: dict[str, str] = {}
        leaves = [leaf for branch in tree.branches for leaf in branch.member("fLeaves")]
        counts = [leaf.member("fLeafCount") for leaf in leaves]
        self.counters = frozenset(count.member("fName") for count in counts if count is not None)
        times = Counter(branch.name for branch in tree.branches)
        for branch in tree.branches:
            read = _describe(branch)
            if times[branch.name] > 1:
                self.unusable[branch.name] = f"the tree has {times[branch.name]} branches of this name"
            elif isinstance(read, str):
                self.unusable[branch.name] = read
            elif branch.num_entries != self.num_entries:
                self.unusable[branch.name] = f"it has {branch.num_entries} entries, and the tree {self.num_entries}"
            else:
                self.branches[branch.name] = read

    def read(self, key: str, start: int, stop: int) -> Iterator[Entries | BadRows]:
        branch = self.branches[key]
        for first, last, problem in self._runs(branch.branch, start, stop):
            if problem is not None:
                yield self.unreadable(key, first, last, problem)
                continue
            try:
                yield _read(branch, first, last)
            except Exception as error:  # one for each decoder
                if last - first == 1:
                    yield self.unreadable(key, first, last, error)
                else:  # name the damaged entries and keep the others
                    for entry in range(first, last):
                        yield from self.read(key, entry, entry + 1)

    def _runs(self, branch, start: int, stop: int) -> Iterator[tuple[int, int, str | None]]:
        """Entries whose baskets are read together, or the reason why a basket cannot be."""
        borders = np.asarray(branch.entry_offsets, np.int64)
        if borders[0] != 0 or borders[-1] != self.num_entries or (np.diff(borders) < 0).any():
            yield start, stop, "the list of its baskets is damaged"
            return
        first, size = start, 0
        for number in range(int(np.searchsorted(borders, start, "right")) - 1, len(borders) - 1):
            begin, end = max(start, int(borders[number])), min(stop, int(borders[number + 1]))
            if begin >= stop:
                break
            try:
                unpacked = int(branch.basket_uncompressed_bytes(number))
                problem = f"a basket unpacks to {megabytes(unpacked)}" if not 0 <= unpacked <= MAX_BASKET else None
            except Exception as error:
                unpacked, problem = 0, short(error)
            if begin > first and (problem is not None or size + unpacked > RUN_BYTES):
                yield first, begin, None
                first, size = begin, 0
            if problem is not None:
                yield begin, end, problem
                first = end
            size += unpacked
        if first < stop:
            yield first, stop, None


def _describe(branch) -> TBranch | str:
    """How to read a branch, or why that is not possible."""
    from uproot.containers import AsVector
    from uproot.interpretation.jagged import AsJagged
    from uproot.interpretation.numerical import AsDtype
    from uproot.interpretation.objects import AsObjects

    if class_name := branch.member("fClassName", none_if_missing=True):
        kind = " ".join(class_name.replace("std::", "").replace(" >", ">").split())
        depth = kind.count("vector<")
        numbers = kind.removeprefix("vector<" * depth).removesuffix(">" * depth)
        if depth not in (1, 2) or numbers not in VECTORS or (depth == 2 and numbers == "bool"):
            return f"it holds {class_name[:100]}, not numbers"
        stored = np.dtype(VECTORS[numbers]).newbyteorder(">")
        nested = AsObjects(AsVector(True, AsVector(False, stored)), branch)
        fact = BranchFact(kind, stored.newbyteorder("="), depth)
        return TBranch(fact, branch, nested if depth == 2 else AsJagged(AsDtype(stored), header_bytes=10))
    leaves = branch.member("fLeaves")
    if len(leaves) != 1 or leaves[0].classname not in LEAVES:
        return f"it holds {', '.join(leaf.classname for leaf in leaves)[:100] or 'nothing'}, not numbers"
    (leaf,) = leaves
    name = LEAVES[leaf.classname]
    stored = np.dtype(name.replace("i", "u") if leaf.member("fIsUnsigned") else name).newbyteorder(">")
    native, length = stored.newbyteorder("="), int(leaf.member("fLen"))
    shape = f"[{length}]" * (length > 1)
    content = AsDtype((stored, (length,)) if length > 1 else stored)
    if leaf.member("fLeafCount") is None:
        return TBranch(BranchFact(f"{native}{shape}", native, int(length > 1)), branch, content)
    return TBranch(BranchFact(f"{native}[]{shape}", native, 1 + (length > 1)), branch, AsJagged(content))


def _read(branch: TBranch, first: int, last: int) -> Entries:
    import awkward as ak

    array: Any = branch.branch.array(branch.interpretation, entry_start=first, entry_stop=last, array_cache=None)
    if len(array) != last - first:
        raise OSError(f"{len(array)} entries instead of {last - first}")
    counts = lengths = None
    if branch.fact.depth > 0:
        counts = ak.to_numpy(ak.num(array, axis=1)).astype(np.int64)
    if branch.fact.depth > 1:
        lengths = ak.to_numpy(ak.ravel(ak.num(array, axis=2))).astype(np.int64)
    values = ak.to_numpy(ak.ravel(array)).astype(branch.fact.dtype, copy=False)
    return Entries(first, counts, lengths, values)
