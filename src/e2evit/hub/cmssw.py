"""ONNX graphs for releases of CMSSW, whose runtimes read older operator sets than PyTorch's exporter writes."""

from dataclasses import dataclass

import numpy as np

__all__ = ["RUNTIMES", "Runtime", "lower", "runtime_of"]


@dataclass(frozen=True)
class Runtime:
    """An onnxruntime of CMSSW: the newest opset and IR version that it reads, and the releases that have it."""

    version: str
    opset: int
    ir: int
    releases: tuple[str, ...]


# from onnxruntime.spec in the branches IB/CMSSW_*_X of cms-sw/cmsdist, for 15_0 from its pull request 9625; opsets and
# IR versions from onnxruntime's table of compatibility
RUNTIMES = (
    Runtime("1.0.0", 11, 6, ("11_0",)),
    Runtime("1.2.0", 11, 6, ("11_1",)),
    Runtime("1.3.0", 12, 7, ("10_6", "11_2")),
    Runtime("1.7.2", 13, 7, ("11_3", "12_0", "12_1", "12_2", "12_3")),
    Runtime("1.10.0", 15, 8, ("12_4", "12_5", "12_6", "13_0")),
    Runtime("1.14.1", 18, 8, ("13_1", "13_2", "13_3", "14_0")),
    Runtime("1.17.1", 20, 9, ("14_1", "14_2")),
    Runtime("1.20.1", 21, 10, ("15_0",)),
)


def runtime_of(release: str) -> Runtime:
    """The onnxruntime of a release such as "13_0".

    Raises:
        ValueError: for a release that is not in [`RUNTIMES`].
    """
    by_release = {name: runtime for runtime in RUNTIMES for name in runtime.releases}
    if release not in by_release:
        known = sorted(by_release, key=_by_number)
        raise ValueError(
            f"`cmssw` must be a release cycle, got {release!r}; known: {', '.join(known)}. Later ones read what "
            f"{known[-1]} reads."
        )
    return by_release[release]


def _by_number(release: str) -> list[int]:
    return [int(part) for part in release.split("_")]


def lower(proto, release: str):
    """A copy of an ONNX model for a release: each operator in a version that its runtime knows.

    The IR version is the lowest that belongs to the opset. Inputs, outputs and metadata of the model stay; the
    exporter's notes on nodes and values, which old IR versions do not have, go.

    Args:
        proto: An `onnx.ModelProto` without subgraphs.

    Raises:
        ValueError: as [`runtime_of`], or for operators that the release lacks, with the opset that has them.
    """
    from onnx import ModelProto, checker, helper

    runtime = runtime_of(release)
    newest = proto.opset_import[0].version
    lowered, opset = ModelProto(), min(runtime.opset, newest)
    lowered.CopyFrom(proto)
    lowered.opset_import[0].version = opset
    lowered.ir_version = helper.find_min_ir_version_for(lowered.opset_import)
    _Lowering(lowered.graph, opset, newest).run(release)
    for part in (*lowered.graph.node, *lowered.graph.value_info, *lowered.graph.initializer, lowered.graph):
        del part.metadata_props[:]
    lowered.metadata_props.add(key="cmssw", value=release)
    checker.check_model(lowered, full_check=True)
    return lowered


