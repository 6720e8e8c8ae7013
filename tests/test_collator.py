"""Rows of every kind to batches."""

import numpy as np
import pytest
import torch

from e2evit import E2EImageProcessor, load_e2e
from e2evit.data import find_schema
from e2evit.training.collate import E2ECollator


@pytest.fixture
def collator():
    return E2ECollator(E2EImageProcessor(find_schema("simulated").channel_names))


@pytest.fixture
def rows(jets_dir, tmp_path):
    return load_e2e("simulated", jets_dir, split="train", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas", "arrow", None])
def test_rows_in_any_format(collator, rows, kind):
    expected = collator(rows.with_format("arrow")[:4])
    formatted = rows.with_format(kind)
    batch = collator([formatted[number] for number in range(4)])
    assert batch.keys() == expected.keys()
    for name in batch:
        assert torch.equal(batch[name].nan_to_num(), expected[name].nan_to_num())
        assert batch[name].dtype == expected[name].dtype


def test_no_rows(collator, rows):
    rows = rows.with_format("arrow")
    for nothing in ([], rows[:0]):
        shapes = {name: tuple(tensor.shape) for name, tensor in collator(nothing).items()}
        assert shapes == {"pixel_values": (0, 8, 125, 125), "labels": (0,), "mass_labels": (0,)}
    assert not len(E2ECollator(collator.processor, "jet_mass")([])["mass_labels"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": 0.5}, "`labels` are the numbers of classes, got 0.5"),
        ({"labels": np.inf}, "got inf"),
        ({"pixel_index": [5.5]}, r"Row 1: `pixel_index` must be a list of integers, got \[5.5\]"),
        ({"pixel_index": torch.tensor([5], dtype=torch.bfloat16)}, "must be a list of integers"),
        ({"pixel_index": None}, "got None"),
        ({"pixel_value": ["1"]}, "Row 1: `pixel_value` must be a list of numbers"),
        ({"pixel_value": [1.0, 2.0]}, "Row 1: 1 entries in pixel_index and 2 in pixel_value"),
    ],
)
def test_rows_that_are_refused(collator, changed, message):
    row = {"pixel_index": [5], "pixel_value": [1.0], "labels": None, "mass_labels": -3.0}
    batch = collator([row, row | {"labels": np.nan, "mass_labels": None}])
    assert batch["labels"].tolist() == [-100, -100]
    assert str(batch["mass_labels"].tolist()) == "[-3.0, nan]"
    with pytest.raises(ValueError, match=message):
        collator([row, row | changed])


def test_an_error_names_the_option_of_trainer(collator):
    """transformers' Trainer removes the columns that `forward` does not name, unless it is told not to."""
    with pytest.raises(ValueError, match=r"got labels, mass_labels.*`remove_unused_columns=False`"):
        collator([{"labels": 0, "mass_labels": 80.0}])


def test_labels_can_be_left_out(rows):
    """Where a model has one class only, they would make its classifier a regression."""
    collator = E2ECollator(E2EImageProcessor(find_schema("simulated").channel_names), with_labels=False)
    assert collator(rows.with_format("arrow")[:3])["labels"].tolist() == [-100] * 3
