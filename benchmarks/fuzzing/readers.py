"""Every way into e2evit that a file has, and what it must give."""

import subprocess
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml
from e2evit.modeling.pipeline_e2e import E2EJetsPipeline, read_images
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from e2evit.cli import uploads
from e2evit.cli.parser import parse
from e2evit.cli.train import GROUPS
from e2evit.data import load_e2e
from e2evit.data.draft import draft_schema
from e2evit.data.inspect import inspect_file
from e2evit.data.prepare import prepare
from e2evit.data.schema import read_schema
from e2evit.data.sparse import sparse_to_dense
from e2evit.results.predictions import read_event_ids, read_predictions
from e2evit.results.record import Result
from e2evit.results.tables import results_table
from e2evit.training import Recipe, TrainedOn, find_checkpoint, load_model, read_config, read_model_config
from e2evit.training.tuning import read_search

from .case import SECRET, Case
from .crafted_texts import CHECKPOINT, RESULT, TEXTS
from .root_files import root_rows, root_schema
from .sample import CHANNELS, IMAGES, LABELS, MASSES, SHAPE, schema

__all__ = ["READERS", "Outside", "Wrong", "refused_wrongly", "run_program", "start_readers"]

Reader = Callable[[Case, Path], str]


class Wrong(Exception):
    """Other values than the file's, without an error."""


class Outside(Exception):
    """Values of a file that the case must not reach."""


def load(case: Case, folder: Path) -> str:
    dataset = load_e2e("custom", folder / "data", schema=_schema(case), cache_dir=folder / "cache")
    return _compare_rows(case, [row for part in dataset.values() for row in part], range(_num_rows(case)))


def prepare_skipping(case: Case, folder: Path) -> str:
    output = prepare("custom", folder / "data", folder / "prepared", schema=_schema(case), on_bad_rows="skip")
    files = (output / "data").glob("*.parquet")
    rows = [row for path in files for row in pq.read_table(path, page_checksum_verification=True).to_pylist()]
    return _compare_rows(case, rows, case.readable or ())


def inspect(case: Case, folder: Path) -> str:
    own, described = folder / "schema.yaml", _schema(case)
    if described is not None:
        own.write_text(yaml.safe_dump(described.to_dict(), sort_keys=False), encoding="utf-8")
    lines, *_ = inspect_file(folder / "data" / case.file_name, schema=None if described is None else own)
    _look_for_secret("\n".join(lines).encode())
    return "read"


def draft(case: Case, folder: Path) -> str:
    _look_for_secret(draft_schema(folder / "data" / case.file_name).encode())
    return "read"


def pipe(case: Case, folder: Path) -> str:
    path = folder / "data" / case.file_name
    for image in map(_dense, read_images(path, SHAPE)):
        _look_for_secret(image.tobytes(), image.astype(np.uint8).tobytes())
    predictions = _pipeline()(str(path))
    if not np.isfinite([prediction["mass"] for prediction in predictions]).all():
        raise Wrong("a mass that is not finite")
    if case.images is None:
        return "read"
    try:
        expected = [_predict(image) for image in case.images]
    except ValueError as error:
        raise Wrong("a prediction for an image that is refused as an array") from error
    return _equal(case, _alike(predictions, expected), f"{len(predictions)} predictions")


def upload(case: Case, folder: Path) -> str:
    image = uploads.read_upload(str(folder / "data" / case.file_name), CHANNELS, SHAPE[1:])
    _look_for_secret(image.tobytes(), image.astype(np.uint8).tobytes())
    if case.images is None or not len(case.images):
        return "read"
    return _equal(case, np.array_equal(image, case.images[0]), "the image")


def checkpoint(case: Case, folder: Path) -> str:
    """A checkpoint as commands load it; what it predicts must be finite."""
    path = find_checkpoint(folder / "data")
    config, processor = read_config(path), AutoImageProcessor.from_pretrained(path)
    model = load_model(path, config)
    predict = E2EJetsPipeline(model=model, image_processor=processor)
    predictions = predict(list(IMAGES), channel_names=processor.channel_names)
    if not np.isfinite([prediction["mass"] for prediction in predictions]).all():
        raise Wrong("a mass that is not finite")
    expected = [_predict(image) for image in IMAGES]
    return _equal(case, _alike(predictions, expected), "predictions") if case.kind == "weights" else "read"


def trained_on(case: Case, folder: Path) -> str:
    TrainedOn.of(folder / "data")
    return "read"


def model_config(case: Case, folder: Path) -> str:
    AutoModelForImageClassification.from_config(read_model_config(folder / "data" / case.file_name))
    return "read"


def recipe(case: Case, folder: Path) -> str:
    Recipe(*parse("e2evit train", "", [str(folder / "data" / case.file_name)], *GROUPS))
    return "read"


def search(case: Case, folder: Path) -> str:
    read_search(folder / "data" / case.file_name)
    return "read"


def yaml_schema(case: Case, folder: Path) -> str:
    read_schema(folder / "data" / case.file_name)
    return "read"


def result(case: Case, folder: Path) -> str:
    measured = Result.from_json(folder / "data" / case.file_name)
    results_table({measured.name: measured})
    return "read"


