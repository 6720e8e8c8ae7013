"""Which of several models is better on the same jets, and whether that could be chance."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from .evaluation import Predictions
from .metrics.classification import placements
from .report import JetPredictions, seed_groups

__all__ = [
    "QUANTITIES",
    "compare_pairs",
    "holm",
    "mcnemar",
    "paired_bootstrap",
    "paired_delong",
    "quantities_with_intervals",
    "spread_over_seeds",
]

RESAMPLES = 10_000  # the smallest p-value is 2 / 10 000, and Holm's correction multiplies it by the number of models
# what models are compared by under changes of the detector
QUANTITIES = ("roc_auc_macro", "accuracy", "relative_resolution", "median_response")


def paired_bootstrap(
    statistic: Callable[..., float],
    shared: Sequence[np.ndarray],
    first: np.ndarray,
    second: np.ndarray,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, float]:
    """Difference of a statistic between two models, both resampled with the same jets each time.

    Args:
        statistic: Of `(*shared, predictions)`.
        shared: Targets of the jets.
        first, second: Predictions of the two models, one row a jet.

    Returns:
        `difference` (first minus second), its 95 % percentile interval `low`, `high`, and `p_value`, two-sided: twice
        the share of resamples on the other side of zero, no less than one resample's.
    """
    rng, draws = np.random.default_rng(seed), []
    for _ in range(num_resamples):
        chosen = rng.integers(0, len(first), len(first))
        targets = [column[chosen] for column in shared]
        draws.append(statistic(*targets, first[chosen]) - statistic(*targets, second[chosen]))
    draws = np.array(draws)
    low, high = np.percentile(draws, [2.5, 97.5])
    other_side = min((draws <= 0).mean(), (draws >= 0).mean())
    return {
        "difference": float(statistic(*shared, first) - statistic(*shared, second)),
        "low": float(low),
        "high": float(high),
        "p_value": float(min(1.0, 2 * max(other_side, 1 / num_resamples))),
    }


def paired_delong(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Difference of the mean AUC of the classes, each against the rest, between two models on the same jets.

    The variance is DeLong's (Biometrics 44 (1988) 837) of the mean: each jet adds to each AUC what it is on the right
    side of, as one of the class or of the rest, and these sums differ between the models jet by jet.

    Args:
        labels: Of the jets `(n,)`.
        first, second: Probabilities of the classes `(n, num_classes)`; of two classes the second one's AUC is taken.

    Returns:
        `difference` (first minus second), its 95 % interval `low`, `high`, and the two-sided `p_value`.
    """
    (auc, parts), (other_auc, other_parts) = (_auc_and_parts(labels, found) for found in (first, second))
    difference, error = auc - other_auc, float(np.std(parts - other_parts, ddof=1) / np.sqrt(len(labels)))
    half = norm.ppf(0.975) * error
    return {
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "p_value": float(2 * norm.sf(abs(difference) / error)) if error else 1.0,
    }


