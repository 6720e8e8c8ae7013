"""Which of several models is better on the same jets, and whether that could be chance."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import t
from sklearn.metrics import roc_auc_score

from e2evit.metrics.classification import placements

from .measure import Predictions
from .tables import COMPARED, JetPredictions, seed_groups

__all__ = [
    "QUANTITIES",
    "compare_models",
    "holm",
    "paired_bootstrap",
    "paired_difference",
    "quantities_with_intervals",
    "spread_over_seeds",
]

RESAMPLES = 10_000
# what models are compared by under changes of the detector
QUANTITIES = ("roc_auc_macro", "accuracy", "relative_resolution", "median_response")


def paired_difference(firsts: Sequence[float], seconds: Sequence[float], error_of_jets: float) -> dict[str, float]:
    """Difference of a quantity's means over the trainings of two models that were measured on the same jets.

    Its variance is that of the jets plus that of the trainings: of each model with more than one, their variance over
    their number. The interval and the test are Student's, with the degrees of freedom of Welch and Satterthwaite
    (Biometrics Bulletin 2 (1946) 110).

    Args:
        firsts, seconds: The quantity of each training.
        error_of_jets: Standard deviation of the difference of these means over samples of jets.

    Returns:
        `difference` (first minus second), its 95 % interval `low`, `high`, and the two-sided `p_value`.
    """
    spreads = [(np.var(side, ddof=1) / len(side), len(side) - 1) for side in (firsts, seconds) if len(side) > 1]
    difference, variance = float(np.mean(firsts) - np.mean(seconds)), error_of_jets**2 + sum(v for v, _ in spreads)
    if not variance:
        return {"difference": difference, "low": difference, "high": difference, "p_value": float(difference == 0)}
    uncertain = sum(spread**2 / freedom for spread, freedom in spreads)  # the jets' part is known well
    freedom = variance**2 / uncertain if uncertain else np.inf
    half = t.ppf(0.975, freedom) * np.sqrt(variance)
    return {
        "difference": difference,
        "low": float(difference - half),
        "high": float(difference + half),
        "p_value": float(2 * t.sf(abs(difference) / np.sqrt(variance), freedom)),
    }


def paired_bootstrap(
    statistic: Callable[..., float],
    shared: Sequence[np.ndarray],
    firsts: Sequence[np.ndarray],
    seconds: Sequence[np.ndarray],
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """Standard deviation of the difference of a statistic between two models over resampled jets, the same of both.

    Args:
        statistic: Of `(*shared, predictions)`; its mean over the trainings of a model is compared.
        shared: Targets of the jets.
        firsts, seconds: Predictions of the models' trainings, one row a jet.
    """
    rng, draws = np.random.default_rng(seed), []
    for _ in range(num_resamples):
        chosen = rng.integers(0, len(shared[0]), len(shared[0]))
        targets = [column[chosen] for column in shared]
        means = (np.mean([statistic(*targets, found[chosen]) for found in side]) for side in (firsts, seconds))
        draws.append(next(means) - next(means))
    return float(np.std(draws, ddof=1))


def _auc_and_parts(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean AUC of the classes, each against the rest, and what each jet adds to its deviation, times their number.

    DeLong (Biometrics 44 (1988) 837): a jet adds to each AUC what it is on the right side of, as one of the class or
    of the rest. Of two classes the second one's AUC is taken.
    """
    number = probabilities.shape[1]
    aucs, parts = [], np.zeros(len(labels))
    for one in [1] if number == 2 else range(number):
        is_signal = labels == one
        placed = placements(is_signal, probabilities[:, one])
        aucs.append(placed[is_signal].mean())
        parts += (placed - aucs[-1]) / np.where(is_signal, is_signal.mean(), 1 - is_signal.mean())
    return float(np.mean(aucs)), parts / len(aucs)


def _accuracy_and_parts(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    """Accuracy and which jets are right; the variance of a difference is McNemar's (Psychometrika 12 (1947) 153)."""
    is_right = (probabilities.argmax(1) == labels).astype(float)
    return float(is_right.mean()), is_right


def _difference_by_parts(measure: Callable, labels: np.ndarray, firsts: Sequence, seconds: Sequence) -> dict:
    """[`paired_difference`] of a quantity to which each jet adds a part."""
    sides = [[measure(labels, found) for found in side] for side in (firsts, seconds)]
    first, second = (np.mean([parts for _, parts in side], axis=0) for side in sides)
    error = np.std(first - second, ddof=1) / np.sqrt(len(labels))
    return paired_difference(*([value for value, _ in side] for side in sides), float(error))


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


def compare_models(found: JetPredictions, reference: str, num_resamples: int = RESAMPLES) -> dict[str, dict]:
    """`reference` against each other model: mean AUC of the classes, accuracy, and relative mass resolution.

    Names of `found` that differ in `_seedN` alone are trainings of one model.

    Returns:
        By the other model's name, then by quantity: what [`paired_difference`] says (reference minus other) and
        `p_holm`, corrected for the number of models.

    Raises:
        ValueError: if `reference` is not among the models.
    """
    groups = seed_groups(list(found.mass_preds))
    if reference not in groups:
        raise ValueError(f"There is no model {reference!r}; known ones: {', '.join(groups)}.")
    known, has_mass = found.labels != -100, np.isfinite(found.masses)
    labels, masses = found.labels[known], found.masses[has_mass]
    result = {}
    for other in groups:
        if other == reference:
            continue
        entry, sides = {}, (groups[reference], groups[other])
        if all(name in found.probabilities for side in sides for name in side):
            probabilities = [[found.probabilities[name][known] for name in side] for side in sides]
            entry["roc_auc_macro"] = _difference_by_parts(_auc_and_parts, labels, *probabilities)
            entry["accuracy"] = _difference_by_parts(_accuracy_and_parts, labels, *probabilities)
        if len(masses):
            predicted = [[found.mass_preds[name][has_mass].astype(float) for name in side] for side in sides]
            error = paired_bootstrap(_resolution, [masses], *predicted, num_resamples)
            values = ([_resolution(masses, mass) for mass in side] for side in predicted)
            entry["relative_resolution"] = paired_difference(*values, error)
        result[other] = entry
    for quantity in COMPARED:
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
