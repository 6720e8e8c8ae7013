"""Each kind of signal against the background alone, as the field reports taggers."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from .bootstrap import weighted, with_intervals
from .classification import delong_interval, effective_number

__all__ = ["SIGNAL_EFFICIENCIES", "area", "discriminant", "signal_in_bins", "signal_metrics"]

SIGNAL_EFFICIENCIES = (30, 50, 70)  # percent
NUM_RESAMPLES = 300


def discriminant(probabilities: np.ndarray, signal: int, background: int = 0) -> np.ndarray:
    """p_s / (p_s + p_b) of each jet, from `probabilities` `(n, num_classes)`; 1/2 where both are zero, NaN of NaN."""
    of_signal, of_both = probabilities[:, signal], probabilities[:, signal] + probabilities[:, background]
    return np.divide(of_signal, of_both, out=np.full(len(of_both), 0.5), where=~(of_both <= 0))


def signal_metrics(
    is_signal: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None, events: np.ndarray | None = None
) -> dict[str, float]:
    """ROC AUC, and at fixed signal efficiencies the background efficiency ε_B and the rejection 1 / ε_B.

    Intervals of efficiencies are binomial (Clopper and Pearson, Biometrika 26 (1934) 404): a rejection of 83 of which
    25 jets of 2 076 are left is known to lie between 56 and 128. They do not contain the fluctuation of the threshold,
    which the signal sets. With weights, or jets that share events, the number of jets is that of equal and independent
    ones that fluctuate as much. The interval of the AUC is DeLong's, with weights or events the bootstrap's.

    Args:
        is_signal: False for background jets; other jets are left out beforehand.
        scores: Of [`discriminant`].

    Returns:
        `roc_auc`, `background_at_30`, `rejection_at_30`, ..., each with `_low` and `_high`. If less than one
        background jet passes there is no rejection, but its lower bound. All NaN without signal or background.
    """
    is_signal = np.asarray(is_signal, bool)
    labels = is_signal.astype(int)
    if weights is None and events is None:
        result = _statistics(labels, scores)
        result["roc_auc_low"], result["roc_auc_high"] = delong_interval(labels, scores)
    else:
        arrays = weighted(labels, scores, weights=weights)
        result = _statistics(*arrays) | with_intervals(area, *arrays, num_resamples=NUM_RESAMPLES, events=events)
        if result["roc_auc"] in (0.0, 1.0):  # as in all resamples
            result["roc_auc_low"], result["roc_auc_high"] = delong_interval(labels, scores)
    of_background = np.ones((~is_signal).sum()) if weights is None else np.asarray(weights, float)[~is_signal]
    if events is not None:
        of_background = np.bincount(np.unique(events[~is_signal], return_inverse=True)[1], of_background)
    number = effective_number(of_background)
    for percent in SIGNAL_EFFICIENCIES:
        passed = result[f"background_at_{percent}"] * number
        if passed < 1:  # a part of a jet, of several on the threshold
            result[f"rejection_at_{percent}"] = float("nan")
            low, high = 0.0, binomial_interval(np.ceil(passed), number)[1]
        else:
            low, high = binomial_interval(passed, number)
        result |= {f"background_at_{percent}_low": low, f"background_at_{percent}_high": high}
        result |= {f"rejection_at_{percent}_low": _inverse(high), f"rejection_at_{percent}_high": _inverse(low)}
    return result


def binomial_interval(passed: float, number: float, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a fraction; numbers need not be whole."""
    if not number or passed != passed:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low = beta.ppf(tail, passed, number - passed + 1) if passed > 0 else 0.0
    high = beta.ppf(1 - tail, passed + 1, number - passed) if passed < number else 1.0
    return float(low), float(high)


def signal_in_bins(
    is_signal: np.ndarray,
    scores: np.ndarray,
    by: np.ndarray,
    edges: Sequence[float],
    weights: np.ndarray | None = None,
    events: np.ndarray | None = None,
) -> list[dict[str, float]]:
    """[`signal_metrics`] in bins of `by`, such as pT [GeV]; the threshold of an efficiency is that of the bin.

    Returns:
        One row per bin: its `low` and `high` edge, `number` of jets, of which `number_background`, and the metrics.
    """
    rows = []
    for low, high in pairwise(edges):
        inside = (by >= low) & (by < high)
        row = {"low": float(low), "high": float(high), "number": int(inside.sum())}
        row["number_background"] = int((~is_signal[inside]).sum())
        given = (None if values is None else values[inside] for values in (weights, events))
        found = signal_metrics(is_signal[inside], scores[inside], *given)
        rows.append(row | {name: value for name, value in found.items() if value == value})
    return rows


def _statistics(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    """Values alone. `tagging_statistics` takes rejections to be at most the number of background jets; here ε_B may
    be zero.
    """
    result = area(labels, scores, weights)
    is_signal = labels == 1
    signal, background = scores[is_signal], scores[~is_signal]
    of_signal, of_background = (None if weights is None else weights[part] for part in (is_signal, ~is_signal))
    for percent in SIGNAL_EFFICIENCIES:
        passed = float("nan")
        if _has_both(labels, weights):
            passed = _background_efficiency(signal, background, percent / 100, of_signal, of_background)
        result |= {f"background_at_{percent}": passed, f"rejection_at_{percent}": _inverse(passed)}
    return result


def area(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    """`roc_auc` of label 1 against 0; NaN if one of them is absent, or has no weight."""
    has_both = _has_both(labels, weights)
    return {"roc_auc": float(roc_auc_score(labels, scores, sample_weight=weights)) if has_both else float("nan")}


def _has_both(labels: np.ndarray, weights: np.ndarray | None) -> bool:
    """Whether there are signal and background, and not of weight zero alone."""
    if weights is not None:
        labels = labels[weights > 0]
    return len(np.unique(labels)) == 2


def _background_efficiency(signal, background, efficiency: float, of_signal, of_background) -> float:
    """Share of the background at the threshold that a share of the signal passes; of jets on the threshold, as many
    parts pass as the signal needs.
    """
    order = np.argsort(-signal, kind="stable")
    shares = np.cumsum(np.ones(len(signal)) if of_signal is None else of_signal[order])
    threshold = signal[order][np.searchsorted(shares, efficiency * shares[-1] * (1 - 1e-12))]

    def share(of_class, is_chosen, weights):
        return float(np.average(is_chosen(of_class, threshold), weights=weights))

    above, at = share(signal, np.greater, of_signal), share(signal, np.equal, of_signal)
    part = min(1.0, max(0.0, (efficiency - above) / at))
    return share(background, np.greater, of_background) + part * share(background, np.equal, of_background)


def _inverse(value: float) -> float:
    return 1 / value if value > 0 else float("nan")
