"""ONNX graphs whose matrix products are computed with 8-bit integers."""

import logging
import tempfile
from pathlib import Path

__all__ = ["to_int8"]


def to_int8(proto):
    """A graph with weights of matrix products in int8, and their inputs quantised image by image as they come.

    Convolutions stay in float32: the first of them see energies over five orders of magnitude. With scales that are
    fixed beforehand and convolutions in int8, the bundled LinearViT is ruined (`benchmarks/export.py`).

    Args:
        proto: An `onnx.ModelProto`.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it recommends operators that only onnxruntime knows
        try:
            quantize_dynamic(proto, path, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        finally:
            logging.root.setLevel(level)
        return onnx.load(path)
