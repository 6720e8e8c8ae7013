"""The training loop, of supervised and pre-trained models alike. Read it from `fit`."""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from datasets import Dataset, DatasetDict
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .arguments import Recipe, TrainArguments
from .collate import RowTables
from .compiled import WholeBatches, compile_model, is_worth_compiling
from .cost import peak_memory_gib
from .guards import check_splits, save_replay, warn_if_constant
from .loaders import ImagesOnDevice, make_loader, make_statistics_loader
from .optim import make_optimizer, make_schedule
from .prediction import progress_bar
from .resident import ResidentRows, choose_resident
from .rewind import Rewind, random_states, reads_losses_later
from .state import History, Preempted, RunState, StopRequest, fixed_settings
from .tasks import Supervised, Unlabelled, make_task
from .trackers import log_metrics, start_trackers, without
from .weights import RunningMean, load_whole, local_weights, measure_batch_norms, share_buffers, whole_weights

__all__ = ["fit"]

logger = logging.getLogger(__name__)


def fit(
    accelerator: Accelerator,
    model: nn.Module,
    dataset: DatasetDict,
    processor,
    recipe: Recipe,
    on_epoch_end: Callable[[History], None] | None = None,
    resume_from: Path | None = None,
) -> History:
    """Train on `dataset["train"]` and leave in `model` the weights with the smallest loss on `dataset["validation"]`;
    with `ema_decay`, those of the running mean.

    States are saved in `output_dir/state` after each epoch and every `save_steps`.

    Args:
        recipe: With settled targets, see [`with_defaults`].
        on_epoch_end: Called after each epoch that was validated; what it raises ends the run.
        resume_from: State to resume from, with the next batch; all states are removed if there is none.

    Raises:
        ValueError: if an event is in two splits, or the state is of other settings.
        FloatingPointError: if the loss is no longer finite; it names the step, the events and the folder with all that
            is needed to repeat the step.
        Preempted: after SIGTERM; the state is saved.
        OSError: if a state cannot be written; the one before it stays.
    """
    check_splits(dataset)
    settings = recipe.training
    with StopRequest() as stop:
        run = build(accelerator, model, dataset, processor, recipe, stop)
        resume_or_start(run, resume_from)
        start_trackers(accelerator, recipe, Path(settings.output_dir) / "logs")
        constant = run.task.constants(dataset)
        if constant:
            logger.info(f"A constant reaches on validation: {describe(constant)}")
        for epoch in range(len(run.history.epochs), settings.num_train_epochs):
            if has_stopped_improving(run.history, settings.early_stopping_epochs):
                break
            entry = train_epoch(run, epoch)
            validated = epoch + 1 == settings.num_train_epochs or (epoch + 1) % settings.validation_interval == 0
            if validated:
                entry |= validate(run, epoch)
                warn_if_constant(entry, constant)
            close_epoch(run, epoch, entry)
            if stop.agreed(accelerator):
                raise preempted(run)
            if validated and on_epoch_end is not None:
                on_epoch_end(run.history)
        load_whole(accelerator, model, run.best)
        run.task.finish(accelerator, run.caller, run.validation_loader)
    return run.history


