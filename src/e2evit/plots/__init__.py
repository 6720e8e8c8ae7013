"""Figures in the style of the LHC experiments; everything shown is labelled a simulation."""

from .jets import event_display, jet_displays, mass_axis, mean_images, saliency_display
from .models import (
    calibration,
    comparison_figures,
    mass_response,
    quality_against_cost,
    resolution,
    roc,
    sculpting,
    true_against_predicted,
    tuning,
)
from .simulation import calorimeter_response, distributions
from .style import save_figure

__all__ = [
    "calibration",
    "calorimeter_response",
    "comparison_figures",
    "distributions",
    "event_display",
    "jet_displays",
    "mass_axis",
    "mass_response",
    "mean_images",
    "quality_against_cost",
    "resolution",
    "roc",
    "saliency_display",
    "save_figure",
    "sculpting",
    "true_against_predicted",
    "tuning",
]
