"""Rows that stay on a device, so that no batch is made on the host: half a million jets are 3 GB."""

import logging
from collections.abc import Sequence
from copy import copy

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate import Accelerator
from datasets import Dataset

from .collate import LISTS, RowTables
from .prediction import progress_bar

__all__ = ["ResidentRows", "choose_resident"]

logger = logging.getLogger(__name__)

CHUNK = 1024  # rows read at once
SHARE = 0.5  # of the free memory of a GPU that rows may take
PIXEL_BYTES = 8  # an index and a value
ENTRIES = (*LISTS, "candidate_values")  # columns with a number for each entry of a row's lists


class ResidentRows(torch.utils.data.Dataset):
    """What a collator's `read` makes of all rows of a split, on a device; batches are gathered there.

    The batch of some rows equals `collator.read` of the same rows, but for columns of jets in events, which are filled
    up to the largest number of jets in the split. Gathering them does not wait for a GPU.

    Args:
        collator: Whose `finish` makes the images.
    """

    def __init__(self, accelerator: Accelerator, dataset: Dataset, collator):
        tables, device = RowTables(dataset, collator.columns), accelerator.device
        starts = progress_bar(accelerator, range(0, len(tables), CHUNK), f"Rows to {device.type}")
        parts = [collator.read(tables.__getitems__(range(at, min(at + CHUNK, len(tables))))) for at in starts]
        self.counts = np.concatenate([part["row_offsets"].diff().numpy() for part in parts])
        padding = getattr(collator, "padding", {})
        names = [name for name in parts[0] if name != "row_offsets"]
        # one column after the other, so that the host never holds two copies
        self.columns = {
            name: _joined([part.pop(name) for part in parts], padding.get(name, 0)).to(device) for name in names
        }
        self.lengths = torch.tensor(self.counts, device=device)
        self.starts = self.lengths.cumsum(0) - self.lengths

    def part(self, rows: np.ndarray) -> "ResidentRows":
        """Some of the rows, in the same memory."""
        part = copy(self)
        part.counts, chosen = self.counts[rows], torch.tensor(rows, device=self.starts.device)
        part.lengths, part.starts = self.lengths[chosen], self.starts[chosen]
        part.columns = {name: v if name in ENTRIES else v[chosen] for name, v in self.columns.items()}
        return part

    def __len__(self) -> int:
        return len(self.counts)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        number, device = int(self.counts[indices].sum()), self.starts.device  # known here, so that no device is asked
        rows = torch.tensor(indices, pin_memory=device.type == "cuda").to(device, non_blocking=True)
        offsets = torch.zeros(len(indices) + 1, dtype=torch.int64, device=device)
        torch.cumsum(self.lengths[rows], 0, out=offsets[1:])
        first = (self.starts[rows] - offsets[:-1]).repeat_interleave(self.lengths[rows], output_size=number)
        places = first + torch.arange(number, device=device)
        batch = {name: values[places if name in ENTRIES else rows] for name, values in self.columns.items()}
        return batch | {"row_offsets": offsets}


def choose_resident(setting: str, device: torch.device, datasets: Sequence[Dataset], fresh: bool) -> bool:
    """Whether the rows of `datasets` are to stay on the device.

    Args:
        setting: `yes`, `no` or `auto`: on a GPU, if they take at most half of its free memory.
        fresh: Whether their images are drawn anew in every epoch, which happens on the host.

    Raises:
        ValueError: for `yes` on another accelerator.
    """
    if setting == "yes" and device.type not in ("cuda", "cpu"):
        raise ValueError(f"`device_data: yes` needs a CUDA GPU, and this process runs on {device.type}.")
    if setting != "auto":
        return setting == "yes"
    if device.type != "cuda" or fresh:
        return False
    needed = PIXEL_BYTES * sum(_number_of_pixels(rows) for rows in datasets)
    free, _ = torch.cuda.mem_get_info(device)
    fits = needed <= SHARE * free
    logger.info(
        f"The rows take {needed / 2**30:.1f} of {free / 2**30:.1f} GiB that are free on {device}: "
        + ("they stay there" if fits else "they are sent batch by batch")
    )
    return fits


def _number_of_pixels(rows: Dataset) -> float:
    """Estimated from a thousand rows."""
    some = np.unique(np.linspace(0, len(rows) - 1, 1000).astype(int))
    lists = RowTables(rows, ["pixel_index"]).__getitems__(some)["pixel_index"]
    return len(rows) * np.mean(pc.list_value_length(lists).to_numpy())


def _joined(parts: Sequence[torch.Tensor], fill: float) -> torch.Tensor:
    """Parts one after the other; those with fewer columns are filled up."""
    if parts[0].ndim < 2 or len({part.shape[1] for part in parts}) == 1:
        return torch.cat(list(parts))
    most = max(part.shape[1] for part in parts)
    result = parts[0].new_full((sum(map(len, parts)), most, *parts[0].shape[2:]), fill)
    start = 0
    for part in parts:
        result[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return result
