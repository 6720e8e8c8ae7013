"""Mass regression metrics as an `evaluate` module that needs no network."""

from collections.abc import Sequence
from itertools import pairwise, product

import datasets
import evaluate
import numpy as np

from .bootstrap import intervals_of, weighted, with_intervals

__all__ = [
    "MassRegression",
    "central_68",
    "coverage_temperature",
    "half_width_68",
    "mass_statistics",
    "quantile_edges",
    "quantiles",
    "relative_resolution",
    "response_in_bins",
    "response_statistics",
    "uncertainty_in_bins",
    "uncertainty_statistics",
]

EDGE_FRACTION = 0.1  # of the jets, at each end of the true masses
LINEARITY_BINS = 10
TAIL_WIDTHS = 3  # a tail begins that many half-widths away from the median
ROUNDING = 1e-6  # relative: a response that is the same for all jets has no tail


def quantiles(values: np.ndarray, shares: float | Sequence[float], weights: np.ndarray | None) -> np.ndarray:
    """Of jets, or of their weights."""
    if weights is None:
        return np.quantile(values, shares)
    return np.quantile(values, shares, weights=weights, method="inverted_cdf")


def central_68(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float, float]:
    """The median between the ends of the interval that holds the central 68 %."""
    low, median, high = quantiles(values, [0.16, 0.5, 0.84], weights).tolist()
    return low, median, high


