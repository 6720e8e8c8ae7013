"""Whether a tagger shapes the mass of the background that it lets through, as an `evaluate` module."""

from collections.abc import Sequence
from itertools import pairwise

import datasets
import numpy as np
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import roc_auc_score

from .bootstrap import with_intervals
from .classification import delong_interval
from .library import evaluate

__all__ = ["MassSculpting", "auc_in_bins", "sculpting_statistics"]

MASS_BINS = 20  # with equal numbers of background jets
EFFICIENCIES = (30, 50)  # percent of the signal


def sculpting_statistics(labels: np.ndarray, scores: np.ndarray, masses: np.ndarray, edges=None) -> dict[str, float]:
    """Jensen-Shannon divergence (base 2: 0 to 1) between the masses of the background that passes and that fails.

    At signal efficiencies of 30 and 50 %; 0 if the tagger ignores the mass. Same measure as in ATL-PHYS-PUB-2018-014.

    Args:
        masses: Of the jets [GeV].
        edges: Of the mass bins; quantiles of the background if not given.
    """
    background = masses[labels == 0]
    if edges is None:
        edges = np.quantile(background, np.linspace(0, 1, MASS_BINS + 1))
    found = {}
    for percent in EFFICIENCIES:
        name = f"mass_divergence_at_{percent}"
        signal = scores[labels == 1]
        passes = scores[labels == 0] > (np.quantile(signal, 1 - percent / 100) if len(signal) else np.inf)
        if passes.all() or not passes.any():
            found[name] = float("nan")
            continue
        counts = [
            np.histogram(np.clip(background[which], edges[0], edges[-1]), edges)[0] for which in (passes, ~passes)
        ]
        found[name] = float(jensenshannon(*counts, base=2) ** 2)
    return found


def auc_in_bins(labels: np.ndarray, scores: np.ndarray, by: np.ndarray, edges: Sequence[float]) -> list[dict]:
    """ROC AUC with DeLong's interval in bins of `by` (mass or pT [GeV]); without it where a class is absent."""
    rows = []
    for low, high in pairwise(edges):
        chosen = (by >= low) & (by < high)
        row = {"low": float(low), "high": float(high), "number": int(chosen.sum())}
        if len(np.unique(labels[chosen])) == 2:
            row["roc_auc"] = float(roc_auc_score(labels[chosen], scores[chosen]))
            row["roc_auc_low"], row["roc_auc_high"] = delong_interval(labels[chosen], scores[chosen])
        rows.append(row)
    return rows


class MassSculpting(evaluate.Metric):
    """`predictions`: score of the signal; `references`: 1 signal, 0 background; `masses=`: of the jets [GeV]."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Divergence of the background's mass between jets that pass and fail a tagger.",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, masses, num_resamples=300, seed=0):
        labels, scores, masses = np.asarray(references), np.asarray(predictions), np.asarray(masses)
        if masses.shape != labels.shape:
            raise ValueError(f"Need one mass [GeV] for each of {len(labels)} jets, got shape {masses.shape}.")
        edges = np.quantile(masses[labels == 0], np.linspace(0, 1, MASS_BINS + 1))

        def statistics(labels, scores, masses):
            return sculpting_statistics(labels, scores, masses, edges)

        return with_intervals(statistics, labels, scores, masses, num_resamples=num_resamples, seed=seed)
