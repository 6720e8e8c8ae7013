"""Mass sculpting: does a cut on the tagger shape the mass spectrum of the background that passes?"""

from collections.abc import Sequence
from itertools import pairwise

import datasets
import evaluate
import numpy as np
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import roc_auc_score

from .bootstrap import weighted, with_intervals
from .classification import delong_interval, tagging_statistics
from .mass import quantiles

__all__ = ["MassSculpting", "auc_in_bins", "chance_divergence", "passing_background", "sculpting_statistics"]

MASS_BINS = 20  # with equal numbers of background jets
EFFICIENCIES = (30, 50)  # percent of the signal


def sculpting_statistics(
    labels: np.ndarray, scores: np.ndarray, jet_masses: np.ndarray, edges=None, weights: np.ndarray | None = None
) -> dict[str, float]:
    """Jensen-Shannon divergence (base 2: 0 to 1) between the mass spectra of background that passes and that fails.

    At signal efficiencies of 30 and 50 %; 0 if the tagger ignores the mass. The measure of ATL-PHYS-PUB-2018-014.

    Args:
        jet_masses: In GeV.
        edges: Edges of the mass bins; quantiles of the background by default.
    """
    background = jet_masses[labels == 0]
    edges = _mass_edges(background) if edges is None else edges
    of_background = None if weights is None else weights[labels == 0]
    return {
        f"mass_divergence_at_{percent}": _divergence(background, passes, edges, of_background)
        for percent, passes in passing_background(labels, scores, weights=weights).items()
    }


def chance_divergence(
    background: np.ndarray,
    number: int,
    num_resamples: int = 300,
    seed: int = 0,
    weights: np.ndarray | None = None,
) -> float:
    """Mean divergence if `number` background jets passed at random.

    A few jets scatter over the bins whatever selected them: compare a divergence with this, not with 0.

    Args:
        background: Jet masses of the background [GeV].
        weights: Of the background.
    """
    rng, edges, passes = np.random.default_rng(seed), _mass_edges(background), np.arange(len(background)) < number
    draws = (_divergence(background, rng.permutation(passes), edges, weights) for _ in range(num_resamples))
    return float(np.mean(list(draws)))


def passing_background(
    labels: np.ndarray,
    scores: np.ndarray,
    efficiencies: Sequence[int] = EFFICIENCIES,
    weights: np.ndarray | None = None,
) -> dict[int, np.ndarray]:
    """Which background jets pass the cuts that keep some percentages of the signal, by percentage."""
    signal, of_signal = scores[labels == 1], None if weights is None else weights[labels == 1]
    cuts = {
        percent: quantiles(signal, 1 - percent / 100, of_signal) if len(signal) else np.inf for percent in efficiencies
    }
    return {percent: scores[labels == 0] > cut for percent, cut in cuts.items()}


def _mass_edges(background: np.ndarray) -> np.ndarray:
    return np.quantile(background, np.linspace(0, 1, MASS_BINS + 1))


def _divergence(background: np.ndarray, passes: np.ndarray, edges: np.ndarray, weights: np.ndarray | None) -> float:
    if passes.all() or not passes.any():
        return float("nan")
    inside = np.clip(background, edges[0], edges[-1])
    counts = [
        np.histogram(inside[which], edges, weights=None if weights is None else weights[which])[0]
        for which in (passes, ~passes)
    ]
    if not all(count.sum() for count in counts):
        return float("nan")
    return float(jensenshannon(*counts, base=2) ** 2)


def auc_in_bins(
    labels: np.ndarray,
    scores: np.ndarray,
    by: np.ndarray,
    edges: Sequence[float],
    weights: np.ndarray | None = None,
    events: np.ndarray | None = None,
) -> list[dict]:
    """ROC AUC in bins of `by` (mass or pT [GeV]), with DeLong's interval unless jets have weights, or the bootstrap's
    where they share events; no AUC where a class is absent."""
    rows = []
    for low, high in pairwise(edges):
        inside = (by >= low) & (by < high)
        row = {"low": float(low), "high": float(high), "number": int(inside.sum())}
        if len(np.unique(labels[inside])) == 2:
            of_jets = None if weights is None else weights[inside]
            row["roc_auc"] = float(roc_auc_score(labels[inside], scores[inside], sample_weight=of_jets))
            if weights is None and events is not None:
                arrays, options = (labels[inside], scores[inside]), {"num_resamples": 300, "events": events[inside]}
                of_bin = with_intervals(tagging_statistics, *arrays, **options)
                row["roc_auc_low"], row["roc_auc_high"] = of_bin["roc_auc_low"], of_bin["roc_auc_high"]
            elif weights is None:
                row["roc_auc_low"], row["roc_auc_high"] = delong_interval(labels[inside], scores[inside])
        rows.append(row)
    return rows


class MassSculpting(evaluate.Metric):
    """`predictions`: score of the signal; `references`: 1 signal, 0 background; `masses=` [GeV], `weights=` and
    `events=` of the jets.

    `mass_divergence_at_50_chance`: of a tagger that ignores the mass and passes as many background jets.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Divergence between the mass spectra of background jets that pass and that fail a tagger.",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, masses, weights=None, events=None, num_resamples=300, seed=0):
        labels, scores, masses = np.asarray(references), np.asarray(predictions), np.asarray(masses)
        if masses.shape != labels.shape:
            raise ValueError(f"Need one mass [GeV] for each of {len(labels)} jets, got shape {masses.shape}.")
        background = masses[labels == 0]
        edges = _mass_edges(background)

        def statistics(labels, scores, masses, weights=None):
            return sculpting_statistics(labels, scores, masses, edges, weights)

        names = [f"mass_divergence_at_{percent}" for percent in EFFICIENCIES]
        options = {"num_resamples": num_resamples, "seed": seed, "centred": names, "events": events}
        arrays = weighted(labels, scores, masses, weights=weights)
        result, weights = with_intervals(statistics, *arrays, **options), None if weights is None else arrays[-1]
        of_background = None if weights is None else weights[labels == 0]
        for name, passes in zip(names, passing_background(labels, scores, weights=weights).values()):
            for bound in (f"{name}_low", f"{name}_high"):
                result[bound] = float(np.clip(result[bound], 0, 1))
            passing = int(passes.sum())
            result[f"{name}_chance"] = chance_divergence(background, passing, num_resamples, seed, of_background)
        return result
