"""Predictions that survive an interruption."""

import json
import shutil
from hashlib import blake2b, sha256
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.numpy import load_file, save

from e2evit.data.jobs import write_whole, write_whole_text
from e2evit.data.manifest import sha256_of
from e2evit.results.record import fingerprint
from e2evit.training.collate import E2ECollator

from .loaders import ImagesOnDevice, make_loader
from .prediction import TARGETS, predict
from .process import decided_by_main

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

    Pieces of other images, or another model or precision, are removed, and damaged ones predicted again: the name of a
    file holds its hash. All processes must see `folder`.

    Args:
        model: Not prepared by Accelerate.
    """
    folder = Path(folder)
    settings = {"rows": fingerprint(rows), "images": rows._fingerprint, "processor": str(collator.processor.to_dict())}
    settings |= {"weights": weights_fingerprint(model), "piece": PIECE}
    settings |= {"precision": str(accelerator.mixed_precision), "config": model.config.to_json_string()}
    if accelerator.is_main_process:
        known = folder / "settings.json"
        text = json.dumps(settings)
        if not known.is_file() or known.read_text(encoding="utf-8", errors="replace") != text:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_whole_text(known, text)
    accelerator.wait_for_everyone()
    prepared = accelerator.prepare(model)
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(rows), PIECE):
        path = decided_by_main(accelerator, lambda start=start: _intact_piece(folder, start))
        if path is None:
            piece = rows.select(range(start, min(start + PIECE, len(rows))))
            loader = make_loader(piece, collator, batch_size, num_workers, accelerator=accelerator)
            loader = ImagesOnDevice(accelerator.prepare(loader), collator)
            predictions = predict(accelerator, prepared, loader, f"Predicting from {start}", first=start)
            predictions = {name: v for name, v in predictions.items() if name not in TARGETS}
            if accelerator.is_main_process:
                content = save({name: np.ascontiguousarray(values) for name, values in predictions.items()})
                name = f"{start:09d}-{sha256(content).hexdigest()}.safetensors"
                write_whole(folder / name, lambda temporary, content=content: temporary.write_bytes(content))
        else:
            predictions = load_file(path)
        for name, values in predictions.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _intact_piece(folder: Path, start: int) -> Path | None:
    for path in folder.glob(f"{start:09d}-*.safetensors"):
        if path.stem == f"{start:09d}-{sha256_of(path)}":
            return path
        path.unlink()
    return None


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A hash of all weights and buffers."""
    digest = blake2b(digest_size=8)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
