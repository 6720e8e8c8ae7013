"""How much time keeping freed memory saves in a training step of the study's models.

    python benchmarks/freed_memory.py --data_dir tests/data/jets --results results/freed_memory.json

The same step alternates between glibc's own thresholds, as they are once adapted to large tensors, and those of
`e2evit.training.process.keep_freed_memory`. Ratios are medians over rounds. Linux with glibc only.
"""

import ctypes
import json
import resource
from dataclasses import dataclass, field
from pathlib import Path

import torch
from learning import read_jets
from models import measure, summarize, training_step
from transformers import AutoModelForImageClassification, HfArgumentParser

from e2evit.results.record import write_record
from e2evit.training.checkpoint import read_model_config
from e2evit.training.process import keep_freed_memory

STUDY = Path(__file__).parents[1] / "recipes/study"
BATCH_SIZE = 64
LARGEST_KEPT = 2**25  # bytes; where glibc's threshold stops adapting


@dataclass
class FreedMemoryArguments:
    data_dir: str = field(metadata={"help": "Folder of simulated jets."})
    results: str = field(default="results/freed_memory.json", metadata={"help": "JSON file to write."})
    rounds: int = field(default=8, metadata={"help": "Measurements of each variant; three more warm up."})


def give_back() -> None:
    """Restore glibc's own thresholds."""
    trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, LARGEST_KEPT)
    libc.mallopt(trim_threshold, 2 * LARGEST_KEPT)
    libc.malloc_trim(0)


def after(change, step):
    """The step, with the thresholds changed first: it decides whether the next step finds its freed memory."""

    def run():
        change()
        step()

    return run


def page_faults(step) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def main() -> None:
    (arguments,) = HfArgumentParser(FreedMemoryArguments).parse_args_into_dataclasses()
    images, labels = (part[:BATCH_SIZE] for part in read_jets(arguments.data_dir))
    record = {
        "batch_size": len(images),
        "models": {},
    }
    for name in ("xcit", "linearvit", "vit"):
        torch.manual_seed(0)
        config = read_model_config(STUDY / f"{name}.json", num_labels=2, num_channels=images.shape[1])
        model = AutoModelForImageClassification.from_config(config).train()
        step = training_step(model, images, labels, "fp32", fused=True)
        steps = {}
        for title, set_thresholds in (("given back", give_back), ("kept", keep_freed_memory)):
            steps[f"first {title}"] = after(set_thresholds, step)
            steps[title] = step
        times = measure(steps, arguments.rounds, name)
        entry = summarize({title: times[title] for title in ("given back", "kept")}, {"kept": "given back"})
        for set_thresholds, title in ((keep_freed_memory, "kept"), (give_back, "given back")):
            after(set_thresholds, step)()
            entry.setdefault("page_faults", {})[title] = page_faults(step)
        record["models"][name] = entry
        print(name, json.dumps(entry), flush=True)
    path = Path(arguments.results)
    write_record(path, record, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
