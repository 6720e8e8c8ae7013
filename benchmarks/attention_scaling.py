"""Time and peak memory of one global-attention module against the number of tokens.

    python benchmarks/attention_scaling.py --results results/attention_scaling.json --figure docs/attention_scaling

Times of all kinds are measured in turn, round by round, in one process; each memory in a fresh process. Width 96,
4 heads, batch 1, float32.
"""

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from e2evit.modeling.modeling_attention import softmax_attention
from e2evit.modeling.modeling_mixers import GLOBAL_ATTENTIONS
from tqdm import tqdm
from transformers import HfArgumentParser

from e2evit import LinearViTConfig
from e2evit.plots.style import COLOURS, STYLE, save_figure
from e2evit.results.record import write_record

WIDTH, HEADS = 96, 4
SIDES = (16, 24, 32, 48, 64, 96, 128)
KINDS = ("relu_linear", "xca", "softmax", "softmax_eager")
MODES = ("forward", "training")
EAGER_LIMIT = 64  # above this side, the N x N matrices of one training step fill the memory


@dataclass
class ScalingArguments:
    results: str = field(default="results/attention_scaling.json", metadata={"help": "JSON file to write."})
    figure: str = field(
        default="docs/attention_scaling", metadata={"help": "Figure to write, without a file extension."}
    )
    rounds: int = field(default=5, metadata={"help": "Measurements of each point; the median is kept."})
    memory_of: list[str] = field(default_factory=list, metadata={"help": "Internal: kind, side and mode to measure."})


class EagerSoftmax(GLOBAL_ATTENTIONS["softmax"]):
    def mix(self, query, key, value):
        return softmax_attention(query, key, value)


def make(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    module = EagerSoftmax if kind == "softmax_eager" else GLOBAL_ATTENTIONS[kind]
    return module(LinearViTConfig(), WIDTH, HEADS)


def step(module, tokens, mode: str) -> None:
    with torch.set_grad_enabled(mode == "training"):
        result = module(tokens)
    if mode == "training":
        result.sum().backward()
        module.zero_grad()


def measure_memory(kind: str, side: int, mode: str) -> float:
    """MiB that a step adds to the peak memory of a process that has already run a small step."""
    command = [sys.executable, __file__, "--memory_of", kind, str(side), mode]
    return float(subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout)


def report_memory(kind: str, side: str, mode: str) -> None:
    module = make(kind)
    step(module, torch.randn(1, 8, 8, WIDTH), mode)
    before = peak_memory()
    step(module, torch.randn(1, int(side), int(side), WIDTH), mode)
    print(peak_memory() - before)


def peak_memory() -> float:
    """Peak memory in MiB, read from /proc: `getrusage` starts a child process at the peak of its parent."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def measure_times(rounds: int) -> dict[str, dict[str, dict[int, float]]]:
    modules = {kind: make(kind) for kind in KINDS}
    times = {mode: {kind: {} for kind in KINDS} for mode in MODES}
    points = [
        (mode, side, kind)
        for mode in MODES
        for side in SIDES
        for kind in KINDS
        if kind != "softmax_eager" or side <= EAGER_LIMIT
    ]
    samples: dict[tuple, list[float]] = {point: [] for point in points}
    for _ in tqdm(range(rounds + 1), desc="Rounds", disable=None):
        for mode, side, kind in points:
            tokens = torch.randn(1, side, side, WIDTH)
            repeats = max(1, 4096 // side**2)
            start = time.perf_counter()
            for _ in range(repeats):
                step(modules[kind], tokens, mode)
            samples[mode, side, kind].append((time.perf_counter() - start) / repeats)
    for (mode, side, kind), seconds in samples.items():
        times[mode][kind][side**2] = float(np.median(seconds[1:]))  # the first round warms up
    return times


def slope(points: dict[int, float], from_tokens: int = 1024) -> float:
    """Exponent of a power law fitted to the points with at least `from_tokens` tokens."""
    tokens = np.array([n for n in points if n >= from_tokens])
    return float(np.polyfit(np.log(tokens), np.log([points[n] for n in tokens]), 1)[0])


def draw(record: dict):
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(18, 6), layout="constrained")
        panels = [("time", "forward", "ms"), ("time", "training", "ms"), ("memory", "training", "MiB")]
        for axis, (quantity, mode, unit) in zip(axes, panels):
            for colour, kind in zip(COLOURS, KINDS):
                points = record[quantity][mode][kind]
                scale = 1e3 if quantity == "time" else 1
                exponent = record["slopes"][quantity][mode][kind]
                label = f"{kind} (slope {exponent:.2f})"
                axis.plot(
                    [int(n) for n in points], [scale * y for y in points.values()], "o-", color=colour, label=label
                )
            axis.set(xscale="log", yscale="log", xlabel="Tokens", ylabel=f"{mode.capitalize()}, {quantity} [{unit}]")
            axis.legend(loc="upper left" if quantity == "time" else "lower right")
    return figure


def main() -> None:
    (arguments,) = HfArgumentParser(ScalingArguments).parse_args_into_dataclasses()
    if arguments.memory_of:
        return report_memory(*arguments.memory_of)
    times = measure_times(arguments.rounds)
    memory = {mode: {kind: {} for kind in KINDS} for mode in MODES}
    for mode in MODES:
        for kind in KINDS:
            for n in tqdm([n for n in times[mode][kind] if n >= 1024], desc=f"Memory {mode} {kind}", disable=None):
                memory[mode][kind][n] = measure_memory(kind, round(n**0.5), mode)
    quantities = {"time": times, "memory": memory}
    record = quantities | {
        "slopes": {
            name: {mode: {kind: slope(values[mode][kind]) for kind in KINDS} for mode in MODES}
            for name, values in quantities.items()
        },
        "units": {"time": "s", "memory": "MiB"},
        "width": WIDTH,
        "heads": HEADS,
        "rounds": arguments.rounds,
    }
    write_record(arguments.results, record, threads=torch.get_num_threads())
    print(json.dumps(record["slopes"], indent=2))
    print(f"Wrote {arguments.results} and {save_figure(draw(record), arguments.figure)}")


if __name__ == "__main__":
    main()
