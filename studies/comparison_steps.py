"""Jets per second in a training step of each model of the comparison, on one core; its parameters and MACs.

python studies/comparison_steps.py --data_dir runs/comparison/data --models hitvit vit

`studies/comparison.py` runs it first. The models take turns; a number is the median over `ROUNDS` batches. Models that
are not named keep theirs.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from comparison_tables import training_jets
from token_steps import make_step, of_settings
from tqdm import tqdm
from transformers import HfArgumentParser

from e2evit.cli.errors import one_line_errors
from e2evit.data.packaged import read_recipe
from e2evit.data.texts import read_mapping
from e2evit.results.record import write_record
from e2evit.training import DataArguments, Recipe, TargetArguments, TrainArguments, load_data, start_accelerator
from e2evit.training.cost import count_macs

WARM_UP, ROUNDS = 3, 12
JETS = 2048  # from which batches are made


@dataclass
class StepArguments:
    models: list[str] = field(metadata={"help": "Models to time."})
    data_dir: str = field(metadata={"help": "Kept particles."})
    study: str = field(default="recipes/comparison/study.yaml", metadata={"help": "The plan."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where prepared Arrow files go."})
    results: str = field(default="results/comparison/steps.json", metadata={"help": "JSON file to write."})


def main() -> None:
    (options,) = HfArgumentParser(StepArguments).parse_args_into_dataclasses()
    plan = read_recipe(options.study)
    settings = read_recipe(plan["training"])
    recipe, targets = Recipe(training=of_settings(TrainArguments, settings)), of_settings(TargetArguments, settings)
    accelerator = start_accelerator()
    torch.set_num_threads(1)
    share = min(1.0, 1.1 * JETS / training_jets(plan))
    data = DataArguments(data_dir=options.data_dir, cache_dir=options.cache_dir, train_fraction=share)
    size = recipe.training.per_device_batch_size
    dataset, schema = load_data(data, targets, splits={"train"}, candidates=True)
    rows = dataset["train"].select(range(min(JETS, len(dataset["train"])) // size * size))
    if not len(rows):
        raise ValueError(f"{options.data_dir} holds fewer training jets than a batch of {size}.")
    steps, macs, parameters = {}, {}, {}
    for name in options.models:
        step, model = make_step(Path(f"recipes/comparison/{name}.json"), rows, schema, recipe, accelerator)
        steps[name], macs[name] = step, count_macs(model)
        parameters[name] = sum(parameter.numel() for parameter in model.parameters())
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in tqdm(range(WARM_UP + ROUNDS), desc="Timing steps", disable=None):
        for name, step in reversed(steps.items()) if number % 2 else steps.items():
            start = time.process_time()
            step(number)
            seconds[name].append(time.process_time() - start)
    path = Path(options.results)
    known = read_mapping(path, "JSON") if path.exists() else {}
    rates = {name: size / float(np.median(own[WARM_UP:])) for name, own in seconds.items()}
    measured = {"jets_per_second": rates, "macs": macs, "parameters": parameters}
    record = {name: known.get(name, {}) | values for name, values in measured.items()}
    write_record(path, record | {"precision": accelerator.mixed_precision}, threads=1)


if __name__ == "__main__":
    with one_line_errors("comparison_steps.py"):
        main()
