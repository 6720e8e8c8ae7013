"""Size, speed and quality of exported models: float32, int8 and bfloat16 weights, against PyTorch.

    python benchmarks/export.py --checkpoint checkpoints/linearvit --data_dir runs/study/data

Speed: one image and batches of 64, on one thread (as in CMSSW) and on two. Variants are measured in turn, round by
round, in one process; ratios to eager PyTorch with the same number of threads are taken within a round, then their
median. Quality: jets of the test split, with the targets of the checkpoint's recipe. "int8 dynamic" is what `e2evit
export --int8` writes; static quantisation, calibrated on training jets, is of matrix products alone and with
convolutions. onnxruntime has no bfloat16 kernels for CPUs: weights are stored in bfloat16 and become float32 when the
file is loaded. It takes five minutes on two idle cores.
"""

import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from sklearn.metrics import roc_auc_score
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification, HfArgumentParser

from e2evit.data.sparse import table_to_dense
from e2evit.hub.export import OUTPUTS, ExportModule, export_onnx, open_session
from e2evit.hub.int8 import to_int8
from e2evit.metrics.classification import accuracy
from e2evit.metrics.mass import mass_statistics
from e2evit.results.measure import BACKGROUND, column
from e2evit.results.record import write_record
from e2evit.training import DataArguments, TargetArguments, load_data

BATCHES, THREADS = (1, 64), (1, 2)
STATIC = {
    "int8 static, convolutions in float32": ["MatMul", "Gemm"],
    "int8 static": ["MatMul", "Gemm", "Conv"],
}


@dataclass
class ExportArguments:
    data_dir: str = field(metadata={"help": "Folder of simulated jets with the checkpoint's classes."})
    checkpoint: str = field(default="checkpoints/linearvit", metadata={"help": "Checkpoint folder."})
    results: str = field(default="results/export.json", metadata={"help": "JSON file to write."})
    num_jets: int = field(default=4000, metadata={"help": "Test jets on which quality is measured."})
    rounds: int = field(default=7, metadata={"help": "Measurements of each variant."})


def bfloat16_weights(source: Path, target: Path) -> None:
    """Store large float32 constants in bfloat16, followed by a cast back."""
    model = onnx.load(source)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < 256:
            continue
        values, name = numpy_helper.to_array(tensor), tensor.name
        bits = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.uint16).numpy()
        stored = helper.make_tensor(f"{name}_bf16", TensorProto.BFLOAT16, values.shape, bits.tobytes(), raw=True)
        tensor.CopyFrom(stored)
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, target)