class _Lowering:
    """Rewrites the nodes of a graph, of opset `newest`, for `opset`."""

    softmax = ("Hardmax", "LogSoftmax", "Softmax")

    def __init__(self, graph, opset: int, newest: int):
        from onnx import TensorProto, numpy_helper

        self.graph, self.opset, self.newest = graph, opset, newest
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
        self.shapes = {}
        for value in (*graph.input, *graph.value_info):
            kinds[value.name] = value.type.tensor_type.elem_type
            self.shapes[value.name] = [side.dim_value for side in value.type.tensor_type.shape.dim]  # 0 if not known
        names = {kind: f"tensor({TensorProto.DataType.Name(kind).lower()})" for kind in kinds.values() if kind}
        self.kinds = {name: names.get(kind) for name, kind in kinds.items()}
        self.nodes, self.lacking = [], {}

    def run(self, release: str) -> None:
        from onnx import numpy_helper

        given = {tensor.name for tensor in self.graph.initializer}
        for node in self.graph.node:
            self.put(node)
        if self.lacking:
            needs = ", ".join(f"{name} of opset {needed}" for name, needed in sorted(self.lacking.items()))
            newer = [runtime for runtime in RUNTIMES if runtime.opset >= max(self.lacking.values())]
            raise ValueError(
                f"This model needs {needs}, and CMSSW {release} reads opset {self.opset} (onnxruntime "
                f"{runtime_of(release).version}). Releases that can run it: "
                f"{', '.join(sorted((name for runtime in newer for name in runtime.releases), key=_by_number))}."
            )
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        made = {name for node in self.nodes for name in node.output}
        added = [(name, values) for name, values in self.constants.items() if name not in given]
        self.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in added)
        _keep(self.graph.initializer, used)
        _keep(self.graph.value_info, made)

    def put(self, node) -> None:
        """Append a node, as it is if the opset has it, or what stands for it."""
        older = self.in_older_form(node)
        if self.fits(older, self.opset):
            self.nodes.append(older)
        elif node.op_type not in REPLACEMENTS or not REPLACEMENTS[node.op_type](self, node):
            needed = next((opset for opset in range(self.opset, self.newest) if self.fits(node, opset)), self.newest)
            self.lacking[node.op_type] = max(needed, self.lacking.get(node.op_type, 0))

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes) -> str:
        """Append an operator of the newest opset; returns the name of its output."""
        from onnx import helper

        output = output or f"{operator}_{len(self.nodes)}_lowered"
        self.put(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, values) -> str:
        name = f"constant_{len(self.constants)}_lowered"
        self.constants[name] = np.asarray(values)
        return name

    def attributes(self, node) -> dict:
        """Values by name, of the newest opset's defaults, too."""
        from onnx import defs, helper

        defaults = [part.default_value for part in defs.get_schema(node.op_type, self.newest, "").attributes.values()]
        given = [*(part for part in defaults if part.name), *node.attribute]
        return {part.name: helper.get_attribute_value(part) for part in given}

    def fits(self, node, opset: int) -> bool:
        """Whether an opset has an operator with these attributes and types of inputs."""
        from onnx import defs

        if not defs.has(node.op_type, opset, ""):
            return False
        schema = defs.get_schema(node.op_type, opset, "")
        given = {part.name for part in node.attribute}
        if len(node.input) > schema.max_input or given - schema.attributes.keys():
            return False
        if "allowzero" in given and opset < 16:  # onnxruntime 1.10, of opset 15, takes no -1 beside it
            return False
        if node.op_type == "Gemm" and len(node.input) == 2 and opset < 16:  # see `_gemm`
            return False
        if node.op_type == "CumSum" and self.kinds.get(node.input[1]) == "tensor(int64)" and opset < 12:
            return False  # see `_cumsum`
        if node.op_type in self.softmax and opset < 13:  # which took all axes from this one on together
            return [part.i for part in node.attribute if part.name == "axis"] == [-1]
        parameters = [schema.inputs[min(place, len(schema.inputs) - 1)] for place in range(len(node.input))]
        return all(self.kinds.get(name) in (None, *of.types) for name, of in zip(node.input, parameters))

    def in_older_form(self, node):
        """A copy with a constant input as an attribute, as `axes` once were, and without new attributes' defaults."""
        from onnx import NodeProto, defs, helper

        if self.fits(node, self.opset) or not defs.has(node.op_type, self.opset, ""):
            return node
        old = defs.get_schema(node.op_type, self.opset, "")
        new = defs.get_schema(node.op_type, self.newest, "")
        older = NodeProto()
        older.CopyFrom(node)
        if node.input and node.input[-1] in self.constants and len(node.input) <= len(new.inputs):
            name = new.inputs[len(node.input) - 1].name
            if name in old.attributes:
                older.attribute.append(helper.make_attribute(name, self.constants[older.input.pop()].tolist()))
        defaults = {name: part.default_value for name, part in new.attributes.items() if name not in old.attributes}
        kept = [part for part in older.attribute if part != defaults.get(part.name)]
        del older.attribute[:]
        older.attribute.extend(kept)
        return older


def _keep(entries, names: set[str]) -> None:
    kept = [entry for entry in entries if entry.name in names]
    del entries[:]
    entries.extend(kept)


