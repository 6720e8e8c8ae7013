"""ONNX graphs whose matrix products are computed with 8-bit integers."""

import logging
import tempfile
from pathlib import Path

__all__ = ["to_int8"]


def to_int8(proto):
    """Weights of the matrix products of tokens become 8-bit integers, their inputs are quantised at run time.

    What reads pixels stays in float32, since energies span five orders of magnitude: convolutions
    (`benchmarks/export.py`) and HitViT's products of pixels. So do the products of one vector per image, which take no
    time. Both kinds of products are exactly those of matrices, which PyTorch's exporter writes as Gemm.

    Args:
        proto: An `onnx.ModelProto`, as exported or [`lower`]ed to any opset, which stays.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # by the names that quantize_dynamic gives them
    kept = [f"{node.name}_MatMul" for node in proto.graph.node if node.op_type == "Gemm"]
    # onnxruntime up to 1.3, of opset 12, multiplies unsigned numbers only
    kind = QuantType.QInt8 if proto.opset_import[0].version > 12 else QuantType.QUInt8
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it recommends operators that only onnxruntime knows
        try:
            quantize_dynamic(proto, path, op_types_to_quantize=["MatMul"], nodes_to_exclude=kept, weight_type=kind)
        finally:
            logging.root.setLevel(level)
        return onnx.load(path)
