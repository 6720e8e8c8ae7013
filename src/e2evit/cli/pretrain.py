"""Pre-train a backbone on unlabelled images: to reconstruct hidden pixels (SimMIM) or match augmented views (SimCLR).

examples:
  e2evit pretrain --model_config models/xcit_nano.json --dataset_name unlabelled --data_dir data/unlabelled \\
      --output_dir runs/pretrained
  e2evit pretrain --model_config models/xcit_nano.json --dataset_name unlabelled --data_dir data/unlabelled \\
      --contrastive_temperature 0.1 --tower_shift 2 --energy_smearing 0.2 --dead_crystals 0.1 --output_dir runs/views
  e2evit train --model_name_or_path runs/pretrained --data_dir data/jets --output_dir runs/xcit

SIGTERM saves the state and ends with exit code 75; add --resume_from_checkpoint to the same command to resume.
For several processes: accelerate launch scripts/pretrain.py ..., or accelerate launch -m e2evit.cli pretrain ...
"""

import shlex
from collections.abc import Sequence

from e2evit.training import ContrastiveArguments, MaskArguments, Recipe, run_recipe

from .parser import parse
from .train import GROUPS, print_outcome


def main(arguments: Sequence[str] | None = None) -> None:
    recipe = Recipe(*parse("e2evit pretrain", __doc__, arguments, *GROUPS, MaskArguments, ContrastiveArguments))
    of_targets = ("classes", "mass_classes", "contained_classes")
    needs_labels = [*((recipe.targets, name) for name in of_targets), (recipe.mass_weights, "flat_in")]
    if given := [name for group, name in needs_labels if getattr(group, name) is not None]:
        raise ValueError(f"Pre-training learns from images alone: leave out {', '.join(given)}.")
    trained = run_recipe(recipe)
    if trained.is_main_process:
        print_outcome(trained)
        command = ["e2evit", "train", "--model_name_or_path", str(trained.output_dir)]
        if recipe.model.model_module:
            command += ["--model_module", recipe.model.model_module]
        print(f"Fine-tune it: {shlex.join(command)} --data_dir ... --output_dir ...")
