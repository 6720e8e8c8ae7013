"""CPU time of a masked pre-training step of HitViT, whose encoder sees only what is left, against a labelled one.

    python benchmarks/masked_steps.py

The study's configuration on 48 jets, eager, one thread, float32 and bfloat16 autocast; all variants in turn, round by
round, in one process. Ratios are taken within a round, then their median.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from e2evit.modeling import HitViTForMaskedImageModeling
from tqdm import tqdm
from transformers import HfArgumentParser

from e2evit.data import find_schema, load_e2e
from e2evit.results.record import write_record
from e2evit.training import new_model
from e2evit.training.collate import E2ECollator

NUM_JETS = 48
FULL = "full model, classes and mass"
MASKED = {  # share of the blocks that are hidden, and fields of the configuration
    "75 % hidden": (0.75, {}),
    "60 % hidden": (0.6, {}),
    "75 % hidden, single pixels": (0.75, {"mask_size": 1}),
    "75 % hidden, every block asked about": (0.75, {"ask_every": 1}),
}


@dataclass
class StepArguments:
    data_dir: str = field(default="tests/data/jets", metadata={"help": "Simulated jets."})
    model_config: str = field(default="recipes/pretraining/hitvit.json", metadata={"help": "The model to measure."})
    rounds: int = field(default=5, metadata={"help": "Measurements of each step; one more warms up."})
    results: str = field(default="results/masked_steps.json", metadata={"help": "JSON file to write."})


def masked_step(config, ratio: float, fields: dict, inputs: dict):
    """The loss of a masked model, with as many hidden blocks in every image."""
    model = HitViTForMaskedImageModeling(type(config).from_dict(config.to_dict() | fields)).train()
    rows, columns = model.mask_grid(config.image_shape)
    order = torch.rand(NUM_JETS, rows * columns).argsort(dim=1)
    mask = order < round(ratio * rows * columns)
    return model, lambda: model(bool_masked_pos=mask, **inputs).loss


def make_steps(arguments: StepArguments) -> tuple[dict, float]:
    """Model and loss by name, and the mean number of tokens of a jet."""
    torch.manual_seed(0)
    schema = find_schema("simulated", arguments.data_dir)
    rows = load_e2e("simulated", arguments.data_dir, split="train")
    full, processor = new_model(Path(arguments.model_config), schema, rows)
    chosen = rows.select(np.linspace(0, len(rows) - 1, NUM_JETS).astype(int))
    batch = dict(E2ECollator(processor, packed=True)(list(chosen)))
    images = {name: batch[name] for name in ("pixel_index", "pixel_value", "row_offsets")}
    steps = {FULL: (full.train(), lambda: full(**batch).loss)}
    for name, (ratio, fields) in MASKED.items():
        steps[name] = masked_step(full.config, ratio, fields, images)
    with torch.no_grad():
        tokens = full.hitvit(**images).token_counts.float().mean().item()
    return steps, tokens


def measure(steps: dict, rounds: int, precision: str) -> dict[str, np.ndarray]:
    """CPU seconds of each step in each round."""
    times = {name: [] for name in steps}
    for _ in tqdm(range(rounds + 1), desc=precision, disable=None):
        for name, (model, loss) in steps.items():
            start = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                value = loss()
            value.backward()
            times[name].append(time.process_time() - start)
            model.zero_grad()
    return {name: np.array(seconds[1:]) for name, seconds in times.items()}


def main() -> None:
    (arguments,) = HfArgumentParser(StepArguments).parse_args_into_dataclasses()
    torch.set_num_threads(1)
    steps, tokens = make_steps(arguments)
    record: dict = {"jets": NUM_JETS, "tokens_per_jet": tokens, "rounds": arguments.rounds}
    for precision in ("float32", "bfloat16"):
        times = measure(steps, arguments.rounds, precision)
        record[precision] = {
            name: {
                "ms_per_jet": float(1000 * np.median(seconds) / NUM_JETS),
                "of_full": float(np.median(seconds / times[FULL])),
            }
            for name, seconds in times.items()
        }
    write_record(arguments.results, record, threads=1)


if __name__ == "__main__":
    main()
