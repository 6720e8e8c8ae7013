"""ONNX graphs whose matrix products are computed with 8-bit integers."""

import logging
import tempfile
from pathlib import Path

__all__ = ["to_int8"]


def to_int8(proto):
    """Weights of matrix products become int8, their inputs are quantised at run time.

    Convolutions stay in float32, because the first ones see energies over five orders of magnitude: static int8
    convolutions ruin the bundled LinearViT (`benchmarks/export.py`).

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
