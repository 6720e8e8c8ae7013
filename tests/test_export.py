"""ONNX files give PyTorch's outputs, in onnxruntime and in the C++ program."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from forked import run_python
from models import make
from onnx import TensorProto, helper, numpy_helper

from e2evit import E2EImageProcessor, load_e2e
from e2evit.cli.export import main
from e2evit.data import find_schema
from e2evit.data.sparse import sparse_to_dense
from e2evit.hub import export
from e2evit.hub.cmssw import RUNTIMES, lower, runtime_of
from e2evit.hub.export import check_parity, export_onnx, export_variants, open_session, parity_images, write_row

ROOT = Path(__file__).parents[1]
JETS = {"image_size": 125, "num_channels": 8, "num_aux_features": 0, "log_mass": True, "mass_mean": 4.8}
JETS |= {"mass_std": 0.5, "mass_loss": "quantile", "id2label": {0: "qcd", 1: "top", 2: "h"}}
JETS |= {"channel_names": find_schema("simulated").channel_names}


@pytest.fixture(scope="module")
def rows(simulated_jets, tmp_path_factory):
    return load_e2e("simulated", simulated_jets, split="train", cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def images(rows):
    shape = find_schema("simulated").image_shape
    return parity_images(np.stack([sparse_to_dense(row["pixel_index"], row["pixel_value"], shape) for row in rows]))


@pytest.fixture(scope="module")
def processor():
    names = find_schema("simulated").channel_names
    return E2EImageProcessor(names, channel_scale=[0.5, 0.01, 1.0, 0.1, 0.1, 1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def exported(processor, images, tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("onnx"), make("linearvit", **JETS)
    return folder, model, export_variants(model, processor, folder, "model", images)


def test_four_files_that_agree(exported, processor, images):
    folder, _, found = exported
    assert sorted(path.name for path in folder.iterdir()) == sorted(found)
    assert set(found) == {f"model_{kind}.onnx" for kind in ("nhwc", "nchw", "mass_nhwc", "mass_nchw")}
    assert max(max(errors.values()) for errors in found.values()) <= 1e-4
    pixels = {}
    for name in found:
        session = open_session(folder / name, num_threads=1)
        outputs = [output.name for output in session.get_outputs()]
        first = "mass" if "mass" in name else "signal"
        assert outputs[0] == first
        assert sorted(outputs) == ["mass", "mass_uncertainty", "probabilities", "signal"]
        assert [part.name for part in session.get_inputs()] == ["inputs"]
        fed = images[:3].transpose(0, 2, 3, 1) if "nhwc" in name else images[:3]
        pixels[name] = dict(zip(outputs, session.run(None, {"inputs": np.ascontiguousarray(fed)})))
        assert {key: value.shape for key, value in pixels[name].items()} == {
            "signal": (3, 1),
            "probabilities": (3, 3),
            "mass": (3, 1),
            "mass_uncertainty": (3, 1),
        }
    for name in found:
        for key, value in pixels[name].items():
            np.testing.assert_allclose(value, pixels["model_nchw.onnx"][key], rtol=1e-5)


def test_files_describe_themselves(exported, processor):
    folder, _, _ = exported
    properties = {p.key: p.value for p in onnx.load(folder / "model_nhwc.onnx").metadata_props}
    assert properties["layout"] == "nhwc"
    assert json.loads(properties["channel_names"]) == processor.channel_names
    assert json.loads(properties["channel_units"])[:5] == ["GeV", "cm", "cm", "GeV", "GeV"]
    assert json.loads(properties["channel_scale"]) == processor.channel_scale
    assert json.loads(properties["class_names"]) == ["qcd", "top", "h"]
    assert {"e2evit", "torch", "transformers", "onnx"} == set(json.loads(properties["versions"]))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "xcit",
            "vit_study",
            "linearvit_mila",
            "linearvit_rala",
            "linearvit_study",
            "xcit_study",
            "convnextv2",
            "swin",
        ),
        "hitvit",
    ],
)
def test_other_models(name, processor, images, tmp_path):
    model = make(name, **JETS)
    path = export_onnx(model, processor, tmp_path / "model.onnx", "nchw")
    check_nodes(onnx.load(path).graph)
    # the last batch is the empty and the hot image alone
    assert max(check_parity(model, processor, path, images[-20:], batch_size=6).values()) <= 1e-4
    check_releases(path, model, processor, images[-3:], ["13_0", "11_0"])


def check_nodes(graph):
    """What some onnxruntime computes wrongly is not there."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in graph.node:
        # in ScatterND, threads overwrite each other's sums
        assert not [part for part in node.attribute if part.name == "reduction"]
        # unused outputs of Split spoiled every run but the first in 1.14 and 1.17, if the batch was one image
        assert used.issuperset(node.output) or node.op_type != "Split"


