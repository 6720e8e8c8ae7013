"""Splits: by event, by the data set's own files, and folds."""

import numpy as np
import pytest
from public_files import jets, write_parquet, write_public

from e2evit import load_e2e
from e2evit.data import SplitRule, assign_splits


def test_own_splits_are_kept_and_folds_made(tmp_path):
    images, columns = (
        jets("quark_gluon", 40),
        {"pt": np.full(40, 90.0), "m0": np.full(40, 9.0), "y": np.arange(40) % 2},
    )
    for part, rows in (("train", slice(0, 30)), ("test", slice(30, 40))):
        chosen = {name: column[rows] for name, column in ({"X_jets": images} | columns).items()}
        write_parquet(tmp_path / f"QCD.{part}.snappy.parquet", chosen, 10)
    dataset = load_e2e("quark_gluon", tmp_path, cache_dir=tmp_path / "cache")
    assert {event.split(":")[0] for event in dataset["test"]["event_id"]} == {"QCD.test.snappy.parquet"}
    assert len(dataset["test"]) == 10
    # the set has no validation split: some of its training jets are
    assert len(dataset["train"]) + len(dataset["validation"]) == 30
    assert 0 < len(dataset["validation"]) < 12
    held_out = []
    for fold in range(3):
        parts = load_e2e("quark_gluon", tmp_path, fold=fold, num_folds=3, cache_dir=tmp_path / "cache")
        assert sorted(parts["test"]["event_id"]) == sorted(dataset["test"]["event_id"])
        held_out += parts["validation"]["event_id"]
        assert not {*parts["train"]["event_id"]} & {*parts["validation"]["event_id"]}
    assert sorted(held_out) == sorted([*dataset["train"]["event_id"], *dataset["validation"]["event_id"]])
    with pytest.raises(ValueError, match="0 to num_folds - 1, got 3 of 3"):
        load_e2e("quark_gluon", tmp_path, fold=3, num_folds=3)
    write_parquet(tmp_path / "QCD.parquet", chosen, 10)
    with pytest.raises(ValueError, match=r"QCD\.parquet should be in one of the splits .*train: \*\.train\.\*"):
        load_e2e("quark_gluon", tmp_path, cache_dir=tmp_path / "cache")


def test_test_files_alone_are_split_by_event(tmp_path):
    """The public files of quarks and gluons are the producers' test files; nothing else can be trained on."""
    write_public("quark_gluon parquet", tmp_path, 20)
    dataset = load_e2e("quark_gluon", tmp_path, cache_dir=tmp_path / "cache")
    for split, rows in dataset.items():
        assert set(assign_splits(rows["event_id"][:])) == {split}
    assert sum(map(len, dataset.values())) == 20


def test_another_salt_is_another_division():
    ids = [f"event {number}" for number in range(1000)]
    divisions = [SplitRule(salt).assign(ids) for salt in ("e2evit", "other", "e2evit")]
    assert (divisions[0] == divisions[2]).all()
    assert 0.3 < (divisions[0] == divisions[1]).mean() < 0.8  # by chance 0.54
