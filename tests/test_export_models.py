"""Every kind of model becomes an ONNX file for the oldest and the newest CMSSW, or one line says why not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from e2evit.modeling import FAMILIES
from models import MODELS, make
from onnx import TensorProto
from test_export import check_nodes

from e2evit import E2EImageProcessor
from e2evit.cli.export import main
from e2evit.data import find_schema
from e2evit.hub import export
from e2evit.hub.cmssw import RUNTIMES, lower
from e2evit.hub.export import check_parity, export_onnx, parity_images

CHANNELS = find_schema("simulated").channel_names
JETS = {"num_channels": len(CHANNELS), "channel_names": CHANNELS, "num_aux_features": 0}
# attention that PyTorch's exporter cannot write for any number of images
FIXED = {"linearvit_inline", "linearvit_ttt"}


def images_of(processor) -> np.ndarray:
    generator = np.random.default_rng(0)
    images = generator.exponential(size=(3, *processor.image_shape)) * (
        generator.random((3, *processor.image_shape)) < 0.02
    )
    return parity_images(images.astype(np.float32))


def check(model, processor, path: Path) -> None:
    """Files of the oldest and the newest opset that releases of CMSSW know agree with PyTorch; `benchmarks/cmssw.py`
    measures all.
    """
    newest = onnx.load(export_onnx(model, processor, path, "nchw"))
    check_nodes(newest.graph)
    by_opset = {runtime.opset: runtime for runtime in RUNTIMES}
    for runtime in (by_opset[min(by_opset)], by_opset[max(by_opset)]):
        onnx.save(lower(newest, runtime.releases[0]), path)
        # the last batch is the hot image alone
        assert max(check_parity(model, processor, path, images_of(processor), batch_size=2).values()) <= 1e-4


@pytest.mark.parametrize("name", sorted(MODELS.keys() - FIXED))
@pytest.mark.thorough
def test_every_model(name, tmp_path):
    check(make(name, **JETS), E2EImageProcessor(CHANNELS, image_size=50), tmp_path / "model.onnx")


def test_every_family_is_covered():
    assert {MODELS[name]().model_type for name in MODELS} == set(FAMILIES)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("linearvit_study", marks=pytest.mark.slow),
        pytest.param("xcit_study", marks=pytest.mark.thorough),
        pytest.param("hitvit_patches", marks=pytest.mark.thorough),
    ],
)
def test_every_combination_of_options(name, simulated_jets, tmp_path, monkeypatch):
    """Releases, 8-bit products and Triton's repository do not exclude each other."""
    model, processor = make(name, **JETS, image_size=125), E2EImageProcessor(CHANNELS)
    model.save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")
    newest = {layout: export._translate(model, processor, layout, None) for layout in export.LAYOUTS}

    def translate(model, processor, layout, cmssw):
        return lower(newest[layout], cmssw or "15_0")  # which keeps opset 18

    monkeypatch.setattr(export, "_translate", translate)
    command = [str(tmp_path / "run"), "--data_dir", str(simulated_jets), "--num_jets", "20"]
    for release, opset in (("11_0", 11), ("13_0", 15), (None, 18)):
        for int8 in (False, True):
            folder = tmp_path / f"{release}{int8}"
            options = ["--output_dir", str(folder), "--triton", str(folder / "models")]
            options += ["--cmssw", release] if release else []
            main([*command, *options, *["--int8"] * int8])
            served = "run" + "_int8" * int8
            assert [path.name for path in (folder / "models").iterdir()] == [served]
            assert (folder / "models" / served / "1/model.onnx").read_bytes() == (
                folder / f"{served}_nchw.onnx"
            ).read_bytes()
            written = onnx.load(folder / f"{served}_nchw.onnx")
            assert written.opset_import[0].version == opset
            products = [node.input[1] for node in written.graph.node if node.op_type == "MatMulInteger"]
            assert bool(products) == int8
            # onnxruntime up to 1.3 multiplies unsigned numbers only
            kind = TensorProto.UINT8 if opset <= 12 else TensorProto.INT8
            assert {tensor.data_type for tensor in written.graph.initializer if tensor.name in products} <= {kind}
