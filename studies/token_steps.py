"""CPU time of a training step of each model in recipes/tokens/study.yaml, relative to that of its reference.

python studies/token_steps.py --data_dir data/jets

`studies/tokens.py` runs it first. Forward, backward and optimizer, eager, on one thread; all models in turn, each time
with another of `NUM_BATCHES` batches and in alternating order; a first pass over the batches warms up. With `--models`
only these are timed, beside the reference, and the other rows of the results stay.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from tqdm import tqdm
from transformers import HfArgumentParser

from e2evit.cli.errors import one_line_errors
from e2evit.data.packaged import read_recipe
from e2evit.results.record import provenance, write_record
from e2evit.training import (
    DataArguments,
    Recipe,
    TargetArguments,
    TrainArguments,
    load_data,
    make_loader,
    new_model,
    start_accelerator,
)
from e2evit.training.candidates import CandidateCollator
from e2evit.training.collate import E2ECollator
from e2evit.training.optim import make_optimizer

__all__ = ["check_plan", "make_step", "of_settings", "write_configs"]

NUM_BATCHES = 12
PASSES = 2


@dataclass
class StepArguments:
    study: str = field(default="recipes/tokens/study.yaml", metadata={"help": "Models."})
    data_dir: str = field(default="data/jets", metadata={"help": "Simulated jets."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where prepared Arrow files go."})
    configs_dir: str = field(default="runs/tokens/configs", metadata={"help": "Where configurations go."})
    mixed_precision: str = field(default="auto", metadata={"help": "no, bf16 or auto."})
    models: list[str] | None = field(default=None, metadata={"help": "Models to time. Default: all."})
    results: str = field(default="results/token_steps.json", metadata={"help": "JSON file to write."})


def check_plan(plan: dict, path: str, models: list[str] | None, mixed_precision: str) -> None:
    """Check what was asked for before anything is written.

    Raises:
        ValueError: for a model that the plan does not have, or an unknown precision.
    """
    known = [name for models_of in plan["models"].values() for name in models_of]
    if unknown := [name for name in models or () if name not in known]:
        raise ValueError(f"{path} has no {', '.join(unknown)}, but {', '.join(known)}.")
    if mixed_precision not in ("auto", "bf16", "no"):
        raise ValueError(f"`mixed_precision` is auto, bf16 or no, got {mixed_precision!r}.")


def write_configs(plan: dict, folder: Path) -> dict[str, Path]:
    """The configuration file of each model of the plan, by name; fields become a file in `folder`."""
    base = json.loads(Path(plan["base"]).read_text(encoding="utf-8"))
    configs = {}
    for models in plan["models"].values():
        for name, of_model in models.items():
            configs[name] = folder / f"{name}.json" if isinstance(of_model, dict) else Path(of_model)
            if isinstance(of_model, dict):
                folder.mkdir(parents=True, exist_ok=True)
                configs[name].write_text(json.dumps(base | of_model, indent=2) + "\n", encoding="utf-8")
    return configs


def of_settings(arguments: type, settings: dict):
    """The settings of a recipe that are fields of a dataclass."""
    return arguments(**{part.name: settings[part.name] for part in fields(arguments) if part.name in settings})


def make_step(
    config: Path, rows: Dataset, schema, recipe: Recipe, accelerator: Accelerator
) -> tuple[Callable[[int], None], torch.nn.Module]:
    """A training step with the batch of a number, and its model."""
    torch.manual_seed(0)
    settings, (model, processor) = recipe.training, new_model(config, schema, rows)
    kind = CandidateCollator if model.reads_candidates else E2ECollator
    collator = kind(
        processor,
        augmentation=recipe.augmentation,
        packed=model.reads_rows,
        containment=model.config.containment,
    )
    loader = make_loader(rows, collator, settings.per_device_batch_size, shuffle_seed=0)
    batches = [{name: part for name, part in batch.items() if name != "rows"} for batch in loader]
    optimizer = make_optimizer(model.train(), settings.learning_rate, settings.weight_decay, name=settings.optimizer)

    def step(number: int) -> None:
        with accelerator.autocast():
            loss = model(**batches[number % len(batches)]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, model


def main() -> None:
    (options,) = HfArgumentParser(StepArguments).parse_args_into_dataclasses()
    plan = read_recipe(options.study)
    check_plan(plan, options.study, options.models, options.mixed_precision)
    configs, reference = write_configs(plan, Path(options.configs_dir)), plan["reference"]
    earlier: dict = {}
    if options.models is not None:
        if Path(options.results).exists():
            earlier = json.loads(Path(options.results).read_text(encoding="utf-8"))
        configs = {name: configs[name] for name in (reference, *options.models)}
    settings = read_recipe(plan["training"])
    recipe, targets = Recipe(training=of_settings(TrainArguments, settings)), of_settings(TargetArguments, settings)
    accelerator = start_accelerator(options.mixed_precision)
    if earlier and earlier["precision"] != accelerator.mixed_precision:
        raise ValueError(
            f"{options.results} was timed in {earlier['precision']}, and this run is in "
            f"{accelerator.mixed_precision}: choose that `--mixed_precision`, or time all models."
        )
    if accelerator.device.type != "cpu":
        raise ValueError(f"Steps are timed on CPUs, but trainings here run on {accelerator.device}.")
    torch.set_num_threads(1)
    fraction = plan["fraction"]  # as a training of the reference would load them
    data = DataArguments(data_dir=options.data_dir, cache_dir=options.cache_dir, train_fraction=fraction)
    dataset, schema = load_data(data, targets, splits={"train"})
    size, rows = recipe.training.per_device_batch_size, dataset["train"]
    rows = rows.select(np.unique(np.linspace(0, len(rows) - 1, NUM_BATCHES * size).astype(int)))
    steps = {name: make_step(config, rows, schema, recipe, accelerator)[0] for name, config in configs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in tqdm(range((1 + PASSES) * NUM_BATCHES), desc="Timing steps", disable=None):
        for name, step in reversed(steps.items()) if number % 2 else steps.items():
            start = time.process_time()
            step(number)
            seconds[name].append(time.process_time() - start)
    times = {name: np.array(own[NUM_BATCHES:]) for name, own in seconds.items()}
    commit = provenance()["commit"]
    record = {
        name: {"relative": float(np.median(own / times[reference])), "commit": commit} for name, own in times.items()
    }
    if earlier:
        record.pop(reference)  # 1, as before
    record = earlier.get("steps", {}) | record
    write_record(options.results, {"steps": record, "precision": accelerator.mixed_precision}, threads=1)


if __name__ == "__main__":
    with one_line_errors("token_steps.py"):
        main()