def _clip(lowering: _Lowering, node) -> bool:
    """Limits one after the other."""
    limits = [(name, limit) for name, limit in zip(("Max", "Min"), node.input[1:]) if limit]
    value = node.input[0]
    for place, (name, limit) in enumerate(limits, start=1):
        value = lowering.add(name, value, limit, output=node.output[0] if place == len(limits) else None)
    return bool(limits)


def _cumsum(lowering: _Lowering, node) -> bool:
    """With an axis of 32 bits: onnxruntime 1.0 takes no other."""
    axis = lowering.constants.get(node.input[1])
    if axis is None:
        return False
    axis = lowering.constant(axis.astype(np.int32))
    lowering.add("CumSum", node.input[0], axis, output=node.output[0], **lowering.attributes(node))
    return True


def _gemm(lowering: _Lowering, node) -> bool:
    """With a bias: onnxruntime up to 1.10 cannot fuse an activation with a product without one."""
    zero = lowering.constant(np.zeros(1, np.float32))
    lowering.add("Gemm", *node.input, zero, output=node.output[0], **lowering.attributes(node))
    return True


def _layer_normalization(lowering: _Lowering, node) -> bool:
    """The operators that onnxruntime fuses to a normalisation again."""
    attributes = lowering.attributes(node)
    if attributes["axis"] >= 0 or len(node.output) > 1:
        return False
    axes = lowering.constant(np.arange(attributes["axis"], 0))
    inputs, scale, *bias = node.input
    mean = lowering.add("ReduceMean", inputs, axes)
    centred = lowering.add("Sub", inputs, mean)
    squares = lowering.add("Pow", centred, lowering.constant(np.float32(2)))
    variance = lowering.add("ReduceMean", squares, axes)
    shifted = lowering.add("Add", variance, lowering.constant(np.float32(attributes["epsilon"])))
    normal = lowering.add("Div", centred, lowering.add("Sqrt", shifted))
    scaled = lowering.add("Mul", normal, scale, output=None if bias else node.output[0])
    if bias:
        lowering.add("Add", scaled, *bias, output=node.output[0])
    return True


def _or_equal(lowering: _Lowering, node) -> bool:
    """Two comparisons."""
    parts = [lowering.add(name, *node.input) for name in (node.op_type.removesuffix("OrEqual"), "Equal")]
    lowering.add("Or", *parts, output=node.output[0])
    return True


def _reshape(lowering: _Lowering, node) -> bool:
    """Without `allowzero`, which matters to targets with a zero alone."""
    target = lowering.constants.get(node.input[1])
    if lowering.attributes(node)["allowzero"] and (target is None or 0 in target):
        return False
    lowering.add("Reshape", *node.input, output=node.output[0])
    return True


def _split(lowering: _Lowering, node) -> bool:
    """Parts of equal sizes by their sizes."""
    from onnx import helper

    attributes = lowering.attributes(node)
    side, rest = divmod(lowering.shapes[node.input[0]][attributes["axis"]], attributes["num_outputs"])
    if side == 0 or rest:
        return False
    sizes = lowering.constant(np.full(attributes["num_outputs"], side))
    lowering.put(helper.make_node("Split", [*node.input, sizes], node.output, axis=attributes["axis"]))
    return True


def _shape(lowering: _Lowering, node) -> bool:
    """Some sides of all."""
    attributes = lowering.attributes(node)
    ends = [attributes["start"]], [attributes.get("end", np.iinfo(np.int64).max)]
    shape = lowering.add("Shape", *node.input)
    lowering.add("Slice", shape, *map(lowering.constant, ends), output=node.output[0])
    return True


def _smaller(lowering: _Lowering, node) -> bool:
    """The minimum or maximum of two integers."""
    if len(node.input) != 2:
        return False
    is_first = lowering.add("Less" if node.op_type == "Min" else "Greater", *node.input)
    lowering.add("Where", is_first, *node.input, output=node.output[0])
    return True


# by operator, what writes others in its place; it returns whether it can
REPLACEMENTS = {
    "Clip": _clip,
    "CumSum": _cumsum,
    "Gemm": _gemm,
    "GreaterOrEqual": _or_equal,
    "LayerNormalization": _layer_normalization,
    "LessOrEqual": _or_equal,
    "Max": _smaller,
    "Min": _smaller,
    "Reshape": _reshape,
    "Shape": _shape,
    "Split": _split,
}