def check_releases(path, model, processor, images, releases):
    """Files of older operators agree with PyTorch, too, and the batch is what is open in them."""
    newest = onnx.load(path)
    for release in releases:
        lowered, runtime = lower(newest, release), runtime_of(release)
        assert lowered.opset_import[0].version == min(runtime.opset, 18)
        assert lowered.ir_version <= runtime.ir
        assert lowered.graph.input == newest.graph.input
        assert lowered.graph.output == newest.graph.output
        for value in (*lowered.graph.input, *lowered.graph.output):
            sides = value.type.tensor_type.shape.dim
            assert [side.dim_param for side in sides] == ["batch"] + [""] * (len(sides) - 1)
            assert value.type.tensor_type.elem_type == TensorProto.FLOAT
        onnx.save(lowered, path)
        assert max(check_parity(model, processor, path, images).values()) <= 1e-4


@pytest.mark.parametrize(
    "fields",
    [
        {"local_mixing": "convolution", "convolution": "scatter", "curve": "random"},
        {"global_mixing": "softmax", "curve": "grid", "hit_tokens": False},
    ],
    ids=["scatter", "softmax"],
)
@pytest.mark.thorough
def test_every_mixing_of_tokens(fields, processor, images, tmp_path):
    """How many tokens an image has is known only when the graph runs."""
    model = make("hitvit", **JETS | fields)
    path = export_onnx(model, processor, tmp_path / "model.onnx", "nchw")
    assert max(check_parity(model, processor, path, images[[0, 1, 2, -2, -1]], batch_size=1).values()) <= 1e-4


def test_releases_of_cmssw(exported, processor, images, tmp_path):
    folder, model, _ = exported
    (tmp_path / "model.onnx").write_bytes((folder / "model_nhwc.onnx").read_bytes())
    oldest_of_each = [runtime.releases[0] for runtime in RUNTIMES]
    check_releases(tmp_path / "model.onnx", model, processor, images[-3:], oldest_of_each)
    properties = {part.key: part.value for part in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert properties["cmssw"] == oldest_of_each[-1]
    assert properties["layout"] == "nhwc"
    with pytest.raises(ValueError, match=r"a release cycle, got '13_0_14'; known: 10_6, 11_0, .*, 15_0\. Later"):
        export_onnx(model, processor, tmp_path / "new.onnx", cmssw="13_0_14")


def test_matrix_products_in_int8(exported, processor, images, tmp_path, monkeypatch):
    folder, model, _ = exported
    whole = onnx.load(folder / "model_nhwc.onnx")
    monkeypatch.setattr(export, "_translate", lambda *_: onnx.load(folder / "model_nhwc.onnx"))
    found = export_variants(model, processor, tmp_path, "small", images, int8=True)["small_nhwc.onnx"]
    assert 0 < max(found.values()) <= 1e-2
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "small_nhwc.onnx").graph.node)
    of_whole = Counter(node.op_type for node in whole.graph.node)
    assert kinds["MatMulInteger"] > 0
    assert kinds["MatMulInteger"] + kinds["MatMul"] >= of_whole["MatMul"]
    assert kinds["Conv"] == of_whole["Conv"]
    assert all(not opset.domain for opset in onnx.load(tmp_path / "small_nhwc.onnx").opset_import)
    monkeypatch.setattr(export, "INT8_TOLERANCE", 0.0)
    with pytest.raises(ValueError, match="differs from PyTorch by more than 0: "):
        check_parity(model, processor, tmp_path / "small_nhwc.onnx", images, int8=True)


def test_int8_is_worth_it():
    """As measured (`benchmarks/export.py`): hardly worse, and faster on one thread."""
    variants = json.loads((ROOT / "results/export.json").read_text())["variants"]
    whole, small = variants["float32"], variants["int8 dynamic"]
    assert small["quality"]["roc_auc"] >= whole["quality"]["roc_auc"] - 0.003
    assert small["quality"]["relative_resolution"] <= 1.03 * whole["quality"]["relative_resolution"]
    for case in ("1 thread, batch 1", "1 thread, batch 64"):
        assert small["speed"][case]["over_pytorch"] > whole["speed"][case]["over_pytorch"]


