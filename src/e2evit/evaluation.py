"""Metrics of a model, and of baselines on the same jets, as one record."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, DatasetDict

from .data import DatasetSchema
from .jet_features import image_mass
from .metrics import JetTagging, MassRegression

__all__ = ["align_labels", "baseline_predictions", "measure", "median_scale", "softmax", "write_results"]

SIGNAL = 1  # label of the class that a binary score is for


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


def measure(labels: np.ndarray, masses: np.ndarray, scores: np.ndarray, mass_preds: np.ndarray) -> dict[str, float]:
    """Tagging and mass metrics with 95 % intervals, over the jets that have the respective target.

    `labels` (-100: unknown), `masses` [GeV] (NaN: unknown), `scores` of the signal class, `mass_preds` [GeV].
    """
    result = {}
    known = labels != -100
    if len(np.unique(labels[known])) == 2:
        result |= JetTagging().compute(predictions=scores[known], references=(labels[known] == SIGNAL).astype(int))
    known = np.isfinite(masses) & (masses > 0)
    if known.any():
        result |= MassRegression().compute(predictions=mass_preds[known], references=masses[known])
    return {name: float(value) for name, value in result.items()}


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
