"""Measure a checkpoint on held-out jets, and baselines on the same jets.

examples:
  e2evit eval runs/xcit --data_dir data/jets --results results/xcit.json

Predictions are saved piece by piece until the results are written: run the same command again after an interruption.
For several processes: accelerate launch scripts/eval.py ..., or accelerate launch -m e2evit.cli eval ...
"""

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from e2evit.data.jobs import check_replaceable
from e2evit.data.locks import held
from e2evit.results.predictions import MODEL
from e2evit.results.tables import PRINTED, conditions, masses_table, results_table, signals_table
from e2evit.training import DataArguments, TargetArguments, evaluate, import_model_module, is_first_process

from .parser import parse

CHECKPOINT = ("checkpoint", "Folder or Hub id of the model.")


@dataclass
class EvaluateArguments:
    results: str = HfArg(help="JSON file to write; predictions are written next to it as Parquet.")
    model_name: str | None = HfArg(
        default=None, help="Name of the model in tables; default: that of the checkpoint's folder, without the seed."
    )
    split: str = HfArg(
        default="test",
        help="Split to measure on: train, validation, test, or all: every jet of a folder that shares no event with "
        "the training.",
    )
    weights: str | None = HfArg(
        default=None,
        help="Column with the weights of jets, e.g. weight: metrics are those of a collider's spectra. Default: none.",
    )
    per_device_batch_size: int = HfArg(default=64, help="Batch size of each process.")
    num_workers: int = HfArg(default=0, help="Worker processes that load batches; 0: this process itself.")
    model_module: str | None = HfArg(
        default=None, help="Module of your own that registers the architecture with the Auto classes."
    )
    mixed_precision: str = HfArg(default="auto", help="no, bf16, fp16, or auto: bf16 where it is faster than float32.")


def main(arguments: Sequence[str] | None = None) -> None:
    checkpoint, data, targets, options = parse(
        "e2evit eval", __doc__, arguments, DataArguments, TargetArguments, EvaluateArguments, first=CHECKPOINT
    )
    import_model_module(options.model_module)
    path = Path(options.results)
    check_replaceable(path)
    pieces = path.with_suffix(".pieces")
    with held(path.parent, path.name) if is_first_process() else nullcontext():
        result = evaluate(
            checkpoint,
            data,
            split=options.split,
            targets=targets,
            name=options.model_name,
            per_device_batch_size=options.per_device_batch_size,
            mixed_precision=options.mixed_precision,
            num_workers=options.num_workers,
            pieces_dir=pieces,
            weights=options.weights,
        )
        if result is None:  # not the main process
            return
        result.to_json(path)
        shutil.rmtree(pieces)
    if not result.metrics[MODEL]:
        predictions = path.with_suffix(".parquet")
        print(f"The jets have neither labels nor masses: nothing was measured. Predictions: {predictions}")
        return
    by_name = {result.name: result}
    tables = results_table(by_name, keys=PRINTED), signals_table(by_name), masses_table(by_name)
    print("\n\n".join(filter(None, [*tables, conditions([result])])))
    print(f"Wrote {options.results}. Compare it with others: e2evit compare --results {options.results} ...")
