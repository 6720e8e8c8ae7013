"""Simulated events as ntuples: they come back as the rows they were."""

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ntuple_files import rows_of, variant
from samples import row_table

from e2evit.cli.command import run
from e2evit.data import find_schema
from e2evit.data.grid import resample_endcaps
from e2evit.data.schema import row_features
from e2evit.data.sparse import dense_to_sparse, list_array, sparse_to_dense
from e2evit.simulation.ntuples import write_ntuples


@pytest.mark.parametrize(("ending", "like"), [("8", "boosted_top"), ("resampled", "ntuple")])
def test_simulated_events_come_back_from_their_ntuple(ending, like, tmp_path, monkeypatch, capsys):
    names = find_schema("simulated").channel_names if ending == "8" else variant(like).channel_names
    ecal, hcal = names.index("ecal"), names.index("hcal")
    images = np.zeros((3, len(names), 280, 360), np.float32)
    rng = np.random.default_rng(0)
    images[:, :] = rng.integers(1, 9, images.shape) * (rng.random(images.shape) < 0.01)
    images[:, hcal] = np.kron(rng.integers(0, 2, (3, 56, 72)) * 16, np.ones((5, 5)))
    resample_endcaps(images[:, ecal])
    index, value = dense_to_sparse(images)
    schema = replace(find_schema("simulated"), channel_names=names, image_size=(280, 360), lists=("jets",))
    eta, phi = [0.1, -0.3, 2.9, 1.0], [3.1, -3.1, 0.0, 1.0]
    jets = {"pt": [500, 400, 300, 450], "eta": eta, "phi": phi, "labels": [1, 0, 0, 1], "mass": [170, 20, 10, 160]}
    jets |= {"mass_labels": [172, np.nan, np.nan, 173], "merged": [True, False, False, True]}
    columns = {"pixel_index": index, "pixel_value": value, "event_id": [f"top-0-4-{event}" for event in (0, 1, 5)]}
    columns |= {f"jets_{name}": list_array(np.array(of), [3, 0, 1]) for name, of in jets.items()}
    target = row_features(schema).arrow_schema
    table = pa.table({name: columns.get(name, pa.nulls(3)) for name in target.names}).cast(target)
    described = json.dumps(schema.description_of_rows(["qcd", "top"])).encode()
    table = table.replace_schema_metadata(target.metadata | {b"e2evit": described})
    pq.write_table(table, tmp_path / "top-00004-3.parquet")

    folder = write_ntuples(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["top-00004-3.root"]
    written = (folder / "top-00004-3.root").stat()
    (folder / ".top-00004-3.root.gone-1.tmp").write_bytes(b"of a run that was killed")
    os.utime(tmp_path / "top-00004-3.parquet", ns=(written.st_mtime_ns - 10**9,) * 2)
    write_ntuples(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["top-00004-3.root"]
    assert (folder / "top-00004-3.root").stat().st_mtime_ns == written.st_mtime_ns
    os.utime(tmp_path / "top-00004-3.parquet", ns=(written.st_mtime_ns + 10**9,) * 2)  # of another simulation
    write_ntuples(tmp_path)
    assert (folder / "top-00004-3.root").stat().st_mtime_ns > written.st_mtime_ns
    os.utime(tmp_path / "top-00004-3.parquet", ns=(written.st_mtime_ns,) * 2)
    rows = rows_of(folder / "top-00004-3.root", find_schema(f"ntuple_events_{ending}", folder))
    assert [(row["pixel_index"], row["pixel_value"]) for row in rows] == list(
        zip(index.to_pylist(), value.to_pylist())
    )
    assert [row["event_id"] for row in rows] == ["2:5:0", "2:5:1", "2:5:5"]
    schema = find_schema(f"ntuple_{ending}", folder)
    rows = rows_of(folder / "top-00004-3.root", schema)
    assert schema.variant == "dijet"
    assert [row["parton"] for row in rows] == [6, None, 6]  # the third jet's window leaves the grid
    assert [row["event_id"] for row in rows] == ["2:5:0", "2:5:0", "2:5:5"]
    for row, event in zip(rows, (0, 0, 2)):
        row_0, column_0 = 5 * (row["ieta"] - 12), 5 * (row["iphi"] - 12)
        window = np.roll(images[event], -column_0, axis=-1)[:, row_0 : row_0 + 125, :125]
        assert np.array_equal(sparse_to_dense(row["pixel_index"], row["pixel_value"], (len(names), 125, 125)), window)
    before = (folder / "top-00004-3.root").stat().st_mtime_ns
    write_ntuples(tmp_path)
    assert (folder / "top-00004-3.root").stat().st_mtime_ns == before
    (folder / "top-00004-3.root").write_bytes(b"root")
    write_ntuples(tmp_path)
    assert len(rows_of(folder / "top-00004-3.root", schema)) == 3

    monkeypatch.setattr("e2evit.cli.simulate.simulate", lambda **_: tmp_path)
    run("simulate", ["--output_dir", str(tmp_path), "--whole_detector", "--format", "ntuple"])
    (command,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  e2evit prepare"))
    assert f"prepare ntuple_{ending} " in command
    run("prepare", shlex.split(command)[2:])
    shards = Path(f"{tmp_path}_jets").glob("data/*.parquet")
    assert sum(pq.read_metadata(path).num_rows for path in shards) == 3


def test_what_cannot_be_an_ntuple_is_not_simulated(capsys, tmp_path):
    for options, message in (
        (["--format", "ntuple"], "An ntuple holds whole events: add --whole_detector"),
        (["--format", "h5"], "`format` is rows or ntuple, got 'h5'"),
    ):
        with pytest.raises(SystemExit):
            run("simulate", ["--output_dir", str(tmp_path / "out"), *options])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    pq.write_table(row_table(2), tmp_path / "top-00000-2.parquet")
    with pytest.raises(ValueError, match="holds jets, and an ntuple whole events: simulate with `whole_detector`"):
        write_ntuples(tmp_path)
    assert not (tmp_path / "ntuples").exists()
