"""Train a jet classifier with mass regression, or fine-tune one from `--model_name_or_path`.

accelerate launch scripts/train.py recipes/quickstart/xcit_nano.yaml --data_dir data/jets --output_dir runs/xcit

SIGTERM saves the state and ends with exit code 75; the same command with --resume_from_checkpoint goes on.
"""

import sys

from e2evit.training import PREEMPTED_EXIT_CODE, Preempted, run_training


def main() -> None:
    try:
        run_training()
    except Preempted as stopped:
        print(stopped, flush=True)
        sys.exit(PREEMPTED_EXIT_CODE)


if __name__ == "__main__":
    main()