def half_width_68(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Half of the interval that holds the central 68 %: the standard deviation of a Gaussian, robust against tails."""
    low, _, high = central_68(values, weights)
    return (high - low) / 2


def relative_resolution(mass_labels: np.ndarray, mass_preds: np.ndarray, weights: np.ndarray | None = None) -> float:
    """[`half_width_68`] of the response, predicted over true mass."""
    return half_width_68(mass_preds / mass_labels, weights)


def response_statistics(
    mass_labels: np.ndarray, mass_preds: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, float]:
    """Width and tails of the response m̂ / m of predicted against true masses.

    * `corrected_resolution`: half of the interval that holds its central 68 %, over its median. A wrong scale of the
      masses cancels, as after a calibration of the response; NaN if the median is not positive.
    * `tail_share`: the share of jets more than three of these half-widths away from the median (a Gaussian: 0.3 %).
    """
    response = mass_preds / mass_labels
    low, median, high = central_68(response, weights)
    half_width = (high - low) / 2
    far = np.abs(response - median) > max(TAIL_WIDTHS * half_width, ROUNDING * abs(median))
    return {
        "corrected_resolution": half_width / median if median > 0 else float("nan"),
        "tail_share": float(np.average(far, weights=weights)),
    }


def mass_statistics(
    mass_labels: np.ndarray, mass_preds: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, float]:
    """Errors [GeV] and relative response of predicted (m̂) against true masses (m) [GeV].

    * `relative_resolution`: half of the interval that holds the central 68 % of m̂ / m.
    * `slope`: of the straight line fitted to m̂ against m. Regression to the mean makes it smaller than one and the
      resolution deceptively good; `resolution_over_slope` corrects for that.
    * `response`, `mean_response`: median and mean of m̂ / m; `response_low_edge`, `response_high_edge`: the median for
      the lightest and the heaviest tenth of the jets.
    * `linearity`: standard deviation of the median response over ten bins of m with equal numbers of jets.
    * `corrected_resolution`, `tail_share`: see [`response_statistics`].

    With weights, all are those of the weighted jets; bins and tenths still have equal numbers of jets.
    """

    def mean(values):
        return float(np.average(values, weights=weights))

    def median(rows=slice(None)):
        return float(quantiles(response[rows], 0.5, None if weights is None else weights[rows]))

    error, response, offset = mass_preds - mass_labels, mass_preds / mass_labels, mass_labels - mean(mass_labels)
    spread = mean(offset**2)
    slope = mean(offset * mass_preds) / spread if spread > 0 else float("nan")
    if spread > 0 and mass_preds.min() == mass_preds.max():
        slope = 0.0  # not what rounding leaves of it
    order = np.argsort(mass_labels, kind="stable")
    edge = max(1, round(EDGE_FRACTION * len(mass_labels)))
    bins = [median(part) for part in np.array_split(order, min(LINEARITY_BINS, len(mass_labels)))]
    resolution = relative_resolution(mass_labels, mass_preds, weights)
    return {
        "mae_gev": mean(np.abs(error)),
        "rmse_gev": float(np.sqrt(mean(error**2))),
        "r2": 1 - mean(error**2) / spread if spread > 0 else float("nan"),
        "mean_relative_error": mean(np.abs(error) / mass_labels),
        "relative_resolution": resolution,
        "slope": slope,
        "resolution_over_slope": resolution / slope if slope > 0 else float("nan"),
        "response": median(),
        "mean_response": mean(response),
        "response_low_edge": median(order[:edge]),
        "response_high_edge": median(order[-edge:]),
        "linearity": float(np.std(bins)),
    } | response_statistics(mass_labels, mass_preds, weights)


def uncertainty_statistics(
    mass_labels: np.ndarray, mass_preds: np.ndarray, mass_scale_preds: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, float]:
    """How honest the predicted uncertainties σ (`mass_scale_preds` [GeV]) are.

    `coverage_68`: fraction of the jets within one predicted sigma (0.683 if honest); `pull_width`: half of the central
    68 % of (m̂ - m) / σ (1 if honest); `mean_scale_gev`: the mean σ.
    """
    pull = (mass_preds - mass_labels) / mass_scale_preds
    return {
        "coverage_68": float(np.average(np.abs(pull) < 1, weights=weights)),
        "pull_width": half_width_68(pull, weights),
        "mean_scale_gev": float(np.average(mass_scale_preds, weights=weights)),
    }


def coverage_temperature(mass_labels: np.ndarray, mass_preds: np.ndarray, mass_scale_preds: np.ndarray) -> float:
    """The factor on `mass_scale_preds` for which 68.3 % of the true masses lie within one of them, over all jets that
    have a mass, contained or not, with or without a class.
    """
    error = np.abs(mass_preds - mass_labels)
    known = np.isfinite(error) & (mass_labels > 0) & (mass_scale_preds > 0)
    pull = error[known] / mass_scale_preds[known]
    # a factor of zero would make no uncertainty of any prediction
    return float(np.quantile(pull, 0.6827)) or 1.0 if pull.size else 1.0


def quantile_edges(values: np.ndarray, num_bins: int) -> np.ndarray:
    """Edges of bins `low <= value < high` with equal numbers of jets; the last bin includes the largest value."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, num_bins + 1)))
    edges[-1] = np.nextafter(edges[-1], np.inf)
    return edges


def response_in_bins(
    mass_labels: np.ndarray,
    mass_preds: np.ndarray,
    by: np.ndarray,
    edges: Sequence[float],
    num_resamples: int = 300,
    seed: int = 0,
    weights: np.ndarray | None = None,
    events: np.ndarray | None = None,
) -> list[dict[str, float]]:
    """`response`, `mean_response` and `relative_resolution` with intervals in bins of `by` (mass or pT [GeV]).

    Returns:
        One row per bin: its `low` and `high` edge, `number` of jets and, with at least two jets, the metrics.
    """

    def statistics(*arrays):
        every = mass_statistics(*arrays)
        return {name: every[name] for name in ("relative_resolution", "response", "mean_response")}

    rows, options = [], {"num_resamples": num_resamples, "seed": seed}
    for low, high in pairwise(edges):
        inside = (by >= low) & (by < high)
        row = {"low": float(low), "high": float(high), "number": int(inside.sum())}
        if row["number"] > 1:
            arrays = mass_labels, mass_preds
            row |= intervals_of(inside, statistics, *arrays, weights=weights, events=events, **options)
        rows.append(row)
    return rows


def uncertainty_in_bins(
    mass_labels: np.ndarray,
    mass_preds: np.ndarray,
    mass_scale_preds: np.ndarray,
    pts: np.ndarray,
    mass_edges: Sequence[float],
    pt_edges: Sequence[float],
    num_resamples: int = 300,
    seed: int = 0,
    weights: np.ndarray | None = None,
    events: np.ndarray | None = None,
    of_predicted: bool = False,
) -> list[dict[str, float]]:
    """[`uncertainty_statistics`] with intervals in bins of mass and pT [GeV].

    Args:
        of_predicted: Bin by the predicted masses instead of the true ones. If 68.3 % of the masses lie within their
            uncertainty whatever the model reads, this also holds in every bin of the predicted mass. It need not hold
            in bins of the true mass: near either end of the spectrum, predictions are pulled towards the middle.

    Returns:
        One row per bin: its edges `low`, `high` in mass and `pt_low`, `pt_high`, the `number` of jets and, with at
        least two jets, the metrics.
    """
    rows, options = [], {"num_resamples": num_resamples, "seed": seed}
    masses = mass_preds if of_predicted else mass_labels
    for (low, high), (pt_low, pt_high) in product(pairwise(mass_edges), pairwise(pt_edges)):
        inside = (masses >= low) & (masses < high) & (pts >= pt_low) & (pts < pt_high)
        row = {"low": float(low), "high": float(high), "pt_low": float(pt_low), "pt_high": float(pt_high)}
        row |= {"number": int(inside.sum())}
        if weights is not None:
            inside &= weights > 0
        if inside.sum() > 1:
            arrays = mass_labels, mass_preds, mass_scale_preds
            row |= intervals_of(inside, uncertainty_statistics, *arrays, weights=weights, events=events, **options)
        rows.append(row)
    return rows


class MassRegression(evaluate.Metric):
    """`predictions` and `references`: masses in GeV; references must be known and positive.

    `compute(..., scales=...)` with predicted uncertainties [GeV] adds `coverage_68`, `pull_width`, `mean_scale_gev`;
    `weights=...` are those of the jets, `events=...` their numbers, where jets share them.
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

    def _compute(self, predictions, references, scales=None, weights=None, events=None, num_resamples=1000, seed=0):
        arrays, options = (
            (np.asarray(references), np.asarray(predictions)),
            dict(num_resamples=num_resamples, seed=seed, events=events),
        )
        for what, values, usable in (
            ("true mass", arrays[0], np.isfinite(arrays[0]) & (arrays[0] > 0)),
            ("predicted mass", arrays[1], np.isfinite(arrays[1])),
        ):
            if not len(values):
                raise ValueError("There are no jets to measure masses of.")
            if not usable.all():
                jet = int(np.argmin(usable))
                raise ValueError(
                    f"Jet {jet} has the {what} {values[jet]}: masses must be finite, and true ones positive; leave "
                    "other jets out."
                )
        result = with_intervals(mass_statistics, *weighted(*arrays, weights=weights), **options)
        if scales is None:
            return result
        scales = np.asarray(scales)
        if scales.shape != arrays[0].shape or not (scales > 0).all():
            raise ValueError(
                f"Need one positive scale [GeV] for each of {len(arrays[0])} jets, got shape {scales.shape}."
            )
        return result | with_intervals(uncertainty_statistics, *weighted(*arrays, scales, weights=weights), **options)
