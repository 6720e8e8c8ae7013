"""Train a jet classifier with mass regression, or fine-tune one.

examples:
  e2evit train quickstart/xcit_nano.yaml --data_dir data/jets --output_dir runs/xcit
  e2evit train --model_name_or_path runs/xcit --data_dir data/other --output_dir runs/other

SIGTERM saves the state and ends with exit code 75; add --resume_from_checkpoint to the same command to resume.
For several processes: accelerate launch scripts/train.py ..., or accelerate launch -m e2evit.cli train ...
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from e2evit.data.storage import absolute
from e2evit.hub.code import check_publishable
from e2evit.training import (
    AugmentationArguments,
    DataArguments,
    DecorrelationArguments,
    History,
    MassWeightArguments,
    ModelArguments,
    Recipe,
    TargetArguments,
    TrainArguments,
    TrainedModel,
    evaluate,
    find_checkpoint,
    import_model_module,
    read_config,
    read_model_config,
    run_recipe,
)

from .parser import parse


@dataclass
class HubArguments:
    push_to_hub: str | None = HfArg(
        default=None, help="ORG/NAME: evaluate the checkpoint on test and publish it at the end."
    )
    hub_private: bool = HfArg(default=False, help="Whether a new repository of `push_to_hub` is private.")


GROUPS = (
    ModelArguments,
    DataArguments,
    TargetArguments,
    AugmentationArguments,
    MassWeightArguments,
    DecorrelationArguments,
    TrainArguments,
)


def main(arguments: Sequence[str] | None = None) -> None:
    *groups, hub = parse("e2evit train", __doc__, arguments, *GROUPS, HubArguments)
    recipe = Recipe(*groups)
    if hub.push_to_hub:
        check_architecture(recipe.model)
    trained = run_recipe(recipe)
    if trained.is_main_process:
        print_outcome(trained)
    if hub.push_to_hub:
        publish(trained, recipe, hub)
    elif trained.is_main_process:
        print(f"Measure it on held-out jets: {shlex.join(evaluation(trained.output_dir, recipe))}")


def run_training(arguments: Sequence[str]) -> History:
    """As `e2evit train` with these arguments, without printing or publishing.

    Raises:
        ValueError: for wrong arguments, and as [`e2evit.train`].
    """
    return run_recipe(Recipe(*parse("e2evit train", __doc__, arguments, *GROUPS))).history


def check_architecture(model: ModelArguments) -> None:
    """Refuse a run whose checkpoint could not be published.

    Raises:
        ValueError: for an architecture of another package, and as [`read_config`] and [`read_model_config`].
    """
    import_model_module(model.model_module)
    if model.model_name_or_path:
        config = read_config(find_checkpoint(model.model_name_or_path))
    elif model.model_config:
        config = read_model_config(model.model_config)
    else:  # refused by the run
        return
    check_publishable(model.model_name_or_path or model.model_config, config.model_type)


def evaluation(output_dir: Path, recipe: Recipe) -> list[str]:
    """The command that measures the checkpoint on the data of its training."""
    command = ["e2evit", "eval", str(output_dir)]
    for name in ("dataset_name", "data_dir", "schema", "cache_dir", "event_jets", "test_fold"):
        if (value := getattr(recipe.data, name)) != getattr(DataArguments, name):
            command += [f"--{name}", str(value)]
    for name in ("pileup", "without"):
        if value := getattr(recipe.data, name):
            command += [f"--{name}", *map(str, value)]
    if recipe.model.model_module:
        command += ["--model_module", recipe.model.model_module]
    return [*command, "--results", f"{Path('results', Path(absolute(output_dir)).name)}.json"]


def print_outcome(trained: TrainedModel) -> None:
    """The best epoch on validation, and the checkpoint that holds it."""
    history = trained.history
    best = history.epochs[history.best_epoch - 1] if history.best_epoch else {}
    metrics = {
        name.removeprefix("validation_"): value for name, value in best.items() if name.startswith("validation")
    }
    numbers = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items() if value == value)
    print(f"Best on validation, epoch {history.best_epoch} of {len(history.epochs)}: {numbers}")
    print(f"Wrote {trained.output_dir}")


def publish(trained: TrainedModel, recipe: Recipe, hub: HubArguments) -> None:
    """Measure the checkpoint on the test split and push it.

    Raises:
        RuntimeError: if one of them fails; the checkpoint is complete then.
    """
    from .push import PushArguments, push  # loads matplotlib, which training does not need

    results = trained.output_dir / "results.json"
    try:
        result = evaluate(trained, recipe.data, mixed_precision=recipe.training.mixed_precision)
        if result is not None:  # the main process
            result.to_json(results)
            options = PushArguments(hub.push_to_hub, str(results), private=hub.hub_private)
            push(trained.output_dir, options)
    except Exception as error:
        raise RuntimeError(f"{trained.output_dir} is complete, but publishing it failed: {error}") from error
