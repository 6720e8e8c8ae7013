"""Measure a checkpoint on held-out jets, beside baselines on the same jets.

examples:
  e2evit eval runs/xcit --data_dir data/jets --results results/xcit.json

Predictions are saved piece by piece until the results are written: run the same command again after an interruption.
For several processes: accelerate launch scripts/eval.py ..., or accelerate launch -m e2evit.cli eval ...
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scipy.special import softmax
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.hf_argparser import HfArg
from transformers.utils import cached_file

from e2evit.baselines.constants import baseline_predictions
from e2evit.results.measure import align_labels, evaluate_predictions
from e2evit.results.predictions import MODEL, Predictions
from e2evit.results.record import Result, model_name
from e2evit.training import (
    DataArguments,
    TargetArguments,
    TrainedOn,
    end_processes,
    load_data,
    model_cost,
    peak_memory_gib,
    predict_in_pieces,
    run_info,
    start_accelerator,
    targets_of,
)
from e2evit.training.collate import E2ECollator
from e2evit.training.data import describe_data, with_defaults

from .parser import parse

CHECKPOINT = ("checkpoint", "Folder or Hub id of the model.")


@dataclass
class EvaluateArguments:
    results: str = HfArg(help="JSON file to write; predictions go beside it as Parquet.")
    model_name: str | None = HfArg(
        default=None, help="Name of the model in tables; default: that of the checkpoint's folder, without the seed."
    )
    split: str = HfArg(default="test", help="Split to measure on: train, validation or test.")
    per_device_batch_size: int = HfArg(default=64, help="Batch size of each process.")
    mixed_precision: str = HfArg(default="auto", help="no, bf16, fp16, or auto: bf16 where it is faster than float32.")


def main(arguments: Sequence[str] | None = None) -> None:
    checkpoint, data, targets, options = parse(
        "e2evit eval", __doc__, arguments, DataArguments, TargetArguments, EvaluateArguments, first=CHECKPOINT
    )
    accelerator = start_accelerator(options.mixed_precision)
    trained_on = TrainedOn.of(checkpoint)
    targets = with_defaults(targets_of(trained_on, data, targets), trained_on.channel_names)
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    with accelerator.main_process_first():
        dataset, schema = load_data(data, targets, trained_on.channel_names)
    model = AutoModelForImageClassification.from_pretrained(checkpoint)
    dataset = align_labels(dataset, model.config.label2id)
    label_names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    rows = dataset[options.split]

    collator = E2ECollator(processor, targets.mass_column)
    cost = model_cost(model, accelerator, options.per_device_batch_size)
    pieces = Path(options.results).with_suffix(".pieces")
    found = predict_in_pieces(accelerator, model, rows, collator, options.per_device_batch_size, pieces)
    cost["peak_memory_gib"] = peak_memory_gib(accelerator.device)  # before the baselines, which take more
    if not accelerator.is_main_process:
        end_processes(accelerator)
        return
    predictors = baseline_predictions(dataset, options.split, schema, targets.mass_column)
    probabilities = softmax(found["logits"], axis=1)
    predictors[MODEL] = Predictions.of_classes(probabilities, found["mass_preds"], found.get("mass_scale_preds"))
    trained = read_run_info(checkpoint)
    names = ("images_seen", "seconds", "best_epoch", "hardware")
    training = {name: trained[name] for name in names if name in trained}
    if trained.get("epochs"):  # the usual rate, since seconds count those in which the machine stood still
        training["images_per_second"] = median(epoch["images_per_second"] for epoch in trained["epochs"])
    seed = trained.get("seed")
    fields = run_info(dataset, accelerator, model) | describe_data(data, targets, schema, options.split)
    fields |= evaluate_predictions(rows, targets.mass_column, label_names, predictors)
    fields |= {
        "model": options.model_name or model_name(checkpoint, seed),
        "seed": seed,
        "label_names": label_names,
        "training": training,
        "cost": cost,
    }
    Result(**fields).to_json(options.results)
    shutil.rmtree(pieces)
    print(f"Wrote {options.results}")
    end_processes(accelerator)


def read_run_info(checkpoint: str) -> dict:
    """The training record of the checkpoint; empty if it has none."""
    path = cached_file(checkpoint, "run_info.json", _raise_exceptions_for_missing_entries=False)
    return json.loads(Path(path).read_text()) if path else {}
