"""The training loop, of supervised and masked models alike."""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig

from e2evit.training.collate import E2ECollator, RowTables

from .arguments import DataArguments, TrainArguments
from .cost import peak_memory_gib
from .guards import check_splits, save_replay, warn_if_constant
from .optim import make_optimizer, make_schedule
from .prediction import progress_bar
from .state import History, Preempted, RunState, StopRequest, latest_state
from .tasks import MaskedCollator, task_of
from .weights import RunningMean, load_whole, local_weights, measure_batch_norms, share_buffers, whole_weights

__all__ = ["make_loader", "train"]

logger = logging.getLogger(__name__)

STATISTICS_BATCHES = 20  # of each process, for BatchNorms: about as many as running statistics remember


def make_loader(
    dataset: Dataset,
    collator: E2ECollator | MaskedCollator,
    batch_size: int,
    num_workers: int = 0,
    shuffle_seed: int | None = None,
) -> DataLoader:
    """Batches of `dataset`, in its order, or in one that depends on this seed and the epoch (`set_epoch`) alone."""
    rows = RowTables(dataset, collator.columns)
    return DataLoader(
        rows,
        batch_size=batch_size,
        sampler=None if shuffle_seed is None else SeedableRandomSampler(rows, data_seed=shuffle_seed),
        collate_fn=collator,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # its own: the random numbers of the model go on where a state left them
    )


def train(
    accelerator: Accelerator,
    model,
    dataset: DatasetDict,
    processor,
    data_args: DataArguments,
    train_args: TrainArguments,
    on_epoch_end: Callable[[History], None] | None = None,
) -> History:
    """Train on `dataset["train"]` and leave in `model` the weights with the smallest loss on `dataset["validation"]`:
    those of the running mean if there is one.

    States are saved in `output_dir/state` after each epoch and every `save_steps`; `resume_from_checkpoint` goes on
    from the newest, with the next batch.

    Args:
        on_epoch_end: Called after each epoch that was validated; what it raises ends the run.

    Raises:
        ValueError: if an event is in two splits.
        FloatingPointError: if the loss is no longer finite; it names the step, the events and the folder that holds
            what is needed to do it again.
        Preempted: after SIGTERM; the state is saved.
        OSError: if a state cannot be written; the one before it stays.
    """
    check_splits(dataset)
    with StopRequest() as stop:
        run = _Run(accelerator, model, dataset, processor, data_args, train_args, stop)
        for epoch in range(len(run.history.epochs), train_args.num_train_epochs):
            if run.has_stopped_improving():
                break
            run.epoch(epoch)
            if on_epoch_end is not None and "validation_loss" in run.history.epochs[-1]:
                on_epoch_end(run.history)
        run.finish()
    return run.history


