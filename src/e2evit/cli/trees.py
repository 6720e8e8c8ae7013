"""Train boosted trees on classical jet variables and measure them as `e2evit eval` measures networks.

examples:
  e2evit trees --data_dir data/jets --results_dir results --seed 0

writes `trees_3_seed0.json` (mass, multiplicity and width) and `trees_all_seed0.json` (all variables).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from e2evit.baselines.boosted_trees import tree_predictions
from e2evit.baselines.jet_features import VARIABLE_SETS, jet_features, variables
from e2evit.results.measure import column, evaluate_predictions
from e2evit.results.predictions import MODEL
from e2evit.results.record import Result
from e2evit.results.tables import PRINTED, results_table
from e2evit.training import DataArguments, TargetArguments, load_data, run_info
from e2evit.training.data import describe_data, with_defaults

from .parser import parse

SETS = {"trees_3": "mass, multiplicity, width", "trees_all": "all, with impact parameters"}


@dataclass
class TreeArguments:
    results_dir: str = HfArg(help="Folder for the two results, with predictions next to them as Parquet.")
    seed: list[int] = HfArg(
        default_factory=lambda: [0],
        help="One training per seed; it draws the jets that early stopping watches.",
    )
    split: str = HfArg(default="test", help="Split to measure on: train, validation or test.")


def main(arguments: Sequence[str] | None = None) -> None:
    data, targets, options = parse("e2evit trees", __doc__, arguments, DataArguments, TargetArguments, TreeArguments)
    targets = with_defaults(targets)
    dataset, schema = load_data(data, targets, splits={"train", options.split})
    rows = dataset[options.split]
    features = {part: jet_features(dataset[part], schema) for part in {"train", options.split}}
    labels = column(dataset["train"], "labels", -100).astype(int)
    mass_labels = column(dataset["train"], targets.mass_column)
    results = {}
    for name, groups in SETS.items():
        x = {part: variables(of_part, VARIABLE_SETS[groups]) for part, of_part in features.items()}
        for seed in options.seed:
            start = time.perf_counter()
            predictions = tree_predictions(
                x["train"], labels, mass_labels, x[options.split], len(schema.label_names), seed
            )
            seconds = time.perf_counter() - start
            fields = run_info(dataset) | describe_data(data, targets, schema, options.split)
            fields |= {"model": name, "seed": seed, "training": {"seconds": seconds}}
            fields |= evaluate_predictions(rows, targets.mass_column, schema.label_names, {MODEL: predictions})
            result = Result(**fields)
            path = Path(options.results_dir) / f"{result.name}.json"
            result.to_json(path)
            results[path] = result
    print(results_table({result.name: result for result in results.values()}, baselines=False, keys=PRINTED))
    paths = " ".join(map(str, results))
    print(f"\nWrote {paths}. Compare with networks: e2evit compare --results {paths} ...")
