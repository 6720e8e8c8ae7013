"""Whole events keep their jets."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from e2evit import load_e2e
from e2evit.data import find_schema
from e2evit.data.columns import EVENT_JET_COLUMNS
from e2evit.simulation import SimulationSettings, shards

SETTINGS = SimulationSettings(seed=3, pileup=0.0, whole_detector=True)


@pytest.fixture(scope="module")
def events() -> dict[str, pa.Table]:
    return {process: shards.make_shard(process, 0, 12, SETTINGS) for process in ("w", "top")}


def lists_of(table: pa.Table) -> dict[str, list]:
    return {name: table[name].to_pylist() for name in EVENT_JET_COLUMNS}


def test_jets_of_events(events):
    classes = find_schema("simulated").label_names
    for process, table in events.items():
        jets = lists_of(table)
        numbers = [len(of) for of in jets["jets_pt"]]
        assert all([len(of) for of in values] == numbers for values in jets.values())
        for row, pt in enumerate(table["pt"].to_pylist()):
            (own,) = np.flatnonzero(np.isclose(jets["jets_pt"][row], pt, rtol=1e-5))
            of_row = {name: values[row][own] for name, values in jets.items()}
            assert of_row["jets_labels"] == classes.index(process)
            for name in ("eta", "phi", "mass_labels", "merged"):
                assert of_row[f"jets_{name}"] == pytest.approx(table[name][row].as_py(), rel=1e-5)
            assert of_row["jets_mass"] == pytest.approx(table["jet_mass"][row].as_py(), rel=1e-4)
            assert jets["jets_pt"][row] == sorted(jets["jets_pt"][row], reverse=True)
            for label, mass, merged in zip(
                *(jets[f"jets_{name}"][row] for name in ("labels", "mass_labels", "merged"))
            ):
                assert (label == classes.index("qcd")) == np.isnan(mass)
                assert not (np.isnan(mass) and merged)
    # the W recoils against a jet of a quark or gluon
    assert np.mean([classes.index("qcd") in labels for labels in lists_of(events["w"])["jets_labels"]]) > 0.5
    assert max(map(len, lists_of(events["top"])["jets_labels"])) >= 2


def test_loaded_jets_have_the_numbers_of_the_classes(events, tmp_path):
    for process, table in events.items():
        pq.write_table(table, tmp_path / f"{process}-00000-12.parquet")
    schema = find_schema("simulated", tmp_path)
    assert (schema.lists, schema.label_names) == (("jets",), ("qcd", "top", "w"))
    rows = datasets.concatenate_datasets(list(load_e2e("simulated", tmp_path, cache_dir=tmp_path / "cache").values()))
    assert rows.features["jets_labels"].feature.names == ["qcd", "top", "w"]
    for labels, label in zip(rows["jets_labels"], rows["labels"]):
        assert set(labels) <= {0, label}
        assert label in labels


@pytest.mark.parametrize("wrong", [11, -1, 1])
def test_labels_that_are_no_class(events, tmp_path, wrong):
    table = events["w"]
    lists, field = table["jets_labels"].to_pylist(), table.schema.field("jets_labels")
    lists[5][0] = wrong
    where = table.column_names.index("jets_labels")
    pq.write_table(table.set_column(where, field, pa.array(lists, field.type)), tmp_path / "w-00000-12.parquet")
    with pytest.raises(Exception, match=f"the label {wrong} of a jet, which is no class"):
        load_e2e("simulated", tmp_path, cache_dir=tmp_path / "cache")