class _Run:
    """One model, its data and its state."""

    def __init__(self, accelerator, model, dataset, processor, data_args, train_args, stop: StopRequest):
        self.accelerator, self.bare_model, self.args, self.stop = accelerator, model, train_args, stop
        self.dataset = dataset["train"]
        self.task = task_of(model, processor, dataset, data_args)
        loaders = (
            make_loader(
                dataset["train"],
                self.task.collator,
                train_args.per_device_batch_size,
                data_args.num_workers,
                train_args.seed,
            ),
            make_loader(dataset["validation"], self.task.validation_collator, train_args.per_device_batch_size),
            self._statistics_loader(),
        )
        if train_args.optimizer == "muon" and (accelerator.is_fsdp2 or accelerator.state.deepspeed_plugin is not None):
            raise ValueError("Muon needs whole matrices, and here they are sharded: train with `optimizer: adamw`.")
        optimizer = make_optimizer(
            *(model, train_args.learning_rate, train_args.weight_decay, train_args.layer_decay, train_args.optimizer)
        )
        if train_args.torch_compile:
            model.compile()
        if accelerator.state.deepspeed_plugin is not None:  # it clips in its own step
            accelerator.state.deepspeed_plugin.deepspeed_config["gradient_clipping"] = train_args.max_grad_norm
        self.model, self.optimizer, *loaders = accelerator.prepare(model, optimizer, *loaders)
        self.loader, self.validation_loader, self.statistics_loader = loaders
        self.average = RunningMean(accelerator, model, train_args.ema_decay) if train_args.ema_decay else None
        steps_per_epoch = -(-len(self.loader) // train_args.gradient_accumulation_steps)
        self.schedule = make_schedule(
            optimizer,
            steps_per_epoch * train_args.num_train_epochs,
            train_args.warmup_ratio,
            steps_per_epoch * train_args.head_first_epochs,
        )
        self.history, folder = History(), Path(train_args.output_dir) / "state"
        self.best = whole_weights(accelerator, model)
        settings = fixed_settings(model.config, data_args, train_args)
        self.state = RunState(accelerator, folder, self.history, self.schedule, settings, train_args.keep_states)
        self.state.tensors["best"] = self.best
        if self.average is not None:
            self.state.tensors["average"] = self.average
        if train_args.resume_from_checkpoint and (newest := latest_state(folder)):
            self.state.load(newest)
            logger.info(
                f"Resuming after {len(self.history.epochs)} epochs and {self.history.batches} batches, from {newest}"
            )
        else:
            self.state.forget()
        self.constant = self.task.constants(dataset)
        if self.constant:
            logger.info(f"A constant would reach on validation: {describe(self.constant)}")
        self.clock = time.perf_counter()

    def _statistics_loader(self) -> DataLoader:
        """Of the same few training jets whenever it is asked, of all classes and augmented."""
        batch_size = self.args.per_device_batch_size
        rows = np.random.default_rng(self.args.seed).permutation(len(self.dataset))
        rows = rows[: STATISTICS_BATCHES * batch_size * self.accelerator.num_processes]
        return make_loader(self.dataset.select(rows), self.task.collator, batch_size)

    def has_stopped_improving(self) -> bool:
        patience, history = self.args.early_stopping_epochs, self.history
        stopped = bool(patience) and len(history.epochs) - history.best_epoch >= patience
        if stopped:
            logger.info(f"No better validation loss in {patience} epochs: stopping early.")
        return stopped

    def epoch(self, epoch: int) -> None:
        """Train, validate, save the state."""
        history = self.history
        entry = self._train(epoch)
        last = epoch + 1 == self.args.num_train_epochs
        if last or (epoch + 1) % self.args.validation_interval == 0:
            with nullcontext() if self.average is None else self.average.in_model():
                self._validate(epoch, entry)
        self._tick()
        entry["seconds"] = history.seconds
        history.epochs.append(entry)
        history.batches, history.totals = 0, {}
        logger.info(f"Epoch {epoch + 1}/{self.args.num_train_epochs}: {describe(entry)}")
        self.accelerator.log(entry, step=self.schedule.last_epoch)
        self._save()
        if self.stop.agreed(self.accelerator):
            raise self._preempted()

    def _validate(self, epoch: int, entry: dict[str, float]) -> None:
        """Add what validation jets say to `entry`, and remember the weights if they are the best so far."""
        history = self.history
        measure_batch_norms(self.accelerator, self.bare_model, self.statistics_loader)
        validated = self.task.validate(self.accelerator, self.model, self.validation_loader)
        entry |= {f"validation_{name}": value for name, value in validated.items()}
        warn_if_constant(entry, self.constant)
        if entry["validation_loss"] < history.best_loss:
            history.best_loss, history.best_epoch = entry["validation_loss"], epoch + 1
            self.best.update(whole_weights(self.accelerator, self.bare_model))

    def _train(self, epoch: int) -> dict[str, float]:
        """The batches of an epoch that are not done yet; returns means over all of its batches."""
        history, accelerator, args = self.history, self.accelerator, self.args
        self.model.train()
        self.loader.set_epoch(epoch)
        self.task.collator.seed(args.seed, epoch)
        loader = self.loader
        if history.batches:
            loader = accelerator.skip_first_batches(loader, history.batches)
        start, done_before = time.perf_counter(), history.batches
        progress = progress_bar(accelerator, loader, f"Epoch {epoch + 1}", initial=done_before, total=len(self.loader))
        for batch in progress:
            terms = self._step(epoch, batch)
            for name, value in zip(self.task.terms, terms):
                history.totals[name] = history.totals.get(name, 0.0) + value
            history.batches += 1
            if not accelerator.sync_gradients:
                continue
            step = self.schedule.last_epoch
            if step % args.logging_steps == 0:
                rate = (history.batches - done_before) * self.loader.total_batch_size / (time.perf_counter() - start)
                self._log(progress, epoch, step, rate)
            if self.stop.agreed(accelerator):
                self._save()
                raise self._preempted()
            if args.save_steps and step % args.save_steps == 0:
                self._save()
        seconds = time.perf_counter() - start
        means = torch.tensor([history.totals[name] / history.batches for name in self.task.terms])
        means = accelerator.reduce(means.to(accelerator.device), "mean").tolist()
        history.images_seen += len(self.dataset)
        images = (history.batches - done_before) * self.loader.total_batch_size
        return dict(zip(self.task.terms, means)) | {"images_per_second": images / seconds}

    def _step(self, epoch: int, batch: dict) -> list[float]:
        accelerator = self.accelerator
        rows, random_state = batch.pop("rows", None), torch.get_rng_state()
        with accelerator.accumulate(self.model):
            outputs = self.model(**batch)
            terms = torch.stack([outputs[name].detach().float() for name in self.task.terms]).tolist()
            if not all(abs(term) < float("inf") for term in terms):
                self._stop_at(epoch, batch, rows, random_state, terms)
            accelerator.backward(outputs.loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
            self.optimizer.step()
            if accelerator.sync_gradients:
                self.schedule.step()
                if self.average is not None:
                    self.average.update(self.schedule.last_epoch - 1)
            self.optimizer.zero_grad()
        return terms

    def _stop_at(self, epoch: int, batch: dict, rows, random_state, terms: list[float]) -> None:
        folder = Path(self.args.output_dir) / f"not_finite_process_{self.accelerator.process_index}"
        number = self.history.batches + 1
        where = {"epoch": epoch + 1, "step": number, "terms": dict(zip(self.task.terms, map(str, terms)))}
        batch = batch | {"random_state": random_state}
        events = save_replay(folder, local_weights(self.bare_model), batch, rows, self.dataset, **where)
        raise FloatingPointError(
            f"The loss is {terms[0]} in step {number} of epoch {epoch + 1}, with the events {', '.join(events[:3])}"
            f"{', ...' if len(events) > 3 else ''}. {folder} holds the weights, the batch and the random numbers of "
            "this step; try a lower learning rate."
        )

    def _log(self, progress, epoch: int, step: int, rate: float) -> None:
        history = self.history
        means = {name: total / history.batches for name, total in history.totals.items()}
        memory = peak_memory_gib(self.accelerator.device)
        self.accelerator.log(
            means | {"learning_rate": max(self.schedule.get_last_lr()), "images_per_second": rate}, step=step
        )
        short = {name.removesuffix("_loss"): f"{value:.3f}" for name, value in means.items()}
        progress.set_postfix(short | {"images/s": f"{rate:.0f}", "GiB": f"{memory:.1f}"})
        if progress.disable:
            left = (len(self.loader) - history.batches) * self.loader.total_batch_size / rate
            logger.info(
                f"Epoch {epoch + 1}, batch {history.batches}/{len(self.loader)}: {describe(means)}, "
                f"{rate:.0f} images/s, {memory:.1f} GiB, {left:.0f} s to its end"
            )

    def _tick(self) -> None:
        now = time.perf_counter()
        self.history.seconds += now - self.clock
        self.clock = now

    def _save(self) -> None:
        self._tick()
        share_buffers(self.accelerator, self.bare_model)  # a sharded state takes them from any process
        self.state.save()

    def _preempted(self) -> Preempted:
        return Preempted(f"Stopped by SIGTERM; {latest_state(self.state.folder)} is complete.")

    def finish(self) -> None:
        load_whole(self.accelerator, self.bare_model, self.best)
        self.task.finish(self.accelerator, self.model, self.validation_loader)


# what may differ when a run goes on: none of it changes a number
_MAY_CHANGE = {
    *("data_dir", "cache_dir", "num_workers", "output_dir", "resume_from_checkpoint", "overwrite_output_dir"),
    *("save_steps", "keep_states", "early_stopping_epochs", "logging_steps"),
    *("report_to", "push_to_hub", "hub_private"),
}


def fixed_settings(config, data_args: DataArguments, train_args: TrainArguments) -> dict:
    """What a run and the one that it goes on from must have in common."""
    own = {name: getattr(config, name) for name in type(config).__dataclass_fields__ if name not in _FROM_LIBRARY}
    settings = own | {"model_type": config.model_type} | asdict(data_args) | asdict(train_args)
    return {name: value for name, value in settings.items() if name not in _MAY_CHANGE}


# fields of every configuration of transformers, which say nothing of the network
_FROM_LIBRARY = set(PreTrainedConfig.__dataclass_fields__)


def describe(entry: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in entry.items())
