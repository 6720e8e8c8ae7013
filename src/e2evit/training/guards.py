"""Against deceiving oneself, and for finding out why a run failed."""

import json
import logging
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import save_file

__all__ = ["check_splits", "save_replay", "warn_if_constant"]

logger = logging.getLogger(__name__)


def check_splits(dataset: DatasetDict) -> None:
    """No event may be in two splits.

    Raises:
        ValueError: with an example and the number of such rows.
    """
    events = {part: rows.with_format("arrow")["event_id"] for part, rows in dataset.items()}
    parts = list(events)
    for number, first in enumerate(parts):
        for second in parts[number + 1 :]:
            found = pc.filter(events[second], pc.is_in(events[second], value_set=pa.chunked_array(events[first])))
            if len(found):
                raise ValueError(
                    f"{len(found)} rows of {second} are of events that are in {first} as well, for example "
                    f"{found[0].as_py()!r}: what is measured there would be memory. Split by event, as `load_e2e` "
                    "does."
                )


def warn_if_constant(entry: dict[str, float], constant: dict[str, float]) -> None:
    """Say so if an epoch ended no better than a constant."""
    pairs = [("accuracy", 1), ("mass_mae_gev", -1)]
    better = [sign * (entry[f"validation_{name}"] - constant[name]) > 0 for name, sign in pairs if name in constant]
    if better and not any(better):
        logger.warning("Not better than a constant yet, neither in accuracy nor in mass.")


def save_replay(
    folder: Path, weights: dict, batch: dict, rows: torch.Tensor | None, dataset: Dataset, **where
) -> list[str]:
    """What a step needs to be done again: the weights before it, the batch, the random numbers; by process.

    Returns:
        Event ids of the batch.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    event_ids = [] if rows is None else dataset[rows.tolist()]["event_id"]
    for name, tensors in (("model", weights), ("batch", batch)):
        tensors = {key: value.contiguous().cpu() for key, value in tensors.items()}
        save_file(tensors, folder / f"{name}.safetensors")
    (folder / "step.json").write_text(json.dumps(where | {"event_ids": list(event_ids)}, indent=1))
    return list(event_ids)
