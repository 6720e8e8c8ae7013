"""Measure a checkpoint on held-out jets, beside baselines on the same jets.

accelerate launch scripts/evaluate.py runs/xcit --data_dir data/jets --results results/xcit.json
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

# Python puts this folder first, and this file would be found in the place of the library `evaluate`
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import cached_file

from e2evit.data import find_schema, load_e2e
from e2evit.data.collate import E2ECollator
from e2evit.evaluation import BACKGROUND, align_labels, baseline_predictions, measure, softmax, write_results
from e2evit.training import (
    DataArguments,
    end_processes,
    make_loader,
    parse_recipe,
    predict,
    run_info,
    start_accelerator,
)


@dataclass
class EvaluateArguments:
    results: str = field(metadata={"help": "JSON file to write; predictions go beside it as Parquet."})
    split: str = field(default="test", metadata={"help": "train, validation or test."})
    per_device_batch_size: int = field(default=64, metadata={"help": "Jets in a batch of one process."})
    mixed_precision: str = field(default="auto", metadata={"help": "no, bf16, fp16 or auto."})


def main() -> None:
    checkpoint, *rest = sys.argv[1:]
    data_args, arguments = parse_recipe(DataArguments, EvaluateArguments, arguments=rest)
    accelerator = start_accelerator(arguments.mixed_precision)
    schema = find_schema(data_args.dataset_name, data_args.data_dir, data_args.schema)
    with accelerator.main_process_first():
        dataset = load_e2e(
            data_args.dataset_name, data_args.data_dir, schema=data_args.schema, cache_dir=data_args.cache_dir
        )
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageClassification.from_pretrained(checkpoint)
    dataset = align_labels(dataset, model.config.label2id)
    label_names = [model.config.id2label[number] for number in range(model.config.num_labels)]

    collator = E2ECollator(processor, data_args.mass_column)
    loader = make_loader(dataset[arguments.split], collator, arguments.per_device_batch_size)
    model, loader = accelerator.prepare(model, loader)
    found = predict(accelerator, model, loader)
    if not accelerator.is_main_process:
        end_processes(accelerator)
        return
    predictors = baseline_predictions(dataset, arguments.split, schema, data_args.mass_column)
    probabilities = softmax(found["logits"])
    model_predictions = (1 - probabilities[:, BACKGROUND], found["mass_preds"])
    mass_scales = found.get("mass_scale_preds")
    targets = (found["labels"], found["mass_labels"])
    run = cached_file(checkpoint, "run_info.json", _raise_exceptions_for_missing_entries=False)
    record = run_info(accelerator, dataset, accelerator.unwrap_model(model)) | {
        "seed": json.loads(Path(run).read_text())["seed"] if run else None,
        "dataset": data_args.dataset_name,
        "split": arguments.split,
        "mass_column": data_args.mass_column,
        "label_names": label_names,
        "channel_names": list(schema.channel_names),
        "image_size": list(schema.image_size),
        "metrics": {
            **{name: measure(*targets, *prediction) for name, prediction in predictors.items()},
            "model": measure(*targets, *model_predictions, probabilities, label_names, mass_scales),
        },
    }
    columns = {"event_id": dataset[arguments.split]["event_id"], "labels": targets[0], "mass_labels": targets[1]}
    for name, (score, mass) in {**predictors, "model": model_predictions}.items():
        columns |= {f"{name} score": score.astype(np.float32), f"{name} mass": mass.astype(np.float32)}
    if mass_scales is not None:
        columns["model mass scale"] = mass_scales.astype(np.float32)
    for name, probability in zip(label_names, probabilities.T):
        columns[f"model p_{name}"] = probability.astype(np.float32)
    write_results(arguments.results, record, columns)
    print(f"Wrote {arguments.results}")
    end_processes(accelerator)


if __name__ == "__main__":
    main()
