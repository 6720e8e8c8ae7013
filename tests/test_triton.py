"""Model repositories of Triton: what its own protobuf reads, and what its own client gets from a server of them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import triton_server
from onnx import TensorProto, helper

from e2evit.data.jobs import write_whole_text
from e2evit.hub.export import open_session, write_row
from e2evit.hub.triton import MAX_BATCH_SIZE, check_target, write_triton

ROOT = Path(__file__).parents[1]
SHAPE = (2, 3, 4)


@pytest.fixture
def packages(monkeypatch):
    folder = triton_server.fetch()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def exported(tmp_path):
    """A file as `export_onnx` writes it, of a network that flattens its image."""
    outputs = {"signal": 1, "probabilities": 3, "mass": 1}
    nodes = [
        helper.make_node("Flatten", ["inputs"], ["pixels"]),
        helper.make_node("Split", ["pixels", "sizes"], [*outputs, "rest"], axis=1),
    ]
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], [*outputs.values(), np.prod(SHAPE) - 5])
    images = helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", *SHAPE])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", n]) for name, n in outputs.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "first", [images], values, [sizes]),
        opset_imports=[helper.make_opsetid("", 15)],
        ir_version=8,
    )
    helper.set_model_props(model, {"class_names": json.dumps(["qcd", "top", "h"])})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "small_nchw.onnx")
    return tmp_path / "small_nchw.onnx"


def test_a_model_as_sonic_reads_it(packages, exported, tmp_path):
    folder = write_triton(exported, tmp_path / "models", "small-2.1")
    assert folder == tmp_path / "models/small-2.1"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == [
        "1/model.onnx",
        "config.pbtxt",
        "labels.txt",
    ]
    config = triton_server.parse_config((folder / "config.pbtxt").read_text())
    assert config.name == folder.name
    assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", MAX_BATCH_SIZE)
    assert config.HasField("dynamic_batching")
    session = open_session(folder / "1/model.onnx")
    for fields, values in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [(field.name, list(field.dims)) for field in fields] == [(v.name, v.shape[1:]) for v in values]
        assert {field.data_type for field in fields} == {triton_server.float32()}
        assert {value.type for value in values} == {"tensor(float)"}
    assert {field.name: field.label_filename for field in config.output if field.label_filename} == {
        "probabilities": "labels.txt"
    }
    assert (folder / "labels.txt").read_text() == "qcd\ntop\nh\n"
    (agent,) = config.model_repository_agents.agents
    assert agent.name == "checksum"
    digest = subprocess.run(["md5sum", folder / "1/model.onnx"], capture_output=True, text=True, check=True).stdout
    assert dict(agent.parameters) == {"MD5:1/model.onnx": digest.split()[0]}
    assert write_triton(exported, tmp_path / "models", "small-2.1") == folder  # once more, over it


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", 'a"b', "é"])
def test_names_that_are_no_folders(name, exported, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"got {name!r}: set `name`")):
        check_target(tmp_path, name)
    with pytest.raises(ValueError, match="A Triton model name has"):
        write_triton(exported, tmp_path / "models", name)
    assert not (tmp_path / "models").exists()


def ask(packages, repository, *arguments, **environment):
    """The example client, with a server of a repository."""
    command = [sys.executable, ROOT / "tests/triton_server.py", repository]
    command += [sys.executable, ROOT / "deploy/cmssw/client.py", *arguments, "--url", "URL"]
    path = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path} | environment
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_client_gets_what_onnxruntime_computes(packages, exported, tmp_path):
    write_triton(exported, tmp_path / "models", "small")
    images = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    rows = []
    for number, image in enumerate(images):
        row = {"pixel_index": range(image.size), "pixel_value": image.ravel().tolist()}
        rows.append(write_row(row, tmp_path / f"{number}.txt"))
    done = ask(packages, tmp_path / "models", "small", *rows, "--tries", "2", FAILURES="1")
    assert done.returncode == 0, done.stderr[-2000:]
    session = open_session(exported)
    expected = session.run(None, {"inputs": images})
    lines = [dict(part.split("=") for part in line.split()) for line in done.stdout.splitlines()]
    for output, values in zip(session.get_outputs(), expected):
        found = np.array([[float(value) for value in line[output.name].split(",")] for line in lines], np.float32)
        np.testing.assert_array_equal(found, values)


def test_the_client_says_what_is_wrong(packages, exported, tmp_path):
    write_triton(exported, tmp_path / "models", "small")
    write_whole_text(tmp_path / "good.txt", "1 2.5\n")
    write_whole_text(tmp_path / "bad.txt", "1 2.5\n24 1.0\n")
    write_whole_text(tmp_path / "negative.txt", "-1 2.5\n")
    for arguments, message in {
        ("small", tmp_path / "negative.txt"): r"negative\.txt, line 1: expected .*, got '-1 2\.5'",
        ("small", tmp_path / "bad.txt"): r"bad\.txt, line 2: expected .* of 24 pixels, got '24 1\.0'",
        ("other", tmp_path / "good.txt"): "unknown model: 'other'",
        ("small", *[tmp_path / "good.txt"] * 65): "small takes 64 jets at a time, got 65",
    }.items():
        done = ask(packages, tmp_path / "models", *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(rf"client\.py: .*{message}.*\n", done.stderr)


def test_a_model_with_other_versions_stays(exported, tmp_path):
    (tmp_path / "models/small/2").mkdir(parents=True)
    with pytest.raises(ValueError, match="small has version 2 beside 1, which a new"):
        write_triton(exported, tmp_path / "models", "small")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: choose another model repository"):
        write_triton(exported, tmp_path / "file", "small")
    assert [path.name for path in (tmp_path / "models/small").iterdir()] == ["2"]
