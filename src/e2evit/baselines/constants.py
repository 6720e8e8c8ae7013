"""Baselines without training: the mean mass, and the mass of the calorimeter image."""

import numpy as np
from datasets import DatasetDict

from e2evit.data import DatasetSchema
from e2evit.results.measure import column
from e2evit.results.predictions import CONSTANT, IMAGE_MASS, Predictions

from .jet_features import image_mass

__all__ = ["baseline_predictions", "median_scale"]


def median_scale(mass_labels: np.ndarray, mass_preds: np.ndarray) -> float:
    """The factor that brings the median of m̂ / m to one, 1 without masses; fit it on training jets."""
    usable = np.isfinite(mass_labels) & (mass_preds > 0)
    return 1.0 if not usable.any() else float(np.median(mass_labels[usable] / mass_preds[usable]))


def baseline_predictions(
    dataset: DatasetDict, split: str, schema: DatasetSchema, mass_column: str
) -> dict[str, Predictions]:
    """For the jets of `split`: the mean training mass, and the scaled image mass as both mass and score.

    The image mass is left out where images are not in physical units or have no position (`ieta`).
    """
    train_masses = column(dataset["train"], mass_column)
    num_jets = len(dataset[split])
    known = train_masses[np.isfinite(train_masses)]
    mean_mass = np.full(num_jets, known.mean() if len(known) else np.nan)
    predictions = {CONSTANT: Predictions(np.zeros(num_jets), mean_mass)}
    if schema.has_physical_units and not dataset["train"].with_format("arrow")["ieta"].null_count:
        scale = median_scale(train_masses, image_mass(dataset["train"], schema))
        masses = scale * image_mass(dataset[split], schema)
        predictions[IMAGE_MASS] = Predictions(masses, masses)
    return predictions
