"""Train boosted trees on classical jet variables and measure them as `e2evit eval` measures networks.

examples:
  e2evit trees --data_dir data/jets --results_dir results --seed 0
  e2evit trees --data_dir data/jets --results_dir results --seed 0 1 2 --tune_trials 20
  e2evit trees --data_dir data/jets --test_dir data/other_jets --results_dir results/other_jets

writes `trees_3_seed0.json` (mass, multiplicity and width), `trees_all_seed0.json` (all variables of the image) and, if
the jets have candidates, `trees_candidates_seed0.json` (their observables as well). Validation jets end the training
and choose among the trials of `--tune_trials`, which stay in RESULTS_DIR/tuning: run the same command again to resume.
"""

import logging
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
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
from e2evit.data.unseen import check_unseen
from e2evit.results.measure import evaluate_predictions
from e2evit.results.predictions import MODEL
from e2evit.results.record import Result
from e2evit.results.tables import PRINTED, results_table
from e2evit.training import DataArguments, TargetArguments, load_data, run_info
from e2evit.training.arguments import ALL, SPLITS
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
    sets: list[str] = HfArg(default_factory=lambda: [*SETS], help=f"Sets of variables: {', '.join(SETS)}.")
    test_dir: str | None = HfArg(
        default=None, help="Folder of other jets to measure on, all of them, instead of a split of `--data_dir`."
    )
    test_pileup: list[float] | None = HfArg(
        default=None,
        help="Mean number of pile-up collisions in `--test_dir`, of kept particles. Default: its own.",
    )
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
    if unknown := [name for name in options.sets if name not in SETS]:
        raise ValueError(f"`sets` must be among {', '.join(SETS)}, got {', '.join(unknown)}.")
    if negative := [seed for seed in options.seed if seed < 0]:
        raise ValueError(f"`seed` must be 0 or more, got {negative[0]}.")
    if options.tune_trials:
        require_optuna()
    if options.test_pileup is not None and options.test_dir is None:
        raise ValueError("`--test_pileup` needs `--test_dir`; for `--data_dir` use `--pileup`.")
    targets, measured, split = with_defaults(targets), data, options.split
    dataset, schema = _load(data, targets, dict.fromkeys(("train", "validation", split)))
    if options.test_dir is not None:
        measured, split = _other_jets(data, options.test_dir, options.test_pileup), ALL
        other, other_schema = _load(measured, targets, [ALL])
        for name in ("label_names", "channel_names"):
            if (got := getattr(other_schema, name)) != (expected := getattr(schema, name)):
                raise ValueError(
                    f"{options.test_dir} has {name} {', '.join(got)}, {data.data_dir} {', '.join(expected)}."
                )
        event_ids = other[ALL].with_format("arrow")["event_id"].to_pylist()
        check_unseen(event_ids, data.dataset_name, data.data_dir, data.schema, data.cache_dir, data.test_fold)
        dataset = DatasetDict({name: dataset[name] for name in ("train", "validation")} | other)
    rows, folder, number = dataset[split], Path(options.results_dir), len(schema.label_names)
    if not len(rows):
        raise ValueError(f"The {split} split has no jets to measure on.")
    features = _features(dataset, schema)
    results = {}
    for name, groups in SETS.items():
        if name not in options.sets or ("candidates" in groups and CANDIDATE_VARIABLES[0] not in features["train"]):
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
            predictions = trees.predict(x[split])
            fields = run_info(dataset) | describe_data(measured, targets, schema, split)
            fields |= {"model": name, "seed": seed, "training": training}
            fields |= evaluate_predictions(rows, targets.mass_column, schema.label_names, {MODEL: predictions})
            result = Result(**fields)
            path = folder / f"{result.name}.json"
            result.to_json(path)
            results[path] = result
    print(results_table({result.name: result for result in results.values()}, baselines=False, keys=PRINTED))
    paths = " ".join(map(str, results))
    print(f"\nWrote {paths}. Compare with networks: e2evit compare --results {paths} ...")


def _load(data: DataArguments, targets: TargetArguments, splits: Collection[str]) -> tuple[DatasetDict, DatasetSchema]:
    """These splits, with observables of candidates where FastJet can make them of kept particles."""
    particles = find_schema(data.dataset_name, data.data_dir, data.schema).particles
    dataset, schema = load_data(
        data, targets, splits=splits, candidates=particles and find_spec("fastjet") is not None
    )
    return DatasetDict({name: dataset[name] for name in splits if name in dataset}), schema


def _other_jets(data: DataArguments, folder: str, pileup: list[float] | None) -> DataArguments:
    """How to read all jets of another folder."""
    if data.data_dir is not None and Path(folder).expanduser().resolve() == Path(data.data_dir).expanduser().resolve():
        raise ValueError(f"`test_dir` is {folder}, where the trees are trained: measure them on its test split.")
    whole = dict.fromkeys((f"{split}_fraction" for split in SPLITS), 1.0)
    return replace(data, data_dir=folder, pileup=pileup, **whole)


def _features(dataset: DatasetDict, schema: DatasetSchema) -> dict[str, dict[str, np.ndarray]]:
    """Jet variables by split, with those of the candidates if all jets have them."""
    features = {part: jet_features(rows, schema) for part, rows in dataset.items()}
    candidates = {part: candidate_features(rows) for part, rows in dataset.items()}
    if all(candidates.values()):
        return {part: features[part] | candidates[part] for part in dataset}
    logger.info(
        f"trees_candidates is left out: it needs {', '.join(CANDIDATE_VARIABLES)}, which are not known of all jets. "
        "`e2evit simulate --candidates` writes them, and kept particles get them with FastJet (the `sim` extra)."
    )
    return features
