"""Short trainings that differ in one thing: which optimiser, which floor of the linear attention's denominator.

python benchmarks/ablation.py --data_dir runs/study/data --results results/ablation.json

Models and recipe are those of the study (recipes/study), cut to a few hundred steps in which no jet comes twice, with
the same batches in the same order; then part of the validation jets is measured. A hint, not a study: what differs
less than seeds do says nothing. A variant whose result is in the file is not trained again.
`AdamW, schedule-free` (https://arxiv.org/abs/2405.15682) needs `pip install schedulefree`.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
import yaml
from accelerate.utils import set_seed
from torch import nn
from tqdm import tqdm

from e2evit.jobs import write_whole
from e2evit.training import DataArguments, ModelArguments, load_model, make_loader, start_accelerator
from e2evit.training.optim import make_optimizer, make_schedule
from e2evit.training.tasks import task_of

ROOT = Path(__file__).parents[1]
# name: (model of the study, fields of its configuration, optimiser, learning rate)
VARIANTS = {
    "AdamW": ("xcit", {}, "adamw", 2e-3),
    "Muon": ("xcit", {}, "muon", 2e-3),
    "AdamW, schedule-free": ("xcit", {}, "schedule_free", 2e-3),
    "AdamW, schedule-free, 2.5 times the rate": ("xcit", {}, "schedule_free", 5e-3),
    "floor 0.5 a token": ("linearvit", {}, "adamw", 2e-3),
    "floor 100": ("linearvit", {"denominator_floor": 100.0, "denominator_floor_per_token": False}, "adamw", 2e-3),
    "floor 1e-6": ("linearvit", {"denominator_floor": 1e-6, "denominator_floor_per_token": False}, "adamw", 2e-3),
}


def muon(model: nn.Module, learning_rate: float, weight_decay: float) -> list:
    """Muon (https://kellerjordan.github.io/posts/muon) for matrices of blocks, AdamW for all else."""
    named = model.named_parameters()
    matrices = [weight for name, weight in named if weight.ndim == 2 and not name.startswith("head.")]
    taken = set(map(id, matrices))
    adamw = make_optimizer(model, learning_rate, weight_decay)
    for group in adamw.param_groups:
        group["params"] = [weight for weight in group["params"] if id(weight) not in taken]
    # its update then has the size of AdamW's, so that the rate may be the same
    settings = {"lr": learning_rate, "weight_decay": weight_decay, "adjust_lr_fn": "match_rms_adamw"}
    return [adamw, torch.optim.Muon(matrices, **settings)]


def optimizers(kind: str, model: nn.Module, learning_rate: float, weight_decay: float) -> list:
    if kind == "adamw":
        return [make_optimizer(model, learning_rate, weight_decay)]
    if kind == "muon":
        return muon(model, learning_rate, weight_decay)
    from schedulefree import AdamWScheduleFree

    groups = [
        {name: group[name] for name in ("params", "weight_decay")}
        for group in make_optimizer(model, learning_rate, weight_decay).param_groups
    ]
    return [AdamWScheduleFree(groups, lr=learning_rate, warmup_steps=20)]


def train(variant: tuple, arguments: argparse.Namespace, accelerator, seed: int) -> dict:
    """One training and what it reached."""
    name, fields, kind, learning_rate = variant
    recipe = yaml.safe_load((ROOT / "recipes/study/train.yaml").read_text())
    keys = ("mass_column", "transverse", "classes", "mass_classes")
    data_args = DataArguments(data_dir=arguments.data_dir, **{key: recipe[key] for key in keys})
    dataset, schema = data_args.load()
    set_seed(seed)
    config = json.loads((ROOT / f"recipes/study/{name}.json").read_text()) | fields
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(config))
        file.flush()
        model, processor = load_model(ModelArguments(model_config=file.name), data_args, schema, dataset["train"])
    task = task_of(model, processor, dataset, data_args)
    loader = make_loader(dataset["train"], task.collator, arguments.batch_size, shuffle_seed=seed)
    task.collator.seed(seed, 0)
    parts = optimizers(kind, model, learning_rate, weight_decay=0.05)
    schedules = [] if kind == "schedule_free" else [make_schedule(part, arguments.steps, 0.1) for part in parts]
    for part in parts if kind == "schedule_free" else []:
        part.train()
    model.train()
    total, start = 0.0, time.perf_counter()
    for step, batch in zip(tqdm(range(arguments.steps), desc=f"{name}, {kind}, {fields or ''}"), loader):
        batch.pop("rows", None)
        loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*parts, *schedules):
            part.step()
        model.zero_grad()
        total += loss.item() * (step >= arguments.steps // 2)
    seconds = time.perf_counter() - start
    for part in parts if kind == "schedule_free" else []:
        part.eval()
    rows = dataset["validation"].select(range(0, len(dataset["validation"]), arguments.validation_step))
    measured = make_loader(rows, task.validation_collator, arguments.batch_size)
    found = task.validate(accelerator, model, accelerator.prepare(measured))
    return {"seed": seed, "training_loss_second_half": total / (arguments.steps - arguments.steps // 2)} | {
        **{f"validation_{key}": found[key] for key in ("loss", "accuracy", "mass_resolution")},
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="jets of `make study`")
    parser.add_argument("--results", type=Path, default=ROOT / "results/ablation.json")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--validation_step", type=int, default=3, help="one of so many validation jets is measured")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    accelerator = start_accelerator("no")
    record = {"steps": arguments.steps, "batch_size": arguments.batch_size, "variants": {}}
    if arguments.results.exists():
        found = json.loads(arguments.results.read_text())
        if any(found[key] != record[key] for key in ("steps", "batch_size")):
            parser.error(f"{arguments.results} is of other `--steps` or `--batch_size`: choose another file.")
        record = found
    for seed in arguments.seeds:
        for title, variant in VARIANTS.items():
            runs = record["variants"].setdefault(title, [])
            if any(run["seed"] == seed for run in runs):
                continue
            runs.append(train(variant, arguments, accelerator, seed))
            write_whole(arguments.results, lambda path: path.write_text(json.dumps(record, indent=1) + "\n"))
            print(title, runs[-1], flush=True)


if __name__ == "__main__":
    main()
