"""Prepared repositories: readable without our code, resumed to the byte, with bad rows left out and listed."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from public_files import jets, max_scaled, write_hdf5, write_parquet, write_public
from samples import HDF5_SCHEMA, row_table

from e2evit import load_e2e
from e2evit.data import SplitRule, find_schema
from e2evit.data import prepare as prepare_module
from e2evit.data.formats import FileError
from e2evit.data.prepare import MANIFEST_FILE, prepare
from e2evit.data.resolve import PROGRESS_FOLDER
from e2evit.data.sparse import sparse_to_dense

ROOT = Path(__file__).parents[1]


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all files, including hidden ones."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """2 500 labelled jets with a user's own small images, in two files of three shards each."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    for part in range(2):
        images = rng.exponential(2, (2500, 2, 10, 10)) * (rng.random((2500, 2, 10, 10)) < 0.1)
        columns = {"x": images.astype(np.float32), "y": np.arange(2500) % 2, "m": rng.uniform(10, 100, 2500)}
        write_hdf5(folder / f"part{part}.h5", columns, "")
    (folder / "schema.yaml").write_text(
        yaml.safe_dump(
            HDF5_SCHEMA
            | {
                "image_size": [10, 10],
                "columns": {"image": "x", "labels": "y", "mass_labels": "m"},
                "labels": {"no": "", "yes": ""},
            }
        )
    )
    return folder


def command(raw: Path, output: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, str(ROOT / "scripts/prepare_data.py"), "custom", "--schema", str(raw / "schema.yaml")),
        *("--data_dir", str(raw), "--output_dir", str(output), "--shard_megabytes", "0.0001", *more),
    ]


def prepare_raw(raw: Path, output: Path, **more) -> Path:
    return prepare("custom", raw, output, schema=raw / "schema.yaml", shard_megabytes=1e-4, **more)


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    return prepare_raw(raw, tmp_path_factory.mktemp("prepared") / "out")


def test_plain_datasets_read_it(raw, prepared):
    plain = datasets.load_dataset(str(prepared))
    splits = SplitRule().assign(f"part{part}.h5:{row}" for part in range(2) for row in range(2500))
    assert {split: len(rows) for split, rows in plain.items()} == {
        split: int((splits == split).sum()) for split in ("train", "validation", "test")
    }
    assert plain["train"].features["labels"].names == ["no", "yes"]
    by_glob = datasets.load_dataset("parquet", data_files={"train": str(prepared / "data/train-*")}, split="train")
    assert by_glob["event_id"][:] == plain["train"]["event_id"][:]
    ours = load_e2e("custom", prepared)
    with h5py.File(raw / "part1.h5") as file:
        images, masses = file["x"][:], file["m"][:]
    for split, rows in plain.items():
        assert ours[split]["event_id"][:] == rows["event_id"][:]
        assert set(SplitRule().assign(rows["event_id"])) == {split}
        for row in rows.select(range(0, len(rows), 100)):
            if row["event_id"].startswith("part1.h5:"):
                number = int(row["event_id"].split(":")[1])
                image = sparse_to_dense(row["pixel_index"], row["pixel_value"], (2, 10, 10))
                assert np.array_equal(image, images[number])
                assert row["mass_labels"] == np.float32(masses[number])


def test_shards_have_small_row_groups_checksums_and_a_manifest(prepared):
    manifest = json.loads((prepared / MANIFEST_FILE).read_text())
    found = contents(prepared / "data")
    listed = {shard["file"]: shard for shards in manifest["shards"].values() for shard in shards}
    assert found == {name: shard["sha256"] for name, shard in listed.items()}
    assert len(manifest["shards"]["train"]) == 6
    for name, shard in listed.items():
        file = pq.ParquetFile(prepared / "data" / name)
        assert file.metadata.num_rows == shard["rows"]
        assert max(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)) <= 1000
        column = file.metadata.row_group(0).column(0)
        assert column.compression == "ZSTD"
        assert "DELTA_BINARY_PACKED" in column.encodings
    assert sorted(manifest["files"]) == ["part0.h5", "part1.h5"]


