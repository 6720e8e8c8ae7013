"""Metrics with units and intervals."""

from .classification import JetClassification, JetTagging
from .mass import MassRegression, response_in_bins
from .sculpting import MassSculpting, auc_in_bins

__all__ = ["JetClassification", "JetTagging", "MassRegression", "MassSculpting", "auc_in_bins", "response_in_bins"]