def _auc_and_parts(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean AUC and what each jet adds to its deviation, times the number of jets."""
    number = probabilities.shape[1]
    aucs, parts = [], np.zeros(len(labels))
    for one in [1] if number == 2 else range(number):
        is_signal = labels == one
        placed = placements(is_signal, probabilities[:, one])
        aucs.append(placed[is_signal].mean())
        parts += (placed - aucs[-1]) / np.where(is_signal, is_signal.mean(), 1 - is_signal.mean())
    return float(np.mean(aucs)), parts / len(aucs)


def mcnemar(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """McNemar's exact test of two classifiers' accuracies on the same jets (Psychometrika 12 (1947) 153).

    Args:
        first, second: The classes that they choose.

    Returns:
        `only_first` and `only_second`: jets that one alone gets right; `difference` of the accuracies; `p_value`.
    """
    only_first = int(((first == labels) & (second != labels)).sum())
    only_second = int(((second == labels) & (first != labels)).sum())
    both = only_first + only_second
    return {
        "only_first": only_first,
        "only_second": only_second,
        "difference": (only_first - only_second) / len(labels),
        "p_value": float(binomtest(only_first, both).pvalue) if both else 1.0,
    }


def quantities_with_intervals(
    labels: np.ndarray, masses: np.ndarray, found: Predictions, num_resamples: int = 200, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Each of [`QUANTITIES`] that has targets: its `value` and 95 % bootstrap interval, `low` and `high`."""
    known, has_mass = labels != -100, np.isfinite(masses)
    targets = {
        "roc_auc_macro": (_macro_auc, labels[known], found.probabilities[known]),
        "accuracy": (_accuracy, labels[known], found.probabilities[known]),
        "relative_resolution": (_resolution, masses[has_mass], found.mass[has_mass]),
        "median_response": (_median_response, masses[has_mass], found.mass[has_mass]),
    }
    rng, result = np.random.default_rng(seed), {}
    for name, (statistic, truth, predicted) in targets.items():
        if not len(truth):
            continue
        chosen = (rng.integers(0, len(truth), len(truth)) for _ in range(num_resamples))
        low, high = np.percentile([statistic(truth[rows], predicted[rows]) for rows in chosen], [2.5, 97.5])
        result[name] = {"value": float(statistic(truth, predicted)), "low": float(low), "high": float(high)}
    return result


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, Scand. J. Stat. 6 (1979) 65), in the same order."""
    order, corrected, largest = np.argsort(p_values), [0.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = largest
    return corrected


def compare_pairs(found: JetPredictions, reference: str, num_resamples: int = RESAMPLES) -> dict[str, dict]:
    """`reference` against each other model: mean AUC of the classes, accuracy, and relative mass resolution.

    Returns:
        By the other model's name, then by quantity: difference (reference minus other), interval and p-values;
        `p_holm` is corrected for the number of models.

    Raises:
        ValueError: if `reference` is not among the models.
    """
    if reference not in found.mass_preds:
        raise ValueError(f"There is no model {reference!r}; known ones: {', '.join(found.mass_preds)}.")
    known, has_mass = found.labels != -100, np.isfinite(found.masses)
    labels, masses = found.labels[known], found.masses[has_mass]
    result = {}
    for other in found.mass_preds:
        if other == reference:
            continue
        entry = {}
        if reference in found.probabilities and other in found.probabilities:
            first, second = (found.probabilities[name][known] for name in (reference, other))
            entry["roc_auc_macro"] = paired_delong(labels, first, second)
            entry["accuracy"] = mcnemar(labels, first.argmax(1), second.argmax(1))
        if len(masses):
            first, second = (found.mass_preds[name][has_mass].astype(float) for name in (reference, other))
            entry["relative_resolution"] = paired_bootstrap(_resolution, [masses], first, second, num_resamples)
        result[other] = entry
    for quantity in ("roc_auc_macro", "accuracy", "relative_resolution"):
        entries = [entry[quantity] for entry in result.values() if quantity in entry]
        for entry, corrected in zip(entries, holm([entry["p_value"] for entry in entries])):
            entry["p_holm"] = corrected
    return result


def _macro_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(roc_auc_score(labels[:, None] == np.arange(probabilities.shape[1]), probabilities))


def _accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    return float((probabilities.argmax(1) == labels).mean())


def _median_response(masses: np.ndarray, mass_preds: np.ndarray) -> float:
    return float(np.median(mass_preds / masses))


def _resolution(masses: np.ndarray, mass_preds: np.ndarray) -> float:
    low, high = np.percentile(mass_preds / masses, [16, 84])
    return float(high - low) / 2


def spread_over_seeds(records: Mapping[str, dict], quantities: Sequence[str]) -> dict[str, dict]:
    """Mean and standard deviation of a quantity over the trainings of a model, and how many there are.

    The deviation is `None` for a single training: one run says nothing of its spread.
    """
    result = {}
    for model, names in seed_groups(list(records)).items():
        metrics = [records[name]["metrics"]["model"] for name in names]
        entry = {"trainings": len(names)}
        for quantity in quantities:
            values = [found[quantity] for found in metrics if quantity in found]
            if values:
                deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
                entry[quantity] = {"mean": float(np.mean(values)), "deviation": deviation}
        result[model] = entry
    return result