def test_the_card(prepared):
    from huggingface_hub import DatasetCard

    card = DatasetCard((prepared / "README.md").read_text())
    assert card.data.configs[0]["data_files"][0] == {"split": "train", "path": "data/train-*"}
    assert card.data.size_categories == ["1K<n<10K"]
    shards = json.loads((prepared / MANIFEST_FILE).read_text())["shards"]["train"]
    assert f"| `train` | {sum(shard['rows'] for shard in shards)} |" in card.text
    assert "| `ecal` | GeV | ECAL energy |" in card.text
    assert not re.findall(r"\n\n\n|{{|{%", card.text)


def test_rows_of_the_simulation_keep_all_columns(simulated_jets, tmp_path):
    prepare("simulated", simulated_jets, tmp_path / "out")
    before = load_e2e("simulated", simulated_jets, cache_dir=tmp_path / "cache")
    after = load_e2e("simulated", tmp_path / "out", cache_dir=tmp_path / "cache")
    for split in before:
        # an event may have two jets
        rows, prepared_rows = (
            {(row["event_id"], row["ieta"], row["iphi"]): row for row in dataset[split]} for dataset in (before, after)
        )
        assert len(rows) == len(before[split])
        assert rows == prepared_rows
        assert before[split].features == after[split].features


def test_own_splits_survive(tmp_path):
    (tmp_path / "raw").mkdir()
    write_public("quark_gluon parquet", tmp_path / "raw", 6)
    (test,) = (tmp_path / "raw").iterdir()
    shutil.copyfile(test, test.with_name(test.name.replace(".test.", ".train.")))
    prepare("quark_gluon", tmp_path / "raw", tmp_path / "out")
    dataset = load_e2e("quark_gluon", tmp_path / "out", cache_dir=tmp_path / "cache")
    assert {event.split(":")[0] for event in dataset["test"]["event_id"]} == {test.name}
    assert len(dataset["test"]) == len(dataset["train"]) + len(dataset["validation"]) == 6
    with pytest.raises(ValueError, match="has its own splits, which `salt` does not change"):
        load_e2e("quark_gluon", tmp_path / "out", salt="other")
    with pytest.raises(ValueError, match="holds the data set 'quark_gluon', not 'top_mass'"):
        find_schema("top_mass", tmp_path / "out")


def test_killed_and_restarted_ends_with_the_same_bytes(raw, prepared, tmp_path):
    """All its processes are killed as soon as it has written something."""
    output = tmp_path / "out"
    for _ in range(5):  # on a busy machine it may finish before it can be killed
        shutil.rmtree(output, ignore_errors=True)
        running = subprocess.Popen(command(raw, output), start_new_session=True, stdout=subprocess.DEVNULL)
        while running.poll() is None and not list(output.glob("data/*.parquet")):
            time.sleep(0.001)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        if not (output / MANIFEST_FILE).exists():
            break
    else:
        pytest.fail("it finished each time")
    for shard in output.glob("data/*.parquet"):
        assert pq.read_metadata(shard).num_rows > 0
    finished = {path.name: path.stat().st_mtime_ns for path in output.glob(".progress/0*.json")}
    shards = {path: path.stat().st_mtime_ns for path in output.glob("data/*.parquet")}
    prepare_raw(raw, output, num_proc=2)
    assert contents(output) == contents(prepared)
    kept = [path for path, time_before in shards.items() if path.stat().st_mtime_ns == time_before]
    assert len(kept) >= 3 * len(finished), "finished shards were made again"


def test_a_finished_folder_is_left_alone_and_another_recipe_refused(raw, prepared, tmp_path):
    before = contents(prepared)
    prepare_raw(raw, prepared)
    assert contents(prepared) == before
    with pytest.raises(ValueError, match=r"made with other settings \(split salt: e2evit there, other now\)"):
        prepare_raw(raw, prepared, rule=SplitRule("other"))
    with pytest.raises(ValueError, match="choose another `output_dir`"):
        prepare_raw(raw, raw)
    with pytest.raises(ValueError, match="'error' or 'skip', got 'ignore'"):
        prepare_raw(raw, tmp_path / "out", on_bad_rows="ignore")
    assert not (tmp_path / "out").exists()


