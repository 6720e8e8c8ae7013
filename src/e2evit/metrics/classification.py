"""Tagging metrics as `evaluate` modules that need no network."""

import datasets
import evaluate
import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, rankdata
from sklearn.metrics import auc, roc_auc_score, roc_curve

from .bootstrap import weighted, with_intervals

__all__ = [
    "JetClassification",
    "JetTagging",
    "accuracy",
    "calibration_error",
    "classification_statistics",
    "delong_interval",
    "effective_number",
    "is_correct",
    "placements",
    "tagging_statistics",
]

CALIBRATION_BINS = 15


def is_correct(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Whether the most probable class is the true one, for each jet; `probabilities` `(n, num_classes)`."""
    return probabilities.argmax(axis=1) == labels


def accuracy(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Fraction of the jets, or of their weights, whose most probable class is the true one."""
    return float(np.average(is_correct(labels, probabilities), weights=weights))


def _rejection(false_positive, true_positive, signal_efficiency: float, num_background: float) -> float:
    """1 / ε_B at a signal efficiency, on an interpolated ROC curve; at most the number of background jets."""
    after = int(np.argmax(true_positive >= signal_efficiency))
    span = slice(max(after - 1, 0), after + 1)
    passed = np.interp(signal_efficiency, true_positive[span], false_positive[span])
    return float(1 / max(passed, 1 / max(1, num_background)))


def delong_interval(labels: np.ndarray, scores: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval of the AUC of label 1 against 0 from DeLong's variance, symmetric in the logit; NaN if a class is
    absent.

    DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837; by midranks as in Sun and Xu, IEEE Signal Process.
    Lett. 21 (2014) 1389. An AUC of exactly one has no variance: its lower bound is that of a fraction of which as many
    trials as the smaller class has jets were right.
    """
    is_signal = labels == 1
    if min(is_signal.sum(), (labels == 0).sum()) < 2:
        return float("nan"), float("nan")
    known = is_signal | (labels == 0)
    placed, is_signal = placements(is_signal[known], scores[known]), is_signal[known]
    of_signal, of_background = placed[is_signal], placed[~is_signal]
    error = np.sqrt(of_signal.var(ddof=1) / len(of_signal) + of_background.var(ddof=1) / len(of_background))
    area, smaller = float(of_signal.mean()), min(len(of_signal), len(of_background))
    if area in (0.0, 1.0):
        bound = ((1 - level) / 2) ** (1 / smaller)
        return (bound, 1.0) if area else (0.0, 1 - bound)
    half = norm.ppf(0.5 + level / 2) * error / (area * (1 - area))
    low, high = expit(logit(area) + half * np.array([-1, 1]))
    return float(low), float(high)


def placements(is_signal: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """DeLong's components: the fraction of the other class that each jet is ranked correctly against, ties as half.

    Their mean over the signal, or over the background, is the AUC.
    """
    below, ranks = np.empty(len(scores)), rankdata(scores)  # fraction of the other class with a lower score
    for of_class in (is_signal, ~is_signal):
        below[of_class] = (ranks[of_class] - rankdata(scores[of_class])) / (len(scores) - of_class.sum())
    return np.where(is_signal, below, 1 - below)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Expected calibration error of the most probable class: mean |accuracy - confidence| in 15 equal confidence bins.

    Guo et al., arXiv 1706.04599, eq. 3. `probabilities` `(n, num_classes)`.
    """
    confidence = probabilities.max(axis=1)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    weights = np.ones(len(labels)) if weights is None else weights
    correct = np.bincount(bins, weights * is_correct(labels, probabilities), CALIBRATION_BINS)
    gap = correct - np.bincount(bins, weights * confidence, CALIBRATION_BINS)
    return float(np.abs(gap).sum() / weights.sum())


def tagging_statistics(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    """ROC AUC and background rejection at signal efficiencies of 30, 50 and 70 %; NaN if a class is absent."""
    names = ("roc_auc", *(f"rejection_at_{percent}" for percent in (30, 50, 70)))
    if len(np.unique(labels)) < 2:
        return dict.fromkeys(names, float("nan"))
    curve = roc_curve(labels, scores, sample_weight=weights)[:2]  # once: the slow part
    num_background = effective_number(labels == 0 if weights is None else weights[labels == 0])
    rejections = [_rejection(*curve, percent / 100, num_background) for percent in (30, 50, 70)]
    return dict(zip(names, (float(auc(*curve)), *rejections)))


def effective_number(weights: np.ndarray) -> float:
    """How many jets of equal weight fluctuate as much as these."""
    return float(weights.sum() ** 2 / np.square(weights, dtype=float).sum()) if weights.any() else 0.0


def classification_statistics(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, float]:
    """Accuracy, mean one-against-rest AUC (NaN if a class is absent) and calibration error."""
    present = len(np.unique(labels)) == probabilities.shape[1]
    one_hot = labels[:, None] == np.arange(probabilities.shape[1])
    return {
        "accuracy": accuracy(labels, probabilities, weights),
        "roc_auc_macro": float(roc_auc_score(one_hot, probabilities, sample_weight=weights))
        if present
        else float("nan"),
        "calibration_error": calibration_error(labels, probabilities, weights),
    }


class JetTagging(evaluate.Metric):
    """`predictions`: score of the signal class; `references`: 1 for signal, 0 for background; `weights=`: of the jets;
    `events=`: their numbers, where jets share them.

    With weights or events, all intervals are from the bootstrap.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="ROC AUC (DeLong) and background rejection 1/ε_B (bootstrap over jets) with 95 % intervals.",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, weights=None, events=None, num_resamples=1000, seed=0):
        arrays = weighted(np.asarray(references), np.asarray(predictions), weights=weights)
        result = with_intervals(tagging_statistics, *arrays, num_resamples=num_resamples, seed=seed, events=events)
        if weights is None and events is None:
            result["roc_auc_low"], result["roc_auc_high"] = delong_interval(*arrays)
        return result


class JetClassification(evaluate.Metric):
    """`predictions`: a list of class probabilities for each jet; `references`: the index of its class; `weights=` and
    `events=` as in [`JetTagging`].

    `roc_auc_0`, `roc_auc_1`, ...: each class against the rest.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Accuracy, one-against-rest ROC AUC (mean; DeLong each) and calibration error.",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, weights=None, events=None, num_resamples=300, seed=0):
        arrays = weighted(np.asarray(references), np.asarray(predictions), weights=weights)
        labels, probabilities = arrays[:2]
        options = {"num_resamples": num_resamples, "seed": seed, "events": events}
        result = with_intervals(classification_statistics, *arrays, **options, centred=("calibration_error",))
        for number in range(probabilities.shape[1]):
            is_class, name = (labels == number).astype(int), f"roc_auc_{number}"
            if weights is not None or events is not None:
                scores = probabilities[:, number]
                of_class = with_intervals(tagging_statistics, is_class, scores, *arrays[2:], **options)
                result |= {name + bound: of_class[f"roc_auc{bound}"] for bound in ("", "_low", "_high")}
                continue
            defined = len(np.unique(is_class)) == 2
            result[name] = float(roc_auc_score(is_class, probabilities[:, number])) if defined else float("nan")
            result[f"{name}_low"], result[f"{name}_high"] = delong_interval(is_class, probabilities[:, number])
        return result
