"""RNTuples of ROOT files, read page by page through uproot, which itself reads whole clusters.

Terms and layout: `tree/ntuple/doc/BinaryFormatSpecification.md` in ROOT's sources. A cluster holds consecutive
entries; a field's numbers, and the ends of its lists, lie in pages of columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .batches import BadRows, FileError
from .branches import MAX_BASKET, RUN_BYTES, Branch, BranchFact, Entries, Tree, short
from .budget import megabytes

__all__ = ["RNTuple"]

LISTS = ("std::vector<", "ROOT::VecOps::RVec<")
LEAF, COLLECTION = 0, 1  # structural roles of fields
CHECKSUM = 8  # bytes of XXH3 after a page


@dataclass(frozen=True)
class Field(Branch):
    """A field of numbers.

    Args:
        lists: Ids of the fields whose columns hold the ends of its lists, from the outside.
        fixed: How many numbers its arrays of fixed size have; 1 without.
        numbers: Id of the field whose column holds its numbers.
    """

    lists: tuple[int, ...]
    fixed: int
    numbers: int


class RNTuple(Tree):
    """The top-level fields of an RNTuple.

    Raises:
        FileError: if its description contradicts itself or the file.
    """

    def __init__(self, path: str, ntuple):
        self.ntuple = ntuple
        for part in ("Header", "Footer"):
            if (size := max(ntuple.member(f"fLen{part}"), ntuple.member(f"fNBytes{part}"))) > MAX_BASKET:
                raise FileError(f"{path}: the {part.lower()} of its RNTuple takes {megabytes(size)}.")
        for group in ntuple.footer.cluster_group_records:
            self._check_page_list(group.page_list_link)
        clusters = ntuple.cluster_summaries
        self.borders = np.cumsum([0, *(cluster.num_entries for cluster in clusters)])
        super().__init__(path, int(self.borders[-1]))
        if [cluster.num_first_entry for cluster in clusters] != self.borders[:-1].tolist():
            raise FileError(f"{path}: the clusters of its RNTuple overlap, or some are missing.")
        self.columns: dict[int, list[Any]] = {}
        for column in ntuple.column_records:
            self.columns.setdefault(column.field_id, []).append(column)
        records, self.children = ntuple.field_records, {}
        for number, record in enumerate(records):
            if record.parent_field_id != number:
                self.children.setdefault(record.parent_field_id, []).append(number)
        self.branches: dict[str, Field] = {}
        self.unusable: dict[str, str] = {}
        for number, record in enumerate(records):
            if record.parent_field_id == number:
                field = self._describe(number)
                if isinstance(field, str):
                    self.unusable[record.field_name] = field
                else:
                    self.branches[record.field_name] = field

    def _check_page_list(self, link) -> None:
        if (size := max(link.env_uncomp_size, link.locator.num_bytes)) > MAX_BASKET:
            raise OSError(f"a list of pages takes {megabytes(size)}")
        chunk, _ = self.ntuple.read_locator(link.locator, link.env_uncomp_size)
        _check(chunk.raw_data, "a list of pages")

    def _describe(self, number: int) -> Field | str:
        """How to read a field, or why that is not possible."""
        records, lists, fixed, arrays = self.ntuple.field_records, [], 1, False
        type_name = records[number].type_name
        kind = type_name.replace("std::", "").replace("ROOT::VecOps::", "")
        unknown = f"it holds {type_name[:100] or 'a record'}, not numbers"
        while (record := records[number]).source_field_id is None:
            inner, columns = self.children.get(number, []), self.columns.get(number, [])
            if record.struct_role == LEAF and columns and not inner:
                if len({column.repr_idx for column in columns}) < len(columns):
                    return unknown  # text: it has a column of ends, and one of characters
                if any(column.first_element_index for column in columns):
                    return "the first entries lack it"
                dtype = self.ntuple.get_field_metadata(columns[0].idx).dtype_result
                depth = len(lists) + arrays
                if dtype.kind not in "?biuf" or depth > 2 or fixed * dtype.itemsize > MAX_BASKET:
                    return unknown
                return Field(BranchFact(kind, dtype, depth), tuple(lists), fixed, number)
            if record.struct_role == COLLECTION and record.type_name.startswith(LISTS) and not arrays:
                lists.append(number)
            elif record.struct_role == LEAF and record.repetition > 0:
                fixed, arrays = fixed * record.repetition, True
            else:
                return unknown
            if len(inner) != 1:
                return unknown
            (number,) = inner
        return f"it is a view of {records[record.source_field_id].field_name}"

    def read(self, key: str, start: int, stop: int) -> Iterator[Entries | BadRows]:
        for cluster in range(len(self.borders) - 1):
            begin, end = max(start, int(self.borders[cluster])), min(stop, int(self.borders[cluster + 1]))
            if begin < end:
                yield from self._read_cluster(key, cluster, begin, end)

    def _read_cluster(self, key: str, cluster: int, begin: int, end: int) -> Iterator[Entries | BadRows]:
        """Entries `[begin, end)`, which are in one cluster."""
        field, first = self.branches[key], int(self.borders[cluster])
        bounds, counts, lengths = np.arange(begin - first, end - first + 1), None, None
        try:
            held = int(self.borders[cluster + 1]) - first
            for number, lists in enumerate(field.lists):
                ends = self._ends(cluster, lists, held)
                if number == 0:
                    counts = np.diff(ends[bounds])
                else:
                    lengths = np.diff(ends[bounds[0] : bounds[-1] + 1])
                bounds, held = ends[bounds], int(ends[-1])
            found = sum(page.num_elements for page in self._pages(cluster, field.numbers)[1])
            if found != held * field.fixed:
                raise OSError(f"a cluster has {found} numbers instead of {held * field.fixed}")
        except Exception as error:  # one for each decoder
            yield self.unreadable(key, begin, end, error)
            return
        if field.fact.depth > len(field.lists):  # arrays of fixed size
            if counts is None:
                counts = np.full(end - begin, field.fixed)
            else:
                lengths = np.full(bounds[-1] - bounds[0], field.fixed)
        bounds, at_once = bounds * field.fixed, RUN_BYTES // field.fact.dtype.itemsize
        inner = None if counts is None or lengths is None else np.cumsum([0, *counts])
        low = 0
        while low < end - begin:
            high = max(low + 1, int(np.searchsorted(bounds, bounds[low] + at_once, "right")) - 1)
            for x, y, values in self._values(field, cluster, bounds[low : high + 1]):
                x, y = low + x, low + y
                if isinstance(values, str):
                    yield self.unreadable(key, begin + x, begin + y, values)
                    continue
                of_lists = None if lengths is None or inner is None else lengths[inner[x] : inner[y]]
                yield Entries(begin + x, None if counts is None else counts[x:y], of_lists, values)
            low = high

    def _values(self, field: Field, cluster: int, bounds: np.ndarray) -> Iterator[tuple[int, int, np.ndarray | str]]:
        """The numbers of entries that begin and end at `bounds` of a column, or what is wrong; ranges of entries, in
        order."""
        low, high, reached, dtype = int(bounds[0]), int(bounds[-1]), 0, field.fact.dtype
        damage: list[str | None] = [None] * (len(bounds) - 1)
        if (high - low) * dtype.itemsize > MAX_BASKET:  # of one entry
            yield 0, 1, f"an entry takes {megabytes((high - low) * dtype.itemsize)}"
            return
        values = np.zeros(high - low, dtype)
        column, pages = self._pages(cluster, field.numbers)
        for number, page in enumerate(pages):
            begin, reached = reached, reached + page.num_elements
            if begin >= high or reached <= low:
                continue
            x, y = max(begin, low), min(reached, high)
            try:
                values[x - low : y - low] = self._page(cluster, column, number)[x - begin : y - begin]
            except Exception as error:
                for entry in np.flatnonzero((bounds[:-1] < y) & (bounds[1:] > x)):
                    damage[entry] = short(error)
        first = 0
        for last in range(1, len(damage) + 1):
            if last == len(damage) or damage[last] != damage[first]:
                yield first, last, damage[first] or values[bounds[first] - low : bounds[last] - low]
                first = last

    def _ends(self, cluster: int, lists: int, number: int) -> np.ndarray:
        """Where lists begin, and the last one ends, in what they are lists of `(number + 1,)`."""
        column, pages = self._pages(cluster, lists)
        if (found := sum(page.num_elements for page in pages)) != number:
            raise OSError(f"a cluster has {found} lists instead of {number}")
        if 8 * number > MAX_BASKET:
            raise OSError(f"the lengths of the lists of a cluster take {megabytes(8 * number)}")
        for page in pages:
            self._check_page(page)
        metadata = self.ntuple.get_field_metadata(column)
        ends = np.zeros(number + 1, np.int64)
        ends[1:] = self.ntuple.read_cluster_pages(cluster, column, metadata)
        if (np.diff(ends) < 0).any():
            raise OSError("its lists overlap")
        return ends

    def _pages(self, cluster: int, field: int) -> tuple[int, list[Any]]:
        """The column of a field that a cluster has, of several representations, and its pages."""
        held = self.ntuple.page_link_list[cluster]
        for column in self.columns[field]:
            if column.idx < len(held) and not held[column.idx].suppressed:
                return column.idx, held[column.idx].pages
        raise OSError("a cluster lacks it")

    def _page(self, cluster: int, column: int, number: int) -> np.ndarray:
        """The numbers of a page."""
        page, metadata = (
            self.ntuple.page_link_list[cluster][column].pages[number],
            self.ntuple.get_field_metadata(column),
        )
        if (size := max(page.num_elements * metadata.dtype.itemsize, page.locator.num_bytes)) > MAX_BASKET:
            raise OSError(f"a page unpacks to {megabytes(size)}")
        self._check_page(page)
        values = np.empty(page.num_elements, metadata.dtype)
        self.ntuple.read_page(values, cluster, column, number, metadata)
        self.ntuple.post_process(values, metadata)
        return values

    def _check_page(self, page) -> None:
        if page.has_checksum and page.locator.num_bytes <= MAX_BASKET:
            begin = page.locator.offset
            stored = self.ntuple.file.source.chunk(begin, begin + page.locator.num_bytes + CHECKSUM)
            _check(stored.raw_data, "a page")


def _check(stored: np.ndarray, what: str) -> None:
    """Compare bytes with the checksum behind them."""
    from xxhash import xxh3_64_intdigest  # uproot needs it, too

    if xxh3_64_intdigest(stored[:-CHECKSUM].tobytes()) != int.from_bytes(stored[-CHECKSUM:].tobytes(), "little"):
        raise OSError(f"{what} is damaged (checksum)")
