"""Data sets: schema, files, sparse rows, builder, splits. `collate` needs torch, so it is imported by its own name."""

from .builder import E2EImages, load_e2e
from .resolve import find_schema
from .schema import CHANNELS, SCHEMAS, DatasetSchema, row_features
from .splits import SplitRule, assign_splits
from .statistics import TrainingStatistics, training_statistics

__all__ = [
    "CHANNELS",
    "SCHEMAS",
    "DatasetSchema",
    "E2EImages",
    "SplitRule",
    "TrainingStatistics",
    "assign_splits",
    "find_schema",
    "load_e2e",
    "row_features",
    "training_statistics",
]
