"""The two loops: train and predict."""

import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader
from tqdm import tqdm

from e2evit.data.collate import E2ECollator, RowTables

from .arguments import DataArguments, TrainArguments
from .checkpoint import latest_state, save_state
from .optim import make_optimizer, make_schedule

__all__ = ["History", "make_loader", "predict", "train"]

logger = logging.getLogger(__name__)


@dataclass
class History:
    """What a run leaves beside weights: one entry an epoch, and the best weights by validation loss."""

    epochs: list[dict] = field(default_factory=list)
    images_seen: int = 0
    seconds: float = 0.0
    best_loss: float = float("inf")

    def state_dict(self) -> dict:
        return vars(self).copy()

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


class _Best:
    """A copy of the best weights, part of the checkpointed state."""

    def __init__(self, model):
        self.weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    def update(self, model) -> None:
        for name, tensor in model.state_dict().items():
            self.weights[name].copy_(tensor)

    def state_dict(self) -> dict:
        return self.weights

    def load_state_dict(self, state: dict) -> None:
        self.weights = state


def make_loader(
    dataset: Dataset, collator: E2ECollator, batch_size: int, num_workers: int = 0, shuffle: bool = False
) -> DataLoader:
    """Batches of `dataset`."""
    return DataLoader(
        RowTables(dataset, collator.columns),
        batch_size=batch_size,
        shuffle=shuffle,
        collate_fn=collator,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


def train(
    accelerator: Accelerator,
    model,
    dataset: DatasetDict,
    processor,
    data_args: DataArguments,
    train_args: TrainArguments,
) -> History:
    """Train on `dataset["train"]` and leave in `model` the weights with the smallest loss on `dataset["validation"]`.

    The state is saved in `output_dir/state` after each epoch; `resume_from_checkpoint` goes on from there.

    Raises:
        FloatingPointError: if the loss is no longer finite; it names the step.
    """
    collator = E2ECollator(processor, data_args.mass_column, flips=data_args.flips)
    batch_size = train_args.per_device_batch_size
    loader = make_loader(dataset["train"], collator, batch_size, data_args.num_workers, shuffle=True)
    validation_loader = make_loader(dataset["validation"], E2ECollator(processor, data_args.mass_column), batch_size)
    optimizer = make_optimizer(model, train_args.learning_rate, train_args.weight_decay)
    bare_model, best, history = model, _Best(model), History()
    model, optimizer, loader, validation_loader = accelerator.prepare(model, optimizer, loader, validation_loader)
    steps_per_epoch = -(-len(loader) // train_args.gradient_accumulation_steps)
    schedule = make_schedule(
        optimizer.optimizer, steps_per_epoch * train_args.num_train_epochs, train_args.warmup_ratio
    )
    accelerator.register_for_checkpointing(schedule, history, best)
    folder = Path(train_args.output_dir) / "state"
    if train_args.resume_from_checkpoint and (state := latest_state(folder)):
        accelerator.load_state(str(state))
        logger.info(f"Resuming after epoch {len(history.epochs)} from {state}")
    elif accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that this one overwrites: not to be resumed by mistake

    constant = constant_baselines(dataset, data_args.mass_column)
    logger.info(f"A constant would reach on validation: {_describe(constant)}")
    start, seconds_before = time.perf_counter(), history.seconds
    for epoch in range(len(history.epochs), train_args.num_train_epochs):
        loader.set_epoch(epoch)
        collator.seed((train_args.seed, epoch, accelerator.process_index))
        entry = _train_epoch(accelerator, model, optimizer, schedule, loader, train_args, epoch)
        history.images_seen += len(dataset["train"])
        predictions = predict(accelerator, model, validation_loader, "Validating")
        entry |= {f"validation_{name}": value for name, value in summarise(predictions, bare_model.config).items()}
        history.seconds = seconds_before + time.perf_counter() - start
        entry["seconds"] = history.seconds
        history.epochs.append(entry)
        if entry["validation_loss"] < history.best_loss:
            history.best_loss = entry["validation_loss"]
            best.update(bare_model)
        logger.info(f"Epoch {epoch + 1}/{train_args.num_train_epochs}: {_describe(entry)}")
        if (
            entry["validation_accuracy"] <= constant["accuracy"]
            and entry["validation_mass_mae_gev"] >= constant["mass_mae_gev"]
        ):
            logger.warning("Not better than a constant yet, neither in accuracy nor in mass.")
        save_state(accelerator, folder, len(history.epochs))
    bare_model.load_state_dict(best.weights)
    return history


def _train_epoch(accelerator, model, optimizer, schedule, loader, train_args: TrainArguments, epoch: int) -> dict:
    model.train()
    totals, number = torch.zeros(3), 0
    start = time.perf_counter()
    progress = _progress(accelerator, loader, f"Epoch {epoch + 1}")
    for step, batch in enumerate(progress):
        with accelerator.accumulate(model):
            outputs = model(**batch)
            if not torch.isfinite(outputs.loss):
                raise FloatingPointError(
                    f"The loss is {outputs.loss.item()} in step {step + 1} of epoch {epoch + 1}; "
                    "try a lower learning rate."
                )
            accelerator.backward(outputs.loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), train_args.max_grad_norm)
            optimizer.step()
            if accelerator.sync_gradients:
                schedule.step()
            optimizer.zero_grad()
        terms = (outputs.loss, outputs.classification_loss, outputs.mass_loss)
        totals += torch.stack([term.detach().float().cpu() for term in terms])
        number += 1
        if number % train_args.logging_steps == 0:
            progress.set_postfix(loss=f"{totals[0] / number:.3f}")
            if progress.disable:
                rate = number * loader.total_batch_size / (time.perf_counter() - start)
                logger.info(
                    f"Epoch {epoch + 1}, batch {number}/{len(loader)}: loss {totals[0] / number:.3f}, "
                    f"{rate:.0f} images/s, {(len(loader) - number) * loader.total_batch_size / rate:.0f} s to its end"
                )
    totals = accelerator.reduce((totals / number).to(accelerator.device), "mean").cpu()
    names = ("loss", "classification_loss", "mass_loss")
    images_per_second = len(loader.dataset) / (time.perf_counter() - start)
    return dict(zip(names, totals.tolist())) | {"images_per_second": images_per_second}


@torch.no_grad()
def predict(accelerator: Accelerator, model, loader, title: str = "Predicting") -> dict[str, np.ndarray]:
    """Predictions and targets of every row of a prepared, unshuffled `loader`, in order, each row once whatever the
    number of processes.

    Returns:
        `logits` `(n, num_labels)`, `mass_preds` and `mass_labels` `(n,)` [GeV], `labels` `(n,)`, float32 and int64.
    """
    model.eval()
    parts: dict[str, list] = {"logits": [], "mass_preds": [], "mass_labels": [], "labels": []}
    for batch in _progress(accelerator, loader, title):
        outputs = model(**{name: batch[name] for name in ("pixel_values", "aux_values") if name in batch})
        values = (outputs.logits.float(), outputs.mass_preds.float(), batch["mass_labels"], batch["labels"])
        for name, value in zip(parts, accelerator.gather_for_metrics(values)):
            parts[name].append(value.cpu())
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def summarise(predictions: dict[str, np.ndarray], config) -> dict[str, float]:
    """Loss, accuracy and mass MAE [GeV] of a validation pass."""
    logits, labels = torch.tensor(predictions["logits"]), torch.tensor(predictions["labels"])
    known = labels != -100
    classification = torch.nn.functional.cross_entropy(logits[known], labels[known]).item() if known.any() else 0.0
    error = predictions["mass_preds"] - predictions["mass_labels"]
    error = error[np.isfinite(error)]
    standardised = torch.tensor(error / config.mass_std)
    mass = (
        torch.nn.functional.smooth_l1_loss(standardised, torch.zeros_like(standardised)).item() if error.size else 0.0
    )
    return {
        "loss": classification + config.mass_loss_weight * mass,
        "accuracy": (logits.argmax(-1) == labels)[known].float().mean().item() if known.any() else float("nan"),
        "mass_mae_gev": float(np.abs(error).mean()) if error.size else float("nan"),
    }


def constant_baselines(dataset: DatasetDict, mass_column: str) -> dict[str, float]:
    """Validation accuracy of the most frequent class and mass MAE [GeV] of the mean mass, both of the training split.

    NaN where the training split has no such target.
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


def _progress(accelerator: Accelerator, loader, title: str) -> tqdm:
    """A bar on the main process's terminal, nothing elsewhere."""
    disable = None if accelerator.is_main_process else True  # None: only if it is no terminal
    return tqdm(loader, desc=title, unit="batch", disable=disable, mininterval=2, leave=False)


def _describe(entry: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in entry.items())
