"""Predictions for a data set, and the metrics logged during training."""

import numpy as np
import torch
from accelerate import Accelerator
from datasets import DatasetDict
from tqdm import tqdm

from e2evit.metrics.classification import accuracy, tagging_statistics
from e2evit.metrics.mass import relative_resolution
from e2evit.modeling import E2EConfig
from e2evit.modeling.modeling_head import containment_loss, e2e_loss

__all__ = ["TARGETS", "constant_baselines", "predict", "progress_bar", "summarise"]

INPUTS = ("pixel_values", "pixel_index", "pixel_value", "row_offsets", "candidate_values", "aux_values", "jets")
TARGETS = ("labels", "mass_labels", "containment_labels", "truth_labels")


@torch.no_grad()
def predict(
    accelerator: Accelerator, model, loader, title: str = "Predicting", first: int = 0
) -> dict[str, np.ndarray]:
    """Predictions and targets for every row of a prepared, unshuffled `loader`, in order and each row once, whatever
    the number of processes; for every jet, if rows are events with jets.

    Args:
        first: Number of its first row, for errors.

    Returns:
        `logits` `(n, num_labels)`, `mass_preds` and `mass_labels` `(n,)` [GeV], `labels` `(n,)`, `mass_outputs`
        `(n, k)`, and if the model predicts them `mass_scale_preds` `(n,)` [GeV] and `containment_logits` `(n,)`, with
        `containment_labels` and `truth_labels` of batches that have them; float32 and int64.

    Raises:
        FloatingPointError: if an output is NaN or infinite; it names the row.
    """
    model.eval()
    names = ("logits", "mass_preds", "mass_outputs", "mass_scale_preds", "containment_logits")
    parts: dict[str, list] = {}
    for batch in progress_bar(accelerator, loader, title):
        with accelerator.autocast():
            outputs = model(**{name: batch[name] for name in INPUTS if name in batch})
        values = {name: outputs[name].float() for name in names if outputs.get(name) is not None}
        values |= {name: batch[name] for name in (*TARGETS, "jets") if name in batch}
        if "jets" in values:
            values = accelerator.pad_across_processes(values, dim=1)  # a pT of 0 is no jet
        values = accelerator.gather_for_metrics(values)
        if "jets" in values:
            is_jet = values.pop("jets")[..., 0] > 0
            values = {name: value[is_jet] for name, value in values.items()}
        for name, value in values.items():
            parts.setdefault(name, []).append(value.cpu())
    predictions = {name: torch.cat(values).numpy() for name, values in parts.items()}
    for name in names:
        for row, *_ in np.argwhere(~np.isfinite(predictions.get(name, 0.0))):
            where = f"Jet {row} of the events from row {first}" if "jets" in batch else f"Row {first + row}"
            raise FloatingPointError(
                f"{where}: the model's `{name}` is {predictions[name][row]}. Its weights are not finite, or "
                "its numbers exceed the range of the precision: try `mixed_precision: no`."
            )
    return predictions


def summarise(predictions: dict[str, np.ndarray], config: E2EConfig) -> dict[str, float]:
    """Loss and physics metrics of a validation pass; NaN without the respective target.

    `mass_response_low` and `mass_response_high` are the median m̂ / m of the lightest and the heaviest tenth of the
    jets, where regression to the mean shows first.
    """
    tensors = {name: torch.tensor(value) for name, value in predictions.items()}
    loss, *_ = e2e_loss(config, *(tensors[name] for name in ("logits", "mass_outputs", "labels", "mass_labels")))
    of_containment = containment_loss(*(tensors.get(f"containment_{name}") for name in ("logits", "labels")))
    loss = loss if of_containment is None else loss + of_containment
    known = predictions["labels"] != -100
    mass, predicted = predictions["mass_labels"].astype(float), predictions["mass_preds"].astype(float)
    usable = np.isfinite(mass) & (mass > 0)
    mass, predicted = mass[usable], predicted[usable]
    metrics = {
        "loss": loss.item(),
        "accuracy": accuracy(predictions["labels"][known], predictions["logits"][known])
        if known.any()
        else float("nan"),
        "mass_mae_gev": float(np.abs(predicted - mass).mean()) if mass.size else float("nan"),
    }
    if of_containment is not None:
        contained = predictions["containment_labels"]
        is_known = np.isfinite(contained)
        areas = tagging_statistics(contained[is_known], predictions["containment_logits"][is_known])
        metrics |= {"containment_loss": of_containment.item(), "containment_auc": areas["roc_auc"]}
    if not mass.size:
        return metrics
    response = predicted / mass
    edges = np.quantile(mass, (0.1, 0.9))
    metrics["mass_resolution"] = relative_resolution(mass, predicted)
    metrics["mass_response_low"] = float(np.median(response[mass <= edges[0]]))
    metrics["mass_response_high"] = float(np.median(response[mass >= edges[1]]))
    if "mass_scale_preds" in predictions:
        pull = np.abs(predicted - mass) / predictions["mass_scale_preds"][usable]
        metrics["mass_coverage"] = float((pull < 1).mean())
    return metrics


def constant_baselines(dataset: DatasetDict, mass_column: str) -> dict[str, float]:
    """Validation accuracy of the most frequent class and mass MAE [GeV] of the mean mass, both of the training split.

    NaN if the training split lacks the target.
    """
    columns = {
        (part, name): np.array(dataset[part].with_format("numpy")[name], dtype=float)
        for part in ("train", "validation")
        for name in ("labels", mass_column)
    }
    known = {key: column[np.isfinite(column)] for key, column in columns.items()}
    result = {"accuracy": float("nan"), "mass_mae_gev": float("nan")}
    if known["train", "labels"].size:
        majority = np.bincount(known["train", "labels"].astype(int)).argmax()
        result["accuracy"] = float((known["validation", "labels"] == majority).mean())
    if known["train", mass_column].size:
        error = known["validation", mass_column] - known["train", mass_column].mean()
        result["mass_mae_gev"] = float(np.abs(error).mean())
    return result


def progress_bar(accelerator: Accelerator, loader, title: str, **more) -> tqdm:
    """A progress bar on the main process's terminal, and none elsewhere."""
    disable = None if accelerator.is_main_process else True  # None: unless it is a terminal
    return tqdm(loader, desc=title, unit="batch", disable=disable, mininterval=2, leave=False, **more)
