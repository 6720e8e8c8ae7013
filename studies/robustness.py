"""Measure how far models fall when the detector or the physics is not that of their training jets.

python studies/robustness.py --checkpoints runs/study/linearvit_seed0 --data_dir runs/study/data \
    --samples "pile-up 60=runs/study/pileup_60" --results_dir results/robustness

writes one JSON per model, and `trees_all.json` for boosted trees trained on the same jets. The test jets of `data_dir`
are measured as they are and with each change of `e2evit.transforms.variations`, and all jets of the other samples.
Conditions that a file holds already are not measured again.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets
from scipy.special import softmax
from transformers import AutoImageProcessor, AutoModelForImageClassification

from e2evit.baselines.boosted_trees import TreeJets, fit_trees
from e2evit.baselines.jet_features import VARIABLE_SETS, jet_features, variables
from e2evit.cli.errors import one_line_errors
from e2evit.cli.parser import parse
from e2evit.data import DatasetSchema
from e2evit.metrics.bootstrap import event_numbers
from e2evit.results.compare import ROBUSTNESS, robustness_metrics
from e2evit.results.measure import column
from e2evit.results.predictions import Predictions
from e2evit.results.record import model_name, provenance, write_record
from e2evit.training import (
    DataArguments,
    TargetArguments,
    load_data,
    make_loader,
    predict,
    start_accelerator,
)
from e2evit.training.collate import E2ECollator
from e2evit.training.data import with_defaults
from e2evit.transforms.variations import VARIATIONS, vary


@dataclass
class RobustnessArguments:
    results_dir: str = field(metadata={"help": "Folder of the results."})
    checkpoints: list[str] = field(default_factory=list, metadata={"help": "Folders or Hub ids of networks."})
    samples: list[str] = field(default_factory=list, metadata={"help": "Other simulated jets, each TITLE=FOLDER."})
    max_jets: int | None = field(default=None, metadata={"help": "Number of test jets, evenly chosen; default: all."})
    trees: bool = field(default=True, metadata={"help": "Whether to measure boosted trees as well."})


def main() -> None:
    data, targets, arguments = parse(
        "robustness.py", __doc__, None, DataArguments, TargetArguments, RobustnessArguments
    )
    accelerator = start_accelerator("no")  # float32, as the study's other results
    networks = {Path(checkpoint).name: Network(checkpoint, accelerator) for checkpoint in arguments.checkpoints}
    channel_names = next(iter(networks.values())).processor.channel_names if networks else None
    targets = with_defaults(targets, channel_names)
    dataset, schema = load_data(data, targets, channel_names)
    for name, network in networks.items():
        if network.processor.channel_names != list(schema.channel_names):
            sys.exit(f"robustness.py: {name} reads other channels than {next(iter(networks))}: measure it on its own.")
    nominal = dataset["test"]
    if arguments.max_jets and arguments.max_jets < len(nominal):
        nominal = nominal.select(range(0, len(nominal), -(-len(nominal) // arguments.max_jets)))
    conditions: dict[str, Callable[[], Dataset]] = {"nominal": lambda: nominal}
    for name in VARIATIONS:
        conditions[name] = lambda name=name: vary(nominal, schema, name)
    for sample in arguments.samples:
        title, _, folder = sample.partition("=")
        if not folder:
            sys.exit(f"robustness.py: samples are TITLE=FOLDER, got {sample!r}.")
        conditions[title] = lambda folder=folder: all_jets(replace(data, data_dir=folder), targets, channel_names)

    predictors: dict[str, Callable[[Dataset], Predictions]] = dict(networks)
    if arguments.trees:
        predictors["trees_all"] = Trees(dataset, schema, targets.mass_column)
    folder = Path(arguments.results_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for title, rows_of in conditions.items():
        rows = None
        for name, predictor in predictors.items():
            path = folder / f"{name}.json"
            conditions_of_model = json.loads(path.read_text(encoding="utf-8"))["conditions"] if path.exists() else {}
            if title in conditions_of_model:
                continue
            rows = rows_of() if rows is None else rows
            labels, mass_labels = column(rows, "labels", -100).astype(int), column(rows, targets.mass_column)
            made = {key: value for key, value in provenance().items() if key in ("date", "commit")}
            events = event_numbers(rows["event_id"] if "event_id" in rows.column_names else None)
            metrics = robustness_metrics(labels, mass_labels, predictor(rows), events=events)
            conditions_of_model[title] = {"jets": len(rows)} | made | metrics
            seed = getattr(predictor, "seed", None)
            entries = {"model": model_name(name, seed), "seed": seed, "conditions": conditions_of_model}
            write_record(path, entries)
            values = ", ".join(f"{key} {metrics[key]['value']:.4f}" for key in ROBUSTNESS if key in metrics)
            print(f"{name}, {title}: {values}", flush=True)


def all_jets(data: DataArguments, targets: TargetArguments, channel_names) -> Dataset:
    """Those of all splits: nothing was trained on these."""
    dataset, _ = load_data(data, targets, channel_names)
    return concatenate_datasets(list(dataset.values()))


class Network:
    """Predictions of a checkpoint."""

    def __init__(self, checkpoint: str, accelerator):
        self.accelerator = accelerator
        self.processor = AutoImageProcessor.from_pretrained(checkpoint)
        self.model = AutoModelForImageClassification.from_pretrained(checkpoint)
        info = Path(checkpoint) / "run_info.json"
        self.seed = json.loads(info.read_text(encoding="utf-8"))["seed"] if info.is_file() else None

    def __call__(self, rows: Dataset) -> Predictions:
        loader = make_loader(rows, E2ECollator(self.processor), batch_size=64)
        outputs = predict(self.accelerator, *self.accelerator.prepare(self.model, loader))
        return Predictions.of_classes(softmax(outputs["logits"], axis=1), outputs["mass_preds"])


class Trees:
    """Predictions of boosted trees on all jet variables."""

    def __init__(self, dataset: DatasetDict, schema: DatasetSchema, mass_column: str):
        self.dataset, self.schema, self.mass_column = dataset, schema, mass_column
        self.trained = None

    def variables(self, rows: Dataset):
        return variables(jet_features(rows, self.schema), VARIABLE_SETS["all, with impact parameters"])

    def __call__(self, rows: Dataset) -> Predictions:
        if self.trained is None:
            parts = (self.dataset["train"], self.dataset["validation"])
            jets = (TreeJets.of(part, self.variables(part), self.mass_column) for part in parts)
            self.trained = fit_trees(*jets, len(self.schema.label_names))
        return self.trained.predict(self.variables(rows))


if __name__ == "__main__":
    with one_line_errors("robustness.py"):
        main()
