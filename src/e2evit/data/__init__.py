"""Data sets: schemas, files, sparse rows, builder, splits. Nothing here needs torch."""

from .awkward import to_awkward
from .builder import E2EImages, load_e2e
from .columns import CANDIDATE_COLUMNS, CHANNELS
from .resolve import find_schema
from .schema import SCHEMAS, DatasetSchema, row_features
from .splits import SplitRule, assign_splits
from .statistics import TrainingStatistics, training_statistics

__all__ = [
    "CANDIDATE_COLUMNS",
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
    "to_awkward",
    "training_statistics",
]
