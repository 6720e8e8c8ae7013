"""Random jets in the formats that tests need."""

import json

import numpy as np
import pyarrow as pa
import torch
from e2evit.modeling.modeling_tokens import Pixels

from e2evit.data import find_schema
from e2evit.data.schema import row_features
from e2evit.data.sparse import dense_to_sparse
from e2evit.results.predictions import hash_of_ids
from e2evit.results.record import Result

# a schema of HDF5 files, but for `image_size`, `columns` and `labels`
HDF5_SCHEMA = {
    **{"description": "small", "source": "tests", "licence": "CC0", "format": "hdf5", "pattern": "*.h5"},
    "channel_names": ["ecal", "hcal"],
}


def random_images(number: int, seed: int = 0, shape=(8, 125, 125), labels=None) -> np.ndarray:
    """Mostly empty images; those with label 1 hold five times the energy, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    images = rng.exponential(2.0, (number, *shape)).astype(np.float32) * (rng.random((number, *shape)) < 0.015)
    images[:, 1:3] *= rng.choice([-0.01, 0.01], (number, 2, *shape[1:])).astype(np.float32)
    if labels is not None:
        images *= np.where(labels == 1, 5.0, 1.0).astype(np.float32)[:, None, None, None]
    return images


def pixels_of(images: np.ndarray) -> Pixels:
    """The pixels that are not zero, in detector units."""
    index, value = dense_to_sparse(images)
    image = np.repeat(np.arange(len(images)), np.diff(index.offsets.to_numpy()))
    lists = image, index.flatten().to_numpy().astype(np.int64), value.flatten().to_numpy()
    return Pixels(*map(torch.tensor, lists), len(images))


def row_table(number: int, seed: int = 0, **replaced) -> pa.Table:
    """Rows in the format of the simulation."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, number)
    index, value = dense_to_sparse(random_images(number, seed, labels=labels))
    columns = {
        "pixel_index": index,
        "pixel_value": value,
        "labels": labels,
        "mass_labels": pa.array([173.0 if label else None for label in labels], pa.float32()),
        "jet_mass": (80.0 + 90.0 * labels + rng.normal(0, 10, number)).astype(np.float32),
        "pt": rng.uniform(400, 1000, number).astype(np.float32),
        "ieta": rng.integers(12, 44, number).astype(np.int32),
        "iphi": rng.integers(0, 72, number).astype(np.int32),
        "event_id": [f"test-{seed}-{row}" for row in range(number)],
    }
    schema = find_schema("simulated")
    columns |= {name: pa.nulls(number) for name in ("eta", "merged", "parton", "num_pileup", *schema.extra)}
    target = row_features(schema).arrow_schema
    description = json.dumps(schema.description_of_rows(["qcd", "top"])).encode()
    table = pa.table(columns | replaced).select(target.names).cast(target)
    return table.replace_schema_metadata(target.metadata | {b"e2evit": description})


def make_result(model: str, seed: int | None, of_model: dict[str, float] | None = None, **fields) -> Result:
    """A result on simulated test jets; `of_model` holds the metrics of the model alone."""
    predicted = fields.get("predictions", {})
    rows = {"rows": len(next(iter(predicted.values()))) if predicted else 200}
    ids = hash_of_ids(predicted["event_id"]) if "event_id" in predicted else "0"
    default = {
        **{"date": "2026-01-01T00:00:00Z", "commit": None, "versions": {}, "hardware": {"processor": None}},
        **{"dataset": "simulated", "split": "test", "data": {"test": rows | {"event_ids": ids}}},
        **{"mass_column": "jet_mass", "label_names": ["qcd", "top"], "channel_names": ["ecal"]},
        **{"image_size": [125, 125], "metrics": {"model": of_model}},
    }
    return Result(model=model, seed=seed, **default | fields)