@dataclass
class Run:
    """What the steps of a run share.

    Attributes:
        bare_model, model: Before and after Accelerate has wrapped it.
        caller: What batches are given to: the model, or its compiled form.
        average: Running mean of the weights, if any.
        best: Weights with the smallest validation loss so far.
        clock: When `history.seconds` was last brought up to date.
    """

    accelerator: Accelerator
    settings: TrainArguments
    task: Supervised | Unlabelled
    train_split: Dataset
    bare_model: nn.Module
    model: nn.Module
    caller: nn.Module | WholeBatches
    optimizer: Optimizer
    schedule: LRScheduler
    loader: ImagesOnDevice
    validation_loader: ImagesOnDevice
    statistics_loader: ImagesOnDevice
    average: RunningMean | None
    best: dict[str, torch.Tensor]
    history: History
    state: RunState
    stop: StopRequest
    rewind: Rewind
    clock: float

    @property
    def points_apart(self) -> int:
        """Steps between points of the curve, which has a hundred of them unless the log has fewer lines."""
        steps = len(self.loader) * self.settings.num_train_epochs // self.settings.gradient_accumulation_steps
        return max(1, steps // 100)


def build(accelerator: Accelerator, model, dataset: DatasetDict, processor, recipe: Recipe, stop: StopRequest) -> Run:
    """Loaders, optimizer and schedule of a run that is about to start."""
    settings, batch_size = recipe.training, recipe.training.per_device_batch_size
    deepspeed = accelerator.state.deepspeed_plugin
    if settings.optimizer == "muon" and (accelerator.is_fsdp2 or deepspeed is not None):
        raise ValueError("Muon needs whole matrices, and here they are sharded: train with `optimizer: adamw`.")
    task = make_task(model, processor, dataset, recipe)
    train_split = dataset["train"]
    splits, collators = [train_split, dataset["validation"]], [task.collator, task.validation_collator]
    if choose_resident(settings.device_data, accelerator.device, splits, settings.fresh):
        splits = [ResidentRows(accelerator, *pair) for pair in zip(splits, collators)]
    loaders = (
        make_loader(splits[0], collators[0], batch_size, settings.num_workers, settings.seed, accelerator),
        make_loader(splits[1], collators[1], batch_size, accelerator=accelerator),
        make_statistics_loader(splits[0], collators[0], batch_size, settings.seed, accelerator),
    )
    optimizer = make_optimizer(
        model, settings.learning_rate, settings.weight_decay, settings.layer_decay, settings.optimizer
    )
    if deepspeed is not None:  # it clips in its own step
        deepspeed.deepspeed_config["gradient_clipping"] = settings.max_grad_norm
    prepared, prepared_optimizer, *loaders = accelerator.prepare(model, optimizer, *loaders)
    caller = prepared
    if is_worth_compiling(accelerator, model, settings, settings.num_train_epochs * len(train_split)):
        caller = compile_model(accelerator, model, settings, prepared)
    loaders = [ImagesOnDevice(*pair) for pair in zip(loaders, [*collators, task.collator])]
    average = RunningMean(accelerator, model, settings.ema_decay) if settings.ema_decay else None
    steps_per_epoch = -(-len(loaders[0]) // settings.gradient_accumulation_steps)
    schedule = make_schedule(
        optimizer,
        steps_per_epoch * settings.num_train_epochs,
        settings.warmup_ratio,
        steps_per_epoch * settings.head_first_epochs,
    )
    history, best = History(), whole_weights(accelerator, model)
    state = RunState(
        accelerator,
        Path(settings.output_dir) / "state",
        history,
        schedule,
        fixed_settings(model.config, recipe.flat()),
        settings.keep_states,
    )
    state.tensors["best"] = best
    if average is not None:
        state.tensors["average"] = average
    return Run(
        *(accelerator, settings, task, train_split, model, prepared, caller, prepared_optimizer, schedule, *loaders),
        *(average, best, history, state, stop, Rewind(model, optimizer, schedule, accelerator.device)),
        time.perf_counter(),
    )


def resume_or_start(run: Run, state: Path | None) -> None:
    """Load a state if there is one, and remove those of an earlier run otherwise."""
    if state is not None:
        run.state.load(state)
        logger.info(f"Resuming from {state}, after {len(run.history.epochs)} epochs and {run.history.batches} batches")
    else:
        run.state.forget()
    run.clock = time.perf_counter()


def has_stopped_improving(history: History, patience: int) -> bool:
    stopped = bool(patience) and len(history.epochs) - history.best_epoch >= patience
    if stopped:
        logger.info(f"No better validation loss in {patience} epochs: stopping early.")
    return stopped


def train_epoch(run: Run, epoch: int) -> dict[str, float]:
    """The batches of an epoch that are not done yet; returns means over all of its batches."""
    history, accelerator, settings, loader = run.history, run.accelerator, run.settings, run.loader
    run.model.train()
    loader.set_epoch(epoch)
    run.task.collator.seed(settings.seed, epoch)
    done_before = history.batches
    remaining = loader.from_batch(accelerator, done_before)
    start = time.perf_counter()

    def images_per_second() -> float:
        return (history.batches - done_before) * loader.total_batch_size / (time.perf_counter() - start)

    progress = progress_bar(accelerator, remaining, f"Epoch {epoch + 1}", initial=done_before, total=len(loader))
    totals = torch.tensor([history.totals.get(name, 0.0) for name in run.task.terms], dtype=torch.float64)
    waits = not reads_losses_later(accelerator)
    if not waits:
        totals = totals.to(accelerator.device)
        run.rewind.mark(done_before)
    for batch in progress:
        totals += train_step(run, epoch, batch, waits)
        history.batches += 1
        if not accelerator.sync_gradients:
            continue
        step = run.schedule.last_epoch
        is_logging = step % settings.logging_steps == 0
        is_saving = bool(settings.save_steps) and step % settings.save_steps == 0
        # agreeing waits for the device, so processes do it only where losses are read anyway
        is_agreeing = waits or is_logging or is_saving or accelerator.num_processes == 1
        is_stopping = is_agreeing and run.stop.agreed(accelerator)
        is_saving |= is_stopping
        if is_logging or is_saving:
            settle_totals(run, epoch, totals, waits)
            if not waits:
                run.rewind.mark(history.batches)
        if is_logging:
            if step // run.points_apart > (step - settings.logging_steps) // run.points_apart:
                note_point(run)
            log_step(run, progress, epoch, step, images_per_second())
        if is_saving:
            save(run)
        if is_stopping:
            raise preempted(run)
    settle_totals(run, epoch, totals, waits)
    rate = images_per_second()
    means = torch.tensor([history.totals[name] / history.batches for name in run.task.terms])
    means = accelerator.reduce(means.to(accelerator.device), "mean").tolist()
    history.images_seen += len(run.train_split)
    return dict(zip(run.task.terms, means)) | {"images_per_second": rate}


def settle_totals(run: Run, epoch: int, totals: torch.Tensor, waited: bool) -> None:
    """Bring the sums of the terms of the loss into the history; this waits for the device."""
    values = totals.tolist()
    if not waited:
        is_not_finite = torch.tensor(not all(map(isfinite, values)), device=run.accelerator.device)
        if run.accelerator.gather(is_not_finite).any():  # all processes repeat their steps, which exchange gradients
            find_step(run, epoch)
    run.history.totals = dict(zip(run.task.terms, values))


def note_point(run: Run) -> None:
    """Add a point to the curve: in a first epoch, it says how well jets were predicted that had not been seen."""
    history, last = run.history, run.history.noted or {"batches": 0, "totals": {}}
    number = history.batches - last["batches"]
    means = {name: (total - last["totals"].get(name, 0.0)) / number for name, total in history.totals.items()}
    seen = history.images_seen + history.batches * run.loader.total_batch_size
    history.curve.append({"images_seen": seen} | means)
    history.noted = {"batches": history.batches, "totals": history.totals}


def find_step(run: Run, epoch: int) -> None:
    """Repeat the steps since the last mark, up to the first whose loss is not finite; raises FloatingPointError."""
    history, collator, last = run.history, run.task.collator, run.history.batches
    tables = RowTables(run.train_split, collator.columns)
    history.batches = run.rewind.batches
    for rows in run.rewind.back():
        batch = collator(tables.__getitems__(rows.tolist()))
        train_step(run, epoch, send_to_device(batch, run.accelerator.device), waits=True)
        history.batches += 1
    raise FloatingPointError(
        f"The loss was not finite in one of steps {run.rewind.batches + 1} to {last} of epoch {epoch + 1}, but it was "
        "finite when they were repeated; sums on a GPU vary in their last bits. Try a lower learning rate."
    )


def train_step(run: Run, epoch: int, batch: dict, waits: bool) -> torch.Tensor:
    """Forward, backward and, once enough batches are accumulated, an optimizer step; returns the terms of the loss.

    Args:
        waits: Wait for the loss, and stop before the weights are changed if it is not finite.
    """
    accelerator = run.accelerator
    rows = batch.pop("rows", None)
    if waits:
        host, device = random_states(accelerator.device)
    else:
        run.rewind.rows.append(rows)
    with accelerator.accumulate(run.model):
        losses = run.task.losses(run.caller, batch)
        terms = torch.stack([losses[name].detach().float() for name in run.task.terms])
        if waits:
            terms = terms.cpu()
            if not terms.isfinite().all():
                states = {"random_state": host} | ({} if device is None else {"device_random_state": device})
                stop_at_step(run, epoch, batch | states, rows, terms.tolist())
        accelerator.backward(losses["loss"])
        if accelerator.sync_gradients and run.settings.max_grad_norm:
            accelerator.clip_grad_norm_(run.model.parameters(), run.settings.max_grad_norm)
        run.optimizer.step()
        if accelerator.sync_gradients:
            run.schedule.step()
            if run.average is not None:
                run.average.update(run.schedule.last_epoch - 1)
        run.optimizer.zero_grad()
    return terms


def stop_at_step(run: Run, epoch: int, batch: dict, rows, terms: list[float]) -> None:
    """Save what is needed to repeat a step whose loss is not finite, and raise FloatingPointError."""
    folder = Path(run.settings.output_dir) / f"not_finite_process_{run.accelerator.process_index}"
    number = run.history.batches + 1
    events = [] if rows is None else list(run.train_split[rows.tolist()]["event_id"])
    where = {"epoch": epoch + 1, "step": number, "terms": dict(zip(run.task.terms, map(str, terms)))}
    with without("a copy of the step that failed"):
        save_replay(folder, local_weights(run.bare_model), batch, where | {"event_ids": events})
    raise FloatingPointError(
        f"The loss is {terms[0]} in step {number} of epoch {epoch + 1}, with the events {', '.join(events[:3])}"
        f"{', ...' if len(events) > 3 else ''}. "
        + (f"{folder} holds the weights, the batch and the random numbers of this step; " if folder.exists() else "")
        + "try a lower learning rate."
    )


def validate(run: Run, epoch: int) -> dict[str, float]:
    """Losses and metrics on validation jets; remembers the weights if they are the best so far."""
    history = run.history
    with nullcontext() if run.average is None else run.average.in_model():
        measure_batch_norms(run.accelerator, run.bare_model, run.statistics_loader, run.task.losses)
        metrics = run.task.validate(run.accelerator, run.caller, run.validation_loader)
        if metrics["loss"] < history.best_loss:
            history.best_loss, history.best_epoch = metrics["loss"], epoch + 1
            run.best.update(whole_weights(run.accelerator, run.bare_model))
    return {f"validation_{name}": value for name, value in metrics.items()}


def close_epoch(run: Run, epoch: int, entry: dict[str, float]) -> None:
    """Record and log an epoch, and save the state."""
    history = run.history
    update_seconds(run)
    history.epochs.append(entry | {"seconds": history.seconds})
    history.batches, history.totals, history.noted = 0, {}, {}
    logger.info(f"Epoch {epoch + 1}/{run.settings.num_train_epochs}: {describe(history.epochs[-1])}")
    log_metrics(run.accelerator, history.epochs[-1], run.schedule.last_epoch)
    save(run)


def log_step(run: Run, progress, epoch: int, step: int, rate: float) -> None:
    """Mean losses of the epoch so far: to the tracker, and to the progress bar or the log."""
    history = run.history
    means = {name: total / history.batches for name, total in history.totals.items()}
    memory = peak_memory_gib(run.accelerator.device)
    learning_rate = max(run.schedule.get_last_lr())
    log_metrics(run.accelerator, means | {"learning_rate": learning_rate, "images_per_second": rate}, step)
    short = {name.removesuffix("_loss"): f"{value:.3f}" for name, value in means.items()}
    progress.set_postfix(short | {"images/s": f"{rate:.0f}", "GiB": f"{memory:.1f}"})
    if progress.disable:
        remaining = (len(run.loader) - history.batches) * run.loader.total_batch_size / rate
        logger.info(
            f"Epoch {epoch + 1}, batch {history.batches}/{len(run.loader)}: {describe(means)}, "
            f"{rate:.0f} images/s, {memory:.1f} GiB, {remaining:.0f} s left"
        )


def save(run: Run) -> None:
    update_seconds(run)
    share_buffers(run.accelerator, run.bare_model)  # a sharded state takes them from any process
    run.state.save()


def update_seconds(run: Run) -> None:
    now = time.perf_counter()
    run.history.seconds += now - run.clock
    run.clock = now


def preempted(run: Run) -> Preempted:
    return Preempted(f"Stopped by SIGTERM; {run.state.newest} is complete.")


def describe(entry: dict[str, float]) -> str:
    """For a log line: without the metrics that are NaN for want of targets; losses are shown whatever they are."""
    known = {name: value for name, value in entry.items() if value == value or "loss" in name}
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in known.items())