def test_a_file_that_differs_is_not_kept(exported, processor, images, tmp_path, monkeypatch):
    _, model, _ = exported
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="differs from PyTorch by more than"):
        export_variants(model, processor, tmp_path, "model", images[:4])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported(processor, tmp_path):
    with pytest.raises(ValueError, match="2 scalars besides the image"):
        export_onnx(make("linearvit", **JETS | {"num_aux_features": 2}), processor, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="`layout` is nhwc or nchw, got 'nchw8'"):
        export_onnx(make("linearvit", **JETS), processor, tmp_path / "a.onnx", layout="nchw8")
    with pytest.raises(ValueError, match="Output 0 is signal or mass"):
        export_onnx(make("linearvit", **JETS), processor, tmp_path / "a.onnx", first="top")
    with pytest.raises(ValueError, match="makes the batch size of this model a constant"):
        export_onnx(make("linearvit_inline", **JETS), processor, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_exporter_is_one_line(processor, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.onnx.OnnxExporterError("A page\nof advice.") from RuntimeError("no such operator\nat line 3")

    monkeypatch.setattr(torch.onnx, "export", fail)
    model = make("swin", **JETS)
    with pytest.raises(ValueError, match=r"cannot translate this model \(e2e_baseline\): no such operator$"):
        export_onnx(model, processor, tmp_path / "a.onnx")
    assert model.base_model.backbone.config._attn_implementation == "sdpa"  # as before


@pytest.mark.slow
def test_script(processor, simulated_jets, tmp_path):
    make("xcit", **JETS).save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")
    command = ["scripts/export_onnx.py", tmp_path / "run", "--output_dir", tmp_path / "onnx"]
    command += ["--data_dir", simulated_jets, "--num_jets", "60", "--cmssw", "13_0", "--triton", tmp_path / "models"]
    done = run_python(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "onnx/parity.json").read_text())
    assert record["jets"] == 60
    assert len(list((tmp_path / "onnx").glob("run_*.onnx"))) == len(record["largest difference"]) == 4
    assert {onnx.load(path).opset_import[0].version for path in (tmp_path / "onnx").glob("run_*.onnx")} == {15}
    served = tmp_path / "models/run/1/model.onnx"
    assert served.read_bytes() == (tmp_path / "onnx/run_nchw.onnx").read_bytes()
    assert (tmp_path / "models/run/labels.txt").read_text() == "qcd\ntop\nh\n"
    index, value = (tmp_path / "onnx/run_row.txt").read_text().splitlines()[0].split()
    assert int(index) >= 0
    assert float(value) != 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cmssw", "9_4"], "`cmssw` must be a release cycle, got '9_4'"),
        (["--name", "../b"], r"`name` is the beginning of file names, got '\.\./b'"),
        (["--triton", "models", "--name", "a b"], "A Triton model name has .*, got 'a b'"),
    ],
)
def test_a_wrong_option_is_told_first(options, message, tmp_path):
    command = [str(tmp_path), "--output_dir", str(tmp_path / "onnx"), "--data_dir", "no/such/jets", *options]
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=message):
        main(command)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The C++ program; it needs cmake, a compiler, and headers that cmake gets from Debian's package."""
    build = tmp_path_factory.mktemp("build")
    configure = ["cmake", "-S", ROOT / "deploy/cpp", "-B", build, f"-DPython3_EXECUTABLE={sys.executable}"]
    for command in (configure, ["cmake", "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return build / "e2e_predict"


def check_program(program, folder, files, images, tmp_path):
    """What the program prints of each file is what onnxruntime makes of the other layout."""
    rows = []
    for number, image in enumerate(images):
        index = np.flatnonzero(image)
        row = {"pixel_index": index.tolist(), "pixel_value": image.ravel()[index].tolist()}
        rows.append(write_row(row, tmp_path / f"{number}.txt"))
    session = open_session(folder / "model_nchw.onnx")
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(None, {"inputs": images})))
    for name in files:
        done = subprocess.run([program, folder / name, *rows], capture_output=True, text=True, check=True)
        lines = [dict(part.split("=") for part in line.split()) for line in done.stdout.splitlines()]
        assert next(iter(lines[0])) == ("mass" if "mass" in name else "signal")
        for key, values in expected.items():
            found = np.array([[float(value) for value in line[key].split(",")] for line in lines])
            np.testing.assert_allclose(found, values, atol=1e-4, rtol=1e-4)


