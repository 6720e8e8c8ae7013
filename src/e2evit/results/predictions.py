"""Predictions of single jets: in memory, and as the Parquet file beside a result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from e2evit.data.extras import import_extra
from e2evit.data.jobs import write_whole

if TYPE_CHECKING:
    from .record import Result

__all__ = [
    "BACKGROUND",
    "CONSTANT",
    "IMAGE_MASS",
    "MODEL",
    "JetPredictions",
    "Predictions",
    "add_predictions",
    "hash_of_ids",
    "prediction_columns",
    "read_event_ids",
    "read_predictions",
    "write_predictions",
]

BACKGROUND = 0  # label of the background; all other classes are signal
MODEL, CONSTANT, IMAGE_MASS = "model", "constant", "image mass"  # predictors


@dataclass
class Predictions:
    """What one predictor says of each jet.

    Attributes:
        scores: Probability of the signal: all classes but the first.
        mass_preds: In GeV.
        probabilities: Of all classes `(n, num_classes)`.
        mass_scale_preds: One sigma of `mass_preds` [GeV].
        containment: Probability that the jet contains all of the decay.
    """

    scores: np.ndarray
    mass_preds: np.ndarray
    probabilities: np.ndarray | None = None
    mass_scale_preds: np.ndarray | None = None
    containment: np.ndarray | None = None

    @classmethod
    def of_classes(
        cls,
        probabilities: np.ndarray,
        mass_preds: np.ndarray,
        mass_scale_preds: np.ndarray | None = None,
        containment: np.ndarray | None = None,
    ):
        """With the probability of any class but the background as score."""
        return cls(1 - probabilities[:, BACKGROUND], mass_preds, probabilities, mass_scale_preds, containment)


@dataclass
class JetPredictions:
    """Predictions of several models for the same jets.

    Attributes:
        labels: -100 where unknown; class 0 is the background, all others are signal.
        mass_labels: True masses [GeV], NaN where unknown.
        jet_masses: Masses of the jets themselves [GeV], which a cut on the score could sculpt.
        pts: Transverse momenta of the jets [GeV], NaN where unknown.
        scores, mass_preds: By name of the result; masses in GeV.
        probabilities: The same, of all classes `(n, num_classes)`, where a predictor has them.
        event_ids: Of the jets; None: no two are of one event.
    """

    labels: np.ndarray
    mass_labels: np.ndarray
    jet_masses: np.ndarray
    pts: np.ndarray
    scores: dict[str, np.ndarray]
    mass_preds: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray] = field(default_factory=dict)
    event_ids: Sequence[str] | None = None


def _column(predictor: str, quantity: str) -> str:
    """Name of a column; `quantity` is `score`, `mass` or `mass scale` [GeV], `containment`, or `p_` and the name of a
    class."""
    return f"{predictor} {quantity}"


def prediction_columns(predictor: str, jets: Predictions, label_names: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of one predictor, single precision."""
    values = {"score": jets.scores, "mass": jets.mass_preds, "mass scale": jets.mass_scale_preds}
    values["containment"] = jets.containment
    if jets.probabilities is not None:
        values |= {f"p_{name}": of_class for name, of_class in zip(label_names, jets.probabilities.T)}
    return {_column(predictor, key): v.astype(np.float32) for key, v in values.items() if v is not None}


