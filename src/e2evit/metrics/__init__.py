"""Metrics with units and 95 % intervals."""

from .classification import JetClassification, JetTagging
from .containment import containment_metrics
from .mass import MassRegression, response_in_bins, uncertainty_in_bins
from .processes import closures, mass_by_process
from .sculpting import MassSculpting, auc_in_bins
from .signals import discriminant, signal_in_bins, signal_metrics
from .table import METRICS, Metric

__all__ = [
    "METRICS",
    "JetClassification",
    "JetTagging",
    "MassRegression",
    "MassSculpting",
    "Metric",
    "auc_in_bins",
    "closures",
    "containment_metrics",
    "discriminant",
    "mass_by_process",
    "response_in_bins",
    "signal_in_bins",
    "signal_metrics",
    "uncertainty_in_bins",
]
