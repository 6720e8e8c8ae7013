"""How much time skipping empty pixels in the stem saves in a training step of the study's models.

    python benchmarks/empty_pixels.py --data_dir tests/data/jets --results results/empty_pixels.json

Steps with the first convolution over occupied pixels and over all pixels alternate, without and with the layer for
single pixels, whose cost without the shortcut is measured too. Ratios are medians over rounds.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from e2evit.modeling import modeling_stem
from learning import read_jets
from models import measure, summarize, training_step
from transformers import AutoModelForImageClassification, HfArgumentParser

from e2evit.results.record import write_record
from e2evit.training.checkpoint import read_model_config

STUDY = Path(__file__).parents[1] / "recipes/study"
BATCH_SIZE = 64


@dataclass
class PixelArguments:
    data_dir: str = field(metadata={"help": "Folder of simulated jets."})
    results: str = field(default="results/empty_pixels.json", metadata={"help": "JSON file to write."})
    rounds: int = field(default=8, metadata={"help": "Measurements of each variant; three more warm up."})


def stem_step(model, pixel_values, labels, skip_empty: bool):
    step = training_step(model, pixel_values, labels, "fp32", fused=True)

    def switched():
        modeling_stem.SKIP_EMPTY = skip_empty
        step()
        modeling_stem.SKIP_EMPTY = True

    return switched


def main() -> None:
    (arguments,) = HfArgumentParser(PixelArguments).parse_args_into_dataclasses()
    images, labels = (part[:BATCH_SIZE] for part in read_jets(arguments.data_dir))
    record = {
        "occupied_pixels": float(images.ne(0).any(1).float().mean()),
        "batch_size": len(images),
        "models": {},
    }
    for name in ("xcit", "linearvit"):
        steps = {}
        for hidden in (0, 32):
            torch.manual_seed(0)
            config = read_model_config(
                STUDY / f"{name}.json", num_labels=2, num_channels=images.shape[1], pixel_hidden_size=hidden
            )
            model = AutoModelForImageClassification.from_config(config).train()
            layer = "with a layer for pixels" if hidden else "without"
            for pixels, skip_empty in (("all pixels", False), ("occupied pixels", True)):
                steps[f"{layer}, {pixels}"] = stem_step(model, images, labels, skip_empty)
        baselines = {
            f"{layer}, occupied pixels": f"{layer}, all pixels" for layer in ("without", "with a layer for pixels")
        }
        record["models"][name] = summarize(measure(steps, arguments.rounds, name), baselines)
        print(name, json.dumps(record["models"][name]))
    path = Path(arguments.results)
    write_record(path, record, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
