"""Boosted trees for `studies/particles.py`: trained on images of one kind, measured on images of each."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from transformers import HfArgumentParser

from e2evit.baselines.boosted_trees import TreeJets, fit_trees
from e2evit.baselines.jet_features import VARIABLE_SETS, jet_features, variables
from e2evit.results.measure import evaluate_predictions
from e2evit.results.predictions import MODEL
from e2evit.results.record import Result
from e2evit.training import DataArguments, TargetArguments, load_data, run_info
from e2evit.training.data import describe_data

__all__ = ["measure_trees"]


def measure_trees(recipe: Mapping, train: Sequence, tests: Mapping[Path, Sequence], seed: int) -> None:
    """Train, measure on the test jets of each of `tests`, and write the result to its path.

    Args:
        recipe: Settings of a training, of which the trees read the targets.
        train, tests: Words of `e2evit train` that choose the data.
    """
    targets = TargetArguments(**{field.name: recipe.get(field.name) for field in fields(TargetArguments)})
    dataset, schema = load_data(_data(train), targets)
    parts = dataset["train"], dataset["validation"]
    jets = [TreeJets.of(rows, _features(rows, schema), targets.mass_column) for rows in parts]
    samples = {path: load_data(_data(words), targets)[0] for path, words in tests.items()}
    test_x = {path: _features(sample["test"], schema) for path, sample in samples.items()}
    start = time.perf_counter()
    trees = fit_trees(*jets, len(schema.label_names), seed)
    training = {"seconds": time.perf_counter() - start, "images_seen": len(dataset["train"])} | trees.record()
    for path, sample in samples.items():
        of_sample = trees.predict(test_x[path])
        entries = run_info(sample) | describe_data(_data(tests[path]), targets, schema, "test")
        entries |= {"model": "trees", "seed": seed, "training": training}
        entries |= evaluate_predictions(sample["test"], targets.mass_column, schema.label_names, {MODEL: of_sample})
        Result(**entries).to_json(path)


def _data(words: Sequence) -> DataArguments:
    return HfArgumentParser(DataArguments).parse_args_into_dataclasses([str(word) for word in words])[0]


def _features(rows, schema) -> np.ndarray:
    return variables(jet_features(rows, schema), VARIABLE_SETS["all, with impact parameters"])
