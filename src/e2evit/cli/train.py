"""Train a jet classifier with mass regression, or fine-tune one from `--model_name_or_path`.

accelerate launch scripts/train.py recipes/quickstart/xcit_nano.yaml --data_dir data/jets --output_dir runs/xcit

SIGTERM saves the state and ends with exit code 75; the same command with --resume_from_checkpoint resumes the run.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from accelerate import PartialState

from e2evit.training import (
    PREEMPTED_EXIT_CODE,
    AugmentationArguments,
    DataArguments,
    MassWeightArguments,
    ModelArguments,
    Preempted,
    Recipe,
    TargetArguments,
    TrainArguments,
    as_flags,
    parse_recipe,
    run_recipe,
)

GROUPS = (
    ModelArguments,
    DataArguments,
    TargetArguments,
    AugmentationArguments,
    MassWeightArguments,
    TrainArguments,
)


def main(arguments: Sequence[str] | None = None) -> None:
    recipe = Recipe(*parse_recipe(*GROUPS, arguments=arguments))
    try:
        run_recipe(recipe)
    except Preempted as stopped:
        print(stopped, flush=True)
        sys.exit(PREEMPTED_EXIT_CODE)
    if recipe.training.push_to_hub and PartialState().is_main_process:
        publish(recipe.data, recipe.training)


def publish(data_args: DataArguments, train_args: TrainArguments) -> None:
    """Measure on test and push, by the same scripts as by hand, one process each."""
    from e2evit.hub.assemble import clean_environment  # loads matplotlib, which training does not need

    scripts, checkpoint = Path(__file__).parents[3] / "scripts", train_args.output_dir
    results = Path(checkpoint) / "results.json"
    push = [scripts / "push_to_hub.py", checkpoint, "--results", results, "--repo_id", train_args.push_to_hub]
    push += ["--private"] if train_args.hub_private else []
    for command in ([scripts / "eval.py", checkpoint, *as_flags(asdict(data_args)), "--results", results], push):
        token = {name: value for name, value in os.environ.items() if name.startswith("HF_")}
        environment = clean_environment() | token
        if subprocess.run([sys.executable, *map(str, command)], env=environment, check=False).returncode:
            sys.exit(
                f"The checkpoint is complete in {checkpoint}, but this step failed: {' '.join(map(str, command))}"
            )


if __name__ == "__main__":
    main()
