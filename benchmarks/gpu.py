"""What E2E images cost on a GPU: one command, a table.

    python benchmarks/gpu.py                       # eight minutes: results/gpu/*.json, docs/gpu_attention.png
    python benchmarks/gpu.py --quick               # ninety seconds
    python benchmarks/gpu.py --device cpu --quick --results_dir build/gpu    # does it run? the numbers mean nothing

Variants that are compared take turns in one process. Each part has its share of the time. What no longer fits is left
out and listed; what has begun is finished, so that a slow compiler exceeds the time. A part that is done is in its
file, whatever happens to the next one.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch
from gpu_measures import Budget, uuid_of
from transformers import HfArgumentParser

from e2evit.cli.errors import one_line_errors
from e2evit.plots.style import save_figure
from e2evit.results.record import write_record

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "studies"))
PARTS = {  # seconds of a whole run, of a quick one
    "parity": (40, 10),
    "speed": (170, 30),
    "latency": (40, 10),
    "attention": (50, 10),
    "training": (110, 15),
}
MODULES = {"attention": "gpu_attention", "training": "gpu_training"}
SECONDS = (450, 85)  # of all parts
SECONDS_OF_A_CPU = 600  # of a part: enough for all that is done there
QUERIED = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit")


@dataclass
class GpuArguments:
    device: str = field(default="cuda", metadata={"help": "cuda; or cpu, to see that everything runs."})
    quick: bool = field(default=False, metadata={"help": "Fewer models and sizes."})
    parts: list[str] = field(default_factory=lambda: list(PARTS), metadata={"help": f"Some of {', '.join(PARTS)}."})
    results_dir: str = field(default=str(ROOT / "results/gpu"), metadata={"help": "Folder of the JSON files."})
    figure: str | None = field(default=None, metadata={"help": "Figure to write. Default: docs/gpu_attention."})
    data_dir: str | None = field(
        default=None,
        metadata={"help": "Simulated jets for the whole training. Default: those of the tests, repeated."},
    )

    def __post_init__(self):
        if unknown := [name for name in self.parts if name not in PARTS]:
            raise ValueError(f"There is no part {', '.join(unknown)}, but {', '.join(PARTS)}.")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"`device` is cuda or cpu, got {self.device!r}; CUDA_VISIBLE_DEVICES chooses a GPU.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("PyTorch sees no GPU; `--device cpu --quick` shows that everything runs.")


def main() -> None:
    (arguments,) = HfArgumentParser(GpuArguments).parse_args_into_dataclasses()
    device, results = torch.device(arguments.device), Path(arguments.results_dir)
    if device.type == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # trainings take what they see
    facts = {"device": device_facts(device), "quick": arguments.quick}
    start = time.perf_counter()
    results.mkdir(parents=True, exist_ok=True)  # an error here, before the work
    for name in arguments.parts:
        seconds = PARTS[name][arguments.quick]
        print(f"{name}: up to {seconds} s on a GPU", flush=True)
        is_gpu = device.type == "cuda"
        budget = Budget(seconds, start + SECONDS[arguments.quick]) if is_gpu else Budget(SECONDS_OF_A_CPU)
        more = {"data_dir": arguments.data_dir} if name == "training" else {}
        record = function_of(name)(device, arguments.quick, budget, **more)
        record |= facts | {"left_out": budget.left_out, "seconds": round(budget.used(), 1)}
        write_record(results / f"{name}.json", record, packages=["triton", "timm", "onnxruntime", "onnxruntime-gpu"])
    if "attention" in arguments.parts:
        from gpu_attention import draw

        record = json.loads((results / "attention.json").read_text(encoding="utf-8"))
        default = results / "attention" if device.type == "cpu" else ROOT / "docs/gpu_attention"
        print(f"Wrote {save_figure(draw(record), Path(arguments.figure or default))}")
    from gpu_tables import gpu_tables

    print(f"\n{gpu_tables(results)}\n")
    print(f"Took {time.perf_counter() - start:.0f} s. Results are in {results}")


def function_of(part: str) -> Callable[..., dict]:
    """Imported when it runs, so that one part can be run where another lacks something."""
    return getattr(import_module(MODULES.get(part, "gpu_models")), part)


def device_facts(device: torch.device) -> dict:
    """Name, memory, driver and clocks, as far as the machine tells."""
    if device.type == "cpu":
        return {"name": "cpu"}
    properties = torch.cuda.get_device_properties(device)
    facts = {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
    facts |= {"capability": f"{properties.major}.{properties.minor}", "cuda": torch.version.cuda}
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERIED)}", "--format=csv,noheader", f"--id={uuid_of(device)}"]
    try:
        answer = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=20).stdout
        facts |= dict(zip(QUERIED, (part.strip() for part in answer.split(","))))
    except (OSError, subprocess.SubprocessError):
        facts["driver_version"] = None
    return facts


if __name__ == "__main__":
    with one_line_errors("gpu.py"):
        main()
