"""Which of the study's models the releases of CMSSW can run, in float32 and with 8-bit products.

    python benchmarks/cmssw.py --runtimes_dir RUNTIMES

Each model, with random weights, is exported once and written for the onnxruntime of each release. What could be
written is checked by onnx and, in the installed onnxruntime, compared with PyTorch on jets, an empty and a hot image.
If `RUNTIMES/1.10.0/bin/python` has onnxruntime 1.10, that runs the files for 1.10.0 as well, and so on:

    pyenv shell 3.9 && python -m venv RUNTIMES/1.10.0 && RUNTIMES/1.10.0/bin/pip install "numpy<2" onnxruntime==1.10.0

Python 3.7 has wheels of 1.0.0 and 1.2.0, 3.8 of 1.3.0 and 1.7.0, 3.10 of the later ones.
"""

import subprocess
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
from e2evit.hub.cmssw import RUNTIMES, Runtime, lower
from e2evit.hub.export import ExportModule, check_parity, differences_of, export_onnx, parity_images
from e2evit.hub.int8 import to_int8
from e2evit.results.record import write_record
from e2evit.training import read_model_config

ROOT = Path(__file__).parents[1]
KINDS = ("float32", "int8")


@dataclass
class CMSSWArguments:
    data_dir: str = field(default=str(ROOT / "tests/data/jets"), metadata={"help": "Folder of simulated jets."})
    models_dir: str = field(default=str(ROOT / "recipes/study"), metadata={"help": "Folder of configurations."})
    num_jets: int = field(default=20, metadata={"help": "Jets to compare on."})
    runtimes_dir: str | None = field(default=None, metadata={"help": "Folder of environments with older runtimes."})
    results: str = field(default="results/cmssw.json", metadata={"help": "JSON file to write."})


def releases_of(model, processor, images: np.ndarray, folder: Path, runtimes: Path | None) -> dict[str, dict]:
    """By onnxruntime and kind of file, the difference from PyTorch in the installed onnxruntime (the largest; of int8
    the mean) and in its own, or why there is no such file."""
    try:
        newest = onnx.load(export_onnx(model, processor, folder / "newest.onnx", "nchw"))
    except ValueError as error:
        return {runtime.version: dict.fromkeys(KINDS, f"not exported: {error}") for runtime in RUNTIMES}
    module = ExportModule(model, processor, "nchw").eval()
    with torch.no_grad():
        outputs = [tensor.numpy() for tensor in module(torch.from_numpy(images))]
    expected, found = dict(zip(module.output_names, outputs)), {}
    for runtime in RUNTIMES:
        entry = found[runtime.version] = {}
        for kind in KINDS:
            try:
                lowered = lower(newest, runtime.releases[0])
                onnx.save(to_int8(lowered) if kind == "int8" else lowered, folder / f"{kind}.onnx")
                worst = check_parity(model, processor, folder / f"{kind}.onnx", images, int8=kind == "int8")
            except ValueError as error:
                entry[kind] = str(error)
            else:
                entry[kind] = {"installed": max(worst.values())}
        if runtimes is not None and (python := runtimes / runtime.version / "bin/python").exists():
            written = [kind for kind in KINDS if not isinstance(entry[kind], str)]
            try:
                for kind, difference in run_in(python, written, images, expected, folder).items():
                    entry[kind]["own"] = difference
            except subprocess.CalledProcessError as error:
                reason = (error.stderr.strip().splitlines() or [str(error)])[-1]
                entry |= {kind: f"refused by onnxruntime {runtime.version}: {reason}" for kind in written}
    return found


def run_in(python: Path, kinds: list[str], images: np.ndarray, expected: dict, folder: Path) -> dict[str, float]:
    """The differences from PyTorch of files that an older onnxruntime runs."""
    np.save(folder / "images.npy", images)
    files = [folder / f"{kind}.onnx" for kind in kinds]
    command = [python, ROOT / "benchmarks/run_onnx.py", folder / "images.npy", *files]
    subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
    twice = {name: np.concatenate([values, values]) for name, values in expected.items()}  # in a batch, and alone
    differences = {}
    for kind in kinds:
        combine = np.mean if kind == "int8" else np.max
        with np.load(folder / f"{kind}.npz") as outputs:
            differences[kind] = max(float(combine(differences_of(name, outputs[name], twice))) for name in outputs)
    return differences


def version_of(runtime: Runtime, runtimes: Path) -> str | None:
    """The onnxruntime of an environment: not each version has a wheel."""
    python = runtimes / runtime.version / "bin/python"
    if not python.exists():
        return None
    command = [python, "-c", "import onnxruntime; print(onnxruntime.__version__)"]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.strip()


def main() -> None:
    (arguments,) = HfArgumentParser(CMSSWArguments).parse_args_into_dataclasses()
    runtimes = Path(arguments.runtimes_dir) if arguments.runtimes_dir else None
    own = {runtime.version: version_of(runtime, runtimes) for runtime in RUNTIMES} if runtimes else {}
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
            models[path.stem] = releases_of(model, processor, images, Path(folder), runtimes)
    record = {"jets": len(jets), "own_runtimes": own, "models": models}
    write_record(arguments.results, record, packages=("onnx", "onnxruntime", "onnxscript"))


if __name__ == "__main__":
    main()
