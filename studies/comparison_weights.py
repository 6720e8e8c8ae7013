"""Keep the checkpoint of a training in one small file, so that the blind test can be measured on another machine.

python studies/comparison_weights.py CHECKPOINT FILE

rounds the weights of a checkpoint to half precision, there too, so that what is validated is what is kept.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from yaml import safe_dump, safe_load

from e2evit.cli.errors import one_line_errors
from e2evit.training import write_files

__all__ = ["keep", "restore"]

RECIPE, RUN, WEIGHTS = "recipe.yaml", "run_info.json", "model.safetensors"
TEXTS = ("config.json", "preprocessor_config.json", RECIPE, RUN)  # the recipe has the targets to measure
OF_THIS_MACHINE = ("cache_dir", "data_dir", "output_dir")


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
    _write(checkpoint, _weights(rounded), _texts(checkpoint))
    texts = _texts(checkpoint)
    recipe = {name: value for name, value in safe_load(texts[RECIPE]).items() if name not in OF_THIS_MACHINE}
    texts[RECIPE] = safe_dump(recipe, sort_keys=False)
    files = {"files": json.dumps(texts)}  # one entry: safetensors orders several at random
    write_files(kept.parent, lambda folder: save_file(rounded, folder / kept.name, files))


def restore(kept: Path, checkpoint: Path, expected: str) -> None:
    """Write the checkpoint that [`keep`] left, to the last bit; its recipe has no paths.

    Args:
        expected: SHA-256 of its weights.

    Raises:
        ValueError: for other weights, or a file that `keep` has not written; then nothing is.
    """
    try:
        with safe_open(kept, "pt") as file:
            texts = json.loads((file.metadata() or {}).get("files", "{}"))
        weights = _weights(load_file(kept))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{kept} is damaged: {error}. Restore it, e.g. with git.") from error
    if not isinstance(texts, dict) or sorted(texts) != sorted(TEXTS) or sha256(weights).hexdigest() != expected:
        raise ValueError(f"{kept} does not hold what was validated: restore it, e.g. with git, or train again.")
    _write(checkpoint, weights, texts)


def _weights(rounded: dict[str, torch.Tensor]) -> bytes:
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in rounded.items()}
    return save(tensors, {"format": "pt"})


def _texts(checkpoint: Path) -> dict[str, str]:
    return {name: (checkpoint / name).read_text(encoding="utf-8") for name in TEXTS}


def _write(checkpoint: Path, weights: bytes, texts: dict[str, str]) -> None:
    info = json.loads(texts[RUN]) | {"sha256": {WEIGHTS: sha256(weights).hexdigest()}}

    def write(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(weights)
        for name, text in (texts | {RUN: json.dumps(info, indent=2) + "\n"}).items():
            (folder / name).write_text(text, encoding="utf-8")

    write_files(checkpoint, write)


if __name__ == "__main__":
    with one_line_errors("comparison_weights.py"):
        if len(sys.argv) != 3:
            raise ValueError("Pass a checkpoint, and the file to keep it in.")
        keep(*(Path(word) for word in sys.argv[1:]))
