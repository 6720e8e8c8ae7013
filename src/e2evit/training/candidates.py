"""Batches of jets as lists of candidates."""

from collections.abc import Sequence

import pyarrow as pa
import torch

from e2evit.data.columns import CANDIDATE_COLUMNS
from e2evit.modeling.modeling_candidates import CANDIDATE_FIELDS, ID, PT
from e2evit.modeling.modeling_constants import constant

from .collate import E2ECollator, check_lengths, flat_numbers

__all__ = ["CandidateCollator"]

# what changes sign in a mirror: by z -> -z, and by y -> -y, in which tracks bend as if they had the other charge
SIGNED = ("eta", "dz"), ("phi", "d0", "charge", "id")
NEUTRAL = 22, 130  # whose codes have no sign


class CandidateCollator(E2ECollator):
    """Rows to `candidate_values` `(B, N, 10)`, filled up with zeros, and the targets of [`E2ECollator`].

    Of the augmentations, only flips change candidates.
    """

    inputs = {name: pa.list_(pa.float64()) for name in CANDIDATE_COLUMNS}

    def _read_inputs(self, rows: pa.Table) -> dict[str, torch.Tensor]:
        """`candidate_values` `(n, 10)` and `row_offsets` `(B + 1,)`."""
        if self.augmentation and not self.augmentation.only_flips:
            raise ValueError("Candidates are mirrored at most: leave out all augmentations but `flips`.")
        lists = [rows[f"candidate_{name}"].combine_chunks() for name in CANDIDATE_FIELDS]
        offsets = check_lengths(dict(zip(CANDIDATE_COLUMNS, lists)))
        values = torch.stack([torch.from_numpy(flat_numbers(values)) for values in lists], dim=1)
        if not values.isfinite().all():
            place = int((~values.isfinite()).any(1).nonzero()[0])
            row = int(torch.searchsorted(torch.from_numpy(offsets), place, right=True)) - 1
            raise ValueError(f"Row {row}: a candidate is {values[place].tolist()} ({', '.join(CANDIDATE_FIELDS)}).")
        return {"candidate_values": values, "row_offsets": torch.tensor(offsets)}

    def finish(self, batch: dict[str, torch.Tensor], seeds: Sequence[int] | None = None) -> dict[str, torch.Tensor]:
        """As [`E2ECollator.finish`]."""
        others, values, offsets = dict(batch), batch["candidate_values"], batch["row_offsets"]
        del others["row_offsets"]
        counts = offsets.diff()
        jet = torch.arange(len(counts), device=values.device).repeat_interleave(counts, output_size=len(values))
        if self.augmentation:
            keys = torch.zeros(len(counts), dtype=torch.int64, device=values.device)
            keys = keys.index_add(0, jet, values[:, PT].contiguous().view(torch.int32).long())
            values = _mirrored(values, self.augmentation.flipped(keys, *(seeds or self.seeds))[:, jet])
        place = torch.arange(len(values), device=values.device) - offsets[:-1][jet]
        longest = max(1, int(counts.max())) if len(counts) else 1
        padded = values.new_zeros(len(counts), longest, values.shape[1]).index_put((jet, place), values)
        return others | {"candidate_values": padded}


def _mirrored(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Candidates `(n, 10)` of which those in `chosen` `(2, n)` are mirrored in eta, and in phi."""
    signed = constant(tuple(tuple(name in names for name in CANDIDATE_FIELDS) for names in SIGNED), values.device)
    flips = (chosen.unsqueeze(2) & signed.unsqueeze(1)).sum(0)  # (n, 10)
    is_neutral = (values[:, ID].unsqueeze(1) == constant(NEUTRAL, values.device)).any(1)
    flips[:, ID] *= ~is_neutral
    return values * (1 - 2 * (flips % 2)).to(values.dtype)
