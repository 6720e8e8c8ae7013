"""Time and peak memory of HitViT with jets as queries of an event, against the number of tokens.

    python benchmarks/event_scaling.py

The whole model of recipes/events/queries.json: tokens from lists of pixels, blocks, four jets, heads. One event of
280 x 360 pixels, float32, one thread, whose CPU time is measured; all kinds in turn, round by round, in one process,
which keeps the memory of tensors as trainings do. Each memory is measured in a process of its own.
"""

import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from attention_scaling import MODES, peak_memory, slope
from e2evit.modeling import HitViTConfig, HitViTForJetsInEvents
from tqdm import tqdm
from transformers import HfArgumentParser

from e2evit.data.grid import COLUMNS, ROWS
from e2evit.plots.style import COLOURS, STYLE, save_figure
from e2evit.results.record import write_record
from e2evit.training.process import keep_freed_memory

TOKENS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
RECIPE = json.loads((Path(__file__).parents[1] / "recipes/events/queries.json").read_text(encoding="utf-8"))
KINDS = {mixing: {"global_mixing": mixing} for mixing in ("xca", "relu_linear", "softmax")}
KINDS |= {"windows + xca": {"local_mixing": "window"}}
NUM_JETS = 4
SOFTMAX_LIMIT = 16384  # above, one training step takes up to a minute


@dataclass
class ScalingArguments:
    results: str = field(default="results/event_scaling.json", metadata={"help": "JSON file to write."})
    figure: str = field(default="docs/event_scaling", metadata={"help": "Figure to write, without a file extension."})
    rounds: int = field(default=3, metadata={"help": "Measurements of each point; the median is kept."})


def make(kind: str) -> HitViTForJetsInEvents:
    torch.manual_seed(0)
    return HitViTForJetsInEvents(HitViTConfig.from_dict(RECIPE | KINDS[kind]))


def event(num_tokens: int) -> dict[str, torch.Tensor]:
    """As many random pixels of one channel, and jets."""
    generator = torch.Generator().manual_seed(num_tokens)
    index = torch.randperm(ROWS * COLUMNS, generator=generator)[:num_tokens].sort().values
    axes = torch.rand(1, NUM_JETS, 2, generator=generator) * torch.tensor([160.0, COLUMNS]) + torch.tensor([60.0, 0])
    return {
        "pixel_index": index,
        "pixel_value": torch.rand(num_tokens, generator=generator) + 0.1,
        "row_offsets": torch.tensor([0, num_tokens]),
        "jets": torch.cat([torch.full((1, NUM_JETS, 1), 500.0), axes], dim=2),
    }


def step(model: HitViTForJetsInEvents, num_tokens: int, mode: str) -> None:
    inputs = event(num_tokens)
    with torch.set_grad_enabled(mode == "training"):
        outputs = model(**inputs)
    if mode == "training":
        (outputs.logits.sum() + outputs.mass_outputs.sum()).backward()
        model.zero_grad()


def points() -> list[tuple[str, int, str]]:
    return [
        (mode, number, kind)
        for mode in MODES
        for number in TOKENS
        for kind in KINDS
        if kind != "softmax" or number <= SOFTMAX_LIMIT
    ]


def measure_times(rounds: int) -> dict[tuple, float]:
    """CPU seconds of each point."""
    models = {kind: make(kind) for kind in KINDS}
    samples: dict[tuple, list[float]] = {point: [] for point in points()}
    for number in tqdm(range(rounds + 1), desc="Rounds", disable=None):
        for mode, tokens, kind in samples:
            if not number and tokens > TOKENS[2]:
                continue  # the first round warms up
            start = time.process_time()
            step(models[kind], tokens, mode)
            samples[mode, tokens, kind].append(time.process_time() - start)
    return {point: float(np.median(seconds[-rounds:])) for point, seconds in samples.items()}


def measure_memory(*point) -> float:
    """MiB that a step adds to the peak memory of a process that has already run a small step; a forked process begins
    with what its parent holds now."""
    with ProcessPoolExecutor(1, get_context("fork")) as process:
        return process.submit(added_memory, *point).result()


def added_memory(mode: str, tokens: int, kind: str) -> float:
    model = make(kind)
    step(model, 64, mode)
    before = peak_memory()
    step(model, tokens, mode)
    return peak_memory() - before


def nested(values: dict[tuple, float]) -> dict[str, dict[str, dict[int, float]]]:
    return {
        mode: {kind: {n: values[mode, n, kind] for n in TOKENS if (mode, n, kind) in values} for kind in KINDS}
        for mode in MODES
    }


def draw(record: dict):
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(18, 6), layout="constrained")
        panels = [("time", "forward", "ms"), ("time", "training", "ms"), ("memory", "training", "MiB")]
        for axis, (quantity, mode, unit) in zip(axes, panels):
            for colour, kind in zip(COLOURS, KINDS):
                points, exponent = record[quantity][mode][kind], record["slopes"][quantity][mode][kind]
                values = [(1e3 if quantity == "time" else 1) * value for value in points.values()]
                axis.plot([*points], values, "o-", color=colour, label=f"{kind} (slope {exponent:.2f})")
            axis.set(xscale="log", yscale="log", xlabel="Tokens", ylabel=f"{mode.capitalize()}, {quantity} [{unit}]")
            axis.set_ylim(top=5 * axis.get_ylim()[1])  # room for the legend
            axis.legend(loc="upper left")
    return figure


def main() -> None:
    (arguments,) = HfArgumentParser(ScalingArguments).parse_args_into_dataclasses()
    torch.set_num_threads(1)
    memory = {point: measure_memory(*point) for point in tqdm(points(), desc="Memory", disable=None)}
    keep_freed_memory()
    times = measure_times(arguments.rounds)
    quantities = {"time": nested(times), "memory": nested(memory)}
    record = quantities | {
        "slopes": {
            name: {mode: {kind: slope(values[mode][kind]) for kind in KINDS} for mode in MODES}
            for name, values in quantities.items()
        },
        "units": {"time": "s", "memory": "MiB"},
        "jets": NUM_JETS,
        "rounds": arguments.rounds,
    }
    write_record(arguments.results, record, threads=torch.get_num_threads())
    print(json.dumps(record["slopes"], indent=2))
    print(f"Wrote {arguments.results} and {save_figure(draw(record), arguments.figure)}")


if __name__ == "__main__":
    main()
