"""Metrics with units and 95 % intervals."""

from .classification import JetClassification, JetTagging
from .mass import MassRegression, response_in_bins
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
    "discriminant",
    "response_in_bins",
    "signal_in_bins",
    "signal_metrics",
]
