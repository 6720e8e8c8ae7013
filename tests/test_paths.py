"""Paths and texts that users write: `~`, a byte order mark, a locale that is not UTF-8."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest
from samples import make_result

from e2evit.cli.command import run as command
from e2evit.cli.errors import UsageError
from e2evit.cli.parser import parse
from e2evit.cli.train import evaluation
from e2evit.data.jobs import write_whole_text
from e2evit.data.packaged import find_recipe, read_recipe
from e2evit.data.schema import read_schema
from e2evit.data.storage import list_files
from e2evit.data.texts import read_mapping
from e2evit.plots import save_figure
from e2evit.results.record import Result, model_name
from e2evit.training import DataArguments, Recipe, TrainArguments, find_checkpoint, read_model_config
from e2evit.training.output import check_output_dir
from e2evit.training.tuning import read_search

SCHEMA = """
description: Größe der Jets
source: here
licence: none
format: hdf5
pattern: "*.h5"
channel_names: [ecal, hcal]
image_size: [5, 5]
channels_last: false
columns: {image: X}
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--output_dir=~/run", "--data_dir=~/jets"],
        ["--output_dir", "~/run", "--data_dir", "~/jets"],
        ["~/recipe.yaml"],
    ],
)
def test_home_is_resolved_at_the_edge(tmp_path, monkeypatch, arguments):
    """A shell does not expand what follows `=`, and never sees a recipe."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text("output_dir: ~/run\ndata_dir: ~/jets\n")
    first = ("checkpoint", "Folder of the model.")
    checkpoint, training, data = parse(
        "e2evit test", "", ["~/model", *arguments], TrainArguments, DataArguments, first=first
    )
    folders = [checkpoint, training.output_dir, data.data_dir]
    assert folders == [str(tmp_path / name) for name in ("model", "run", "jets")]
    assert find_recipe("~/recipe.yaml") == tmp_path / "recipe.yaml"


def test_home_is_resolved_in_python(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert check_output_dir("~/run", resume=False, overwrite=False) == tmp_path / "run"
    result = make_result("xcit", 0, {"roc_auc": 0.9})
    result.to_json("~/results/xcit.json")
    assert Result.from_json("~/results/xcit.json").name == result.name
    assert save_figure(plt.figure(), "~/figure") == tmp_path / "figure.png"
    assert not Path("~").exists()


@pytest.mark.parametrize("path", [".", "./", "../xcit_seed3", "../xcit_seed3/.", "a/.."])
def test_a_folder_has_one_name(tmp_path, monkeypatch, path):
    folder = tmp_path / "xcit_seed3"
    (folder / "a").mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert model_name(path, 3) == "xcit"
    assert "results/xcit_seed3.json" in evaluation(Path(path), Recipe())


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("recipe.yaml", "seed: 3", lambda path: parse("e2evit test", "", [str(path)], TrainArguments)),
        ("model.json", '{"model_type": "xcit"}', read_model_config),
        ("search.yaml", "{recipe: a, space: {seed: {choices: [1]}}}", read_search),
        ("schema.yaml", SCHEMA, read_schema),
    ],
)
def test_byte_order_marks_are_read(tmp_path, name, text, read):
    """Editors on Windows write one. Other encodings are refused by the file's name."""
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    read(path)
    path.write_bytes(text.encode() + "\n# é".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name}.*(YAML|JSON).*decode"):
        read(path)


def test_neither_yaml_nor_json(tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"list\.json: expected `key: value` pairs, got a list"):
        read_recipe(tmp_path / "list.json", "JSON")
    (tmp_path / "empty.yaml").write_text("")
    assert read_recipe(tmp_path / "empty.yaml") == {}


def test_an_address_that_does_not_answer(monkeypatch):
    class ConnectError(Exception):
        pass

    def unreachable(address):
        raise ConnectError("Name or service not known")

    monkeypatch.setattr("fsspec.core.url_to_fs", unreachable)
    with pytest.raises(OSError, match="hf://datasets/a/b does not answer: Name or service not known"):
        list_files("hf://datasets/a/b", "*.h5")


def test_a_locale_that_is_not_utf_8(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    with h5py.File(folder / "a.h5", "w") as file:
        file["X"] = np.ones((40, 2, 5, 5), np.float32)
    (folder / "schema.yaml").write_text(SCHEMA, encoding="utf-8")
    command = [sys.executable, "-m", "e2evit.cli", "prepare", "custom", "--data_dir", folder]
    command += ["--schema", folder / "schema.yaml", "--output_dir", tmp_path / "out"]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=os.environ | locale, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    with pytest.raises(UsageError, match=r"'out/Gr\\udcc3\\udcb6' is not text in this locale"):
        parse("e2evit test", "", [os.fsencode("out/Grö").decode("ascii", "surrogateescape")], TrainArguments)
    assert "Größe der Jets" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "is not YAML: it is nested too deep"),
        (b"a: 1\n" + b" " * 2**18, "has 262149 bytes; at most 262144"),
        (b"a: &a [*a]", "is not YAML: it stands for more than"),
        (
            b"a: &a [1, 1, 1, 1]\n"
            + b"".join(b"%c: &%c [%s]\n" % (n, n, b"*%c, " % (n - 1) * 9) for n in b"bcdefghi"),
            "more",
        ),
        (b"a: !!python/object/apply:os.getcwd []", "is not YAML: could not determine a constructor"),
        (b"\xff", "is not YAML: 'utf-8' codec can't decode"),
        (b"7", "expected `key: value` pairs, got a int"),
    ],
)
def test_texts_that_nobody_writes(text, message, tmp_path):
    """Recipes, schemas, searches and a checkpoint's JSON are read in one place, within limits."""
    path = tmp_path / "text.yaml"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=rf"text\.yaml.*{message}"):
        read_mapping(path)
    with pytest.raises(ValueError, match=r"text\.yaml"):
        read_schema(path)


def test_records_may_be_longer_than_settings(tmp_path):
    """The curves of a long training, or the results of many, fill more than anybody writes by hand."""
    path = tmp_path / "runs.json"
    path.write_text('{"runs": [' + "0.12345, " * 100_000 + "1]}", encoding="utf-8")
    assert len(read_mapping(path, "JSON")["runs"]) == 100_001
    path.write_text('{"runs": ""}' + " " * 2**24, encoding="utf-8")
    with pytest.raises(ValueError, match=r"runs\.json has 16777228 bytes; at most 16777216"):
        read_mapping(path, "JSON")


def test_nothing_is_a_recipe_but_no_configuration(tmp_path):
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    assert read_mapping(tmp_path / "empty.yaml") == {}
    (tmp_path / "config.json").write_text("null", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json: expected `key: value` pairs, got a NoneType"):
        find_checkpoint(tmp_path)


def test_devices_pipes_and_folders_are_not_replaced(tmp_path):
    """A file that is renamed would take the place of `/dev/null`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, what in ((pipe, "a device or a pipe"), (tmp_path, "a folder")):
        with pytest.raises(OSError, match=f"{path} cannot be written: it is {what}"):
            write_whole_text(path, "text")
        with pytest.raises(SystemExit):
            command("eval", ["checkpoints/xcit", "--data_dir", "tests/data/jets", "--results", str(path)])
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
