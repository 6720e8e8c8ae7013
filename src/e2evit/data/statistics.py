"""Statistics that normalise inputs and targets, from the training split alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
from datasets import Dataset, Value

from .sparse import check_has_image

__all__ = [
    "MassWeights",
    "TrainingStatistics",
    "auxiliary",
    "column_moments",
    "moments_of_auxiliary",
    "training_statistics",
]


@dataclass(frozen=True)
class TrainingStatistics:
    """Median absolute non-zero pixel of each channel [its unit]; mean and standard deviation of the mass [GeV], or of
    its logarithm."""

    channel_scale: tuple[float, ...]
    mass_mean: float
    mass_std: float


def training_statistics(
    train: Dataset,
    image_shape: tuple[int, int, int],
    mass_column: str = "mass_labels",
    log_mass: bool = False,
    max_rows: int = 2000,
) -> TrainingStatistics:
    """Statistics of the training rows; pixels from at most `max_rows` of them, evenly spaced.

    With `log_mass`, mean and standard deviation are those of ln(mass / GeV). Channels get medians, because a single
    mismeasured track moves a standard deviation by orders of magnitude.
    """
    check_has_image(train.column_names)
    chosen = np.unique(np.linspace(0, len(train) - 1, max_rows).astype(int))
    table = train.select(chosen).with_format("arrow")[:]
    index = table["pixel_index"].combine_chunks().flatten().to_numpy()
    value = np.abs(table["pixel_value"].combine_chunks().flatten().to_numpy())
    channel = index // (image_shape[1] * image_shape[2])
    scales = []
    for number in range(image_shape[0]):
        pixels = value[channel == number]
        scales.append(float(np.median(pixels)) if pixels.size else 1.0)
    mass = _column(train, mass_column)
    mass = mass[np.isfinite(mass)]
    mass = np.log(mass[mass > 0]) if log_mass else mass
    if mass.size < 2:
        return TrainingStatistics(tuple(scales), 0.0, 1.0)
    # pre-training learns no masses, and may read jets that all have the same one
    return TrainingStatistics(tuple(scales), float(mass.mean()), float(mass.std()) or 1.0)


def column_moments(train: Dataset, names: Sequence[str]) -> tuple[list[float], list[float]]:
    """Means and standard deviations of columns over the rows that have them.

    Raises:
        ValueError: for a column that is missing, holds no numbers, or the same number everywhere.
    """
    kinds = {name: kind.pa_type for name, kind in train.features.items() if isinstance(kind, Value)}
    numbers = [name for name, kind in kinds.items() if pa.types.is_floating(kind) or pa.types.is_integer(kind)]
    means, widths = [], []
    for name in names:
        if name not in numbers:
            raise ValueError(f"There is no column {name} with numbers; those there are: {', '.join(numbers)}.")
        values = _column(train, name)
        values = values[np.isfinite(values)]
        if not values.size or values.std() == 0:
            raise ValueError(f"There is nothing to learn from {name}: it is the same in all training rows, or null.")
        means.append(float(values.mean()))
        widths.append(float(values.std()))
    return means, widths


def auxiliary(rows: Dataset, name: str) -> np.ndarray:
    """A scalar that models read besides the image, such as `log_pt`, the logarithm of the column `pt`; NaN or infinite
    where it has no value."""
    source = name.removeprefix("log_")
    if source not in rows.column_names:
        return np.full(len(rows), np.nan)
    values = _column(rows, source)
    with np.errstate(all="ignore"):
        return values if source == name else np.log(values)


def moments_of_auxiliary(train: Dataset, names: Sequence[str]) -> tuple[list[float], list[float]]:
    """Means and standard deviations of scalars, each as in [`auxiliary`]; a width of 1 for one that does not vary."""
    columns = [auxiliary(train, name) for name in names]
    columns = [values[np.isfinite(values)] for values in columns]
    means = [float(values.mean()) if values.size else 0.0 for values in columns]
    widths = [float(values.std()) if values.size else 0.0 for values in columns]
    # what does not vary has a width of rounding errors
    return means, [width if width > 1e-6 * abs(mean) else 1.0 for width, mean in zip(widths, means)]


@dataclass(frozen=True)
class MassWeights:
    """Weights that make the training jets flat in mass, or in mass and pT, and average to one over them.

    Attributes:
        mass_edges, pt_edges: Edges of the bins [GeV]; jets outside count in the nearest bin.
        weights: One for each bin `(mass, pT)`.
    """

    mass_edges: tuple[float, ...]
    pt_edges: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]

    @classmethod
    def of(
        cls, train: Dataset, mass_column: str, flat_in: str, num_bins: int = 20, max_weight: float = 10.0
    ) -> "MassWeights":
        """From the training split.

        Args:
            flat_in: `"mass"` or `"mass_pt"`.
            num_bins: Bins along each axis, between the 0.5 % and the 99.5 % quantile.
            max_weight: Largest ratio to the mean weight, so that a bin with two jets does not dominate the loss.

        Raises:
            ValueError: for another `flat_in`, or if no jet has a mass (and a pT).
        """
        if flat_in not in ("mass", "mass_pt"):
            raise ValueError(f"Weights are flat in mass or in mass_pt, not in {flat_in!r}.")
        if not (num_bins >= 1 and 1 <= max_weight < np.inf):
            raise ValueError(
                f"`num_bins` and `max_weight` must be finite and at least 1, got {num_bins}, {max_weight}."
            )
        mass, pt = _column(train, mass_column), _column(train, "pt")
        if flat_in == "mass":
            pt = np.ones_like(mass)
        known = np.isfinite(mass) & np.isfinite(pt)
        if not known.any():
            raise ValueError(f"No training jet has a {mass_column} and a pT: there is nothing to make flat.")
        ends = [np.quantile(values[known], (0.005, 0.995)) for values in (mass, pt)]
        edges = [np.linspace(low, high, num_bins + 1) for low, high in ends]
        if flat_in == "mass":
            edges[1] = np.array([0.0, np.inf])
        unweighted = cls(tuple(edges[0]), tuple(edges[1]), ((1.0,) * (len(edges[1]) - 1),) * num_bins)
        bins = unweighted._bins(mass[known], pt[known])
        counts = np.zeros((num_bins, len(edges[1]) - 1))
        np.add.at(counts, bins, 1)
        weights = np.minimum(1 / np.maximum(counts, 1), max_weight * (counts > 0).sum() / counts.sum())
        weights *= counts.sum() / (weights * counts).sum()
        return cls(tuple(edges[0].tolist()), tuple(edges[1].tolist()), tuple(map(tuple, weights.tolist())))

    def __call__(self, mass: np.ndarray, pt: np.ndarray) -> np.ndarray:
        """Weights `(B,)` of jets with `mass` and `pt` [GeV]; arbitrary but finite where those are unknown."""
        return np.array(self.weights)[self._bins(mass, pt)]

    def _bins(self, mass, pt):
        def bins(values, edges):
            return np.clip(np.searchsorted(edges, values, "right") - 1, 0, len(edges) - 2)

        return bins(mass, self.mass_edges), bins(pt, self.pt_edges)


def _column(rows: Dataset, name: str) -> np.ndarray:
    column = cast(pa.ChunkedArray, rows.with_format("arrow")[name])
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
