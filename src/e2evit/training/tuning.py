"""Searching for settings with Optuna (the `tune` extra)."""

import json
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from math import prod
from pathlib import Path

from e2evit.data.extras import import_extra
from e2evit.data.locks import InUse
from e2evit.data.packaged import read_recipe

from .arguments import Recipe
from .run import run_recipe
from .state import History, Preempted

__all__ = ["Search", "read_search", "trial_recipe", "tune"]

logger = logging.getLogger(__name__)

MODEL = "model."  # prefix of names in the space that are fields of the model's configuration
HEARTBEAT = 30  # seconds; a trial that misses four in a row counts as killed and is tried again


@dataclass
class Search:
    """A search space and what its trials share.

    Args:
        recipe: YAML file of every trial.
        space: For a setting, or `model.` and a field of the model's configuration: `{low, high}` with `log` or `step`
            (integers if both ends are), or `{choices}`. A space of choices only is a grid.
        settings: Settings in which every trial differs from the recipe.
        objective: One of the values that an epoch logs, e.g. `validation_loss` or `validation_mass_resolution`; the
            best epoch of a trial counts.
        direction: `minimize` or `maximize`.
    """

    recipe: str
    space: dict[str, dict]
    settings: dict = field(default_factory=dict)
    objective: str = "validation_loss"
    direction: str = "minimize"


def read_search(path: str | Path) -> Search:
    """A search from its YAML file.

    Raises:
        ValueError: for an unknown or missing field, an unknown setting, or an empty range.
    """
    text = read_recipe(path)
    known = [known.name for known in fields(Search)]
    if not {"recipe", "space"} <= set(text) <= set(known):
        raise ValueError(
            f"{path}: expected `recipe`, `space` and perhaps {', '.join(known[2:])}, got {', '.join(map(str, text))}."
        )
    search = Search(**text)
    for name in ("space", "settings"):
        if not isinstance(getattr(search, name), Mapping):
            raise ValueError(f"{path}: `{name}` holds `key: value` pairs, got {getattr(search, name)!r}.")
    if search.direction not in ("minimize", "maximize"):
        raise ValueError(f"{path}: `direction` is minimize or maximize, got {search.direction!r}.")
    settings = Recipe().flat()
    for name, values in search.space.items():
        if not name.startswith(MODEL) and name not in settings:
            raise ValueError(f"{path}: there is no setting {name!r}; fields of the model begin with `{MODEL}`.")
        keys = set(values) if isinstance(values, Mapping) else set()
        if keys != {"choices"} and not ({"low", "high"} <= keys <= {"low", "high", "log", "step"}):
            raise ValueError(
                f"{path}: {name} needs `choices`, or `low` and `high` with `log` or `step`, got {values}."
            )
        if "low" not in keys:
            continue
        ends = values["low"], values["high"]
        if not all(isinstance(end, int | float) for end in ends) or not ends[0] < ends[1]:
            raise ValueError(f"{path}: {name} needs numbers low < high, got {ends[0]} and {ends[1]}.")
    return search


def tune(search: Search, recipe: Recipe, output_dir: str | Path, num_trials: int, storage: str | None = None):
    """Try settings until `num_trials` are finished or pruned, including those of earlier calls with the same storage.

    Each trial is a run in its own folder, `output_dir/trial-...`. A trial ended by SIGTERM is tried next, a killed one
    after two minutes; both resume from their state. A trial is pruned if it is worse than the median of the earlier
    trials at the same epoch. On a grid, no settings are tried twice, and there are no more trials than settings.

    Args:
        recipe: What all trials share: `search.recipe` with `search.settings`.
        storage: Optuna storage, e.g. `postgresql://...` for several machines. Default: SQLite in `output_dir`.

    Returns:
        The `optuna.Study`.

    Raises:
        ImportError: without Optuna.
        ValueError: if several processes were launched together, since each would run its own trials.
        Preempted: after SIGTERM.
    """
    optuna = import_extra("optuna", "Searching for settings", "tune")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("A trial is one process: start `e2evit tune` several times with the same `--storage`.")
    folder = Path(output_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    with warnings.catch_warnings():  # Optuna has called heartbeats and grids experimental since 2021
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
        storage = optuna.storages.RDBStorage(
            storage or f"sqlite:///{folder.resolve()}/tuning.db",
            heartbeat_interval=HEARTBEAT,
            grace_period=4 * HEARTBEAT,
            heartbeat_stale_trial_callback=retry,
        )
        grid = optuna.samplers.BruteForceSampler()
    study = optuna.create_study(
        storage=storage,
        study_name="e2evit",
        direction=search.direction,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    if all("choices" in values for values in search.space.values()):
        study.sampler = grid
        num_trials = min(num_trials, prod(len(values["choices"]) for values in search.space.values()))
    else:  # a different seed in each call, or the second call would begin with the trials of the first
        study.sampler = optuna.samplers.TPESampler(seed=len(study.trials), n_startup_trials=6)
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)

    def finished() -> int:
        return len(study.get_trials(deepcopy=False, states=ended))

    while finished() < num_trials:
        study.optimize(
            lambda trial: _objective(trial, search, recipe, folder), n_trials=1, catch=(FloatingPointError,)
        )
        logger.info(f"{finished()} of {num_trials} trials are done")
    return study


def _objective(trial, search: Search, recipe: Recipe, folder: Path) -> float:
    import optuna

    chosen = {name: _suggest(trial, name, values) for name, values in search.space.items()}
    # a trial that is tried again has another number, but the same settings
    digest = blake2b(json.dumps(chosen, sort_keys=True).encode(), digest_size=6).hexdigest()
    output_dir = folder / f"trial-{digest}"
    output_dir.mkdir(exist_ok=True)
    recipe = trial_recipe(recipe, chosen, output_dir)
    recipe = recipe.replaced(output_dir=str(output_dir), resume_from_checkpoint=True)
    best = min if search.direction == "minimize" else max

    def on_epoch_end(history: History) -> None:
        entry = history.epochs[-1]
        if search.objective not in entry:
            raise ValueError(f"`objective` {search.objective!r} is not logged; there are {', '.join(entry)}.")
        trial.report(entry[search.objective], len(history.epochs))
        if trial.should_prune():
            raise optuna.TrialPruned

    logger.info(f"Trial {trial.number}: {chosen}")
    try:
        history = run_recipe(recipe, on_epoch_end).history
    except Preempted:
        trial.study.enqueue_trial(trial.params)
        raise
    except InUse as error:  # another process drew the same settings
        raise optuna.TrialPruned(str(error)) from error
    return best(entry[search.objective] for entry in history.epochs if search.objective in entry)


def trial_recipe(recipe: Recipe, chosen: Mapping, folder: Path) -> Recipe:
    """The recipe with a trial's settings; the configuration of its model is written to `folder`."""
    model = read_recipe(recipe.model.model_config, "JSON")
    model |= {name.removeprefix(MODEL): value for name, value in chosen.items() if name.startswith(MODEL)}
    path = folder / "model.json"
    path.write_text(json.dumps(model, indent=2) + "\n", encoding="utf-8")
    settings = {name: value for name, value in chosen.items() if not name.startswith(MODEL)}
    return recipe.replaced(**settings | {"model_config": str(path)})


def _suggest(trial, name: str, values: Mapping):
    if "choices" in values:
        return trial.suggest_categorical(name, values["choices"])
    whole = isinstance(values["low"], int) and isinstance(values["high"], int)
    return (trial.suggest_int if whole else trial.suggest_float)(name, **values)
