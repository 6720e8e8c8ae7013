"""A folder to publish: weights, code, card and figures, checked to load without e2evit."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from e2evit.data.packaged import packaged_folder
from e2evit.data.storage import absolute
from e2evit.data.texts import read_mapping
from e2evit.data.unseen import check_training
from e2evit.plots import comparison_figures, save_figure
from e2evit.results.predictions import read_event_ids, read_predictions
from e2evit.results.record import Result

from .benchmark import Benchmark
from .card import CAPTIONS, render_card
from .code import add_code
from .safety import CHECKPOINT_FILES, EVAL_RESULTS, MODEL_FILES, OWN_SCORES, check_checkpoint, find_files

__all__ = ["assemble_model", "check_loads"]

logger = logging.getLogger(__name__)
TOLERANCE = 1e-5  # of logits and, relative, of masses, between two processes on one machine
_LOAD = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "e2evit":
            raise ImportError("e2evit is not there")
sys.meta_path.insert(0, Block())
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
folder, inputs, outputs = sys.argv[1:]
images = load_file(inputs)["images"]
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
aux = {"aux_values": torch.zeros(len(images), model.config.num_aux_features)} if model.config.num_aux_features else {}
with torch.no_grad():
    result = model(**processor(images, channel_names=processor.channel_names, return_tensors="pt"), **aux)
for task in () if aux else ("e2e-jets", "e2e-features"):
    pipe = pipeline(task, model=folder, trust_remote_code=True)
    assert len(pipe(images, channel_names=processor.channel_names)) == len(images)
assert "e2evit" not in sys.modules
save_file({"logits": result.logits.numpy(), "mass_preds": result.mass_preds.numpy()}, outputs)
"""


def assemble_model(
    checkpoint: str | Path,
    folder: str | Path,
    model_id: str,
    results: str | Path,
    recipe: str = "recipe.yaml",
    benchmark: Benchmark | None = None,
) -> Path:
    """Write everything that a model's repository holds; an existing folder is replaced once all is written.

    Args:
        checkpoint: Folder written by training.
        folder: Destination.
        model_id: Hub id, or the path that users will load it from; the card shows it.
        results: The checkpoint's evaluation, with its Parquet file beside it.
        recipe: Name of the recipe on the card.
        benchmark: The Hub's leaderboards that the results go to, too.

    Raises:
        ValueError: if the checkpoint is not safe to load (see [`check_checkpoint`]) or not a model of e2evit, if the
            results belong to another model or are not of the benchmark, if the training data shares events with it,
            if `folder` holds files that it would lose, or if the finished folder does not load in a process without
            e2evit.
        FileNotFoundError: if something is missing.
    """
    checkpoint, folder, results = (Path(absolute(path)) for path in (checkpoint, folder, results))
    if folder.exists() and (others := {*find_files(folder)} - {*find_files(folder, MODEL_FILES)}):
        raise ValueError(f"{folder} holds {min(others)}, which would be lost: choose a folder that is new or empty.")
    check_checkpoint(checkpoint, CHECKPOINT_FILES)
    if not (checkpoint / "preprocessor_config.json").is_file():
        raise FileNotFoundError(f"{checkpoint} holds no preprocessor_config.json: its images cannot be prepared.")
    for path in (results, results.with_suffix(".parquet")):
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}: measure the checkpoint with `e2evit eval` first.")
    result = Result.from_json(results)
    if benchmark is not None:
        benchmark.check(result, results)
        path = checkpoint / "recipe.yaml"
        check_training(read_event_ids(results), read_mapping(path) if path.is_file() else {})
    with tempfile.TemporaryDirectory() as base:  # an adapter, say, beside the checkpoint would be loaded with it
        for name in CHECKPOINT_FILES:
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, Path(base, name))
        processor = AutoImageProcessor.from_pretrained(base)
        model = AutoModelForImageClassification.from_pretrained(base).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if result.parameters != parameters or result.channel_names != processor.channel_names:
        raise ValueError(
            f"{results} belongs to a model with {result.parameters} parameters and the channels "
            f"{', '.join(result.channel_names)}; {checkpoint} has {parameters} and "
            f"{', '.join(processor.channel_names)}."
        )
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        shutil.copyfile(checkpoint / "model.safetensors", temporary / "model.safetensors")  # as hashed in run_info
        processor.save_pretrained(temporary)
        add_code(temporary)
        for name in ("recipe.yaml", "run_info.json"):
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, temporary / name)
        shutil.copyfile(results, temporary / "results.json")
        if benchmark is not None:
            scores = temporary / EVAL_RESULTS / OWN_SCORES.format(benchmark.repo_id.rpartition("/")[2])
            scores.parent.mkdir()
            scores.write_text(benchmark.eval_results(result), encoding="utf-8")
        figures = comparison_figures(read_predictions({results: result}), result)
        shown = [name for name in CAPTIONS if figures.get(name)]
        for name in shown:
            save_figure(figures[name], temporary / "figures" / name).with_suffix(".pdf").unlink()
        template = packaged_folder("model_cards") / "TEMPLATE.md"
        card = render_card(template, result, model.config.model_type, recipe, model_id, shown, has_code=True)
        card.save(temporary / "README.md")
        check_loads(temporary, model, processor)
        check_checkpoint(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def check_loads(folder: str | Path, model, processor) -> None:
    """Load the folder in a new process that cannot import e2evit, with an empty cache, and compare its predictions.

    Raises:
        ValueError: if it does not load, or its predictions differ from those of `model` in this process.
    """
    images = np.zeros((3, *processor.image_shape), np.float32)  # an empty one, and two random ones
    rng = np.random.default_rng(0)
    chosen = rng.random(images[1:].shape) < 0.015
    images[1:][chosen] = rng.exponential(2.0, chosen.sum())
    auxiliary = model.config.num_aux_features
    with torch.no_grad():
        inputs = processor(images, channel_names=processor.channel_names, return_tensors="pt")
        if auxiliary:
            inputs["aux_values"] = torch.zeros(len(images), auxiliary)
        expected = model(**inputs)
    with tempfile.TemporaryDirectory() as base:
        save_file({"images": images}, f"{base}/inputs.safetensors")
        command = [sys.executable, "-c", _LOAD, str(Path(folder).resolve())]
        command += [f"{base}/inputs.safetensors", f"{base}/outputs.safetensors"]
        environment = {"HF_HOME": f"{base}/home", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command,
            cwd=base,
            env=clean_environment() | environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            *_, reason = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise ValueError(f"{folder} does not load without e2evit: {reason}")
        loaded = load_file(f"{base}/outputs.safetensors")
    errors = {
        "logits": np.abs(loaded["logits"] - expected.logits.numpy()).max(),
        "mass_preds": np.abs(loaded["mass_preds"] / expected.mass_preds.numpy() - 1).max(),
    }
    if not max(errors.values()) <= TOLERANCE:
        raise ValueError(f"{folder} gives different predictions in another process; largest differences: {errors}.")


def clean_environment() -> dict[str, str]:
    """The environment without a token, and without what a launcher of processes left there."""

    left = ("HF_", "HUGGING", "ACCELERATE_", "MASTER_", "TORCHELASTIC_")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")
    return {key: value for key, value in os.environ.items() if not key.startswith(left) and key not in names}
