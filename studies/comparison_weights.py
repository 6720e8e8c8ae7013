"""Keep the checkpoint of a training in one small file, so that the blind test can be measured on another machine.

python studies/comparison_weights.py CHECKPOINT FILE

rounds the weights of a checkpoint to half precision, there too, so that what is validated is what is kept.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from e2evit.cli.errors import one_line_errors
from e2evit.data.manifest import weights_hashes
from e2evit.training import write_files

__all__ = ["keep", "restore"]

TEXTS = ("config.json", "preprocessor_config.json", "run_info.json")
WEIGHTS = "model.safetensors"


def keep(checkpoint: Path, kept: Path) -> None:
    """Round the weights of a checkpoint to half precision, and write them and its JSON files to one file.

    Raises:
        ValueError: if a weight is beyond half precision.
    """
    rounded = {}
    for name, tensor in load_file(checkpoint / WEIGHTS).items():
        rounded[name] = tensor.half() if tensor.is_floating_point() else tensor
        if not rounded[name].isfinite().all():
            raise ValueError(f"{checkpoint}: {name} has weights beyond ±65504, which half precision cannot hold.")
    _write(checkpoint, rounded, _texts(checkpoint))
    files = {"files": json.dumps(_texts(checkpoint))}  # one entry: safetensors orders several at random
    write_files(kept.parent, lambda folder: save_file(rounded, folder / kept.name, files))


def restore(kept: Path, checkpoint: Path) -> None:
    """Write the checkpoint that [`keep`] left, to the last bit."""
    with safe_open(kept, "pt") as file:
        texts = json.loads(file.metadata()["files"])
    _write(checkpoint, load_file(kept), texts)


def _texts(checkpoint: Path) -> dict[str, str]:
    return {name: (checkpoint / name).read_text(encoding="utf-8") for name in TEXTS}


def _write(checkpoint: Path, rounded: dict[str, torch.Tensor], texts: dict[str, str]) -> None:
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in rounded.items()}

    def write(folder: Path) -> None:
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})
        info = json.loads(texts["run_info.json"]) | {"sha256": weights_hashes(folder)}
        for name, text in (texts | {"run_info.json": json.dumps(info, indent=2) + "\n"}).items():
            (folder / name).write_text(text, encoding="utf-8")

    write_files(checkpoint, write)


if __name__ == "__main__":
    with one_line_errors("comparison_weights.py"):
        keep(*(Path(word) for word in sys.argv[1:]))
