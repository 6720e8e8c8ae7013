"""An interrupted preparation whose files have changed since: what is kept, and what is made anew."""

import hashlib
import json
import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard
from samples import HDF5_SCHEMA

from e2evit.cli.command import run
from e2evit.data import prepare as module
from e2evit.data.prepare import MANIFEST_FILE, prepare
from e2evit.data.progress import MOVED, read_record, write_record
from e2evit.data.resolve import PROGRESS_FOLDER

SCHEMA = HDF5_SCHEMA | {
    "image_size": [4, 4],
    "columns": {"image": "x", "labels": {"keys": "y", "missing": [-1]}},
    "labels": {"no": "", "yes": ""},
}


def write(folder, name, rows, seed=0, missing=0):
    """Images of `rows` jets, `missing` of them without a label."""
    rng = np.random.default_rng(seed)
    with h5py.File(folder / name, "w") as file:
        file["x"] = (rng.exponential(2, (rows, 2, 4, 4)) * (rng.random((rows, 2, 4, 4)) < 0.2)).astype(np.float32)
        file["y"] = np.where(np.arange(rows) < missing, -1, np.arange(rows) % 2)


@pytest.fixture
def raw(tmp_path):
    """Three files, of two, one and two pieces."""
    folder = tmp_path / "raw"
    folder.mkdir()
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(SCHEMA))
    for number, rows in enumerate((1500, 900, 1800)):
        write(folder, f"part{number}.h5", rows, number)
    return folder


def finish(raw, output):
    return prepare("custom", raw, output, schema=raw.parent / "schema.yaml", shard_megabytes=1e-4)


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def interrupted(raw, tmp_path, monkeypatch):
    """A preparation that was killed in its last step."""

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            finish(raw, tmp_path / "out")
    return tmp_path / "out"


def shards(output):
    """Names of shards by what tells that they are the same files."""
    found = (output / "data").glob("*.parquet")
    return {(path.stat().st_ino, path.stat().st_mtime_ns): path.name for path in found}


def test_a_file_that_was_repaired(raw, interrupted, tmp_path, caplog):
    """Its size is the same."""
    before = shards(interrupted)
    write(raw, "part1.h5", 900, seed=9)
    finish(raw, interrupted)
    kept = {name for file, name in shards(interrupted).items() if file in before}
    assert {name.split("-")[1] for name in kept} == {"00000", "00001", "00003", "00004"}
    assert contents(interrupted) == contents(finish(raw, tmp_path / "fresh"))
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ["Changed since the interrupted run: part1.h5. These rows are prepared again."]


@pytest.mark.parametrize(
    ("rows", "kept"), [((2500, 900, 1800), 2 + 1), ((1500, 2900, 1800), 2 + 2), ((900, 2900, 1800), 2)]
)
def test_files_with_other_numbers_of_rows(rows, kept, raw, interrupted, tmp_path):
    """Shards of the others get the numbers that they have in a new preparation."""
    before = shards(interrupted)
    for number, now in enumerate(rows):
        if now != (1500, 900, 1800)[number]:
            write(raw, f"part{number}.h5", now, seed=9)
    finish(raw, interrupted)
    pieces = {name.split("-")[1] for file, name in shards(interrupted).items() if file in before}
    assert len(pieces) == kept
    assert contents(interrupted) == contents(finish(raw, tmp_path / "fresh"))


@pytest.mark.parametrize("renames", [0, 4, 9, 14])
def test_killed_while_shards_get_other_numbers(renames, raw, interrupted, tmp_path, monkeypatch):
    write(raw, "part0.h5", 2500, seed=9)
    rename, left = Path.rename, [renames]

    def stop(self, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            finish(raw, interrupted)
    finish(raw, interrupted)
    assert contents(interrupted) == contents(finish(raw, tmp_path / "fresh"))
    assert not (interrupted / PROGRESS_FOLDER / MOVED).exists()


def test_other_files_are_another_preparation(raw, interrupted):
    before = contents(interrupted)
    (raw / "part2.h5").rename(raw / "part3.h5")
    with pytest.raises(
        ValueError, match=r"other settings \(files part2.h5: \d+ there, none now, files part3.h5: none"
    ):
        finish(raw, interrupted)
    assert contents(interrupted) == before


def test_records_of_an_earlier_version_are_made_again(raw, interrupted, tmp_path, caplog):
    for path in (interrupted / PROGRESS_FOLDER).glob("0*.json"):
        record = read_record(path)
        del record["source"]
        write_record(path, record)
    before = shards(interrupted)
    finish(raw, interrupted)
    assert not before.keys() & shards(interrupted).keys()
    assert contents(interrupted) == contents(finish(raw, tmp_path / "fresh"))
    assert "Changed" not in caplog.text


def test_rows_without_a_label_are_counted(raw, tmp_path, capsys):
    write(raw, "part0.h5", 1500, missing=7)
    arguments = ["custom", "--schema", str(tmp_path / "schema.yaml"), "--data_dir", str(raw), "--output_dir"]
    run("prepare", [*arguments, str(tmp_path / "out")])
    assert f"Prepared custom in {tmp_path / 'out'}: 4200 rows, 7 without a label" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / MANIFEST_FILE).read_text())["num_rows_without_label"] == 7
    assert "1 `yes`, . Rows without a label: 7.\n" in DatasetCard.load(tmp_path / "out/README.md").text
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(SCHEMA | {"labels": {}, "columns": {"image": "x"}}))
    run("prepare", [*arguments, str(tmp_path / "other")])
    assert "4200 rows\n" in capsys.readouterr().out
    assert "num_rows_without_label" not in json.loads((tmp_path / "other" / MANIFEST_FILE).read_text())
