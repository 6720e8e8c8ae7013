"""Pre-train a backbone on images without labels: it reconstructs hidden pixels (SimMIM).

accelerate launch scripts/pretrain.py --model_config recipes/models/xcit_nano.json --dataset_name unlabelled \\
    --data_dir data/unlabelled --output_dir runs/pretrained
accelerate launch scripts/train.py --model_name_or_path runs/pretrained --data_dir data/jets --output_dir runs/xcit

SIGTERM saves the state and ends with exit code 75; the same command with --resume_from_checkpoint resumes the run.
"""

import sys
from collections.abc import Sequence

from e2evit.training import PREEMPTED_EXIT_CODE, MaskArguments, Preempted, Recipe, parse_recipe, run_recipe

from .train import GROUPS


def main(arguments: Sequence[str] | None = None) -> None:
    recipe = Recipe(*parse_recipe(*GROUPS, MaskArguments, arguments=arguments))
    try:
        run_recipe(recipe)
    except Preempted as stopped:
        print(stopped, flush=True)
        sys.exit(PREEMPTED_EXIT_CODE)


if __name__ == "__main__":
    main()
