"""Data sets: schema, files, sparse rows, builder, splits, collator."""

from .builder import E2EImages, load_e2e
from .collate import E2ECollator
from .schema import CHANNELS, SCHEMAS, DatasetSchema, find_schema
from .statistics import TrainingStatistics, training_statistics

__all__ = [
    "CHANNELS",
    "SCHEMAS",
    "DatasetSchema",
    "E2ECollator",
    "E2EImages",
    "TrainingStatistics",
    "find_schema",
    "load_e2e",
    "training_statistics",
]
