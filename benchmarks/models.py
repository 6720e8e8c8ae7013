"""Speed of our models against a plain transcription of the authors' code, with the same weights.

    python benchmarks/models.py --results results/model_speed.json

Batch 32, 8 channels, 125 x 125 pixels, patch 5: 25 x 25 tokens. Variants are measured in turn, round by round, in one
process; ratios are taken within a round, then their median. A training step is forward, backward and AdamW.
"""

import json
import time
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import reference
import torch
from torch._inductor import config as inductor
from torch.nn import functional as F
from torch.optim import AdamW
from tqdm import tqdm
from transformers import HfArgumentParser

from e2evit import convert_reference
from e2evit.results.record import write_record

BATCH_SIZE, NUM_CHANNELS, SIDE = 32, 8, 125
AUTHORS = {  # the sizes of recipes/models, with one token per 5 x 5 patch
    "linearvit nano": lambda: reference.L2ViT(NUM_CHANNELS, [96], [4], [4], [4], window=5, patch_size=5),
    "linearvit tiny": lambda: reference.L2ViT(
        NUM_CHANNELS, [64, 128, 256], [2, 4, 2], [2, 4, 8], [4] * 3, window=5, patch_size=5
    ),
    "xcit nano": lambda: reference.XCiT(NUM_CHANNELS, 96, 4, 4, patch_size=5),
    "xcit tiny": lambda: reference.XCiT(NUM_CHANNELS, 128, 12, 4, patch_size=5),
}


@dataclass
class SpeedArguments:
    results: str = field(default="results/model_speed.json", metadata={"help": "JSON file to write."})
    rounds: int = field(default=8, metadata={"help": "Measurements of each variant; three more warm up."})


def make_models(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The authors' model and ours with the same random weights."""
    torch.manual_seed(0)
    authors = AUTHORS[name]()
    fields = {"window_size": 5} if name.startswith("linearvit") else {}
    return authors, convert_reference(authors.state_dict(), name.split()[0], **fields)


def logits_of(model, pixel_values):
    outputs = model(pixel_values)
    return outputs if torch.is_tensor(outputs) else outputs.logits


def check_equal(authors, ours, pixel_values, labels) -> dict[str, float]:
    """Largest difference of the logits, and of the stem's gradients relative to the largest gradient; float32.

    Raises:
        AssertionError: if they exceed 1e-5 or 1e-3.
    """
    logits, gradients = [], []
    for model in (authors, ours):
        with torch.no_grad():
            logits.append(logits_of(model.eval(), pixel_values))
        F.cross_entropy(logits_of(model.train(), pixel_values), labels).backward()
        gradients.append(next(parameter for parameter in model.parameters() if parameter.ndim == 4).grad)
    expected, actual = gradients
    differences = {
        "logits": (logits[0] - logits[1]).abs().max().item(),
        "gradients": ((actual - expected).abs().max() / expected.abs().max()).item(),
    }
    if differences["logits"] > 1e-5 or differences["gradients"] > 1e-3:
        raise AssertionError(f"The two models differ: {differences}")
    return differences


def training_step(model, pixel_values, labels, precision: str, **optimizer):
    optimizer = AdamW(model.parameters(), **optimizer)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = logits_of(model, pixel_values)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference(model, pixel_values):
    def step():
        with torch.no_grad():
            logits_of(model, pixel_values)

    return step


def measure(variants: dict, rounds: int, description: str) -> dict[str, np.ndarray]:
    """Seconds of each variant in each round."""
    times = {name: [] for name in variants}
    for _ in tqdm(range(rounds + 3), desc=description, disable=None):
        for name, step in variants.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {name: np.array(seconds[3:]) for name, seconds in times.items()}


def summarize(times: dict[str, np.ndarray], baseline_of: dict[str, str]) -> dict:
    return {
        "milliseconds": {name: round(1e3 * float(np.median(seconds)), 1) for name, seconds in times.items()},
        "speedup": {
            name: round(float(np.median(times[baseline] / times[name])), 3) for name, baseline in baseline_of.items()
        },
    }


def compare(name: str, rounds: int) -> dict:
    torch.compiler.reset()  # it stops compiling a function that has seen too many models
    authors, ours = make_models(name)
    torch.manual_seed(1)
    pixel_values = torch.randn(BATCH_SIZE, NUM_CHANNELS, SIDE, SIDE)
    pixel_values *= torch.rand(BATCH_SIZE, NUM_CHANNELS, SIDE, SIDE) < 0.015
    labels = torch.arange(BATCH_SIZE) % 2
    differences = check_equal(deepcopy(authors), deepcopy(ours), pixel_values, labels)

    steps, baseline_of = {}, {}
    for precision in ("fp32", "bf16"):
        steps[f"reference {precision}"] = training_step(deepcopy(authors).train(), pixel_values, labels, precision)
        for mode in ("eager", "compiled"):
            model = deepcopy(ours).train()
            if mode == "compiled":
                model.compile()
            steps[f"{mode} {precision}"] = training_step(model, pixel_values, labels, precision, fused=True)
            baseline_of[f"{mode} {precision}"] = f"reference {precision}"
    training = summarize(measure(steps, rounds, f"{name}, training"), baseline_of)

    half, half_values = deepcopy(ours).eval().bfloat16(), pixel_values.bfloat16()
    frozen = deepcopy(half)
    frozen.compile()
    steps = {
        "reference fp32": inference(authors.eval(), pixel_values),
        "eager fp32": inference(ours.eval(), pixel_values),
        "eager bf16": inference(half, half_values),
        "compiled bf16": inference(frozen, half_values),
    }
    # weights become constants and are packed for oneDNN; as an option of torch.compile this does nothing
    with inductor.patch(freezing=True):
        times = measure(steps, rounds, f"{name}, inference")
    speeds = summarize(times, dict.fromkeys(list(steps)[1:], "reference fp32"))
    return {"differences": differences, "training": training, "inference": speeds}


def main() -> None:
    (arguments,) = HfArgumentParser(SpeedArguments).parse_args_into_dataclasses()
    record = {
        "models": {name: compare(name, arguments.rounds) for name in AUTHORS},
        "batch_size": BATCH_SIZE,
        "rounds": arguments.rounds,
        "amx": torch.cpu._is_amx_tile_supported(),
    }
    path = Path(arguments.results)
    write_record(path, record, threads=torch.get_num_threads())
    print(
        json.dumps(
            {name: {k: record["models"][name][k]["speedup"] for k in ("training", "inference")} for name in AUTHORS}
        )
    )


if __name__ == "__main__":
    main()