class Calibration(CalibrationDataReader):
    """Training images in batches of ten."""

    def __init__(self, images: np.ndarray):
        self.batches = iter(np.array_split(images, max(1, len(images) // 10)))

    def get_next(self):
        batch = next(self.batches, None)
        return None if batch is None else {"inputs": batch}


def write_variants(model, processor, folder: Path, calibration: np.ndarray) -> dict[str, Path]:
    names = ("float32", "bfloat16 weights", "int8 dynamic", *STATIC)
    paths = {name: folder / f"{number}.onnx" for number, name in enumerate(names)}
    export_onnx(model, processor, paths["float32"], "nchw")
    bfloat16_weights(paths["float32"], paths["bfloat16 weights"])
    onnx.save(to_int8(onnx.load(paths["float32"])), paths["int8 dynamic"])
    quant_pre_process(paths["float32"], folder / "prepared.onnx")
    for name, operators in STATIC.items():
        quantize_static(
            folder / "prepared.onnx",
            paths[name],
            Calibration(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=operators,
        )
    return paths


def quality(outputs: dict[str, np.ndarray], labels, masses) -> dict[str, float]:
    known, has_mass = labels != -100, np.isfinite(masses)
    mass = mass_statistics(masses[has_mass], outputs["mass"][has_mass, 0].astype(float))
    return {
        "roc_auc": float(roc_auc_score(labels[known] != BACKGROUND, outputs["signal"][known, 0])),
        "accuracy": accuracy(labels[known], outputs["probabilities"][known]),
        "mae_gev": mass["mae_gev"],
        "relative_resolution": mass["relative_resolution"],
    }


def run_all(function, images: np.ndarray) -> dict[str, np.ndarray]:
    parts = [function(images[start : start + 64]) for start in range(0, len(images), 64)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def main() -> None:
    (arguments,) = HfArgumentParser(ExportArguments).parse_args_into_dataclasses()
    processor = AutoImageProcessor.from_pretrained(arguments.checkpoint)
    model = AutoModelForImageClassification.from_pretrained(arguments.checkpoint).eval()
    recipe = yaml.safe_load(Path(arguments.checkpoint, "recipe.yaml").read_text(encoding="utf-8"))
    targets = {name: recipe[name] for name in ("mass_column", "classes", "mass_classes")}
    dataset, schema = load_data(
        DataArguments(data_dir=arguments.data_dir), TargetArguments(**targets), processor.channel_names
    )
    # rows are sorted by process
    rows = dataset["test"].shuffle(seed=0).select(range(min(arguments.num_jets, len(dataset["test"]))))
    images = table_to_dense(rows.with_format("arrow")[:], schema.image_shape)
    labels, masses = column(rows, "labels", -100).astype(int), column(rows, targets["mass_column"])
    train = dataset["train"].shuffle(seed=0).select(range(100))
    calibration = table_to_dense(train.with_format("arrow")[:], schema.image_shape)
    module = ExportModule(model, processor, "nchw").eval()

    def in_torch(batch):
        with torch.no_grad():
            return dict(zip(OUTPUTS, (tensor.numpy() for tensor in module(torch.from_numpy(batch)))))

    def in_onnxruntime(session):
        names = [output.name for output in session.get_outputs()]
        return lambda batch: dict(zip(names, session.run(names, {"inputs": batch})))

    with tempfile.TemporaryDirectory() as folder:
        paths = write_variants(model, processor, Path(folder), calibration)
        variants = {"PyTorch eager": {"quality": quality(run_all(in_torch, images), labels, masses)}}
        for name, path in tqdm(paths.items(), desc="Quality", disable=None):
            outputs = run_all(in_onnxruntime(open_session(path)), images)
            size = path.stat().st_size / 2**20
            variants[name] = {"mebibytes": round(size, 2), "quality": quality(outputs, labels, masses)}
        weights = Path(arguments.checkpoint, "model.safetensors").stat().st_size / 2**20
        variants["PyTorch eager"]["mebibytes"] = round(weights, 2)
        for threads in THREADS:
            torch.set_num_threads(threads)
            runners = {"PyTorch eager": in_torch}
            runners |= {name: in_onnxruntime(open_session(path, threads)) for name, path in paths.items()}
            for size in BATCHES:
                title = f"{threads} thread{'s' * (threads > 1)}, batch {size}"
                measure(variants, runners, images[:size], title, arguments.rounds)
    record = {"checkpoint": arguments.checkpoint, "jets": len(rows), "variants": variants}
    path = Path(arguments.results)
    write_record(path, record, packages=("onnx", "onnxruntime"))
    print(json.dumps(record, indent=1))


def measure(variants: dict, runners: dict, batch: np.ndarray, title: str, rounds: int) -> None:
    seconds = {name: [] for name in runners}
    repeats = 10 if len(batch) == 1 else 1
    for _ in tqdm(range(rounds + 2), desc=title, disable=None):
        for name, runner in runners.items():
            start = time.perf_counter()
            for _ in range(repeats):
                runner(batch)
            seconds[name].append((time.perf_counter() - start) / repeats)
    times = {name: np.array(values[2:]) for name, values in seconds.items()}  # two rounds warm up
    for name, values in times.items():
        entry = variants[name].setdefault("speed", {})
        entry[title] = {
            "milliseconds": round(1000 * float(np.median(values)), 2),
            "over_pytorch": round(float(np.median(times["PyTorch eager"] / values)), 2),
        }


if __name__ == "__main__":
    main()
