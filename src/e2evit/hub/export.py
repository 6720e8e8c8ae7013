"""Checkpoints as ONNX files that CMSSW runs: images in detector units in, a probability and a mass [GeV] out."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from e2evit.data import CHANNELS
from e2evit.data.extras import import_extra
from e2evit.data.jobs import follow, write_whole, write_whole_text
from e2evit.modeling import E2EImageProcessor, HitViTForJetsInEvents
from e2evit.modeling.image_processing_e2e import compress
from e2evit.modeling.modeling_e2e import E2EForImageClassification

from .cmssw import lower, runtime_of
from .int8 import to_int8

__all__ = [
    "LAYOUTS",
    "ExportModule",
    "check_parity",
    "differences_of",
    "export_onnx",
    "export_variants",
    "metadata",
    "parity_images",
    "write_row",
]

LAYOUTS = ("nhwc", "nchw")
OPSET = 18  # the exporter's own; of IR version 10, which onnxruntime reads from 1.18 on
TOLERANCE = 1e-4  # absolute of probabilities, relative of masses
INT8_TOLERANCE = 1e-2  # the same, of the mean over jets
OUTPUTS = ("signal", "probabilities", "mass", "mass_uncertainty", "containment")
FIRST = ("signal", "mass")


class ExportModule(nn.Module):
    """`inputs`, images in the detector's units, to what an analysis reads.

    Outputs are float32: `signal` `(N, 1)`, the probability that the jet is not of class 0; `probabilities` `(N, n)`;
    `mass` `(N, 1)` [GeV] and, of models that predict them, `mass_uncertainty` `(N, 1)` [GeV] and `containment`
    `(N, 1)`, the probability that the jet contains all of the decay. `output_names` are those of a model.

    Args:
        model: An `...ForImageClassification` of this repository.
        processor: Its image processor; the signed logarithm becomes part of the graph.
        layout: `"nhwc"`, in which RecoE2E's producers flatten images, or `"nchw"`.

    Raises:
        ValueError: for another layout, a model that needs `aux_values` or jets, or one without exclusive classes.
    """

    def __init__(self, model: E2EForImageClassification, processor: E2EImageProcessor, layout: str = "nhwc"):
        super().__init__()
        if isinstance(model, HitViTForJetsInEvents):
            raise ValueError(
                "This model reads the jets of events besides the image; only models of images are exported."
            )
        if model.reads_candidates:
            raise ValueError("This model reads candidates; only models of images are exported.")
        if layout not in LAYOUTS:
            raise ValueError(f"`layout` is {' or '.join(LAYOUTS)}, got {layout!r}.")
        if model.config.num_aux_features:
            raise ValueError(
                f"This model reads {model.config.num_aux_features} scalars besides the image, and CMSSW's producers "
                "pass a single input: export a model without `num_aux_features`."
            )
        if not model.config.has_exclusive_classes:
            raise ValueError(
                f"CMSSW's producers read class probabilities; `problem_type` is {model.config.problem_type!r}."
            )
        self.model, self.layout = model, layout
        absent = {"mass_uncertainty": model.config.mass_loss == "huber", "containment": not model.config.containment}
        self.output_names = [name for name in OUTPUTS if not absent.get(name)]
        self.register_buffer("channel_scale", torch.tensor(processor.channel_scale).reshape(1, -1, 1, 1))

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`inputs` `(N, H, W, C)` or `(N, C, H, W)` [GeV, cm, hits]."""
        images = inputs.permute(0, 3, 1, 2).contiguous() if self.layout == "nhwc" else inputs
        outputs = self.model(pixel_values=compress(images, self.channel_scale))
        probabilities = outputs.logits.float().softmax(-1)
        results = [1 - probabilities[:, :1], probabilities, outputs.mass_preds.unsqueeze(1)]
        if outputs.mass_scale_preds is not None:
            results.append(outputs.mass_scale_preds.unsqueeze(1))
        if outputs.containment_logits is not None:
            results.append(outputs.containment_logits.sigmoid().unsqueeze(1))
        return tuple(results)


