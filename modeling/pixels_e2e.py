"""Pixel values and indices of any kind as arrays, and their logarithm, which is what networks see."""

import numpy as np
import torch

__all__ = ["compress", "compress_finite", "to_float32", "to_numpy", "whole_numbers"]


def compress(values, scale):
    """Detector units to network units: sign(x) log(1 + |x| / scale), of arrays or tensors.

    Orders of magnitude become comparable, the signs of d0 and dz survive, and zero stays zero.
    """
    library = torch if isinstance(values, torch.Tensor) else np
    return library.sign(values) * library.log1p(abs(values) / scale)


def compress_finite(value: np.ndarray, scale: np.ndarray, image: np.ndarray) -> np.ndarray:
    """[`compress`], which must leave each pixel finite; all arguments are per pixel."""
    with np.errstate(all="ignore"):
        compressed = np.asarray(compress(value, scale))
    if not np.isfinite(compressed).all():
        bad = np.flatnonzero(~np.isfinite(compressed))[0]
        if not np.isfinite(value[bad]):
            raise ValueError(f"Image {image[bad]} holds NaN or infinite pixels; drop it or fix its producer.")
        raise ValueError(
            f"Image {image[bad]} holds a pixel of {value[bad]:g}, which in units of its channel's scale, "
            f"{scale[bad]:g}, is beyond float32; drop it or fix its producer."
        )
    return compressed


def to_numpy(values) -> np.ndarray:
    """An array, also of a tensor of any type on any device."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.to_dense() if values.layout != torch.strided else values
        is_known = not values.is_floating_point() or values.dtype in (torch.float16, torch.float32, torch.float64)
        return (values if is_known else values.float()).numpy()  # NumPy has no bfloat16
    return np.asarray(values)


def to_float32(values) -> np.ndarray:
    values = to_numpy(values)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"Pixels are real numbers, got {values.dtype}.")
    with np.errstate(over="ignore"):  # infinite pixels are refused where the image is known
        return values.astype(np.float32, copy=False)


def whole_numbers(values, where: str = "", name: str = "pixel_index") -> np.ndarray:
    """Indices: integers as they are, whole floating-point numbers as integers."""
    values = to_numpy(values)
    if values.dtype.kind in "iu":
        return values.astype(np.int64) if values.dtype == np.uint64 else values
    if values.dtype.kind != "f" or not (np.abs(values) < 2**53).all() or (values != np.round(values)).any():
        example = ", ".join(map(str, values.flat[:3]))
        raise ValueError(f"{where}`{name}` holds whole numbers, got {values.dtype}: {example}, ...")
    return values.astype(np.int64)
