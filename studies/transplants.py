"""Measure whether a model of whole events answers from the jet: test jets in their own event and in others.

    python studies/transplants.py --checkpoint runs/events --data_dir runs/data --results results/transplants.json

Outside the windows of its jets, an event gets the pixels of another one; overlaid, inside as well, as if both
happened at once. A model that read the class off what lies outside the windows would lose. Jets of one event stay
together, so what one jet tells about another is not tested.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.special import softmax
from transformers import AutoImageProcessor

from e2evit.cli.errors import one_line_errors
from e2evit.cli.parser import parse
from e2evit.data.jobs import check_replaceable
from e2evit.results.measure import measure
from e2evit.results.predictions import Predictions
from e2evit.results.record import write_record
from e2evit.training import DataArguments, TargetArguments, load_data, make_loader, predict, start_accelerator
from e2evit.training.checkpoint import TrainedOn, load_model
from e2evit.training.data import targets_of, with_defaults
from e2evit.training.events import EventCollator
from e2evit.training.guards import check_image_size
from e2evit.transforms.event_jets import in_other_events

SHOWN = ("roc_auc", "accuracy", "relative_resolution", "mean_change_of_score")


@dataclass
class TransplantArguments:
    checkpoint: str = field(
        metadata={"help": "Folder or Hub id of a model that was trained with event_jets: queries."}
    )
    results: str = field(metadata={"help": "JSON file to write."})
    per_device_batch_size: int = field(default=8, metadata={"help": "Events in a batch."})


def main() -> None:
    data, targets, arguments = parse(
        "transplants.py", __doc__, None, DataArguments, TargetArguments, TransplantArguments
    )
    data.event_jets = "queries"
    check_replaceable(Path(arguments.results))
    trained_on = TrainedOn.of(arguments.checkpoint)
    if not trained_on.reads_events:
        raise ValueError(f"{arguments.checkpoint} was not trained with `event_jets: queries`.")
    targets = with_defaults(targets_of(trained_on, data, targets), trained_on.channel_names)
    dataset, schema = load_data(data, targets, trained_on.channel_names)
    rows, processor = dataset["test"], AutoImageProcessor.from_pretrained(trained_on.path)
    check_image_size(trained_on.path, processor, schema)
    accelerator, model = start_accelerator("no"), load_model(trained_on.path)
    reach, is_tower = model.config.jet_reach, model.config.channels_among(model.config.tower_channels)
    collator = EventCollator(processor, targets.mass_column, packed=True)
    conditions = {
        "own event": rows,
        "other event": in_other_events(rows, reach, is_tower),
        "overlaid": in_other_events(rows, reach, is_tower, overlaid=True),
    }
    measured, own = {}, None
    for name, events in conditions.items():
        loader = make_loader(events, collator, arguments.per_device_batch_size)
        found = predict(accelerator, *accelerator.prepare(model, loader), name)
        said = Predictions.of_classes(softmax(found["logits"], axis=1), found["mass_preds"])
        measured[name] = measure(found["labels"], found["mass_labels"], said, trained_on.label_names)
        own = own or said
        measured[name]["mean_change_of_score"] = float(np.abs(said.scores - own.scores).mean())
    write_record(arguments.results, {"model": Path(arguments.checkpoint).name, "conditions": measured})
    for name, metrics in measured.items():
        print(name, {key: round(metrics[key], 4) for key in SHOWN if key in metrics})


if __name__ == "__main__":
    with one_line_errors("transplants.py"):
        main()
