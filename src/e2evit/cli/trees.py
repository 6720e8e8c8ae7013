"""Train boosted trees on classical jet variables and measure them as `e2evit eval` measures networks.

examples:
  e2evit trees --data_dir data/jets --results_dir results --seed 0
  e2evit trees --data_dir data/jets --results_dir results --seed 0 1 2 --tune_trials 20

writes `trees_3_seed0.json` (mass, multiplicity and width), `trees_all_seed0.json` (all variables of the image) and, if
the jets have candidates, `trees_candidates_seed0.json` (their observables as well). Validation jets end the training
and choose among the trials of `--tune_trials`, which stay in RESULTS_DIR/tuning: run the same command again to resume.
"""

import logging
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from datasets import DatasetDict
from transformers.hf_argparser import HfArg

from e2evit.baselines.boosted_trees import TreeJets, fit_trees
from e2evit.baselines.jet_features import (
    CANDIDATE_VARIABLES,
    VARIABLE_SETS,
    candidate_features,
    jet_features,
    variables,
)
from e2evit.baselines.tree_tuning import MAX_TRIALS, best_settings, require_optuna, tune_trees
from e2evit.data import DatasetSchema, find_schema
from e2evit.results.measure import evaluate_predictions
from e2evit.results.predictions import MODEL
from e2evit.results.record import Result
from e2evit.results.tables import PRINTED, results_table
from e2evit.training import DataArguments, TargetArguments, load_data, run_info
from e2evit.training.arguments import SPLITS
from e2evit.training.data import describe_data, with_defaults

from .parser import parse

logger = logging.getLogger(__name__)

SETS = {
    "trees_3": VARIABLE_SETS["mass, multiplicity, width"],
    "trees_all": VARIABLE_SETS["all, with impact parameters"],
    "trees_candidates": (*VARIABLE_SETS["all, with impact parameters"], "candidates"),
}


@dataclass
class TreeArguments:
    results_dir: str = HfArg(help="Folder for the results, with predictions next to them as Parquet.")
    seed: list[int] = HfArg(
        default_factory=lambda: [0],
        help="One training per seed; it draws the variables that are tried at each split.",
    )
    split: str = HfArg(default="test", help="Split to measure on: train, validation or test.")
    tune_trials: int = HfArg(
        default=0,
        help="Settings to try for each set of variables and target, earlier calls included (needs the `tune` extra); "
        "0: the default settings.",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    data, targets, options = parse("e2evit trees", __doc__, arguments, DataArguments, TargetArguments, TreeArguments)
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("e2evit").setLevel(logging.INFO)
    if options.split not in SPLITS:
        raise ValueError(f"`split` must be {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, got {options.split!r}.")
    if not 0 <= options.tune_trials <= MAX_TRIALS:
        raise ValueError(f"`tune_trials` must be 0 to {MAX_TRIALS}, got {options.tune_trials}.")
    if negative := [seed for seed in options.seed if seed < 0]:
        raise ValueError(f"`seed` must be 0 or more, got {negative[0]}.")
    if options.tune_trials:
        require_optuna()
    targets = with_defaults(targets)
    splits = dict.fromkeys(("train", "validation", options.split))
    particles = find_schema(data.dataset_name, data.data_dir, data.schema).particles
    candidates = particles and find_spec("fastjet") is not None  # which makes observables of them
    dataset, schema = load_data(data, targets, splits=splits, candidates=candidates)
    rows, folder, number = dataset[options.split], Path(options.results_dir), len(schema.label_names)
    if not len(rows):
        raise ValueError(f"The {options.split} split has no jets to measure on.")
    features = _features(dataset, splits, schema)
    results = {}
    for name, groups in SETS.items():
        if "candidates" in groups and CANDIDATE_VARIABLES[0] not in features["train"]:
            continue
        x = {part: variables(of_part, groups) for part, of_part in features.items()}
        jets = {part: TreeJets.of(dataset[part], x[part], targets.mass_column) for part in ("train", "validation")}
        settings, tuned = None, {}
        if options.tune_trials:
            path = folder / "tuning" / f"{name}.json"
            trials = tune_trees(**jets, num_classes=number, num_trials=options.tune_trials, path=path)
            settings, tuned = best_settings(trials), {"trials": trials}
        for seed in options.seed:
            start = time.perf_counter()
            trees = fit_trees(**jets, num_classes=number, seed=seed, settings=settings)
            training = {"seconds": time.perf_counter() - start} | trees.record() | tuned
            predictions = trees.predict(x[options.split])
            fields = run_info(dataset) | describe_data(data, targets, schema, options.split)
            fields |= {"model": name, "seed": seed, "training": training}
            fields |= evaluate_predictions(rows, targets.mass_column, schema.label_names, {MODEL: predictions})
            result = Result(**fields)
            path = folder / f"{result.name}.json"
            result.to_json(path)
            results[path] = result
    print(results_table({result.name: result for result in results.values()}, baselines=False, keys=PRINTED))
    paths = " ".join(map(str, results))
    print(f"\nWrote {paths}. Compare with networks: e2evit compare --results {paths} ...")


def _features(
    dataset: DatasetDict, splits: Collection[str], schema: DatasetSchema
) -> dict[str, dict[str, np.ndarray]]:
    """Jet variables by split, with those of the candidates if all jets have them."""
    features = {part: jet_features(dataset[part], schema) for part in splits}
    candidates = {part: candidate_features(dataset[part]) for part in splits}
    if all(candidates.values()):
        return {part: features[part] | candidates[part] for part in splits}
    logger.info(
        f"trees_candidates is left out: it needs {', '.join(CANDIDATE_VARIABLES)}, which are not known of all jets. "
        "`e2evit simulate --candidates` writes them, and kept particles get them with FastJet (the `sim` extra)."
    )
    return features
