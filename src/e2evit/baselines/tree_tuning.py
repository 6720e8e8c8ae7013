"""Searching for the settings of boosted trees with Optuna (the `tune` extra), by their losses on validation jets."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import sklearn

from e2evit.data.extras import import_extra
from e2evit.data.jobs import write_whole_text
from e2evit.data.texts import read_mapping

from .boosted_trees import DEFAULTS, STOPPING, TARGETS, TreeJets, best_iteration, check_jets, fit_classes, fit_log_mass

__all__ = ["MAX_TRIALS", "SPACE", "best_settings", "require_optuna", "tune_trees"]

logger = logging.getLogger(__name__)

SPACE = {
    "learning_rate": {"low": 0.02, "high": 0.3, "log": True},
    "max_leaf_nodes": {"low": 7, "high": 127, "log": True},
    "min_samples_leaf": {"low": 5, "high": 200, "log": True},
    "l2_regularization": {"low": 0.01, "high": 100.0, "log": True},
    "max_features": {"low": 0.2, "high": 1.0},
}
MAX_TRIALS = 300  # of a target: their file stays small enough to be read
_FIT = {"class": fit_classes, "mass": fit_log_mass}


def require_optuna() -> None:
    """Check that Optuna is there, and have it log warnings only.

    Raises:
        ImportError: if it is not.
    """
    optuna = import_extra("optuna", "Searching for settings", "tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def tune_trees(
    train: TreeJets, validation: TreeJets, num_classes: int, num_trials: int, path: Path
) -> dict[str, list[dict[str, Any]]]:
    """Try settings of the classifier and of the median of the mass, `num_trials` of each, the defaults first.

    All trainings have seed 0. The next settings depend on the earlier trials alone, so that a search that was
    interrupted tries what it would have tried.

    Args:
        path: JSON file of the finished trials, from which the same call resumes; the log has its name.

    Returns:
        By target the trials, each with `settings`, `loss` on validation jets, `iterations` and `seconds`.

    Raises:
        ValueError: as [`check_jets`], or if the file holds trials of other jets.
        ImportError: without Optuna.
    """
    require_optuna()
    check_jets(train, validation, num_classes)
    jets, trials = _digest(train, validation), {target: [] for target in TARGETS}
    if path.is_file():
        earlier = read_mapping(path, "JSON")
        if earlier.get("jets") != jets:
            raise ValueError(
                f"{path} holds trials of other jets, targets or settings: choose another folder, or remove the file."
            )
        trials = {target: earlier["trials"][target] for target in TARGETS}
    for target in TARGETS if len(train.with_mass()[1]) else TARGETS[:1]:
        while len(trials[target]) < num_trials:
            settings, start = _next_settings(trials[target]), time.perf_counter()
            model = _FIT[target](train, validation, settings)
            iterations, seconds = best_iteration(model), time.perf_counter() - start
            trial = {"settings": settings, "loss": -float(model.validation_score_[iterations])}
            trials[target].append(trial | {"iterations": iterations, "seconds": seconds})
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole_text(path, json.dumps({"jets": jets, "trials": trials}, indent=1) + "\n")
            best = min(trial["loss"] for trial in trials[target])
            logger.info(
                f"{path.stem}, {target}: trial {len(trials[target])} of {num_trials}, loss {trial['loss']:.5f}, best "
                f"{best:.5f}, {settings}"
            )
    return {target: of_target[:num_trials] for target, of_target in trials.items()}


def best_settings(trials: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """By target, the settings with the smallest loss; the defaults where nothing was tried."""
    return {
        target: min(of_target, key=lambda trial: trial["loss"])["settings"] if of_target else DEFAULTS
        for target, of_target in trials.items()
    }


def _next_settings(trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    import optuna

    if not trials:
        return dict(DEFAULTS)
    kinds = {int: optuna.distributions.IntDistribution, float: optuna.distributions.FloatDistribution}
    space = {name: kinds[type(ends["low"])](**ends) for name, ends in SPACE.items()}
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=len(trials), n_startup_trials=6))
    for trial in trials:
        tried = {"params": trial["settings"], "distributions": space, "value": trial["loss"]}
        study.add_trial(optuna.trial.create_trial(**tried))
    return study.ask(space).params


def _digest(*samples: TreeJets) -> str:
    """A hash of the jets, and of where settings come from."""
    digest = blake2b(json.dumps([DEFAULTS, STOPPING, SPACE, sklearn.__version__]).encode(), digest_size=16)
    for sample in samples:
        for values in vars(sample).values():
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
