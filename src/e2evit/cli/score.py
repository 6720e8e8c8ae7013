"""Measure predictions of any model for the jets of a benchmark, as `e2evit eval` measures those of e2evit's models.

examples:
  e2evit score predictions.parquet --benchmark benchmark --model_name my_model --results results/my_model.json

The Parquet file has one row for each jet, in the order of the benchmark: `event_id`, the probability `p_CLASS` of each
class, `mass` [GeV], and one sigma of it `mass_scale` [GeV], if the model predicts that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers.hf_argparser import HfArg

from e2evit.data.jobs import check_replaceable
from e2evit.data.parquet import open_parquet
from e2evit.hub.benchmark import read_jets
from e2evit.results.measure import column, evaluate_predictions
from e2evit.results.predictions import MODEL, Predictions
from e2evit.results.record import Result
from e2evit.results.tables import PRINTED, results_table
from e2evit.training import DataArguments, TargetArguments, load_data, run_info
from e2evit.training.arguments import ALL
from e2evit.training.data import describe_data

from .parser import parse

PREDICTIONS = ("predictions", "Parquet file with the predictions.")
OPTIONAL = ("mass", "mass_scale")
SUM_TOLERANCE = 1e-3  # of probabilities in half precision


@dataclass
class ScoreArguments:
    benchmark: str = HfArg(help="Folder that `e2evit benchmark` made.")
    model_name: str = HfArg(help="Name of the model in tables.")
    results: str = HfArg(help="JSON file to write; predictions are written next to it as Parquet.")


def main(arguments: Sequence[str] | None = None) -> None:
    path, options = parse("e2evit score", __doc__, arguments, ScoreArguments, first=PREDICTIONS)
    results = Path(options.results)
    check_replaceable(results)
    jets = read_jets(options.benchmark)
    data = DataArguments(dataset_name=jets["dataset"], data_dir=options.benchmark)
    names = ("mass_column", "mass_classes", "contained_classes")
    targets = TargetArguments(classes=jets["label_names"] or None, **{name: jets[name] for name in names})
    dataset, schema = load_data(data, targets, splits=[ALL])
    fields = run_info(dataset)
    if any(fields["data"][ALL][name] != jets[name] for name in ("rows", "event_ids")):
        raise ValueError(f"{options.benchmark} does not hold the jets that it describes: download it again.")
    predictions = _read(path, dataset[ALL], jets["mass_column"], schema.label_names)
    fields |= describe_data(data, targets, schema, ALL) | {"model": options.model_name, "seed": None}
    fields |= evaluate_predictions(dataset[ALL], jets["mass_column"], schema.label_names, {MODEL: predictions})
    result = Result(**fields)
    result.to_json(results)
    print(results_table({result.name: result}, keys=PRINTED))
    print(f"Wrote {results}. Compare it with others: e2evit compare --results {results} ...")


def _read(path: str, rows: Dataset, mass_column: str, label_names: Sequence[str]) -> Predictions:
    """Predictions for these jets: of their class if they have classes, of their mass if any has one.

    Raises:
        ValueError: for other columns or jets, and values that are not probabilities or masses.
    """
    table = open_parquet(path).read()
    classes, has_mass = [f"p_{name}" for name in label_names], np.isfinite(column(rows, mass_column)).any()
    needed = ["event_id", *classes, *(["mass"] if has_mass else [])]
    problems = [f"no {name}" for name in needed if name not in table.column_names]
    problems += [f"{name}, which is unknown" for name in table.column_names if name not in (*needed, *OPTIONAL)]
    if problems:
        raise ValueError(f"{path} has {', '.join(problems)}. Its columns are {', '.join(needed)}.")
    held, event_ids = table["event_id"].to_pylist(), rows["event_id"][:]
    if held != event_ids:
        pairs = enumerate(zip(held, event_ids))
        first = next((row for row, (one, other) in pairs if one != other), min(len(held), len(event_ids)))
        raise ValueError(
            f"{path} has {len(held)} rows, the benchmark {len(event_ids)}, and from row {first} on they are of other "
            "events: write one row for each jet, in its order."
        )
    numbers = {name: _numbers(path, name, table[name]) for name in table.column_names if name != "event_id"}
    masses, scales = numbers.get("mass", np.full(len(rows), np.nan)), numbers.get("mass_scale")
    if scales is not None and (scales <= 0).any():
        raise ValueError(f"{path}: mass_scale is {scales.min():g} in row {scales.argmin()}, and must be positive.")
    if not classes:
        return Predictions(np.zeros(len(rows)), masses, mass_scale_preds=scales)
    probabilities = np.stack([numbers[name] for name in classes], axis=1)
    wrong = (probabilities < 0).any(axis=1) | (abs(probabilities.sum(axis=1) - 1) > SUM_TOLERANCE)
    if wrong.any():
        raise ValueError(
            f"{path}: the probabilities in row {wrong.argmax()} are {probabilities[wrong.argmax()].tolist()}; they "
            "must be non-negative and add up to one."
        )
    return Predictions.of_classes(probabilities, masses, scales)


def _numbers(path: str, name: str, values: pa.ChunkedArray) -> np.ndarray:
    """A column in double precision; every value is a finite number."""
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise ValueError(f"{path}: the column {name} holds {values.type}, not numbers.")
    numbers = values.to_numpy().astype(np.float64)
    if (bad := ~np.isfinite(numbers)).any():
        raise ValueError(f"{path}: {name} is {numbers[bad.argmax()]:g} in row {bad.argmax()}, and must be finite.")
    return numbers
