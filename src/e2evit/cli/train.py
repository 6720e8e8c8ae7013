"""Train a jet classifier with mass regression, or fine-tune one.

examples:
  e2evit train quickstart/xcit_nano.yaml --data_dir data/jets --output_dir runs/xcit
  e2evit train --model_name_or_path runs/xcit --data_dir data/other --output_dir runs/other

SIGTERM saves the state and ends with exit code 75; add --resume_from_checkpoint to the same command to resume.
For several processes: accelerate launch scripts/train.py ..., or accelerate launch -m e2evit.cli train ...
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from e2evit.training import (
    AugmentationArguments,
    DataArguments,
    MassWeightArguments,
    ModelArguments,
    Recipe,
    TargetArguments,
    TrainArguments,
    run_recipe,
)

from .parser import as_flags, parse

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
    if recipe.training.push_to_hub and trained.is_main_process:
        publish(recipe.data, recipe.training)


def publish(data: DataArguments, training: TrainArguments) -> None:
    """Measure the checkpoint on the test split and push it, each in one new process.

    Raises:
        RuntimeError: if one of them fails; the checkpoint is complete then.
    """
    from e2evit.hub.assemble import clean_environment  # loads matplotlib, which training does not need

    checkpoint = training.output_dir
    results = Path(checkpoint) / "results.json"
    evaluate = ["eval", checkpoint, *as_flags(asdict(data)), "--results", results]
    push = ["push", checkpoint, "--results", results, "--repo_id", training.push_to_hub]
    push += ["--private"] if training.hub_private else []
    token = {name: value for name, value in os.environ.items() if name.startswith("HF_")}
    for command in (evaluate, push):
        call = [sys.executable, "-m", "e2evit.cli", *map(str, command)]
        if subprocess.run(call, env=clean_environment() | token, check=False).returncode:
            raise RuntimeError(
                f"The checkpoint in {checkpoint} is complete, but this step failed: e2evit {' '.join(call[3:])}"
            )
