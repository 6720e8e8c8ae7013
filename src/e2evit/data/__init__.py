"""Data sets: schema, files, sparse rows, builder, splits, collator."""

from .builder import E2EImages, load_e2e
from .collate import E2ECollator, RowTables
from .resolve import find_schema
from .schema import CHANNELS, SCHEMAS, DatasetSchema, row_features
from .splits import SplitRule, assign_splits
from .statistics import TrainingStatistics, training_statistics

__all__ = [
    "CHANNELS",
    "SCHEMAS",
    "DatasetSchema",
    "E2ECollator",
    "E2EImages",
    "RowTables",
    "SplitRule",
    "TrainingStatistics",
    "assign_splits",
    "find_schema",
    "load_e2e",
    "row_features",
    "training_statistics",
]
