"""Short trainings that differ in one thing: optimiser, stem, floor of the linear attention's denominator, batch size.

python benchmarks/ablation.py --data_dir runs/study/data --results results/ablation.json

Models and recipe come from the study (recipes/study). Each variant sees the same part of the training jets once, in
the same order, and is evaluated on part of the validation jets. A hint, not a study: differences smaller than those
between seeds mean nothing. A variant whose result is already in the file is not trained again. `AdamW, schedule-free`
(https://arxiv.org/abs/2405.15682) needs `pip install schedulefree`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from accelerate.utils import set_seed
from torch import nn
from tqdm import tqdm

from e2evit.results.record import write_record
from e2evit.training import (
    DataArguments,
    Recipe,
    TargetArguments,
    load_data,
    make_loader,
    new_model,
    read_model_config,
    start_accelerator,
)
from e2evit.training.optim import OPTIMIZERS, make_optimizer, make_schedule
from e2evit.training.tasks import make_task

ROOT = Path(__file__).parents[1]
FIXED_FLOOR = {"denominator_floor_per_token": False}
PLAIN = {"pixel_hidden_size": 0}


class Variant(NamedTuple):
    """`fields` override the configuration of the study's `model`."""

    model: str = "xcit"
    fields: dict = {}
    optimizer: str = "muon"
    learning_rate: float = 2e-3
    batch_size: int = 64


VARIANTS = {
    "AdamW": Variant("xcit", PLAIN, "adamw"),
    "Muon": Variant("xcit", PLAIN),
    "AdamW, schedule-free": Variant("xcit", PLAIN, "schedule_free"),
    "AdamW, schedule-free, 2.5 times the rate": Variant("xcit", PLAIN, "schedule_free", 5e-3),
    "AdamW, with a layer for pixels": Variant("xcit", {}, "adamw"),
    "Muon, with a layer for pixels": Variant(),
    "the same, batches of 32": Variant(batch_size=32),
    "the same, batches of 16": Variant(batch_size=16),
    "floor 0.51 a token": Variant("linearvit", PLAIN, "adamw"),
    "floor 100": Variant("linearvit", PLAIN | FIXED_FLOOR | {"denominator_floor": 100.0}, "adamw"),
    "floor 1e-6": Variant("linearvit", PLAIN | FIXED_FLOOR | {"denominator_floor": 1e-6}, "adamw"),
    "ViT": Variant("vit"),
    "ViT, a quarter of the rate": Variant("vit", learning_rate=5e-4),
}


def optimizer_of(kind: str, model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    if kind in OPTIMIZERS:
        return make_optimizer(model, learning_rate, weight_decay, name=kind)
    from schedulefree import AdamWScheduleFree

    groups = [
        {name: group[name] for name in ("params", "weight_decay")}
        for group in make_optimizer(model, learning_rate, weight_decay).param_groups
    ]
    return AdamWScheduleFree(groups, lr=learning_rate, warmup_steps=20)


def train(variant: Variant, arguments: argparse.Namespace, accelerator, seed: int) -> dict:
    """Train one variant; return its losses and validation metrics."""
    name, fields, kind, learning_rate, batch_size = variant
    num_steps = arguments.num_jets // batch_size
    settings = yaml.safe_load((ROOT / "recipes/study/train.yaml").read_text(encoding="utf-8"))
    keys = ("mass_column", "transverse", "classes", "mass_classes")
    recipe = Recipe(
        data=DataArguments(data_dir=arguments.data_dir),
        targets=TargetArguments(**{key: settings[key] for key in keys}),
    )
    dataset, schema = load_data(recipe.data, recipe.targets)
    set_seed(seed)
    config = read_model_config(ROOT / f"recipes/study/{name}.json", **fields)
    model, processor = new_model(config, schema, dataset["train"], recipe.targets.mass_column)
    task = make_task(model, processor, dataset, recipe)
    loader = make_loader(dataset["train"], task.collator, batch_size, shuffle_seed=seed)
    task.collator.seed(seed, 0)
    optimizer = optimizer_of(kind, model, learning_rate, weight_decay=0.05)
    is_schedule_free = kind == "schedule_free"
    schedule = None if is_schedule_free else make_schedule(optimizer, num_steps, 0.1)
    if is_schedule_free:
        optimizer.train()
    model.train()
    total, start = 0.0, time.perf_counter()
    for step, batch in zip(tqdm(range(num_steps), desc=f"{name}, {kind}, {fields or ''}"), loader):
        batch.pop("rows", None)
        loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        model.zero_grad()
        total += loss.item() * (step >= num_steps // 2)
    seconds = time.perf_counter() - start
    if is_schedule_free:
        optimizer.eval()
    rows = dataset["validation"].select(range(0, len(dataset["validation"]), arguments.validation_step))
    loader = make_loader(rows, task.validation_collator, 64)
    metrics = task.validate(accelerator, model, accelerator.prepare(loader))
    return {"seed": seed, "training_loss_second_half": total / (num_steps - num_steps // 2)} | {
        **{f"validation_{key}": metrics[key] for key in ("loss", "accuracy", "mass_resolution")},
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder of jets made by `make study`")
    parser.add_argument("--results", type=Path, default=ROOT / "results/ablation.json")
    parser.add_argument("--num_jets", type=int, default=300 * 64, help="training jets of each variant")
    parser.add_argument("--validation_step", type=int, default=3, help="evaluate every n-th validation jet")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    accelerator = start_accelerator("no")
    record = {"num_jets": arguments.num_jets, "variants": {}}
    if arguments.results.exists():
        record = json.loads(arguments.results.read_text(encoding="utf-8"))
        if record["num_jets"] != arguments.num_jets:
            parser.error(f"{arguments.results} was made with `--num_jets {record['num_jets']}`: choose another file.")
    for seed in arguments.seeds:
        for title, variant in VARIANTS.items():
            runs = record["variants"].setdefault(title, [])
            if any(run["seed"] == seed for run in runs):
                continue
            runs.append(train(variant, arguments, accelerator, seed))
            write_record(arguments.results, record, threads=torch.get_num_threads())
            print(title, runs[-1], flush=True)


if __name__ == "__main__":
    main()
