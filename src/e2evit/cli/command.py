"""Dispatch: `e2evit COMMAND ...` imports the module of that command alone."""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module

import e2evit

from .errors import UsageError, one_line_errors, suggest

__all__ = ["COMMANDS", "main", "run"]

# command: module of this package, summary
COMMANDS = {
    "simulate": ("simulate", "simulate jets as detector images (needs the `sim` extra)"),
    "download": ("download", "download the files of a public data set, or list what there is"),
    "inspect": ("inspect", "report what an unknown file holds, and draft a schema for it"),
    "prepare": ("prepare", "convert the files of a data set to Parquet rows"),
    "train": ("train", "train a jet classifier with mass regression, or fine-tune one"),
    "pretrain": ("pretrain", "pre-train a backbone on unlabelled images"),
    "eval": ("evaluate", "measure a checkpoint and baselines on held-out jets"),
    "trees": ("trees", "train and measure boosted trees on jet variables"),
    "benchmark": ("benchmark", "make a benchmark for the Hugging Face Hub of a data set's test jets"),
    "score": ("score", "measure predictions of any model for the jets of a benchmark"),
    "compare": ("compare", "compare results: tables, paired tests, figures"),
    "display": ("display", "draw a model's best, median and worst jet"),
    "tune": ("tune", "search for hyperparameters with Optuna"),
    "convert": ("convert", "convert a checkpoint of the XCiT or L2ViT authors, or of timm"),
    "export": ("export", "write ONNX files and check them against PyTorch"),
    "push": ("push", "publish a checkpoint on the Hugging Face Hub"),
    "demo": ("demo", "start the demo in a browser (needs the `space` extra)"),
}
EXAMPLES = """\
examples:
  e2evit simulate --output_dir data/jets --processes qcd top --num_jets 4000 --num_proc 2
  e2evit train quickstart/xcit_nano.yaml --data_dir data/jets --output_dir runs/xcit
  e2evit eval runs/xcit --data_dir data/jets --results results/xcit.json

`e2evit COMMAND --help` lists the options of a command. For several processes:
`accelerate launch --num_processes 4 -m e2evit.cli train ...`, or `scripts/train.py` in a clone."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The `e2evit` command."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and not arguments[0].startswith("-"):
        with one_line_errors("e2evit"):
            if arguments[0] not in COMMANDS:
                raise UsageError(
                    f"unknown command {arguments[0]}{suggest(arguments[0], COMMANDS)}. See `e2evit --help`."
                )
        run(arguments[0], arguments[1:])
        return
    width = max(map(len, COMMANDS)) + 2
    listing = "\n".join(f"  {name:<{width}}{summary}" for name, (_, summary) in COMMANDS.items())
    parser = ArgumentParser(
        prog="e2evit",
        usage="e2evit COMMAND [options]",
        description=f"{e2evit.__doc__.splitlines()[0]}\n\ncommands:\n{listing}",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=e2evit.__version__)
    parser.parse_args(arguments)
    parser.print_help()


def run(command: str, arguments: Sequence[str] | None = None) -> None:
    """One command, with `sys.argv` if no arguments are given; a user's mistake ends the process with one line."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks ± gets a question mark
    with one_line_errors(f"e2evit {command}"):
        module = import_module(f"{__package__}.{COMMANDS[command][0]}")
        module.main(arguments)
