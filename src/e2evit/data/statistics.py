"""Numbers that normalise inputs and targets, from the training split alone."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset

__all__ = ["TrainingStatistics", "training_statistics"]


@dataclass(frozen=True)
class TrainingStatistics:
    """Median absolute non-zero pixel of each channel [its unit]; mean and standard deviation of the mass [GeV]."""

    channel_scale: tuple[float, ...]
    mass_mean: float
    mass_std: float


def training_statistics(
    train: Dataset, image_shape: tuple[int, int, int], mass_column: str = "mass_labels", max_rows: int = 2000
) -> TrainingStatistics:
    """Statistics of the training rows; pixels from at most `max_rows` of them, evenly spaced.

    Medians, because a single mismeasured track moves a standard deviation by orders of magnitude.
    """
    chosen = np.unique(np.linspace(0, len(train) - 1, max_rows).astype(int))
    table = train.select(chosen).with_format("arrow")[:]
    index = table["pixel_index"].combine_chunks().flatten().to_numpy()
    value = np.abs(table["pixel_value"].combine_chunks().flatten().to_numpy())
    channel = index // (image_shape[1] * image_shape[2])
    scales = []
    for number in range(image_shape[0]):
        found = value[channel == number]
        scales.append(float(np.median(found)) if found.size else 1.0)
    mass = train.with_format("arrow")[mass_column].to_numpy(zero_copy_only=False)
    mass = mass[np.isfinite(mass)]
    if mass.size < 2:
        return TrainingStatistics(tuple(scales), 0.0, 1.0)
    return TrainingStatistics(tuple(scales), float(mass.mean()), float(mass.std()))
