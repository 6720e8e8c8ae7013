"""Grids that need padding, and the same in an exported graph for images of any size.

There, a height is a symbol. Asking whether it needs padding, or whether a tensor can do without a copy, would tie the
graph to the answer for the image it was made from.
"""

import torch
from torch.nn import functional as F

__all__ = ["cut", "has_any_size", "in_order", "pad_to_multiple"]


def pad_to_multiple(image: torch.Tensor, side: int, dims: tuple[int, int] = (2, 3)) -> torch.Tensor:
    """Zeros on the right and at the bottom, so that `side` divides height and width, the neighbouring `dims`."""
    height, width = (image.shape[dim] for dim in dims)
    rows, columns = -(-height // side), -(-width // side)
    behind = (0, 0) * (image.ndim - 1 - dims[1])
    if has_any_size(image):
        padded = F.pad(image, (*behind, 0, side, 0, side))  # never by nothing, which would be a case of its own
        return padded.narrow(dims[0], 0, rows * side).narrow(dims[1], 0, columns * side)
    right, bottom = columns * side - width, rows * side - height
    return F.pad(image, (*behind, 0, right, 0, bottom)) if right or bottom else image


def cut(grid: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The rows and columns of a grid `(B, H, W, D)` that are no padding."""
    if has_any_size(grid):  # a slice would depend on whether it is the whole
        rows, columns = (torch.arange(side, device=grid.device) for side in (height, width))
        return grid.index_select(1, rows).index_select(2, columns)
    return grid[:, :height, :width]


def in_order(permuted: torch.Tensor) -> torch.Tensor:
    """A tensor to be flattened next: a copy, unless PyTorch may decide."""
    return permuted.clone(memory_format=torch.contiguous_format) if has_any_size(permuted) else permuted


def has_any_size(image: torch.Tensor) -> bool:
    """Whether height or width is a symbol."""
    return any(isinstance(side, torch.SymInt) for side in image.shape[1:])
