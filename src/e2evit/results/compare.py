"""Which of several models is better on the same jets, and whether that could be chance."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import t

from e2evit.metrics.bootstrap import event_numbers, resamples, with_intervals
from e2evit.metrics.classification import classification_statistics, is_correct, placements
from e2evit.metrics.mass import mass_statistics, relative_resolution

from .predictions import JetPredictions, Predictions
from .record import Result, interval

__all__ = [
    "COMPARED",
    "ROBUSTNESS",
    "compare_models",
    "holm",
    "paired_bootstrap",
    "paired_difference",
    "robustness_metrics",
    "spread_over_seeds",
]

RESAMPLES = 10_000
COMPARED = ("roc_auc_macro", "accuracy", "relative_resolution")  # tested in pairs of models
ROBUSTNESS = ("roc_auc_macro", "accuracy", "relative_resolution", "response")  # measured on changed detectors


def paired_difference(
    firsts: Sequence[float], seconds: Sequence[float], error_of_jets: float, same_trainings: bool = False
) -> dict[str, float]:
    """Difference between two models, measured on the same jets, in the mean of a metric over their trainings.

    Its variance is that of the jets plus, for each model with several trainings, the variance of their mean. The
    interval and the test are Student's, with the degrees of freedom of Welch and Satterthwaite (Biometrics Bulletin 2
    (1946) 110).

    Args:
        firsts, seconds: The metric of each training.
        error_of_jets: Standard deviation of the difference over samples of jets.
        same_trainings: Whether the n-th metrics of both are of one training, measured under two conditions: then the
            trainings contribute the variance of their mean change.

    Returns:
        `difference` (first minus second), its 95 % interval `low`, `high`, and the two-sided `p_value`.
    """
    if same_trainings:
        firsts, seconds = [first - second for first, second in zip(firsts, seconds, strict=True)], [0.0]
    spreads = [(np.var(side, ddof=1) / len(side), len(side) - 1) for side in (firsts, seconds) if len(side) > 1]
    difference = float(np.mean(firsts) - np.mean(seconds))
    variance = error_of_jets**2 + sum(spread for spread, _ in spreads)
    if not variance:
        return {"difference": difference, "low": difference, "high": difference, "p_value": float(difference == 0)}
    # the part of the jets is known well: infinitely many degrees of freedom
    uncertain = sum(spread**2 / freedom for spread, freedom in spreads)
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
    events: np.ndarray | None = None,
) -> float:
    """Standard deviation of the difference in a statistic between two models, over resamples of their common jets.

    Args:
        statistic: Of `(*shared, predictions)`; its mean over the trainings of a model is compared.
        shared: Targets of the jets.
        firsts, seconds: Predictions of each training, one row per jet.
        events: As in [`resamples`].
    """
    draws = []
    for rows in resamples(len(shared[0]), num_resamples, seed, events):
        targets = [column[rows] for column in shared]
        first, second = (np.mean([statistic(*targets, of[rows]) for of in side]) for side in (firsts, seconds))
        draws.append(first - second)
    return float(np.std(draws, ddof=1))


def _auc_and_parts(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean one-against-rest AUC, and each jet's contribution to its deviation, times the number of jets.

    DeLong (Biometrics 44 (1988) 837): a jet contributes its placement to each AUC, as signal or as rest. With two
    classes, the AUC of the second.
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
    correct = is_correct(labels, probabilities).astype(float)
    return float(correct.mean()), correct


def _difference_by_parts(
    measure: Callable,
    labels: np.ndarray,
    firsts: Sequence,
    seconds: Sequence,
    events: np.ndarray | None = None,
    same_trainings: bool = False,
) -> dict:
    """[`paired_difference`] of a metric that is a mean over jets; those of one of the `events` fluctuate together."""
    sides = [[measure(labels, probabilities) for probabilities in side] for side in (firsts, seconds)]
    first, second = (np.mean([parts for _, parts in side], axis=0) for side in sides)
    if events is None:
        error = np.std(first - second, ddof=1) / np.sqrt(len(labels))
    else:
        sums, number = np.bincount(events, first - second - np.mean(first - second)), len(np.unique(events))
        error = np.sqrt(np.square(sums).sum() * number / (number - 1)) / len(labels)
    return paired_difference(*([value for value, _ in side] for side in sides), float(error), same_trainings)


def robustness_metrics(
    labels: np.ndarray,
    mass_labels: np.ndarray,
    predictions: Predictions,
    num_resamples: int = 200,
    seed: int = 0,
    events: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Each of [`ROBUSTNESS`] that has targets: its `value` and the bounds `low` and `high` of its 95 % interval.

    Args:
        events: As in [`resamples`].
    """
    metrics = {}
    for statistics, targets, predicted, known in (
        (classification_statistics, labels, predictions.probabilities, labels != -100),
        (mass_statistics, mass_labels, predictions.mass_preds, np.isfinite(mass_labels)),
    ):
        if known.any():
            of_known = None if events is None else events[known]
            options = {"num_resamples": num_resamples, "seed": seed, "events": of_known}
            metrics |= with_intervals(statistics, targets[known], predicted[known], **options)
    return {key: interval(metrics, key)._asdict() for key in ROBUSTNESS if key in metrics}


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for multiple tests (Holm, Scand. J. Stat. 6 (1979) 65), in the same order; NaN, of a test
    that could not be made, stays NaN and counts for none.
    """
    order, corrected, largest = np.argsort(p_values), [float("nan")] * len(p_values), 0.0
    known = int(np.isfinite(p_values).sum())
    for rank, number in enumerate(order[:known]):  # NaN sorts last
        largest = max(largest, min(1.0, (known - rank) * p_values[number]))
        corrected[number] = largest
    return corrected


def compare_models(
    jets: JetPredictions,
    trainings: Mapping[str, Sequence[str]],
    reference: str,
    num_resamples: int = RESAMPLES,
    same_trainings: bool = False,
) -> dict[str, dict]:
    """`reference` against each other model, by the metrics of [`COMPARED`].

    Args:
        jets: Predictions of all trainings.
        trainings: Names of the trainings of each model.
        same_trainings: As in [`paired_difference`].

    Returns:
        By the other model, then by metric: what [`paired_difference`] returns (reference minus other) and `p_holm`,
        corrected for the number of models.

    Raises:
        ValueError: if `reference` is not among the models.
    """
    if reference not in trainings:
        raise ValueError(f"There is no model {reference!r}; known ones: {', '.join(trainings)}.")
    known, has_mass = jets.labels != -100, np.isfinite(jets.mass_labels)
    labels, mass_labels = jets.labels[known], jets.mass_labels[has_mass]
    numbers = event_numbers(jets.event_ids)
    events, with_mass = (None if numbers is None else numbers[chosen] for chosen in (known, has_mass))
    result = {}
    for other in trainings:
        if other == reference:
            continue
        entry, sides = {}, (trainings[reference], trainings[other])
        if all(name in jets.probabilities for side in sides for name in side):
            probabilities = [[jets.probabilities[name][known] for name in side] for side in sides]
            if len(np.unique(labels)) == probabilities[0][0].shape[1]:
                entry["roc_auc_macro"] = _difference_by_parts(
                    _auc_and_parts, labels, *probabilities, events, same_trainings
                )
            entry["accuracy"] = _difference_by_parts(
                _accuracy_and_parts, labels, *probabilities, events, same_trainings
            )
        if len(mass_labels):
            predicted = [[jets.mass_preds[name][has_mass].astype(float) for name in side] for side in sides]
            error = paired_bootstrap(relative_resolution, [mass_labels], *predicted, num_resamples, events=with_mass)
            values = ([relative_resolution(mass_labels, mass_preds) for mass_preds in side] for side in predicted)
            entry["relative_resolution"] = paired_difference(*values, error, same_trainings)
        result[other] = entry
    for key in COMPARED:
        entries = [entry[key] for entry in result.values() if key in entry]
        for entry, corrected in zip(entries, holm([entry["p_value"] for entry in entries])):
            entry["p_holm"] = corrected
    return result


def spread_over_seeds(groups: Mapping[str, Sequence[Result]], keys: Sequence[str]) -> dict[str, dict]:
    """Mean and standard deviation of metrics over the trainings of each model, and the number of `trainings`.

    The deviation is None for a single training, which says nothing of the spread.
    """
    spreads = {}
    for model, results in groups.items():
        entry: dict = {"trainings": len(results)}
        for key in keys:
            values = [metric.value for result in results if (metric := result.metric(key)) is not None]
            if values:
                deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
                entry[key] = {"mean": float(np.mean(values)), "deviation": deviation}
        spreads[model] = entry
    return spreads