def predictions(case: Case, folder: Path) -> str:
    path = folder / "data/result.json"
    jets, event_ids = read_predictions({path: RESULT}), read_event_ids(path)
    columns, name = RESULT.predictions, RESULT.name
    equal = event_ids == columns["event_id"] and all(
        np.array_equal(read, columns[key])
        for read, key in (
            (jets.labels, "labels"),
            (jets.mass_labels, "mass_labels"),
            (jets.scores[name], "model score"),
            (jets.mass_preds[name], "model mass"),
        )
    )
    return _equal(case, equal, "the predictions")


def run_program(program: Path, model: Path, case: Case, folder: Path) -> str:
    """The C++ program."""
    done = subprocess.run(
        [program, model, folder / "data" / case.file_name],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        errors="replace",
    )
    if done.returncode < 0:
        raise RuntimeError(f"signal {-done.returncode}")
    if done.returncode:
        raise ValueError(done.stderr)
    values = [float(v) for part in done.stdout.split() for v in part.split("=")[1].split(",")]
    if not np.isfinite(values).all():
        raise Wrong("outputs that are not finite")
    return "read"


ROWS = {"load_e2e": load, "prepare": prepare_skipping, "inspect": inspect, "pipeline": pipe, "demo": upload}
READERS: dict[str, dict[str, Reader]] = {
    "rows": ROWS,
    **dict.fromkeys(("hdf5", "parquet", "npz"), ROWS | {"draft": draft}),
    "root": {"load_e2e": load, "prepare": prepare_skipping, "inspect": inspect, "draft": draft},
    "npy": {"pipeline": pipe, "demo": upload},
    "processor": {"from_pretrained": checkpoint},
    "weights": {"from_pretrained": checkpoint},
    "config": {"from_pretrained": checkpoint, "checkpoint": trained_on},
    "run recipe": {"checkpoint": trained_on},
    "model config": {"model config": model_config},
    "recipe": {"recipe": recipe},
    "search": {"search": search},
    "schema": {"schema": yaml_schema},
    "result": {"result": result},
    "predictions": {"predictions": predictions},
}


def refused_wrongly(case: Case, reader: str) -> bool:
    """Whether this reader must accept the file, or the rows of it that are whole."""
    whole = case.readable is not None and len(case.readable) == _num_rows(case)
    return case.readable is not None if reader == "prepare" else whole and (reader == "load_e2e" or case.kind in TEXTS)


def _schema(case: Case):
    if case.kind == "root":
        return root_schema()
    return None if case.kind == "rows" else schema(case.kind)


def _num_rows(case: Case) -> int:
    return len(root_rows() if case.kind == "root" else IMAGES)


def _compare_rows(case: Case, rows: list[dict], required: Iterable[int]) -> str:
    if case.kind == "root":
        return _compare_jets(case, rows, required)
    images = {}
    for one in rows:
        image = sparse_to_dense(one["pixel_index"], one["pixel_value"], SHAPE)
        _look_for_secret(image.tobytes(), image.astype(np.uint8).tobytes(), str(one["event_id"]).encode())
        images[one["event_id"]] = image, one["labels"], one["mass_labels"]
    if case.images is None:
        return "read"
    expected = {
        f"jets{'' if case.kind == 'rows' else Path(case.file_name).suffix}:{number}": values
        for number, values in enumerate(zip(case.images, LABELS, MASSES))
    }
    equal = len(images) == len(rows) and all(
        event_id in expected and all(np.array_equal(a, b) for a, b in zip(values, expected[event_id]))
        for event_id, values in images.items()
    )
    complete = {int(event_id.rsplit(":", 1)[1]) for event_id in images if event_id in expected} >= {*required}
    return _equal(case, equal and complete, f"{len(rows)} rows")


def _compare_jets(case: Case, rows: list[dict], required: Iterable[int]) -> str:
    found = [root_rows().index(row) if row in root_rows() else None for row in rows]
    equal = None not in found and len({*found}) == len(found) and {*found} >= {*required}
    return _equal(case, equal, f"{len(rows)} jets")


def _equal(case: Case, equal: bool, what: str) -> str:
    if not equal and case.detectable:
        raise Wrong(f"{what} that the file does not hold")
    return "equal" if equal else "changed"


def _dense(image: np.ndarray | dict) -> np.ndarray:
    """What the pipeline reads, as an image if it can be one."""
    if isinstance(image, np.ndarray):
        return image
    return np.array(image["pixel_value"] or [], np.float32)


def _alike(predictions: list[dict], expected: list[dict]) -> bool:
    numbers = [[(one["mass"], one["score"]) for one in several] for several in (predictions, expected)]
    return len(predictions) == len(expected) and np.allclose(*numbers, rtol=1e-6)


def _look_for_secret(*texts: bytes) -> None:
    if any(SECRET in text for text in texts):
        raise Outside("bytes of another file")


def start_readers() -> None:
    """Load and start, before anything is forked, what all files share."""
    for image in IMAGES:
        _predict(image)
    uploads.start_reader()
    # a fork cannot wait for a process of its parent, and would start another one
    uploads._reader.process.poll = lambda: None


@cache
def _pipeline():
    with tempfile.TemporaryDirectory() as folder:
        for name, data in CHECKPOINT.items():
            Path(folder, name).write_bytes(data)
        return pipeline("e2e-jets", model=folder)


_known: dict[bytes, dict] = {}


def _predict(image: np.ndarray) -> dict:
    """Of an image as it should be read, in single precision."""
    key = image.astype(np.float32).tobytes()
    if key not in _known:
        _known[key] = _pipeline()(np.frombuffer(key, np.float32).reshape(SHAPE), channel_names=list(CHANNELS))
    return _known[key]