def test_bad_rows_are_left_out_counted_and_listed(tmp_path):
    images, labels = max_scaled(jets("labelled", 70)), np.arange(70) % 2
    images[5, 3, 10, 10], images[6, 3, 1, 1], images[66, 0, 0, 0] = np.nan, np.inf, np.nan
    labels[20] = 7
    raw = tmp_path / "raw"
    raw.mkdir()
    write_hdf5(raw / "set.h5", {"jet": np.moveaxis(images, 1, -1), "Y": labels}, "")
    with pytest.raises(FileError, match=r"rows 5-6: NaN .*channel ecal\. Fix the file, or .*--on_bad_rows skip"):
        prepare("labelled", raw, tmp_path / "strict")
    folder = prepare("labelled", raw, tmp_path / "out", on_bad_rows="skip")
    report = json.loads((folder / "bad_rows.json").read_text())
    assert report["number"] == 4
    assert [(rows["first"], rows["last"]) for rows in report["rows"]] == [(5, 6), (20, 20), (66, 66)]
    assert "the label 7; known ones: 0 (qcd), 1 (top)" in report["rows"][1]["reason"]
    kept = load_e2e("labelled", folder, cache_dir=tmp_path / "cache")
    numbers = sorted(int(row["event_id"].split(":")[1]) for part in kept.values() for row in part)
    assert numbers == [row for row in range(70) if row not in (5, 6, 20, 66)]
    assert "4 rows that failed the checks were dropped" in (folder / "README.md").read_text()


def test_a_flipped_byte_in_a_row_group(tmp_path):
    """Pages of our rows have checksums; in public files, only damage that breaks the format is noticed."""
    folder = tmp_path / "rows"
    folder.mkdir()
    path = folder / "part.parquet"
    from e2evit.data.sparse import COLUMN_ENCODINGS

    pq.write_table(row_table(60), path, row_group_size=20, **COLUMN_ENCODINGS)
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    place = column.data_page_offset + column.total_compressed_size // 2
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 0x10
    path.write_bytes(damaged)
    with pytest.raises(FileError, match=r"part\.parquet, rows 20-39: row group 1 is unreadable \(.*"):
        load_e2e("simulated", folder, cache_dir=tmp_path / "cache")
    out = prepare("simulated", folder, tmp_path / "out", on_bad_rows="skip")
    assert json.loads((out / "bad_rows.json").read_text())["number"] == 20
    found = load_e2e("simulated", out, cache_dir=tmp_path / "cache")
    events = {row["event_id"] for part in found.values() for row in part}
    assert events == {f"test-0-{row}" for row in range(60) if not 20 <= row < 40}


def test_a_broken_chunk_of_hdf5(tmp_path):
    images = max_scaled(jets("labelled", 12))
    columns = {"jet": np.moveaxis(images, 1, -1), "Y": np.arange(12) % 2}
    raw = tmp_path / "raw"
    raw.mkdir()
    path = write_hdf5(raw / "set.h5", columns, "jet", chunks=(3, 125, 125, 8), compression="gzip")
    with h5py.File(path) as file:
        chunk = file["jet"].id.get_chunk_info(1)
    damaged = bytearray(path.read_bytes())
    damaged[chunk.byte_offset : chunk.byte_offset + 100] = bytes(100)
    path.write_bytes(damaged)
    out = prepare("labelled", raw, tmp_path / "out", on_bad_rows="skip")
    rows = json.loads((out / "bad_rows.json").read_text())["rows"]
    assert [entry["first"] for entry in rows] == [3, 4, 5]
    assert all("unreadable" in entry["reason"] for entry in rows)


def test_nothing_fits(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    write_parquet(raw / "a.parquet", {"X_jet": jets("top_mass", 3), "m": np.full(3, 5e4)})
    with pytest.raises(FileError, match=r"no row fits the data set 'top_mass': .*a\.parquet, .*: a mass of 50000 GeV"):
        prepare("top_mass", raw, tmp_path / "out", on_bad_rows="skip")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage_record",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text(path.read_text().replace('"file"', '"fime"', 1)),
        lambda path: path.write_text(re.sub(r'"rows": (\d)', '"rows": 9\\1', path.read_text(), count=1)),
        lambda path: path.write_text(path.read_text().replace('"sha256"', '"sha257"')),
    ],
    ids=["cut", "key", "number", "hash"],
)
def test_damaged_shards_of_an_interrupted_run_are_made_again(
    damage_record, raw, prepared, tmp_path, monkeypatch, caplog
):
    output, finish = tmp_path / "out", prepare_module._finish

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "_finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_raw(raw, output)
    shards = sorted(output.glob("data/*.parquet"))
    flip(shards[0])
    shards[-1].unlink()
    records = sorted((output / ".progress").glob("0*.json"))
    damage_record(records[0])
    monkeypatch.setattr(prepare_module, "_finish", finish)
    prepare_raw(raw, output)
    assert contents(output) == contents(prepared)
    assert "changed since they were written: made again" in caplog.text
    assert "00000.json is damaged" in caplog.text


