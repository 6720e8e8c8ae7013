"""States to resume from, and the signal that asks for one."""

import json
import logging
import shutil
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig

from e2evit.data.manifest import MANIFEST_FILE, damage, sync, write_manifest

from .weights import RunningMean

__all__ = [
    "PREEMPTED_EXIT_CODE",
    "History",
    "Preempted",
    "RunState",
    "StopRequest",
    "fixed_settings",
    "intact_state",
    "latest_state",
]

logger = logging.getLogger(__name__)

PREEMPTED_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later
INCOMPLETE = "incomplete"


class Preempted(Exception):
    """The run was asked to end; its state is saved, and `resume_from_checkpoint` resumes from it."""

    exit_code = PREEMPTED_EXIT_CODE


@dataclass
class History:
    """Progress of a run: finished epochs, and the position in the current one."""

    epochs: list[dict] = field(default_factory=list)
    batches: int = 0  # done in the current epoch, by each process
    totals: dict[str, float] = field(default_factory=dict)  # sums of the losses of this process in that epoch
    images_seen: int = 0
    seconds: float = 0.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    curve: list[dict] = field(default_factory=list)  # mean losses of this process since the point before
    noted: dict = field(default_factory=dict)  # `batches` and `totals` at the last point, if it is of this epoch


class StopRequest:
    """Remembers a SIGTERM, which schedulers send before they kill, until the loop can save its state."""

    def __init__(self):
        self.received = False

    def __enter__(self):
        self.previous = None
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error):
        if self.previous is not None:
            signal.signal(signal.SIGTERM, self.previous)

    def _note(self, number, frame):
        self.received = True

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process received it; all processes must call this."""
        if accelerator.num_processes == 1:
            return self.received
        if self.received:
            accelerator.set_trigger()
        return accelerator.check_trigger()


class RunState:
    """Everything needed to resume, in folders `epoch-EEEEE-batch-BBBBBB`; the newest `keep` are kept.

    Accelerate writes weights, optimizer and random numbers; the history and the schedule are JSON, the best weights
    and the running mean safetensors: we load nothing by pickle. A manifest has the hashes of all of them, see
    [`intact_state`]. A run that resumes from a state must have the `settings` of the one that wrote it.

    Attributes:
        newest: The state that was saved or loaded last.
    """

    def __init__(
        self, accelerator: Accelerator, folder: Path, history: History, schedule, settings: dict, keep: int = 1
    ):
        self.accelerator, self.folder, self.history, self.schedule = accelerator, folder, history, schedule
        self.settings = json.loads(json.dumps(settings, default=str))  # as they will be read again
        self.keep = max(1, keep)
        self.tensors: dict[str, RunningMean | dict[str, torch.Tensor]] = {}
        self.newest: Path | None = None

    def save(self) -> None:
        """Write a state to a temporary folder and rename it.

        Raises:
            OSError: if it cannot be written; the state before it stays.
        """
        history, main = self.history, self.accelerator.is_main_process
        temporary = self.folder / INCOMPLETE
        final = self.folder / f"epoch-{len(history.epochs):05d}-batch-{history.batches:06d}"
        try:
            if main:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(temporary))
            (temporary / f"totals_{self.accelerator.process_index}.json").write_text(
                json.dumps(history.totals), encoding="utf-8"
            )
            for name, tensors in self.tensors.items():
                whole = tensors.state_dict() if isinstance(tensors, RunningMean) else tensors
                if main:
                    whole = {key: value.contiguous() for key, value in whole.items()}
                    save_file(whole, temporary / f"{name}.safetensors")
            if main:
                schedule = {key: value for key, value in self.schedule.state_dict().items() if key != "lr_lambdas"}
                record = {"settings": self.settings, "history": vars(history), "schedule": schedule}
                record["manifest"] = MANIFEST_FILE  # without it the state is of a version that wrote none
                (temporary / "state.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
            self.accelerator.wait_for_everyone()
            if main:
                write_manifest(temporary)
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
                sync(self.folder)  # before older states are removed
        except (OSError, RuntimeError, SafetensorError) as error:
            if main:
                shutil.rmtree(temporary, ignore_errors=True)
            raise OSError(
                f"The state could not be written to {final}: {error}. "
                + (f"{self.newest} is complete" if self.newest else "There is none before it")
                + ": make room, then resume with `--resume_from_checkpoint`."
            ) from error
        self.newest = final
        if main:
            states = _complete(self.folder)
            number = states.index(final) + 1
            for old in (*states[: max(0, number - self.keep)], *states[number:]):  # newer ones were damaged
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def load(self, path: Path) -> None:
        """Resume from a state.

        Raises:
            ValueError: if it was written by another number of processes, which had other random numbers, or with
                other settings; or if it cannot be read.
        """
        processes = len(list(path.glob("totals_*.json")))
        if processes != self.accelerator.num_processes:
            raise ValueError(
                f"{path} was written by {processes} processes, not {self.accelerator.num_processes}: resume with the "
                "same number, or start a new run from the checkpoint with `--model_name_or_path`."
            )
        try:
            record = json.loads((path / "state.json").read_text(encoding="utf-8"))
            off = {name: value for name, value in self.settings.items() if not value}
            before = off | record["settings"]  # a setting that an earlier version did not have was off
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise _unreadable(path, error) from error
        changed = [
            f"{name} (was {before.get(name)!r}, is {self.settings.get(name)!r})"
            for name in sorted({*before, *self.settings})
            if before.get(name) != self.settings.get(name)
        ]
        if changed:
            raise ValueError(
                f"{path} belongs to a run with other settings: {', '.join(changed)}. Resume with the same settings, "
                "start over with `--overwrite_output_dir`, or choose another folder."
            )
        try:
            self._load(path, record)
        except Exception as error:  # whatever PyTorch makes of a file that is not its own
            raise _unreadable(path, error) from error
        self.newest = path

    def _load(self, path: Path, record: dict) -> None:
        self.accelerator.load_state(str(path))
        vars(self.history).update(record["history"])
        self.history.totals = json.loads(
            (path / f"totals_{self.accelerator.process_index}.json").read_text(encoding="utf-8")
        )
        self.schedule.load_state_dict(record["schedule"] | {"lr_lambdas": [None] * len(self.schedule.lr_lambdas)})
        for name, tensors in self.tensors.items():
            loaded = load_file(path / f"{name}.safetensors")
            if isinstance(tensors, RunningMean):
                tensors.load_state_dict(loaded)
            else:
                tensors.update(loaded)

    def forget(self) -> None:
        """Remove the states of a run that this one overwrites, lest they be resumed by mistake."""
        if self.accelerator.is_main_process:
            shutil.rmtree(self.folder, ignore_errors=True)


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:300]
    return ValueError(
        f"{path} cannot be resumed from ({type(error).__name__}: {reason}): remove it to resume from the one before, "
        "or start over with `--overwrite_output_dir`."
    )


def _complete(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*-batch-*"))


def latest_state(folder: Path) -> Path | None:
    """The newest complete state."""
    return max(_complete(folder), default=None)


def intact_state(folder: Path) -> Path | None:
    """The newest state whose files are as they were written, None if there are no states; the log names damaged ones.

    Raises:
        ValueError: if all of them are damaged.
    """
    damaged = []
    for state in reversed(_complete(folder)):
        reason = damage(state)
        if reason is not None and _has_no_manifest(state):
            logger.warning(f"{state} is of an earlier version, which wrote no checksums: it is not verified")
            reason = None
        if reason is None:
            return state
        logger.warning(f"{state} is damaged and not used: {reason}")
        damaged.append(f"{state.name}: {reason}")
    if damaged:
        raise ValueError(
            f"No state in {folder} is intact ({'; '.join(damaged)}): restore one, or start over with "
            "`--overwrite_output_dir` and without `--resume_from_checkpoint`."
        )
    return None


def _has_no_manifest(state: Path) -> bool:
    """Whether a state was written without a manifest, rather than lost it."""
    try:
        record = json.loads((state / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return not (state / MANIFEST_FILE).exists() and isinstance(record, dict) and "manifest" not in record


# settings that may differ when a run is resumed: they change no number or, as `torch_compile`, rounding and dropout
_MAY_CHANGE = {
    *("data_dir", "cache_dir", "num_workers", "output_dir", "resume_from_checkpoint", "overwrite_output_dir"),
    *("device_data", "torch_compile", "save_steps", "keep_states", "early_stopping_epochs", "logging_steps"),
    *("report_to", "model_config", "model_name_or_path", "model_module"),  # the configuration itself is compared
}


def fixed_settings(config: PreTrainedConfig, settings: Mapping) -> dict:
    """Settings that must match those of the run being resumed."""
    own = set(type(config).__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)
    network = {name: getattr(config, name) for name in type(config).__dataclass_fields__ if name in own}
    settings = network | {"model_type": config.model_type} | dict(settings)
    unused = set() if settings.get("decorrelation_weight") else {"decorrelation_weight", "decorrelation_mass"}
    # those of a term that is off are in no state of an earlier version
    return {name: value for name, value in settings.items() if name not in _MAY_CHANGE | unused}
