"""Predictions that survive an interruption."""

import json
import shutil
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.numpy import load_file, save_file

from e2evit.training.collate import E2ECollator

from .checkpoint import fingerprint
from .loaders import make_loader
from .prediction import predict

__all__ = ["predict_in_pieces"]

PIECE = 4096  # jets


def predict_in_pieces(
    accelerator: Accelerator,
    model,
    rows: Dataset,
    collator: E2ECollator,
    batch_size: int,
    folder: str | Path,
    num_workers: int = 0,
) -> dict[str, np.ndarray]:
    """The predictions of [`predict`], without targets, kept in `folder` piece by piece: after an interruption the same
    call resumes with the next piece.

    Pieces of another model, precision or other jets are removed. All processes must see `folder`.

    Args:
        model: Not prepared by Accelerate.
    """
    folder = Path(folder)
    settings = {"rows": fingerprint(rows), "weights": weights_fingerprint(model), "piece": PIECE}
    settings |= {"precision": str(accelerator.mixed_precision), "config": model.config.to_json_string()}
    if accelerator.is_main_process:
        known = folder / "settings.json"
        if not known.is_file() or json.loads(known.read_text(encoding="utf-8")) != settings:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            known.write_text(json.dumps(settings), encoding="utf-8")
    accelerator.wait_for_everyone()
    prepared = accelerator.prepare(model)
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(rows), PIECE):
        path = folder / f"{start:09d}.safetensors"
        done = path.is_file()
        accelerator.wait_for_everyone()  # before the main process writes it, so that all see the same
        if not done:
            piece = rows.select(range(start, min(start + PIECE, len(rows))))
            loader = accelerator.prepare(make_loader(piece, collator, batch_size, num_workers))
            predictions = predict(accelerator, prepared, loader, f"Predicting from {start}")
            predictions = {name: v for name, v in predictions.items() if name not in ("labels", "mass_labels")}
            if accelerator.is_main_process:
                temporary = path.with_suffix(".tmp")
                save_file({name: np.ascontiguousarray(values) for name, values in predictions.items()}, temporary)
                temporary.replace(path)
        else:
            predictions = load_file(path)
        for name, values in predictions.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A hash of all weights and buffers."""
    digest = blake2b(digest_size=8)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
