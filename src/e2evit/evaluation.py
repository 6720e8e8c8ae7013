"""Metrics of a model, and of baselines on the same jets, as one record."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, DatasetDict

from .data import DatasetSchema
from .jet_features import image_mass
from .metrics import JetClassification, JetTagging, MassRegression, MassSculpting

__all__ = ["BACKGROUND", "align_labels", "baseline_predictions", "measure", "median_scale", "softmax", "write_results"]

BACKGROUND = 0  # label of the class that scores tell all others from


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


def measure(
    labels: np.ndarray,
    masses: np.ndarray,
    scores: np.ndarray,
    mass_preds: np.ndarray,
    probabilities: np.ndarray | None = None,
    label_names: Sequence[str] = (),
    mass_scales: np.ndarray | None = None,
) -> dict[str, float]:
    """Tagging and mass metrics with 95 % intervals, over the jets that have the respective target.

    Args:
        labels: -100 where unknown. Class 0 is the background, all others are signal.
        masses: In GeV, NaN where unknown.
        scores: Of the signal.
        mass_preds: In GeV.
        probabilities: Of all classes `(n, num_classes)`; adds accuracy, calibration error and, for more than two
            classes, the AUC of each against the rest.
        label_names: Of the classes, for the names of those AUCs.
        mass_scales: Predicted one-sigma of `mass_preds` [GeV]; adds coverage and pull width.

    Returns:
        What is defined: an AUC needs jets of both sides.
    """
    result = {}
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
    both = known & has_mass
    if len(np.unique(labels[both] != BACKGROUND)) == 2:
        targets = (labels[both] != BACKGROUND).astype(int)
        result |= MassSculpting().compute(predictions=scores[both], references=targets, masses=masses[both])
    if has_mass.any():
        scales = None if mass_scales is None else mass_scales[has_mass]
        result |= MassRegression().compute(
            predictions=mass_preds[has_mass], references=masses[has_mass], scales=scales
        )
    return {name: float(value) for name, value in result.items() if value == value}


def baseline_predictions(
    dataset: DatasetDict, split: str, schema: DatasetSchema, mass_column: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Score and mass [GeV] of the jets of `split`: the training mean, and the scaled mass of the calorimeter image.

    The image mass is left out where images have no physical units or no position.
    """

    def masses(part):
        column = dataset[part].with_format("arrow")[mass_column]
        return np.asarray(column.to_numpy(), dtype=np.float64)

    number = len(dataset[split])
    constant = np.full(number, np.nanmean(masses("train")))
    predictions = {"constant": (np.zeros(number), constant)}
    if schema.has_physical_units and not dataset["train"].with_format("arrow")["ieta"].null_count:
        scale = median_scale(masses("train"), image_mass(dataset["train"], schema))
        mass = scale * image_mass(dataset[split], schema)
        predictions["image mass"] = (mass, mass)
    return predictions


def write_results(path: str | Path, record: dict, predictions: dict[str, np.ndarray]) -> None:
    """`path` (JSON) and the per-jet predictions beside it (Parquet), each written beside and renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.table(predictions), temporary, compression="zstd")
    temporary.replace(path.with_suffix(".parquet"))
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(path)
