"""Metrics of a model, and of baselines on the same jets, as one record."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict

from e2evit.baselines.jet_features import image_mass
from e2evit.data import DatasetSchema
from e2evit.metrics import JetClassification, JetTagging, MassRegression, MassSculpting, auc_in_bins, response_in_bins

__all__ = [
    "BACKGROUND",
    "Predictions",
    "align_labels",
    "baseline_predictions",
    "column",
    "evaluate_predictions",
    "measure",
    "measure_in_bins",
    "median_scale",
    "softmax",
    "write_results",
]

BACKGROUND = 0  # label of the class that scores tell all others from


@dataclass
class Predictions:
    """What one predictor says of each jet.

    Attributes:
        score: Of the signal: all classes but the first.
        mass: In GeV.
        probabilities: Of all classes `(n, num_classes)`.
        mass_scale: One-sigma of `mass` [GeV].
    """

    score: np.ndarray
    mass: np.ndarray
    probabilities: np.ndarray | None = None
    mass_scale: np.ndarray | None = None

    @classmethod
    def of_classes(cls, probabilities: np.ndarray, mass: np.ndarray, mass_scale: np.ndarray | None = None):
        """The score is the probability that the jet is not of the background's class."""
        return cls(1 - probabilities[:, BACKGROUND], mass, probabilities, mass_scale)


def align_labels(dataset: DatasetDict, label2id: dict[str, int]) -> DatasetDict:
    """The data set with its classes numbered as a model numbers them.

    Raises:
        ValueError: for a class that the model does not know.
    """
    labels = dataset["train"].features["labels"]
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


def median_scale(masses: np.ndarray, predictions: np.ndarray) -> float:
    """The factor that brings the median of m̂ / m to one; fit it on training jets."""
    usable = np.isfinite(masses) & (predictions > 0)
    return float(np.median(masses[usable] / predictions[usable]))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities `(n, num_labels)`."""
    exponential = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponential / exponential.sum(axis=1, keepdims=True)


def column(rows: Dataset, name: str, missing: float = np.nan) -> np.ndarray:
    """A column as doubles, `missing` for a null."""
    found = rows.with_format("arrow")[name].to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isnan(found), missing, found)


def measure(
    labels: np.ndarray,
    masses: np.ndarray,
    predictions: Predictions,
    label_names: Sequence[str] = (),
    jet_masses: np.ndarray | None = None,
) -> dict[str, float]:
    """Tagging and mass metrics with 95 % intervals, over the jets that have the respective target.

    Probabilities add accuracy, calibration error and, for more than two classes, the AUC of each against the rest;
    predicted widths of the mass add coverage and pull width.

    Args:
        labels: -100 where unknown. Class 0 is the background, all others are signal.
        masses: In GeV, NaN where unknown.
        predictions: Of the same jets.
        label_names: Of the classes, for the names of those AUCs.
        jet_masses: Masses [GeV] that a cut on the score could sculpt, NaN where unknown; `masses` if not given.

    Returns:
        What is defined: an AUC needs jets of both sides.
    """
    result, scores, probabilities = {}, predictions.score, predictions.probabilities
    known = labels != -100
    signal = (labels[known] != BACKGROUND).astype(int)
    if len(np.unique(signal)) == 2:
        result |= JetTagging().compute(predictions=scores[known], references=signal)
    if probabilities is not None and known.any():
        found = JetClassification().compute(predictions=probabilities[known], references=labels[known])
        per_class = {f"roc_auc_{number}": f"roc_auc_{name}" for number, name in enumerate(label_names)}
        for name, value in found.items():
            bare = name.removesuffix("_low").removesuffix("_high")
            if bare not in per_class and not bare.startswith("roc_auc"):
                result[name] = value
            elif probabilities.shape[1] > 2:
                result[name.replace(bare, per_class.get(bare, bare))] = value
    has_mass = np.isfinite(masses) & (masses > 0)
    if jet_masses is None:
        jet_masses = masses
    both = known & np.isfinite(jet_masses)
    if len(np.unique(labels[both] != BACKGROUND)) == 2:
        targets = (labels[both] != BACKGROUND).astype(int)
        result |= MassSculpting().compute(predictions=scores[both], references=targets, masses=jet_masses[both])
    if has_mass.any():
        scales = None if predictions.mass_scale is None else predictions.mass_scale[has_mass]
        result |= MassRegression().compute(
            predictions=predictions.mass[has_mass], references=masses[has_mass], scales=scales
        )
    return {name: float(value) for name, value in result.items() if value == value}


def baseline_predictions(
    dataset: DatasetDict, split: str, schema: DatasetSchema, mass_column: str
) -> dict[str, Predictions]:
    """Of the jets of `split`: the training mean, and the scaled mass of the calorimeter image as mass and as score.

    The image mass is left out where images have no physical units or no position.
    """
    train_masses = column(dataset["train"], mass_column)
    number = len(dataset[split])
    predictions = {"constant": Predictions(np.zeros(number), np.full(number, np.nanmean(train_masses)))}
    if schema.has_physical_units and not dataset["train"].with_format("arrow")["ieta"].null_count:
        scale = median_scale(train_masses, image_mass(dataset["train"], schema))
        mass = scale * image_mass(dataset[split], schema)
        predictions["image mass"] = Predictions(mass, mass)
    return predictions


def evaluate_predictions(
    rows: Dataset, mass_column: str, label_names: Sequence[str], predictors: Mapping[str, Predictions]
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Metrics by predictor, and the columns of per-jet predictions, of the same `rows`."""
    labels, masses = column(rows, "labels", -100).astype(np.int64), column(rows, mass_column)
    jet_masses = column(rows, "jet_mass")
    jet_masses = np.where(np.isfinite(jet_masses), jet_masses, masses)
    metrics = {}
    columns = {"event_id": rows["event_id"][:], "labels": labels}
    kinematics = {"mass_labels": masses, "jet_mass": jet_masses, "pt": column(rows, "pt")}
    columns |= {name: values.astype(np.float32) for name, values in kinematics.items()}
    for name, found in predictors.items():
        metrics[name] = measure(labels, masses, found, label_names, jet_masses)
        values = {"score": found.score, "mass": found.mass, "mass scale": found.mass_scale}
        if found.probabilities is not None:
            values |= {f"p_{label}": of_class for label, of_class in zip(label_names, found.probabilities.T)}
        columns |= {f"{name} {key}": value.astype(np.float32) for key, value in values.items() if value is not None}
    return metrics, columns


