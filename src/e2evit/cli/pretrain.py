"""Pre-train a backbone on unlabelled images: it reconstructs hidden pixels (SimMIM).

examples:
  e2evit pretrain --model_config models/xcit_nano.json --dataset_name unlabelled --data_dir data/unlabelled \\
      --output_dir runs/pretrained
  e2evit train --model_name_or_path runs/pretrained --data_dir data/jets --output_dir runs/xcit

SIGTERM saves the state and ends with exit code 75; add --resume_from_checkpoint to the same command to resume.
For several processes: accelerate launch scripts/pretrain.py ..., or accelerate launch -m e2evit.cli pretrain ...
"""

from collections.abc import Sequence

from e2evit.training import MaskArguments, Recipe, run_recipe

from .parser import parse
from .train import GROUPS, print_outcome


def main(arguments: Sequence[str] | None = None) -> None:
    trained = run_recipe(Recipe(*parse("e2evit pretrain", __doc__, arguments, *GROUPS, MaskArguments)))
    if trained.is_main_process:
        print_outcome(trained)
        print(f"Fine-tune it: e2evit train --model_name_or_path {trained.output_dir} --data_dir ... --output_dir ...")