def metadata(model, processor, layout: str) -> dict[str, str]:
    """The metadata of an ONNX file: everything needed to fill its input and to read its outputs."""
    names = processor.channel_names
    is_physical = processor.normalisation in (None, "physical")
    units = [CHANNELS[name].unit if is_physical and name in CHANNELS else "a.u." for name in names]
    classes = [model.config.id2label[number] for number in range(model.config.num_labels)]
    return {
        "model_type": model.config.model_type,
        "layout": layout,
        "image_size": json.dumps(processor.image_size),
        "channel_names": json.dumps(names),
        "channel_units": json.dumps(units),
        "channel_scale": json.dumps(processor.channel_scale),
        "class_names": json.dumps(classes),
        "signal": f"one minus the probability of {classes[0]}",
        "mass_unit": "GeV",
        "versions": json.dumps({name: version(name) for name in ("e2evit", "torch", "transformers", "onnx")}),
    }


def export_onnx(
    model, processor, path: str | Path, layout: str = "nhwc", first: str = "signal", cmssw: str | None = None
) -> Path:
    """Write one ONNX file, whole or not at all; its batch size is dynamic, its image size that of the processor.

    Args:
        first: Output 0, `"signal"` or `"mass"`; RecoE2E reads only this one.
        cmssw: Release whose onnxruntime must read the file, such as `"13_0"`.

    Raises:
        ValueError: as [`ExportModule`] and [`lower`], for another `first`, a model of a fixed batch size, or one that
            PyTorch's exporter cannot translate.
        ImportError: without the `export` extra.
    """
    if first not in FIRST:
        raise ValueError(f"Output 0 is {' or '.join(FIRST)}, got {first!r}.")
    return _save(_translate(model, processor, layout, cmssw), Path(path), first)


def _translate(model, processor, layout: str, cmssw: str | None):
    """The graph of a model as an ONNX message."""
    if cmssw is not None:
        runtime_of(cmssw)  # a wrong one is told before the minutes that large models take
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter needs it, and its own error is less clear)
    except ImportError as error:
        raise ImportError("Exporting needs onnx and onnxscript: pip install 'e2evit[export]'.") from error
    module = ExportModule(model, processor, layout).eval()
    channels, height, width = processor.image_shape
    example = torch.zeros((2, height, width, channels) if layout == "nhwc" else (2, channels, height, width))
    # one line for each operator of torchvision, which no model uses, and for each list without entries
    for name in ("torch.onnx._internal.exporter._registration", "onnx_ir._convenience"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), _plain_attention(model):
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec")  # torch's own
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=["inputs"],
                output_names=module.output_names,
                dynamic_shapes={"inputs": {0: torch.export.Dim("batch", min=1)}},
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ValueError(
                f"PyTorch's exporter cannot translate this model ({model.config.model_type}): {_reason(error)}"
            ) from error
    proto = program.model_proto
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ValueError(
            "PyTorch's exporter makes the batch size of this model a constant, and events have any number of jets: "
            "export a model with another attention."
        )
    onnx.helper.set_model_props(proto, metadata(model, processor, layout))
    return proto if cmssw is None else lower(proto, cmssw)


@contextmanager
def _plain_attention(model) -> Iterator[None]:
    """Attention of transformers' backbones as products: torch's exporter cannot translate Swin's fused one."""
    backbones = [
        part for part in model.modules() if isinstance(part, PreTrainedModel) and part.config is not model.config
    ]
    before = [part.config._attn_implementation for part in backbones]
    for part in backbones:
        part.set_attn_implementation("eager")
    try:
        yield
    finally:
        for part, implementation in zip(backbones, before):
            part.set_attn_implementation(implementation)


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause; torch's own message is a page long."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).splitlines()), type(error).__name__)


def _save(proto, path: Path, first: str) -> Path:
    """The graph with the output `first` in front."""
    import onnx

    ordered = sorted(proto.graph.output, key=lambda output: output.name != first)
    del proto.graph.output[:]
    proto.graph.output.extend(ordered)
    onnx.checker.check_model(proto)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda temporary: onnx.save(proto, temporary))
    return path


def parity_images(images: np.ndarray) -> np.ndarray:
    """`images` `(N, C, H, W)`, an empty image, and one with a hot pixel of either sign in each channel."""
    extreme = np.zeros((2, *images.shape[1:]), np.float32)
    middle = images.shape[-1] // 2
    extreme[1, :, middle, middle], extreme[1, :, 0, 0] = 1e4, -1e4
    return np.concatenate([images, extreme])


