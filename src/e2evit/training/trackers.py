"""What only describes a run: no error of a tracker, or of the run's record, may end it."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from .arguments import Recipe

__all__ = ["close_trackers", "log_metrics", "start_trackers", "without"]

logger = logging.getLogger(__name__)


@contextmanager
def without(what: str) -> Iterator[None]:
    """Log what goes wrong in this block, and continue without it."""
    try:
        yield
    except Exception as error:
        logger.warning(f"The run continues without {what}: {type(error).__name__}: {error}")


def start_trackers(accelerator: Accelerator, recipe: Recipe, folder: Path) -> None:
    """Start the trackers of `report_to`, whose files are in `folder`."""
    with _or_no_tracker(accelerator):
        if accelerator.log_with and accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)  # wandb takes the current folder if it is missing
        accelerator.init_trackers(
            "e2evit",
            config={name: value for name, value in recipe.flat().items() if value is not None},
            init_kwargs={"wandb": {"dir": str(folder)}},
        )


def log_metrics(accelerator: Accelerator, values: Mapping[str, float], step: int) -> None:
    with _or_no_tracker(accelerator):
        accelerator.log(dict(values), step=step)


def close_trackers(accelerator: Accelerator) -> None:
    with _or_no_tracker(accelerator):
        for tracker in accelerator.trackers:
            tracker.finish()
    accelerator.trackers.clear()


@contextmanager
def _or_no_tracker(accelerator: Accelerator) -> Iterator[None]:
    """A tracker that fails is switched off."""
    with without("its tracker"):
        try:
            yield
        except Exception:
            accelerator.trackers.clear()
            raise
