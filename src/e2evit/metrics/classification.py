"""Binary tagging metrics as an `evaluate` module that needs no network."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from .bootstrap import with_intervals

__all__ = ["JetTagging", "background_rejection", "tagging_statistics"]


def background_rejection(labels: np.ndarray, scores: np.ndarray, signal_efficiency: float) -> float:
    """1 / ε_B where the fraction `signal_efficiency` of label 1 passes, on the interpolated ROC curve.

    If no background jet passes, the number of background jets: a lower limit.
    """
    false_positive, true_positive, _ = roc_curve(labels, scores)
    after = int(np.argmax(true_positive >= signal_efficiency))
    span = slice(max(after - 1, 0), after + 1)
    passed = np.interp(signal_efficiency, true_positive[span], false_positive[span])
    return float(1 / max(passed, 1 / max(1, np.sum(labels == 0))))


def tagging_statistics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """ROC AUC and background rejection at signal efficiencies of 30, 50 and 70 %; NaN with one class alone."""
    names = ("roc_auc", *(f"rejection_at_{percent}" for percent in (30, 50, 70)))
    if len(np.unique(labels)) < 2:
        return dict.fromkeys(names, float("nan"))
    rejections = [background_rejection(labels, scores, percent / 100) for percent in (30, 50, 70)]
    return dict(zip(names, (float(roc_auc_score(labels, scores)), *rejections)))


class JetTagging(evaluate.Metric):
    """`predictions`: score of the signal class; `references`: 1 for signal, 0 for background."""

    def _info(self):
        return evaluate.MetricInfo(
            description="ROC AUC and background rejection 1/ε_B with 95 % bootstrap intervals over jets.",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, num_resamples=1000, seed=0):
        labels, scores = np.asarray(references), np.asarray(predictions)
        return with_intervals(tagging_statistics, labels, scores, num_resamples=num_resamples, seed=seed)
