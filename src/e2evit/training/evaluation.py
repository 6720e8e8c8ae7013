"""Measuring a checkpoint and the baselines: the library's `evaluate`."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import median

from scipy.special import expit, softmax
from transformers import AutoImageProcessor
from transformers.utils import cached_file

from e2evit.baselines.constants import baseline_predictions
from e2evit.data.unseen import check_training
from e2evit.results.measure import align_labels, class_weights, column, evaluate_predictions
from e2evit.results.predictions import MODEL, Predictions
from e2evit.results.record import Result, model_name
from e2evit.transforms.event_jets import windows_of_events

from .arguments import ALL, SPLITS, DataArguments, TargetArguments
from .candidates import CandidateCollator
from .checkpoint import TrainedOn, load_model
from .collate import E2ECollator
from .cost import model_cost, peak_memory_gib
from .data import describe_data, load_data, targets_of, with_defaults, with_test_fold
from .events import EventCollator
from .guards import check_auxiliary, check_image_size, check_normalisation
from .loaders import ImagesOnDevice, make_loader
from .output import run_info
from .pieces import predict_in_pieces
from .prediction import predict
from .process import end_processes, start_accelerator
from .run import TrainedModel

__all__ = ["evaluate"]


def evaluate(
    checkpoint: TrainedModel | str | Path,
    data: DataArguments | str | Path,
    *,
    split: str = "test",
    targets: TargetArguments | None = None,
    name: str | None = None,
    per_device_batch_size: int = 64,
    mixed_precision: str = "auto",
    num_workers: int = 0,
    pieces_dir: str | Path | None = None,
    weights: str | None = None,
) -> Result | None:
    """Measure a checkpoint on held-out jets, and the baselines on the same jets.

    ```python
    result = e2evit.evaluate("runs/xcit", "data/jets")
    result.metric("roc_auc")
    result.to_json("results/xcit.json")
    ```

    Under `accelerate launch` all processes call it, and it is `None` on all but the main one.

    Args:
        checkpoint: What [`train`] returned, a folder or a Hub id.
        data: The data set, or the folder of simulated jets.
        split: `train`, `validation`, `test`, or `all` jets of a folder that shares no events with the training: then
            without the baselines, which learn from training jets.
        targets: Those that differ from what the checkpoint was trained on.
        name: Name of the model. Default: the checkpoint's, without `_seedN`.
        num_workers: Worker processes that load batches; 0: this process itself.
        pieces_dir: Folder that keeps predictions piece by piece, so that the same call resumes after an interruption;
            remove it once the result is saved.
        weights: Column with the weights of jets for all metrics, e.g. `"weight"` of simulated jets; classes keep their
            shares.

    Raises:
        ValueError: for a split, checkpoint or data that cannot be measured; with `all`, for events that the checkpoint
            was trained on.
        FloatingPointError: if an output of the model is not finite; it names the row.
    """
    checkpoint = checkpoint.output_dir if isinstance(checkpoint, TrainedModel) else checkpoint
    data = data if isinstance(data, DataArguments) else DataArguments(data_dir=str(data))
    if split not in (*SPLITS, ALL):
        raise ValueError(f"`split` must be {', '.join(SPLITS)} or {ALL}, got {split!r}.")
    if per_device_batch_size < 1:
        raise ValueError(f"`per_device_batch_size` must be 1 or more, got {per_device_batch_size}.")
    if num_workers < 0:
        raise ValueError(f"`num_workers` must be 0 or more, got {num_workers}.")
    trained_on = TrainedOn.of(checkpoint)
    if not trained_on.label_names:
        raise ValueError(f"{checkpoint} has been pre-trained and predicts no classes: fine-tune it first.")
    recipe = trained_on.recipe if Path(trained_on.path).is_dir() else {}  # paths in those of the Hub are another's
    folders = [data.data_dir, recipe.get("data_dir")]
    if split == ALL and all(folders) and len({Path(str(folder)).expanduser().resolve() for folder in folders}) == 1:
        raise ValueError(f"{checkpoint} was trained on jets of {data.data_dir}: measure it on their test split.")
    accelerator = start_accelerator(mixed_precision)
    if trained_on.reads_events != (data.event_jets == "queries"):
        if data.event_jets is not None:
            raise ValueError(f"{checkpoint} was not trained with `event_jets: {data.event_jets}`.")
        data = replace(data, event_jets="queries")
    data = data if split == ALL else with_test_fold(data, trained_on)
    targets = targets_of(trained_on, data, targets or TargetArguments())
    targets = with_defaults(targets, trained_on.channel_names)
    with accelerator.main_process_first():
        dataset, schema = load_data(
            data,
            targets,
            trained_on.channel_names,
            splits={split} if split == ALL else {"train", split},
            candidates=trained_on.reads_candidates,
        )
    if not len(dataset.get(split, ())):
        raise ValueError(f"The {split} split has no jets to measure on.")
    if split == ALL:
        with accelerator.main_process_first():
            check_training(dataset[ALL].with_format("arrow")["event_id"].to_pylist(), recipe)
    jets, jet_schema = windows_of_events(dataset, schema) if trained_on.reads_events else (dataset, schema)
    if weights is not None:  # before the work
        class_weights(jets[split], weights, column(jets[split], "labels", -100))
    processor = AutoImageProcessor.from_pretrained(trained_on.path)
    check_image_size(trained_on.path, processor, schema)
    check_normalisation(trained_on.path, processor, schema)
    check_auxiliary({split: jets[split]}, processor.aux_names)
    model = load_model(trained_on.path)
    if not model.config.has_exclusive_classes:
        raise ValueError(f"{checkpoint}: `problem_type` is {model.config.problem_type!r}, but a jet has one class.")
    jets = align_labels(jets, model.config.label2id)
    label_names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    collator = EventCollator if trained_on.reads_events else E2ECollator
    collator = CandidateCollator if trained_on.reads_candidates else collator
    collator = collator(processor, targets.mass_column, packed=model.reads_rows)
    rows = dataset[split]

    memory_before = peak_memory_gib(accelerator.device)
    cost = model_cost(model, accelerator, per_device_batch_size)
    if pieces_dir is None:
        loader = make_loader(rows, collator, per_device_batch_size, num_workers, accelerator=accelerator)
        prepared, loader = accelerator.prepare(model, loader)
        outputs = predict(accelerator, prepared, ImagesOnDevice(loader, collator))
        del prepared, loader  # which know the group of processes that is left below
    else:
        outputs = predict_in_pieces(accelerator, model, rows, collator, per_device_batch_size, pieces_dir, num_workers)
    memory = peak_memory_gib(accelerator.device)  # before the baselines, which take more
    if memory > memory_before:  # else the peak is that of something this process did earlier
        cost["peak_memory_gib"] = memory
    if not accelerator.is_main_process:
        end_processes(accelerator)
        return None

    predictors = {} if split == ALL else baseline_predictions(jets, split, jet_schema, targets.mass_column)
    probabilities = softmax(outputs["logits"], axis=1)
    containment = expit(outputs["containment_logits"]) if "containment_logits" in outputs else None
    scales = outputs.get("mass_scale_preds")
    predictors[MODEL] = Predictions.of_classes(probabilities, outputs["mass_preds"], scales, containment)
    training = _read_run_info(trained_on.path)
    fields = run_info(jets, accelerator, model)
    fields |= describe_data(data, targets, schema, split) | {"label_names": label_names}
    fields |= evaluate_predictions(jets[split], targets.mass_column, label_names, predictors, weights)
    fields |= {"aux_names": processor.aux_names or None}
    fields |= {"training": _summary(training), "cost": cost, "seed": training.get("seed"), "weights": weights}
    result = Result(**fields, model=name or model_name(checkpoint, training.get("seed")))
    end_processes(accelerator)
    return result


def _read_run_info(checkpoint: str) -> dict:
    """The training record of a checkpoint; empty if it has none."""
    path = cached_file(checkpoint, "run_info.json", _raise_exceptions_for_missing_entries=False)
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}


def _summary(run_info: dict) -> dict:
    names = ("images_seen", "seconds", "best_epoch", "hardware")
    training = {name: run_info[name] for name in names if name in run_info}
    if run_info.get("epochs"):  # the typical rate, since `seconds` include those in which the machine stood still
        training["images_per_second"] = median(epoch["images_per_second"] for epoch in run_info["epochs"])
    return training
