"""Train a jet classifier with mass regression, or fine-tune one.

examples:
  e2evit train quickstart/xcit_nano.yaml --data_dir data/jets --output_dir runs/xcit
  e2evit train --model_name_or_path runs/xcit --data_dir data/other --output_dir runs/other

SIGTERM saves the state and ends with exit code 75; add --resume_from_checkpoint to the same command to resume.
For several processes: accelerate launch scripts/train.py ..., or accelerate launch -m e2evit.cli train ...
"""

from collections.abc import Sequence
from pathlib import Path

from e2evit.training import (
    AugmentationArguments,
    DataArguments,
    MassWeightArguments,
    ModelArguments,
    Recipe,
    TargetArguments,
    TrainArguments,
    TrainedModel,
    evaluate,
    run_recipe,
)

from .parser import parse

GROUPS = (
    ModelArguments,
    DataArguments,
    TargetArguments,
    AugmentationArguments,
    MassWeightArguments,
    TrainArguments,
)


def main(arguments: Sequence[str] | None = None) -> None:
    recipe = Recipe(*parse("e2evit train", __doc__, arguments, *GROUPS))
    trained = run_recipe(recipe)
    if trained.is_main_process:
        print_outcome(trained)
    if recipe.training.push_to_hub:
        publish(trained, recipe)
    elif trained.is_main_process:
        given = {name: getattr(recipe.data, name) for name in ("dataset_name", "data_dir", "schema", "cache_dir")}
        options = [f"--{name} {value}" for name, value in given.items() if value != getattr(DataArguments, name)]
        options.append(f"--results {Path('results', trained.output_dir.name)}.json")
        print(f"Measure it on held-out jets: e2evit eval {trained.output_dir} {' '.join(options)}")


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


def publish(trained: TrainedModel, recipe: Recipe) -> None:
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
            options = PushArguments(recipe.training.push_to_hub, str(results), private=recipe.training.hub_private)
            push(trained.output_dir, options)
    except (OSError, RuntimeError, ValueError) as error:
        raise RuntimeError(f"{trained.output_dir} is complete, but publishing it failed: {error}") from error
