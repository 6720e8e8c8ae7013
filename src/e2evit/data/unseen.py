"""Whether jets to measure on share events with those that a model was trained on."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from datasets import DatasetDict

from .builder import load_e2e
from .resolve import find_schema
from .splits import is_made_up

__all__ = ["check_training", "check_unseen"]

logger = logging.getLogger(__name__)


def check_unseen(
    event_ids: Collection[str],
    dataset_name: str,
    data_dir: str | Path,
    schema: str | None = None,
    cache_dir: str | None = None,
    test_fold: int | None = None,
) -> None:
    """Refuse a folder that trainings read if its training or validation jets are from any of these events.

    Args:
        test_fold: The fold that trainings leave out, if they use folds.

    Raises:
        ValueError: naming one such event.
    """
    if problem := _shared_events(event_ids, dataset_name, data_dir, schema, cache_dir, test_fold):
        raise ValueError(problem)


def check_training(event_ids: Collection[str], recipe: Mapping[str, Any]) -> None:
    """Refuse events that a checkpoint was trained on; warn if its training folder cannot be read here.

    Args:
        recipe: What it was trained with, empty if it does not say.

    Raises:
        ValueError: naming one such event.
    """
    folder, why, problem = recipe.get("data_dir"), "its training folder is not known here", None
    if folder is not None:
        name, *where = (recipe.get(key) for key in ("dataset_name", "schema", "cache_dir", "test_fold"))
        try:
            problem, why = _shared_events(event_ids, name or "simulated", folder, *where), None
        except (OSError, TypeError, ValueError) as error:  # it is elsewhere, or something else has its name
            why = str(error).rstrip(".")
    if problem:
        raise ValueError(problem)
    if why:
        logger.warning(f"Cannot check that these jets share no events with the training: {why}")


def _shared_events(event_ids: Collection[str], name: str, data_dir, schema, cache_dir, test_fold) -> str | None:
    name = name if schema is not None else find_schema(name, data_dir).name
    dataset = cast(DatasetDict, load_e2e(name, data_dir, schema=schema, test_fold=test_fold, cache_dir=cache_dir))
    for split in ("train", "validation"):
        seen = cast(pa.ChunkedArray, dataset[split].with_format("arrow")["event_id"])
        if shared := set(event_ids).intersection(seen.to_pylist()):
            first = min(shared)
            told = (
                f"The {split} split of {data_dir} holds {len(shared)} events of the jets to measure on, e.g. {first}"
            )
            hint = (
                " Rows without an event_id are called FILE:ROW: if these are other files of the same name, rename one."
                * is_made_up(first)
            )
            return f"{told}: what was trained on them cannot be measured on them.{hint}"
    return None
