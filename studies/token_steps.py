"""CPU time of training steps of several models on the same jets, for `studies/tokens.py`."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm

from e2evit.data import DatasetSchema
from e2evit.training import Recipe, make_loader, new_model
from e2evit.training.collate import E2ECollator
from e2evit.training.optim import make_optimizer
from e2evit.training.process import keep_freed_memory, start_accelerator

__all__ = ["step_times"]


NUM_BATCHES = 12
WARM_UP = 4  # rounds, until memory and kernels are there


def step_times(
    configs: Mapping[str, Path],
    reference: str,
    rows: Dataset,
    schema: DatasetSchema,
    recipe: Recipe,
    mixed_precision: str = "auto",
    rounds: int = 7,
) -> dict[str, dict[str, float]]:
    """`ms_per_jet` and its ratio `relative` to that of the `reference`, by name: medians over rounds.

    Forward, backward and optimizer, eager, on one thread; all models in turn, round by round, each round with another
    batch.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    size = recipe.training.per_device_batch_size
    rows = rows.select(np.unique(np.linspace(0, len(rows) - 1, NUM_BATCHES * size).astype(int)))
    accelerator = start_accelerator(mixed_precision)
    steps = {}
    for name, config in configs.items():
        torch.manual_seed(0)
        steps[name] = _step(*new_model(config, schema, rows), rows, recipe, accelerator)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in tqdm(range(WARM_UP + rounds), desc="Timing steps", disable=None):
        for name, step in steps.items():
            start = time.process_time()
            step(number)
            seconds[name].append(time.process_time() - start)
    times = {name: np.array(own[WARM_UP:]) for name, own in seconds.items()}
    return {
        name: {
            "ms_per_jet": float(1000 * np.median(own) / size),
            "relative": float(np.median(own / times[reference])),
        }
        for name, own in times.items()
    }


def _step(model, processor, rows: Dataset, recipe: Recipe, accelerator) -> Callable[[int], None]:
    settings = recipe.training
    collator = E2ECollator(processor, augmentation=recipe.augmentation, packed=model.reads_rows)
    loader = make_loader(rows, collator, settings.per_device_batch_size, shuffle_seed=0)
    batches = [{name: part for name, part in batch.items() if name != "rows"} for batch in loader]
    optimizer = make_optimizer(model.train(), settings.learning_rate, settings.weight_decay, name=settings.optimizer)

    def step(number: int) -> None:
        with accelerator.autocast():
            loss = model(**batches[number % len(batches)]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
