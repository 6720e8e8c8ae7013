"""Predictions without a network, for the same jets: a constant, and the mass of the calorimeter image."""

import numpy as np
from datasets import Dataset

from .data import DatasetSchema
from .data.grid import TOWER, eta_centres

__all__ = ["image_mass", "median_scale"]

JET_RADIUS = 0.8


def image_mass(dataset: Dataset, schema: DatasetSchema, radius: float = JET_RADIUS) -> np.ndarray:
    """Invariant mass [GeV] of the ECAL and HCAL pixels within `radius` of the seed tower, taken as massless.

    Only for images in physical units (GeV, undone division of HCAL by 25 not needed: the sum over the 5 x 5 pixels of
    a tower is its energy).

    Raises:
        ValueError: if a row does not say where its window lies (`ieta` is null).
    """
    table = dataset.with_format("arrow")[:]
    index = table["pixel_index"].combine_chunks()
    pixel = index.flatten().to_numpy().astype(np.int64)
    energy = table["pixel_value"].combine_chunks().flatten().to_numpy().astype(np.float64)
    row_of = np.repeat(np.arange(len(index)), np.diff(index.offsets.to_numpy()))
    if table["ieta"].null_count:
        raise ValueError("The mass of an image needs `ieta` of its seed tower, which some rows do not have.")
    _, height, width = schema.image_shape
    calorimeters = [i for i, name in enumerate(schema.channel_names) if name in ("ecal", "hcal")]
    chosen = np.isin(pixel // (height * width), calorimeters)
    pixel, energy, row_of = pixel[chosen] % (height * width), energy[chosen], row_of[chosen]

    seed_row = table["ieta"].to_numpy()[row_of] * TOWER + TOWER // 2
    eta = eta_centres(seed_row - height // 2 + pixel // width)
    delta_phi = np.radians(pixel % width - width // 2)  # columns are degrees
    near = np.hypot(eta - eta_centres(seed_row), delta_phi) < radius
    eta, delta_phi, energy, row_of = eta[near], delta_phi[near], energy[near], row_of[near]
    pt = energy / np.cosh(eta)
    components = (energy, pt * np.cos(delta_phi), pt * np.sin(delta_phi), pt * np.sinh(eta))
    total = [np.bincount(row_of, component, minlength=len(index)) for component in components]
    return np.sqrt(np.maximum(total[0] ** 2 - total[1] ** 2 - total[2] ** 2 - total[3] ** 2, 0.0))


def median_scale(masses: np.ndarray, predictions: np.ndarray) -> float:
    """The factor that brings the median of m̂ / m to one; fit it on training jets."""
    usable = np.isfinite(masses) & (predictions > 0)
    return float(np.median(masses[usable] / predictions[usable]))
