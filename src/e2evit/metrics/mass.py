"""Mass regression metrics as an `evaluate` module that needs no network."""

import datasets
import evaluate
import numpy as np

from .bootstrap import with_intervals

__all__ = ["MassRegression", "mass_statistics"]


def mass_statistics(masses: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Errors [GeV] and relative response of predicted against true masses [GeV].

    `relative_resolution` is half of the interval that holds the central 68 % of (m̂ - m) / m; `response` is the
    median of m̂ / m.
    """
    error = predictions - masses
    response = predictions / masses
    low, middle, high = np.percentile(response, [16, 50, 84])
    return {
        "mae_gev": float(np.abs(error).mean()),
        "rmse_gev": float(np.sqrt(np.mean(error**2))),
        "relative_resolution": float((high - low) / 2),
        "response": float(middle),
    }


class MassRegression(evaluate.Metric):
    """`predictions` and `references`: masses in GeV; references must be known and positive."""

    def _info(self):
        return evaluate.MetricInfo(
            description="MAE, RMSE [GeV], relative resolution and response with 95 % bootstrap intervals over jets.",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions, references, num_resamples=1000, seed=0):
        masses, predictions = np.asarray(references), np.asarray(predictions)
        return with_intervals(mass_statistics, masses, predictions, num_resamples=num_resamples, seed=seed)
