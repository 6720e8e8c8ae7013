"""Which of the study's models the releases of CMSSW can run.

    python benchmarks/cmssw.py

Each model, with random weights, is exported once and written for the onnxruntime of each release. What could be
written is checked by onnx and, in the installed onnxruntime, compared with PyTorch on jets, an empty and a hot image.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from tqdm import tqdm
from transformers import AutoModelForImageClassification, HfArgumentParser

from e2evit import E2EImageProcessor, load_e2e
from e2evit.data import find_schema
from e2evit.data.sparse import table_to_dense
from e2evit.hub.cmssw import RUNTIMES, lower
from e2evit.hub.export import check_parity, export_onnx, parity_images
from e2evit.results.record import write_record
from e2evit.training import read_model_config

ROOT = Path(__file__).parents[1]


@dataclass
class CMSSWArguments:
    data_dir: str = field(default=str(ROOT / "tests/data/jets"), metadata={"help": "Folder of simulated jets."})
    models_dir: str = field(default=str(ROOT / "recipes/study"), metadata={"help": "Folder of configurations."})
    num_jets: int = field(default=20, metadata={"help": "Jets to compare on."})
    results: str = field(default="results/cmssw.json", metadata={"help": "JSON file to write."})


def releases_of(model, processor, images: np.ndarray, folder: Path) -> dict[str, str | float]:
    """By onnxruntime, the largest difference from PyTorch, or why it cannot run the model."""
    try:
        newest = onnx.load(export_onnx(model, processor, folder / "newest.onnx", "nchw"))
    except (ValueError, torch.onnx.OnnxExporterError) as error:
        return {runtime.version: f"not exported: {type(error).__name__}" for runtime in RUNTIMES}
    found = {}
    for runtime in RUNTIMES:
        try:
            onnx.save(lower(newest, runtime.releases[0]), folder / "older.onnx")
        except ValueError as error:
            found[runtime.version] = str(error)
        else:
            found[runtime.version] = max(check_parity(model, processor, folder / "older.onnx", images).values())
    return found


def main() -> None:
    (arguments,) = HfArgumentParser(CMSSWArguments).parse_args_into_dataclasses()
    schema = find_schema("simulated")
    jets = load_e2e("simulated", arguments.data_dir, split="train").shuffle(seed=0)
    jets = jets.select(range(min(arguments.num_jets, len(jets))))
    images = parity_images(table_to_dense(jets.with_format("arrow")[:], schema.image_shape))
    processor, models = E2EImageProcessor(schema.channel_names), {}
    fields = {"channel_names": schema.channel_names, "num_channels": len(schema.channel_names)}
    fields |= {"image_size": schema.image_size, "id2label": dict(enumerate(schema.labels))}
    for path in tqdm(sorted(Path(arguments.models_dir).glob("*.json")), desc="Models", disable=None):
        torch.manual_seed(0)
        model = AutoModelForImageClassification.from_config(read_model_config(path, **fields)).eval()
        with tempfile.TemporaryDirectory() as folder:
            models[path.stem] = releases_of(model, processor, images, Path(folder))
    write_record(
        arguments.results, {"jets": len(jets), "models": models}, packages=("onnx", "onnxruntime", "onnxscript")
    )


if __name__ == "__main__":
    main()