@pytest.mark.cpp
def test_cpp_agrees_with_pytorch(program, exported, images, tmp_path):
    # the last two: an empty and a hot image
    check_program(program, exported[0], ["model_nhwc.onnx", "model_mass_nhwc.onnx"], images[-12:], tmp_path)


@pytest.mark.cpp
def test_cpp_and_a_model_whose_shapes_depend_on_the_image(program, processor, images, tmp_path):
    for layout in export.LAYOUTS:
        export_onnx(make("hitvit", **JETS), processor, tmp_path / f"model_{layout}.onnx", layout)
    check_program(program, tmp_path, ["model_nhwc.onnx"], images[-12:], tmp_path)


@pytest.mark.cpp
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12 1.0 3\n", "line 1: expected `pixel_index pixel_value`, got `12 1.0 3`"),
        ("5 1.0\nten 1.0\n", "line 2: expected"),
        ("125000 1.0\n", "pixel_index 125000 is outside an image of 125000 pixels"),
        ("7 nan\n", "line 1: expected"),
        ("5.5\n", "line 1: expected"),
        ("5 1.0\n5 2.0\n", "line 2: pixel_index 5 occurs twice"),
        ("5 1.0\0 2.0\n", "line 1: expected"),
        ("5 1.0" + 300 * " ", "a line is longer than 255 characters"),
        ("46937 -3e38\n", "is not finite"),
        (Path("/"), "reading failed; is it a directory?"),
        (Path("/proc/self/mem"), "reading failed"),
        (Path("/no/such/row"), "cannot be read"),
    ],
)
def test_cpp_says_what_is_wrong(program, exported, tmp_path, text, message):
    row = text if isinstance(text, Path) else tmp_path / "row.txt"
    if row != text:
        row.write_text(text)
    command = [program, exported[0] / "model_nhwc.onnx", row]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(re.escape(message), done.stderr)
    command[1] = exported[0] / "model_nchw.onnx"
    assert "got nchw" in subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.cpp
@pytest.mark.parametrize(
    ("shapes", "kind", "message"),
    [
        ({"inputs": ["n", 2, 2, 1], "out": ["n", 4]}, "FLOAT", None),
        ({"inputs": ["n", 2, 2, 1], "out": ["m"]}, "FLOAT", "output out: expected float32 of shape (2, width)"),
        ({"inputs": ["n", 2, 2, 1], "out": ["n", 2, 2]}, "FLOAT", "output out: expected float32 of shape (2, width)"),
        ({"inputs": ["n", 2, 2, 1], "out": [1, "m"]}, "FLOAT", "output out: expected float32 of shape (2, width)"),
        ({"inputs": ["n", 2, 2, 1], "out": ["n", 4]}, "INT64", "output out: expected float32 of shape (2, width)"),
        ({"inputs": ["n", 2, 2], "out": ["n", 4]}, "FLOAT", "expected an input of shape (batch, height, width, "),
        ({"inputs": ["n", 2, 2, 2**40], "out": ["n", 4]}, "FLOAT", "the input has more than"),
    ],
)
def test_cpp_checks_the_shapes_of_a_model(program, tmp_path, shapes, kind, message):
    """A model that casts and reshapes its input to `out`."""
    inputs, out = shapes["inputs"], shapes["out"]
    target = [{"n": 0, "m": -1}.get(size, size) for size in out]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["inputs"], ["cast"], to=getattr(TensorProto, kind)),
            helper.make_node("Reshape", ["cast", "target"], ["out"]),
        ],
        "reshape",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("out", getattr(TensorProto, kind), out)],
        [numpy_helper.from_array(np.array(target), "target")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"layout": "nhwc"})
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "row.txt").write_text("1 2.5\n")
    command = [program, tmp_path / "model.onnx", *[tmp_path / "row.txt"] * 2]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if message is None:
        assert (done.returncode, done.stdout) == (0, "out=0,2.5,0,0\n" * 2)
    else:
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