def check_parity(
    model, processor, path: str | Path, images: np.ndarray, batch_size: int = 64, int8: bool = False
) -> dict[str, float]:
    """Largest differences between an ONNX file run by onnxruntime and the model in PyTorch, in float32.

    Args:
        images: `(N, C, H, W)`, in detector units, as from [`parity_images`].
        int8: Check the mean over images instead of the largest difference, against 1e-2.

    Returns:
        By output; absolute for probabilities, relative for masses.

    Raises:
        ValueError: if one is above 1e-4 (`int8`: 1e-2), or not a number.
    """
    session = open_session(path)
    layout = session.get_modelmeta().custom_metadata_map["layout"]
    names = [output.name for output in session.get_outputs()]
    module = ExportModule(model, processor, "nchw").eval()
    differences: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for start in tqdm(range(0, len(images), batch_size), desc="Comparing", unit="batch", disable=None, leave=False):
        batch = np.ascontiguousarray(images[start : start + batch_size], dtype=np.float32)
        with torch.no_grad():
            expected = dict(zip(module.output_names, (tensor.numpy() for tensor in module(torch.from_numpy(batch)))))
        fed = np.ascontiguousarray(batch.transpose(0, 2, 3, 1)) if layout == "nhwc" else batch
        for name, values in zip(names, session.run(names, {"inputs": fed})):
            differences[name].append(differences_of(name, values, expected))
    combine, tolerance = (np.mean, INT8_TOLERANCE) if int8 else (np.max, TOLERANCE)  # both keep a NaN
    found = {name: float(combine(np.concatenate(of))) for name, of in differences.items()}
    if not all(value <= tolerance for value in found.values()):
        raise ValueError(f"{path} differs from PyTorch by more than {tolerance:g}: {found}.")
    return found


def differences_of(name: str, values: np.ndarray, expected: Mapping[str, np.ndarray]) -> np.ndarray:
    """The largest difference `(N,)` of an output `(N, width)` in each image from those expected, of which masses are
    relative to `expected["mass"]`."""
    error = np.abs(values - expected[name])
    if name.startswith("mass"):
        error = error / np.maximum(np.abs(expected["mass"]), 1.0)
    return error.max(axis=1)


def open_session(path: str | Path, num_threads: int = 0):
    """An onnxruntime session on the CPU; 0 threads use all cores, 1 is what CMSSW does."""
    onnxruntime = import_extra("onnxruntime", "Running ONNX files", "export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = num_threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def check_name(name: str) -> None:
    """Refuse a beginning of file names that leads to another folder.

    Raises:
        ValueError: naming it.
    """
    if Path(name).name != name:
        raise ValueError(f"`name` is the beginning of file names, got {name!r}: leave out its folder.")


def export_variants(
    model: E2EForImageClassification,
    processor: E2EImageProcessor,
    folder: str | Path,
    name: str,
    images: np.ndarray,
    cmssw: str | None = None,
    int8: bool = False,
) -> dict[str, dict[str, float]]:
    """`NAME_nhwc.onnx`, `NAME_nchw.onnx`, and the same with the mass as output 0: `NAME_mass_nhwc.onnx`, ...

    A file stays only if it agrees with PyTorch on `images` (see [`check_parity`]).

    Args:
        cmssw: As of [`export_onnx`].
        int8: Compute matrix products with 8-bit integers.

    Returns:
        The largest differences by file name; with `int8` their means over images.

    Raises:
        ValueError: as [`check_name`], [`export_onnx`] and [`check_parity`].
    """
    check_name(name)
    differences: dict[str, dict[str, float]] = {}

    def export() -> Iterator[int]:
        for layout in LAYOUTS:
            proto = _translate(model, processor, layout, cmssw)
            proto = to_int8(proto) if int8 else proto
            for first in FIRST:
                path = Path(folder) / f"{name}_{'mass_' if first == 'mass' else ''}{layout}.onnx"
                unchecked = _save(proto, path.with_suffix(".unchecked"), first)
                try:
                    differences[path.name] = check_parity(model, processor, unchecked, images, int8=int8)
                    unchecked.replace(path)
                finally:
                    unchecked.unlink(missing_ok=True)
                yield 1

    follow(export(), "Exporting", "file", len(LAYOUTS) * len(FIRST))
    return differences


def write_row(row: Mapping, path: str | Path) -> Path:
    """Write `pixel_index pixel_value` lines, which `deploy/cpp` reads, of a row of a data set."""
    pixels = zip(row["pixel_index"], row["pixel_value"])
    path, text = Path(path), "".join(f"{index} {value!r}\n" for index, value in pixels)
    write_whole_text(path, text)
    return path
