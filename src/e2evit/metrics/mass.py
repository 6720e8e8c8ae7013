"""Mass regression metrics as an `evaluate` module that needs no network."""

from collections.abc import Sequence
from itertools import pairwise

import datasets
import evaluate
import numpy as np

from .bootstrap import with_intervals

__all__ = ["MassRegression", "mass_statistics", "response_in_bins", "uncertainty_statistics"]

EDGE_FRACTION = 0.1  # of the jets, at each end of the true masses
LINEARITY_BINS = 10


def mass_statistics(masses: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Errors [GeV] and relative response of predicted (m̂) against true masses (m) [GeV].

    * `relative_resolution`: half of the interval that holds the central 68 % of (m̂ - m) / m.
    * `slope`: of the straight line fitted to m̂ against m. Regression to the mean makes it smaller than one, and the
      resolution deceptively good: `resolution_over_slope` corrects for that.
    * `response`, `mean_response`: median and mean of m̂ / m; `response_low_edge`, `response_high_edge`: its median for
      the lightest and the heaviest tenth of the jets.
    * `linearity`: standard deviation of the median response over ten bins of m with equal numbers of jets.
    """
    error, response = predictions - masses, predictions / masses
    low, middle, high = np.percentile(response, [16, 50, 84])
    spread = masses.var()
    slope = float(np.mean((masses - masses.mean()) * predictions) / spread) if spread > 0 else float("nan")
    order = np.argsort(masses, kind="stable")
    edge = max(1, round(EDGE_FRACTION * len(masses)))
    bins = [np.median(response[part]) for part in np.array_split(order, min(LINEARITY_BINS, len(masses)))]
    resolution = float((high - low) / 2)
    return {
        "mae_gev": float(np.abs(error).mean()),
        "rmse_gev": float(np.sqrt(np.mean(error**2))),
        "r2": float(1 - np.mean(error**2) / spread) if spread > 0 else float("nan"),
        "mean_relative_error": float(np.mean(np.abs(error) / masses)),
        "relative_resolution": resolution,
        "slope": slope,
        "resolution_over_slope": resolution / slope if slope and slope == slope else float("nan"),
        "response": float(middle),
        "mean_response": float(response.mean()),
        "response_low_edge": float(np.median(response[order[:edge]])),
        "response_high_edge": float(np.median(response[order[-edge:]])),
        "linearity": float(np.std(bins)),
    }


def uncertainty_statistics(masses: np.ndarray, predictions: np.ndarray, scales: np.ndarray) -> dict[str, float]:
    """How honest predicted uncertainties `scales` [GeV] are.

    `coverage_68`: fraction of the jets within one predicted sigma (0.683 if honest); `pull_width`: half of the central
    68 % of (m̂ - m) / σ (1 if honest); `mean_scale_gev`: the mean σ.
    """
    pull = (predictions - masses) / scales
    low, high = np.percentile(pull, [16, 84])
    return {
        "coverage_68": float((np.abs(pull) < 1).mean()),
        "pull_width": float((high - low) / 2),
        "mean_scale_gev": float(scales.mean()),
    }


def response_in_bins(
    masses: np.ndarray,
    predictions: np.ndarray,
    by: np.ndarray,
    edges: Sequence[float],
    num_resamples: int = 300,
    seed: int = 0,
) -> list[dict[str, float]]:
    """`response`, `mean_response` and `relative_resolution` with intervals in bins of `by` (mass or pT [GeV]).

    Returns:
        One record a bin, with its `low` and `high` edge and `number` of jets; without metrics for fewer than two.
    """
    keys, rows = ("response", "mean_response", "relative_resolution"), []
    for low, high in pairwise(edges):
        chosen = (by >= low) & (by < high)
        row = {"low": float(low), "high": float(high), "number": int(chosen.sum())}
        if row["number"] > 1:
            arrays = masses[chosen], predictions[chosen]
            found = with_intervals(mass_statistics, *arrays, num_resamples=num_resamples, seed=seed)
            row |= {name: value for name, value in found.items() if name.startswith(keys) and "edge" not in name}
        rows.append(row)
    return rows


class MassRegression(evaluate.Metric):
    """`predictions` and `references`: masses in GeV; references must be known and positive.

    `compute(..., scales=...)` with predicted uncertainties [GeV] adds `coverage_68`, `pull_width`, `mean_scale_gev`.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Errors [GeV], relative resolution and response with 95 % bootstrap intervals over jets.",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions, references, scales=None, num_resamples=1000, seed=0):
        masses, predictions = np.asarray(references), np.asarray(predictions)
        found = with_intervals(mass_statistics, masses, predictions, num_resamples=num_resamples, seed=seed)
        if scales is None:
            return found
        scales = np.asarray(scales)
        if scales.shape != masses.shape or not (scales > 0).all():
            raise ValueError(
                f"Need one positive scale [GeV] for each of {len(masses)} jets, got shape {scales.shape}."
            )
        arrays = masses, predictions, scales
        return found | with_intervals(uncertainty_statistics, *arrays, num_resamples=num_resamples, seed=seed)