def write_predictions(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write a Parquet file with one row per jet."""
    table = pa.table(dict(columns))
    floats = [name for name in table.column_names if pa.types.is_floating(table[name].type)]
    options = {"use_dictionary": False, "use_byte_stream_split": floats}  # two thirds of the size
    options |= {"compression": "zstd", "compression_level": 9, "write_page_checksum": True}
    write_whole(path, lambda temporary: pq.write_table(table, temporary, **options))


def read_predictions(results: Mapping[str | Path, "Result"]) -> JetPredictions:
    """Per-jet predictions beside results, with those of the image mass where the first one has them and all have its
    pile-up.

    Args:
        results: By path.

    Raises:
        FileNotFoundError: if a result has no predictions beside it.
        ValueError: if they are of other jets, or not finite.
    """
    scores, mass_preds, probabilities, first = {}, {}, {}, None
    pileups = [result.pileup for result in results.values()]
    for path, result in results.items():
        table, predictors = _table_of(path, result), {result.name: MODEL}
        if first is None:
            first = table
            if IMAGE_MASS in result.metrics and pileups.count(pileups[0]) == len(pileups):
                predictors[IMAGE_MASS] = IMAGE_MASS
        for name, predictor in predictors.items():
            scores[name], mass_preds[name] = (table[_column(predictor, part)].to_numpy() for part in ("score", "mass"))
        columns = [_column(MODEL, f"p_{name}") for name in result.label_names]
        if set(columns) <= set(table.column_names):
            probabilities[result.name] = np.stack([table[column].to_numpy() for column in columns], axis=1)
    if IMAGE_MASS in scores:  # baselines after models
        scores[IMAGE_MASS], mass_preds[IMAGE_MASS] = scores.pop(IMAGE_MASS), mass_preds.pop(IMAGE_MASS)
    assert first is not None, "no results"
    names = first.column_names
    return JetPredictions(
        labels=first["labels"].to_numpy(),
        mass_labels=first["mass_labels"].to_numpy(),
        jet_masses=first["jet_mass" if "jet_mass" in names else "mass_labels"].to_numpy(),
        pts=first["pt"].to_numpy() if "pt" in names else np.full(len(first), np.nan),
        scores=scores,
        mass_preds=mass_preds,
        probabilities=probabilities,
        event_ids=first["event_id"].to_pylist() if "event_id" in names else None,
    )


def _table_of(path: str | Path, result: "Result") -> pa.Table:
    file = Path(path).with_suffix(".parquet")
    if not file.is_file():
        raise FileNotFoundError(f"{file}, the predictions of {path}, is missing: measure the model again.")
    table = pq.read_table(file, page_checksum_verification=True)
    predictors = [MODEL, *([IMAGE_MASS] if IMAGE_MASS in result.metrics else [])]
    for name in ("labels", "mass_labels", *(_column(one, part) for one in predictors for part in ("score", "mass"))):
        if name not in table.column_names:
            raise ValueError(f"{file} has no column {name!r}: measure the model again.")
        if name.startswith(MODEL) and not np.isfinite(_numbers(table, name, file)).all():
            raise ValueError(f"{file}: `{name}` is not finite for all jets: measure the model again.")
    measured = result.data[result.split]
    if table.num_rows != measured["rows"] or (
        "event_id" in table.column_names and hash_of_ids(table["event_id"].to_pylist()) != measured["event_ids"]
    ):
        raise ValueError(f"{file} holds other jets than {path} was measured on: measure the model again.")
    return table


def _numbers(table: pa.Table, name: str, file: Path) -> np.ndarray:
    if not pa.types.is_floating(table[name].type):
        raise ValueError(f"{file}: `{name}` is {table[name].type}, expected numbers: measure the model again.")
    return table[name].to_numpy()


def hash_of_ids(event_ids: Sequence[str]) -> str:
    """A hash of event ids in their order."""
    return blake2b("\n".join(event_ids).encode(), digest_size=8).hexdigest()


def read_event_ids(path: str | Path) -> list[str]:
    """Event ids of the jets in the result at `path`, in order."""
    table = pq.read_table(Path(path).with_suffix(".parquet"), columns=["event_id"], page_checksum_verification=True)
    return table["event_id"].to_pylist()


def add_predictions(jets: Any, results: Mapping[str, str | Path]) -> Any:
    """Jets of [`to_awkward`] with what models say of them: under each name a record of `score`, `mass` [GeV], `p_qcd`
    and so on, and of models that predict them `mass_scale` [GeV] and `containment`.

    Args:
        jets: All that were measured, in their order: the rows of that split.
        results: Result files of `e2evit eval` by the name of the record.

    Raises:
        FileNotFoundError: if a result has no predictions beside it.
        ValueError: if they are of other jets, or a name is taken.
    """
    ak = import_extra("awkward", "`add_predictions`", "root")
    event_ids = jets.event_id.to_list()
    for name, path in results.items():
        table = pq.read_table(Path(path).with_suffix(".parquet"), page_checksum_verification=True)
        if name in jets.fields:
            raise ValueError(f"The jets already have a field {name!r}: choose another name for {path}.")
        if "event_id" not in table.column_names or table["event_id"].to_pylist() != event_ids:
            raise ValueError(
                f"{path} holds predictions for {len(table)} jets, which are not the {len(event_ids)} given, or in "
                "another order: load the data set and split that were measured."
            )
        columns = [column for column in table.column_names if column.startswith(f"{MODEL} ")]
        entries = {c.removeprefix(f"{MODEL} ").replace(" ", "_"): table[c].to_numpy() for c in columns}
        jets = ak.with_field(jets, ak.zip(entries), name)
    return jets
