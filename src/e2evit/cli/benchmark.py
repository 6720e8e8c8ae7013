"""Make a benchmark for the Hugging Face Hub of the test jets of a data set: rows, card, `eval.yaml` and targets.

examples:
  e2evit benchmark simulated --data_dir data/jets --output_dir benchmark --name "Jets" \\
      --description "Simulated AK8 jets: class and mass." --mass_column jet_mass
  e2evit benchmark simulated --data_dir data/jets --output_dir benchmark --name "Jets" \\
      --description "Simulated AK8 jets: class and mass." --training_dirs data/more --push_to_hub ORG/JETS

Test jets are found by the hash of their event, so that no model of `e2evit train` has learned from them. A training
folder that holds one of their events after all is refused.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from transformers.hf_argparser import HfArg

from e2evit.data import find_schema, load_e2e
from e2evit.data.prepare import prepare
from e2evit.data.unseen import check_unseen
from e2evit.hub.benchmark import SPLIT, describe_jets, write_benchmark
from e2evit.hub.publish import publish_dataset
from e2evit.metrics import METRICS
from e2evit.results.measure import column
from e2evit.results.record import fingerprint
from e2evit.training import DataArguments, TargetArguments, load_data
from e2evit.training.collate import MASS_COLUMN
from e2evit.training.data import describe_data

from .parser import parse
from .prepare import DATASET


@dataclass
class BenchmarkArguments:
    data_dir: str = HfArg(help="Folder of the data set's files, or of its prepared rows.")
    output_dir: str = HfArg(help="Folder to write.")
    name: str = HfArg(help="Name on the Hub's pages.")
    description: str = HfArg(help="What it measures, in a sentence or two.")
    schema: str | None = HfArg(default=None, help="YAML schema of a custom data set that is not prepared.")
    mass_column: str = HfArg(default=MASS_COLUMN, help="Column with the mass to predict [GeV].")
    classes: list[str] | None = HfArg(default=None, help="Classes to tell apart. Default: all.")
    mass_classes: list[str] | None = HfArg(
        default=None, help="Classes whose jets have a mass to predict, or none. Default: all."
    )
    contained_classes: bool = HfArg(
        default=False, help="Give a class only to jets that contain all of the decay; others keep their mass."
    )
    training_dirs: list[str] | None = HfArg(
        default=None, help="Other folders that models are trained on, which must not hold events of the benchmark."
    )
    push_to_hub: str | None = HfArg(default=None, help="Upload to this data set repository, ORG/NAME.")
    private: bool = HfArg(default=False, help="Make a new repository private.")


def main(arguments: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    dataset_name, options = parse("e2evit benchmark", __doc__, arguments, BenchmarkArguments, first=DATASET)
    data = DataArguments(dataset_name=dataset_name, data_dir=options.data_dir, schema=options.schema)
    names = ("mass_column", "classes", "mass_classes", "contained_classes")
    targets = TargetArguments(**{name: getattr(options, name) for name in names})
    held = find_schema(dataset_name, options.data_dir, options.schema)
    if held.particles or "jets" in held.lists:
        what = "particles" if held.particles else "whole events"
        raise ValueError(f"{options.data_dir} holds {what}: a benchmark is of images of single jets.")
    dataset, schema = load_data(data, targets)
    rows = dataset[SPLIT]
    tasks = _tasks(rows, options.mass_column, schema.label_names)
    for folder in (options.data_dir, *(options.training_dirs or ())):
        check_unseen(rows["event_id"][:], dataset_name, folder, options.schema)
    measured = fingerprint(rows)
    folder = prepare(dataset_name, options.data_dir, options.output_dir, schema=options.schema, splits=[SPLIT])
    if fingerprint(load_e2e(schema.name, folder, split=SPLIT)) != measured:
        raise ValueError(
            f"{folder} does not hold the test jets of {options.data_dir}: choose an empty `--output_dir`."
        )
    jets = describe_jets(describe_data(data, targets, schema, SPLIT) | {"data": {SPLIT: measured}})
    write_benchmark(folder, options.name, options.description, jets, tasks)
    print(f"Made a benchmark of {len(rows)} jets in {folder}: {', '.join(tasks)}")
    if options.push_to_hub:
        print(f"Published {publish_dataset(folder, options.push_to_hub, private=options.private)}")


def _tasks(rows: Dataset, mass_column: str, label_names: Sequence[str]) -> list[str]:
    """The metrics of the Hub that these jets define."""
    labels = rows.with_format("arrow")["labels"].drop_null().unique()
    defined = {
        "image-classification": len(labels) > 1,
        "tabular-regression": np.isfinite(column(rows, mass_column)).any(),
    }
    tasks = [key for key, metric in METRICS.items() if metric.hub_task and defined[metric.hub_task]]
    if not tasks:
        raise ValueError(
            f"The {len(rows)} test jets have neither two classes nor masses: there is nothing to measure."
        )
    return [key for key in tasks if key != "roc_auc_macro" or len(label_names) > 2]  # of two, `roc_auc` says all