def test_damaged_shards_of_a_finished_data_set(raw, prepared, tmp_path):
    output = shutil.copytree(prepared, tmp_path / "out")
    shard = min(output.glob("data/*.parquet"))
    flip(shard)
    with pytest.raises(FileError, match=rf"{shard.name} changed since they were written \(SHA-256\)\. Restore"):
        prepare_raw(raw, output)
    (output / MANIFEST_FILE).write_text("{")
    with pytest.raises(ValueError, match=r"e2evit\.json is damaged"):
        prepare_raw(raw, output)


def test_shards_are_those_that_the_record_lists(raw, prepared, tmp_path):
    """One that is missing, left over or unfinished would change the rows without a word; a split may be left out."""
    folder = tmp_path / "out"
    shutil.copytree(prepared, folder)
    shard = next((folder / "data").glob("train-*"))
    shard.rename(tmp_path / shard.name)
    with pytest.raises(FileError, match=f"lacks {shard.name}, which e2evit.json lists"):
        load_e2e("custom", folder)
    for other in (folder / "data").glob("train-*"):
        other.unlink()
    assert load_e2e("custom", folder, split="test", streaming=True) is not None
    shutil.copy(tmp_path / shard.name, folder / "data/train-00000-of-00001.parquet")
    with pytest.raises(FileError, match=r"holds train-00000-of-00001\.parquet, which e2evit\.json does not list"):
        load_e2e("custom", folder)
    (folder / MANIFEST_FILE).unlink()
    with pytest.raises(ValueError, match=r"holds train-00000-of-00001\.parquet of another preparation"):
        prepare_raw(raw, folder)
    (folder / PROGRESS_FOLDER).mkdir(exist_ok=True)
    with pytest.raises(FileError, match="is not complete: run `e2evit prepare`"):
        load_e2e("custom", folder)


def test_a_bad_row_may_be_skipped_later(raw, tmp_path):
    """As the message says, in the same folder."""
    images = np.ones((10, 2, 10, 10), np.float32)
    images[3, 0, 0, 0] = np.nan
    (tmp_path / "raw").mkdir()
    write_hdf5(tmp_path / "raw/part.h5", {"x": images, "y": np.arange(10) % 2, "m": np.full(10, 50.0)}, "")
    given = {"schema": raw / "schema.yaml"}
    with pytest.raises(FileError, match=r"row 3: .* or skip such rows: `e2evit prepare \.\.\. --on_bad_rows skip`"):
        prepare("custom", tmp_path / "raw", tmp_path / "out", **given)
    folder = prepare("custom", tmp_path / "raw", tmp_path / "out", on_bad_rows="skip", **given)
    assert json.loads((folder / MANIFEST_FILE).read_text())["num_bad_rows"] == 1
    assert sum(map(len, load_e2e("custom", folder).values())) == 9


def test_what_is_not_ours_is_not_written_over(raw, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text("my notes")
    (tmp_path / "link").symlink_to(raw)
    given = {"schema": raw / "schema.yaml"}
    with pytest.raises(ValueError, match=r"holds a README\.md that is not ours: choose a new"):
        prepare("custom", raw, tmp_path / "mine", **given)
    assert (tmp_path / "mine/README.md").read_text() == "my notes"
    with pytest.raises(ValueError, match="link holds the files to read"):
        prepare("custom", raw, tmp_path / "link", **given)
    with pytest.raises(ValueError, match="shard_megabytes > 0, got 1 and inf"):
        prepare("custom", raw, tmp_path / "new", shard_megabytes=float("inf"), **given)
