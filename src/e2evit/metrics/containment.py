"""How well a model knows which jets contain all of a decay."""

import numpy as np

from .bootstrap import weighted, with_intervals
from .classification import delong_interval
from .signals import area

__all__ = ["containment_metrics"]

NUM_BINS, NUM_RESAMPLES = 10, 300


def containment_metrics(
    contained: np.ndarray,
    probabilities: np.ndarray,
    weights: np.ndarray | None = None,
    events: np.ndarray | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, float]:
    """`containment_auc` and `containment_calibration_error`, each with `_low` and `_high`.

    The calibration error is the mean distance of the predicted probability from the share of contained jets, in ten
    bins of the probability. The AUC is NaN if all jets are of one kind; its interval is DeLong's, with weights or
    events the bootstrap's, as is that of the error.

    Args:
        contained: Whether each jet contains all of the decay; jets of which that is not known are left out beforehand.
        probabilities: That it does, as predicted.

    Raises:
        ValueError: without jets, and for numbers that are no probabilities.
    """
    if not len(contained):
        raise ValueError("There are no jets to measure containment of.")
    if not (is_usable := (probabilities >= 0) & (probabilities <= 1)).all():
        jet = int(np.argmin(is_usable))
        raise ValueError(f"Jet {jet} has the probability of containment {probabilities[jet]}: it must be in 0 to 1.")
    arrays = weighted(np.asarray(contained).astype(int), np.asarray(probabilities, float), weights=weights)
    result = with_intervals(
        _statistics,
        *arrays,
        num_resamples=num_resamples,
        events=events,
        centred=("containment_calibration_error",),
    )
    if weights is None and events is None:
        result["containment_auc_low"], result["containment_auc_high"] = delong_interval(*arrays)
    return result


def _statistics(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    weights = np.ones(len(labels)) if weights is None else weights
    bins = np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)
    excess = np.bincount(bins, weights * (probabilities - labels), minlength=NUM_BINS)
    return {
        "containment_auc": area(labels, probabilities, weights)["roc_auc"],
        "containment_calibration_error": float(np.abs(excess).sum() / weights.sum()),
    }
