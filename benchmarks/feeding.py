"""How many times faster the loader makes training batches than models consume them.

python benchmarks/feeding.py --results results/feeding.json

The loader of the training loop, with flips and in the training process itself (`num_workers: 0`, one core), against
training steps of the nano models on all cores (choose them with `taskset`). Rounds are interleaved; the ratio is that
of the medians.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from e2evit.results.record import write_record
from e2evit.training import (
    DataArguments,
    Recipe,
    TargetArguments,
    load_data,
    make_loader,
    new_model,
    start_accelerator,
)
from e2evit.training.optim import make_optimizer
from e2evit.training.tasks import make_task

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results/feeding.json")
    parser.add_argument("--jets", default=str(ROOT / "tests/data/jets"), help="folder of simulated jets")
    parser.add_argument("--models", nargs="+", default=["linearvit_nano", "xcit_nano"])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    accelerator = start_accelerator()
    recipe = Recipe(data=DataArguments(data_dir=arguments.jets), targets=TargetArguments(mass_column="jet_mass"))
    dataset, schema = load_data(recipe.data, recipe.targets)
    rates: dict[str, list[float]] = {"loader": []} | {name: [] for name in arguments.models}
    steps = {}
    for name in arguments.models:
        model, processor = new_model(ROOT / f"recipes/models/{name}.json", schema, dataset["train"], "jet_mass")
        task = make_task(model, processor, dataset, recipe)
        loader = make_loader(dataset["train"], task.collator, batch_size=32, shuffle_seed=0)
        batch = {key: value for key, value in next(iter(loader)).items() if key != "rows"}
        model, optimizer = accelerator.prepare(model.train(), make_optimizer(model, 1e-3, 0.05))
        steps[name] = model, optimizer, batch
    for _ in range(arguments.rounds):
        start, images = time.perf_counter(), 0
        for epoch in range(10):
            loader.sampler.set_epoch(epoch)
            images += sum(len(batch["pixel_values"]) for batch in loader)
        rates["loader"].append(images / (time.perf_counter() - start))
        for name, (model, optimizer, batch) in steps.items():
            start = time.perf_counter()
            for _step in range(3):
                accelerator.backward(model(**batch).loss)
                optimizer.step()
                optimizer.zero_grad()
            rates[name].append(3 * len(batch["pixel_values"]) / (time.perf_counter() - start))
        print({name: round(values[-1]) for name, values in rates.items()}, flush=True)
    medians = {name: statistics.median(values[1:] or values) for name, values in rates.items()}  # the first warms up
    record = {
        "images_per_second": medians,
        "loader_over_model": {name: medians["loader"] / medians[name] for name in arguments.models},
        "rounds": arguments.rounds,
    }
    hardware = {"threads": torch.get_num_threads(), "precision": accelerator.mixed_precision}
    write_record(arguments.results, record, **hardware)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
