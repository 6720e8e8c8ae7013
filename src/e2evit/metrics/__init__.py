"""Metrics with units and intervals."""

from .classification import JetTagging
from .mass import MassRegression

__all__ = ["JetTagging", "MassRegression"]
