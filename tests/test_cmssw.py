"""Graphs for older operator sets: each rule on a graph of one operator, and what cannot be written in an older one."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from e2evit.hub.cmssw import RUNTIMES, lower

IMAGES = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)


def graph(operator, inputs=(), kind=TensorProto.FLOAT, outputs=1, **attributes):
    """A model of opset 18 with one operator on `x` `(batch, 4, 6)` and constant inputs."""
    constants = [numpy_helper.from_array(np.asarray(values), f"c{place}") for place, values in enumerate(inputs)]
    names = [f"y{place}" for place in range(outputs)]
    made = helper.make_graph(
        [helper.make_node(operator, ["x", *(tensor.name for tensor in constants)], names, **attributes)],
        "one",
        [helper.make_tensor_value_info("x", kind, ["batch", 4, 6])],
        [helper.make_empty_tensor_value_info(name) for name in names],
        constants,
    )
    model = onnx.shape_inference.infer_shapes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)]))
    model.ir_version = 10
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, images):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": images})


INTEGERS = {"kind": TensorProto.INT64}
SCALE, BIAS = (np.arange(1, 7, dtype=np.float32) * factor for factor in (1, -2))
CASES = {
    "ReduceMean": (("ReduceMean", [[1, 2]]), {"keepdims": 0, "noop_with_empty_axes": 0}),
    "ReduceSum": (("ReduceSum", [[-1]]), {}),
    "Squeeze": (("Unsqueeze", [[1, 3]]), {}),
    "Split": (("Split",), {"axis": 2, "num_outputs": 3, "outputs": 3}),
    "uneven Split": (("Split", [[1, 5]]), {"axis": 2, "outputs": 2}),
    "Reshape": (("Reshape", [[-1, 12, 2]]), {"allowzero": 1}),
    "Shape": (("Shape",), {"start": 1}),
    "Shape to": (("Shape",), {"start": 0, "end": 2}),
    "LayerNormalization": (("LayerNormalization", [SCALE, BIAS]), {"axis": -1, "epsilon": 1e-3}),
    "without bias": (("LayerNormalization", [SCALE]), {"axis": -1}),
    "two axes": (("LayerNormalization", [np.ones((4, 6), np.float32)]), {"axis": -2, "epsilon": 1e-5}),
    "Min": (("Min", [np.int64(2)]), INTEGERS),
    "Max": (("Max", [np.arange(6)]), INTEGERS),
    "Softmax": (("Softmax",), {"axis": -1}),
    "Clip": (("Clip", [np.int64(-3), np.int64(4)]), INTEGERS),
    "Clip from": (("Clip", [np.int64(-3)]), INTEGERS),
    "LessOrEqual": (("LessOrEqual", [IMAGES[0]]), {}),
    "GreaterOrEqual": (("GreaterOrEqual", [np.int64(2)]), INTEGERS),
    "CumSum": (("CumSum", [np.int64(-1)]), {"exclusive": 1}),
}


@pytest.mark.parametrize(("arguments", "attributes"), CASES.values(), ids=CASES)
def test_old_operators_compute_the_same(arguments, attributes):
    model = graph(*arguments, **attributes)
    images = (10 * IMAGES).astype(np.int64) if "kind" in attributes else IMAGES
    expected = run(model, images)
    for runtime in RUNTIMES:
        lowered = lower(model, runtime.releases[0])
        assert lowered.opset_import[0].version == min(runtime.opset, 18)
        for value, found in zip(expected, run(lowered, images), strict=True):
            # a normalisation by other sums of six numbers; what is rewritten otherwise is exact
            np.testing.assert_allclose(found, value, rtol=0, atol=2e-6 if "Layer" in arguments[0] else 0)


def test_what_old_runtimes_cannot_do():
    """onnxruntime 1.0 takes axes of CumSum of 32 bits only; up to 1.10, fusing ReLU with a product needs a bias."""
    (axis,) = lower(graph("CumSum", [np.int64(1)]), "11_0").graph.initializer
    assert axis.data_type == TensorProto.INT32
    weight = numpy_helper.from_array(np.eye(6, 2, dtype=np.float32), "weight")
    made = helper.make_graph(
        [helper.make_node("Gemm", ["x", "weight"], ["y"], name="product", alpha=2.0)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [weight],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (product,) = lower(model, "13_0").graph.node
    assert len(product.input) == 3
    np.testing.assert_array_equal(run(lower(model, "13_0"), IMAGES[0])[0], run(model, IMAGES[0])[0])
    assert len(lower(model, "13_1").graph.node[0].input) == 2


@pytest.mark.parametrize(
    ("arguments", "attributes", "release", "message"),
    [
        (("Reshape", [[0, 24]]), {"allowzero": 1}, "13_0", "Reshape of opset 16, and CMSSW 13_0 reads opset 15"),
        (("Split",), {"axis": 2, "num_outputs": 4, "outputs": 4}, "13_0", "Split of opset 18, .* run it: 13_1, 13_2"),
        (
            ("Celu",),
            {},
            "11_0",
            r"Celu of opset 12, .*1\.0\.0\)\. .*: 10_6, 11_2, 11_3",
        ),
        (("Min", [np.int64(0), np.int64(1)]), INTEGERS, "11_1", "Min of opset 12"),
        (("Trilu",), {}, "11_3", "Trilu of opset 14"),
        (("Softmax",), {"axis": 1}, "12_3", None),
        (("Softmax",), {"axis": 1}, "11_2", "Softmax of opset 13"),
    ],
)
def test_what_an_opset_lacks_is_named(arguments, attributes, release, message):
    model = graph(*arguments, **attributes)
    if message is None:
        assert lower(model, release).opset_import[0].version == 13
    else:
        with pytest.raises(ValueError, match=f"This model needs {message}"):
            lower(model, release)


def test_the_table_is_that_of_onnx():
    versions = {opset: ir for _, ir, opset, *_ in helper.VERSION_TABLE}
    assert all(runtime.ir >= versions[runtime.opset] for runtime in RUNTIMES)
    assert [runtime.opset for runtime in RUNTIMES] == sorted(runtime.opset for runtime in RUNTIMES)
    releases = [release for runtime in RUNTIMES for release in runtime.releases]
    assert len(set(releases)) == len(releases)


def test_nothing_is_left_of_what_was_replaced():
    model = graph("LayerNormalization", [SCALE], axis=-1)
    model.graph.node[0].metadata_props.add(key="note", value="of the exporter")
    lowered = lower(model, "13_0").graph
    assert "metadata_props" not in {field.name for node in lowered.node for field, _ in node.ListFields()}
    used = {name for node in lowered.node for name in node.input}
    assert {tensor.name for tensor in lowered.initializer} == used & {tensor.name for tensor in lowered.initializer}
    assert model.graph.node[0].op_type == "LayerNormalization"
