"""Metrics of predictors on the same jets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict

from e2evit.metrics import (
    JetClassification,
    JetTagging,
    MassRegression,
    MassSculpting,
    auc_in_bins,
    closures,
    containment_metrics,
    discriminant,
    mass_by_process,
    response_in_bins,
    signal_in_bins,
    signal_metrics,
    uncertainty_in_bins,
)
from e2evit.metrics.bootstrap import event_numbers
from e2evit.metrics.mass import quantile_edges
from e2evit.metrics.table import CONTAINMENT

from .predictions import BACKGROUND, MODEL, Predictions, prediction_columns

__all__ = ["align_labels", "class_weights", "column", "evaluate_predictions", "measure", "measure_in_bins"]

OF_GROUPS = 300  # resamples for contained or uncontained jets


def align_labels(dataset: DatasetDict, label2id: dict[str, int]) -> DatasetDict:
    """The data set with its classes numbered as a model numbers them.

    Raises:
        ValueError: for a class that the model does not know.
    """
    labels = next(iter(dataset.values())).features["labels"]
    if not isinstance(labels, ClassLabel) or [label2id.get(name) for name in labels.names] == [
        *range(len(labels.names))
    ]:
        return dataset
    unknown = [name for name in labels.names if name not in label2id]
    if unknown:
        raise ValueError(
            f"The data has the classes {', '.join(labels.names)}; the model knows {', '.join(label2id)}, "
            f"not {', '.join(unknown)}."
        )
    return dataset.align_labels_with_mapping(label2id, "labels")


def column(rows: Dataset, name: str, missing: float = np.nan) -> np.ndarray:
    """A column in double precision, `missing` in place of nulls."""
    values = rows.with_format("arrow")[name].to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isnan(values), missing, values)


def measure(
    labels: np.ndarray,
    mass_labels: np.ndarray,
    predictions: Predictions,
    label_names: Sequence[str] = (),
    jet_masses: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    events: np.ndarray | None = None,
    merged: np.ndarray | None = None,
    processes: np.ndarray | None = None,
    generator_masses: np.ndarray | None = None,
) -> dict[str, float]:
    """Tagging and mass metrics with 95 % intervals, each over the jets that have its target.

    Probabilities add accuracy, calibration error and, with more than two classes, the AUC of each against the rest and
    [`signal_metrics`] of each signal against the background alone, as `top_vs_qcd_rejection_at_50`. Predicted
    uncertainties of the mass add coverage and pull width. All metrics of masses come again for contained and
    uncontained jets, as `contained_relative_resolution`, and the main ones for each process, as
    `x_qq_relative_resolution` ([`mass_by_process`] and [`closures`]).

    Args:
        labels: -100 where unknown. Class 0 is the background, all others are signal.
        mass_labels: In GeV, NaN where unknown.
        predictions: Predictions for the same jets.
        label_names: Names of the classes, for the names of those AUCs.
        jet_masses: Masses [GeV] that a cut on the score could sculpt, NaN where unknown; `mass_labels` by default.
        weights: Of the jets; by default all count the same.
        events: Numbers of the jets' events, where jets share them: intervals are of resampled events.
        merged: Whether jets contain all of the decay (1 or 0), NaN where unknown.
        processes: Names of the processes that made the jets, empty where unknown.
        generator_masses: Of the heavy particles [GeV], NaN without one, whether or not they are targets.

    Returns:
        The metrics that are defined: an AUC needs both signal and background.
    """

    def of(jets):
        given = {"weights": weights, "events": events}
        return {name: values[jets] for name, values in given.items() if values is not None}

    result, scores, probabilities = {}, predictions.scores, predictions.probabilities
    _check(labels, mass_labels, predictions, label_names)
    known = labels != -100
    signal = (labels[known] != BACKGROUND).astype(int)
    if len(np.unique(signal)) == 2:
        result |= JetTagging().compute(predictions=scores[known], references=signal, **of(known))
    if probabilities is not None and known.any():
        metrics = JetClassification().compute(predictions=probabilities[known], references=labels[known], **of(known))
        per_class = {f"roc_auc_{number}": f"roc_auc_{name}" for number, name in enumerate(label_names)}
        for name, value in metrics.items():
            bare = name.removesuffix("_low").removesuffix("_high")
            if bare not in per_class and not bare.startswith("roc_auc"):
                result[name] = value
            elif probabilities.shape[1] > 2:
                result[name.replace(bare, per_class.get(bare, bare))] = value
        for title, is_pair, is_signal, ratio in _pairs(labels, probabilities, label_names):
            found = signal_metrics(is_signal, ratio, **of(is_pair))
            result |= {f"{title}_{name}": value for name, value in found.items()}
    has_mass = np.isfinite(mass_labels) & (mass_labels > 0)
    if jet_masses is None:
        jet_masses = mass_labels
    both = known & np.isfinite(jet_masses)
    if len(np.unique(labels[both] != BACKGROUND)) == 2:
        targets = (labels[both] != BACKGROUND).astype(int)
        result |= MassSculpting().compute(
            predictions=scores[both], references=targets, masses=jet_masses[both], **of(both)
        )
    result |= _of_masses(mass_labels, predictions, has_mass, of)
    counted = np.ones(len(labels), bool) if weights is None else weights > 0
    if merged is not None:
        for kind, value in zip(CONTAINMENT, (1, 0)):
            jets = has_mass & counted & (merged == value)
            found = _of_masses(mass_labels, predictions, jets, of, num_resamples=OF_GROUPS)
            result |= {f"{kind}_{name}": value for name, value in found.items()}
        known = counted & np.isfinite(merged)
        if predictions.containment is not None and known.any():
            result |= containment_metrics(merged[known], predictions.containment[known], **of(known))
    if processes is not None:
        scales = None if predictions.mass_scale_preds is None else predictions.mass_scale_preds[has_mass]
        targets = processes[has_mass], mass_labels[has_mass], predictions.mass_preds[has_mass], scales
        result |= mass_by_process(*targets, **of(has_mass))
        if generator_masses is not None:
            result |= closures(processes, generator_masses, predictions.mass_preds, merged, weights, events)
    return {name: float(value) for name, value in result.items() if value == value}


def _of_masses(mass_labels, predictions: Predictions, jets: np.ndarray, of: Callable, **options) -> dict[str, float]:
    """Metrics of the masses of some jets; none without jets."""
    if not jets.any():
        return {}
    scales = None if predictions.mass_scale_preds is None else predictions.mass_scale_preds[jets]
    options |= {"scales": scales, **of(jets)}
    return MassRegression().compute(predictions=predictions.mass_preds[jets], references=mass_labels[jets], **options)


def _check(labels: np.ndarray, mass_labels: np.ndarray, predictions: Predictions, label_names: Sequence[str]) -> None:
    """Refuses numbers that are not finite, with their row, and names of classes that are those of metrics."""
    taken = {"low", "high", "macro", *CONTAINMENT} & {*label_names}
    if taken or len({*label_names}) < len(label_names):
        raise ValueError(
            f"The classes {', '.join(label_names)} cannot be measured: each needs a name of its own, other than low, "
            "high, macro, contained and uncontained, which are parts of names of metrics."
        )
    usable = {"mass": ~(np.isfinite(mass_labels) & (mass_labels > 0)) | np.isfinite(predictions.mass_preds)}
    if predictions.probabilities is not None:
        usable["probabilities"] = (labels == -100) | np.isfinite(predictions.probabilities).all(axis=1)
    for what, rows in usable.items():
        if not rows.all():
            raise ValueError(f"Row {int(np.argmin(rows))}: the predicted {what} must be finite, and is not.")


def _pairs(labels: np.ndarray, probabilities: np.ndarray | None, label_names: Sequence[str]) -> Iterator[tuple]:
    """Each signal and the background: a name such as `top_vs_qcd`, which jets are one of the two, which of those are
    signal, and their [`discriminant`]. None for two classes, whose score says as much.
    """
    if probabilities is None or len(label_names) < 3:
        return
    for number, name in enumerate(label_names):
        is_pair = np.isin(labels, (BACKGROUND, number))
        if number != BACKGROUND and len(np.unique(labels[is_pair])) == 2:
            ratio = discriminant(probabilities[is_pair].astype(float), number, BACKGROUND)
            yield f"{name}_vs_{label_names[BACKGROUND]}", is_pair, labels[is_pair] == number, ratio


def evaluate_predictions(
    rows: Dataset,
    mass_column: str,
    label_names: Sequence[str],
    predictors: Mapping[str, Predictions],
    weights: str | None = None,
) -> dict[str, Any]:
    """`metrics`, `in_bins` and `predictions` of a [`Result`], from what predictors say of the jets in `rows`.

    Args:
        predictors: By name; `"model"` is the one that is measured in bins.
        weights: Column with the weights of jets, see [`class_weights`]; by default all jets count the same.

    Raises:
        ValueError: if the rows have no such weights.
    """
    labels, mass_labels = column(rows, "labels", -100).astype(np.int64), column(rows, mass_column)
    jet_masses = column(rows, "jet_mass")
    jet_masses = np.where(np.isfinite(jet_masses), jet_masses, mass_labels)
    kinematics = {"mass_labels": mass_labels, "jet_mass": jet_masses, "pt": column(rows, "pt")}
    columns = {"event_id": rows["event_id"][:], "labels": labels}
    columns |= {name: values.astype(np.float32) for name, values in kinematics.items()}
    values = None if weights is None else class_weights(rows, weights, labels)
    if values is not None:
        columns["weight"] = values.astype(np.float32)
    truth = _truth(rows)
    columns |= {name: v if name == "process" else v.astype(np.float32) for name, v in truth.items()}
    known = [truth.get(name) for name in ("merged", "process", "generator_mass")]
    metrics, events = {}, event_numbers(columns["event_id"])
    for name, predictions in predictors.items():
        metrics[name] = measure(labels, mass_labels, predictions, label_names, jet_masses, values, events, *known)
        columns |= prediction_columns(name, predictions, label_names)
    in_bins = measure_in_bins(columns, predictors[MODEL], label_names, weights=values, events=events)
    return {"metrics": metrics, "in_bins": in_bins, "predictions": columns}


def _truth(rows: Dataset) -> dict[str, np.ndarray]:
    """What rows tell of jets, whether or not it is a target: `merged` (1, 0 or NaN), `process` (a name or nothing) and
    `generator_mass` [GeV]; without what is unknown for all jets."""
    found = {}
    for name, source in (("merged", "merged"), ("generator_mass", "mass_labels")):
        source = name if name in rows.column_names else source  # as before a selection of targets
        values = column(rows, source) if source in rows.column_names else np.empty(0)
        if np.isfinite(values).any():
            found[name] = values
    source = "process" if "process" in rows.column_names else "labels"
    if isinstance(classes := rows.features[source], ClassLabel):
        numbers = column(rows, source, -1).astype(int)
        found["process"] = np.array([*classes.names, ""])[numbers]
    return found


def class_weights(rows: Dataset, name: str, labels: np.ndarray) -> np.ndarray:
    """A column of weights, scaled to a mean of one in each class: spectra change, the shares of classes do not.

    Raises:
        ValueError: if there is no such column, or a weight is missing, negative or infinite.
    """
    if name not in rows.column_names:
        raise ValueError(f"The rows have no column {name!r} of weights; they have {', '.join(rows.column_names)}.")
    if rows.features[name].dtype not in ("float32", "float64"):
        raise ValueError(f"The column {name!r} holds {rows.features[name].dtype}, and weights are floats.")
    weights = column(rows, name)
    if (bad := ~np.isfinite(weights) | (weights < 0)).any():
        raise ValueError(
            f"Row {int(bad.argmax())}: the weight {name!r} is {weights[bad.argmax()]:g}; weights are finite and not "
            "negative. Rows that were simulated by an earlier version have none: simulate them again."
        )
    for label in np.unique(labels):
        if not (mean := weights[labels == label].mean()):
            raise ValueError(f"All weights {name!r} of class {label} are zero.")
        weights[labels == label] /= mean
    return weights


def measure_in_bins(
    columns: Mapping[str, np.ndarray],
    predictions: Predictions,
    label_names: Sequence[str] = (),
    num_bins: int = 5,
    weights: np.ndarray | None = None,
    events: np.ndarray | None = None,
) -> dict[str, list[dict[str, float]]]:
    """AUC of the signal in bins of jet mass and pT, and of each kind of it against the background in bins of pT;
    response and resolution in bins of true mass and pT; coverage and pull of predicted uncertainties in bins of pT and
    of true or predicted mass.

    Args:
        columns: `labels`, `mass_labels`, `jet_mass` and `pt`.
        predictions: Of one predictor for these jets.
        label_names: Names of the classes.
        num_bins: With equal numbers of jets.
        weights, events: As in [`measure`].

    Returns:
        Rows of [`auc_in_bins`], [`signal_in_bins`], [`response_in_bins`] and [`uncertainty_in_bins`], edges in GeV, by
        e.g. `"roc_auc in jet mass"` or `"top_vs_qcd in pt"`; left out where there are no targets.
    """
    labels, mass_labels = columns["labels"], columns["mass_labels"].astype(float)
    known, has_mass, result = labels != -100, np.isfinite(mass_labels) & (mass_labels > 0), {}

    def of(jets):
        return {
            "weights": weights if weights is None else weights[jets],
            "events": events if events is None else events[jets],
        }

    def bins(usable, by):
        chosen = usable & np.isfinite(columns[by])
        values = columns[by][chosen].astype(float)
        return chosen, values, quantile_edges(values, num_bins)

    for title, by in (("jet mass", "jet_mass"), ("pt", "pt")):
        if len(np.unique(labels[known & np.isfinite(columns[by])] != BACKGROUND)) == 2:
            chosen, values, edges = bins(known, by)
            signal = (labels[chosen] != BACKGROUND).astype(int)
            result[f"roc_auc in {title}"] = auc_in_bins(
                signal, predictions.scores[chosen], values, edges, **of(chosen)
            )
    has_pt = np.isfinite(columns["pt"])
    for title, is_pair, is_signal, ratio in _pairs(labels, predictions.probabilities, label_names):
        placed, values = has_pt[is_pair], columns["pt"][is_pair].astype(float)
        if len(np.unique(is_signal[placed])) == 2:
            given = {name: part if part is None else part[placed] for name, part in of(is_pair).items()}
            edges = quantile_edges(columns["pt"][known & has_pt].astype(float), num_bins)  # the same for all signals
            result[f"{title} in pt"] = signal_in_bins(is_signal[placed], ratio[placed], values[placed], edges, **given)
    for title, by in (("mass", "mass_labels"), ("pt", "pt")):
        if (has_mass & np.isfinite(columns[by])).any():
            chosen, values, edges = bins(has_mass, by)
            mass_preds = predictions.mass_preds[chosen]
            result[f"response in {title}"] = response_in_bins(
                mass_labels[chosen], mass_preds, values, edges, **of(chosen)
            )
    if predictions.mass_scale_preds is not None and (has_mass & has_pt).any():
        chosen, pts, pt_edges = bins(has_mass, "pt")
        predicted = predictions.mass_preds[chosen], predictions.mass_scale_preds[chosen]
        for title, of_predicted in (("mass", False), ("predicted mass", True)):
            masses = predicted[0].astype(float) if of_predicted else mass_labels[chosen]
            edges = quantile_edges(masses, num_bins), pt_edges
            result[f"uncertainty in {title} and pt"] = uncertainty_in_bins(
                mass_labels[chosen], *predicted, pts, *edges, of_predicted=of_predicted, **of(chosen)
            )
    return result