def measure_in_bins(
    columns: Mapping[str, np.ndarray], found: Predictions, num_bins: int = 5
) -> dict[str, list[dict[str, float]]]:
    """The signal's AUC in bins of the jets' mass and pT, response and resolution in bins of the true mass and of pT.

    Args:
        columns: Of [`evaluate_predictions`]: `labels`, `mass_labels`, `jet_mass` and `pt`.
        found: What one predictor says of these jets.
        num_bins: With equal numbers of jets.

    Returns:
        Rows of [`auc_in_bins`] and [`response_in_bins`], edges in GeV, by e.g. `"roc_auc in jet mass"`; what has no
        targets is left out.
    """
    labels, masses = columns["labels"], columns["mass_labels"].astype(float)
    known, has_mass, result = labels != -100, np.isfinite(masses) & (masses > 0), {}

    def bins(usable, by):
        chosen = usable & np.isfinite(columns[by])
        edges = np.unique(np.quantile(columns[by][chosen].astype(float), np.linspace(0, 1, num_bins + 1)))
        edges[-1] = np.nextafter(edges[-1], np.inf)  # the last jet is inside
        return chosen, columns[by][chosen].astype(float), edges

    for title, by in (("jet mass", "jet_mass"), ("pt", "pt")):
        if len(np.unique(labels[known & np.isfinite(columns[by])] != BACKGROUND)) == 2:
            chosen, values, edges = bins(known, by)
            signal = (labels[chosen] != BACKGROUND).astype(int)
            result[f"roc_auc in {title}"] = auc_in_bins(signal, found.score[chosen], values, edges)
    for title, by in (("mass", "mass_labels"), ("pt", "pt")):
        if (has_mass & np.isfinite(columns[by])).any():
            chosen, values, edges = bins(has_mass, by)
            result[f"response in {title}"] = response_in_bins(masses[chosen], found.mass[chosen], values, edges)
    return result


def write_results(path: str | Path, record: dict, predictions: dict[str, np.ndarray]) -> None:
    """`path` (JSON) and the per-jet predictions beside it (Parquet), each written beside and renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    table = pa.table(predictions)
    floats = [name for name in table.column_names if pa.types.is_floating(table[name].type)]
    encoding = {"use_dictionary": False, "use_byte_stream_split": floats}  # two thirds of the size
    pq.write_table(table, temporary, compression="zstd", compression_level=9, **encoding)
    temporary.replace(path.with_suffix(".parquet"))
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(path)
