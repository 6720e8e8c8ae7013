"""Models in, checkpoints out: a folder that `from_pretrained` reads, with the recipe and a record of the run."""

import json
import os
import platform
import shutil
import subprocess
import time
from dataclasses import asdict
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
)

from e2evit.data import DatasetSchema, TrainingStatistics, training_statistics
from e2evit.modeling import E2EConfig, E2EImageProcessor

from .arguments import DataArguments, ModelArguments
from .weights import whole_model

__all__ = ["check_output_dir", "load_model", "run_info", "save_checkpoint"]


def check_output_dir(output_dir: str | None, resume: bool, overwrite: bool) -> Path:
    """The output folder, if it may be written to.

    Raises:
        ValueError: if none was given, or it is not empty and neither resuming nor overwriting was asked for.
    """
    if output_dir is None:
        raise ValueError("Where should the checkpoint go? Pass `--output_dir`.")
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; `--output_dir` needs a folder.")
    if folder.exists() and any(folder.iterdir()) and not (resume or overwrite):
        raise ValueError(
            f"{folder} is not empty: pass `--resume_from_checkpoint` to go on with that run, "
            "`--overwrite_output_dir` to start anew, or choose another folder."
        )
    return folder


def load_model(
    model_args: ModelArguments, data_args: DataArguments, schema: DatasetSchema, train_split, masked: bool = False
) -> tuple[torch.nn.Module, E2EImageProcessor]:
    """A new model and processor with the statistics of the training split, or those of a checkpoint.

    A checkpoint of `scripts/pretrain.py` gets new heads, for the classes and the masses of the training split.

    Args:
        masked: A model for masked images instead of one for classes and masses.

    Raises:
        ValueError: if neither or both of `model_config` and `model_name_or_path` are given, for a field that the
            configuration does not have, or a checkpoint made for other channels or classes.
    """
    path = model_args.model_name_or_path
    if (model_args.model_config is None) == (path is None):
        raise ValueError("Pass either `model_config` (a new model) or `model_name_or_path` (fine-tuning).")
    auto_class = AutoModelForMaskedImageModeling if masked else AutoModelForImageClassification
    if path is None:
        log_mass = _model_fields(model_args.model_config)[1].get("log_mass", False)
        statistics = training_statistics(train_split, schema.image_shape, data_args.mass_column, log_mass)
        config = read_model_config(
            model_args.model_config,
            image_size=list(schema.image_size),
            num_channels=len(schema.channel_names),
            channel_names=list(schema.channel_names),
            **_targets(schema, statistics),
        )
        processor = E2EImageProcessor(
            channel_names=schema.channel_names,
            image_size=schema.image_size,
            channel_scale=[round(scale, 6) for scale in statistics.channel_scale],
        )
        return auto_class.from_config(config), processor
    processor, config = AutoImageProcessor.from_pretrained(path), AutoConfig.from_pretrained(path)
    if processor.channel_names != list(schema.channel_names):
        raise ValueError(
            f"{path} reads the channels {', '.join(processor.channel_names)}; "
            f"{schema.name!r} has {', '.join(schema.channel_names)}."
        )
    if not masked and _is_masked(config):
        statistics = training_statistics(train_split, schema.image_shape, data_args.mass_column, config.log_mass)
        for name, value in _targets(schema, statistics).items():
            setattr(config, name, value)
    known = sorted(config.label2id, key=config.label2id.get)
    if not masked and schema.label_names and known != list(schema.label_names):
        raise ValueError(
            f"{path} tells {', '.join(known)} apart; {schema.name!r} has {', '.join(schema.label_names)}."
        )
    return auto_class.from_pretrained(path, config=config), processor


def _targets(schema: DatasetSchema, statistics: TrainingStatistics) -> dict:
    """The fields of a configuration that say what the heads predict."""
    labels = schema.label_names or ("jet",)
    return {
        "mass_mean": statistics.mass_mean,
        "mass_std": statistics.mass_std,
        "id2label": dict(enumerate(labels)),
        "label2id": {name: number for number, name in enumerate(labels)},
    }


def _is_masked(config) -> bool:
    return any(name.endswith("ForMaskedImageModeling") for name in config.architectures or ())


def read_model_config(path: str | Path, **overrides) -> E2EConfig:
    """Configuration from a JSON file; a misspelt field, which `AutoConfig` would store silently, is an error."""
    config_class, fields = _model_fields(path)
    return config_class(**(fields | overrides))


def _model_fields(path: str | Path) -> tuple[type[E2EConfig], dict]:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no model configuration {path}.")
    fields = json.loads(path.read_text())
    if "model_type" not in fields:
        raise ValueError(f"{path}: `model_type` is missing.")
    config_class = type(AutoConfig.for_model(fields.pop("model_type")))
    unknown = sorted(set(fields) - set(config_class.__dataclass_fields__))
    if unknown:
        raise ValueError(f"{path}: {config_class.__name__} has no field {', '.join(unknown)}.")
    return config_class, fields


def save_checkpoint(accelerator: Accelerator, model, processor, output_dir: Path, arguments, info: dict) -> None:
    """Weights, configuration, processor, model code, recipe and record of the run, for `from_pretrained`.

    Files are written to a folder beside and then moved one by one, the weights last.
    """
    model = whole_model(accelerator, model)
    if not accelerator.is_main_process:
        return
    temporary = output_dir / "incomplete"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    processor.save_pretrained(temporary)
    resolved = {name: value for group in arguments for name, value in asdict(group).items()}
    (temporary / "recipe.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))
    (temporary / "run_info.json").write_text(json.dumps(info, indent=2) + "\n")
    for file in sorted(temporary.iterdir(), key=lambda file: file.suffix == ".safetensors"):
        file.replace(output_dir / file.name)
    temporary.rmdir()


def run_info(dataset, accelerator: Accelerator | None = None, model: torch.nn.Module | None = None) -> dict:
    """Commit, versions, hardware, fingerprint of the data and, where there is one, size of the model."""
    root = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    packages = ("e2evit", "torch", "transformers", "datasets", "accelerate", "numpy", "scikit-learn")
    hardware = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if accelerator is not None:
        hardware |= {
            "device": str(accelerator.device),
            "num_processes": accelerator.num_processes,
            "precision": accelerator.mixed_precision,
        }
    info = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip() or None,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "hardware": hardware,
        "data": {part: fingerprint(dataset[part]) for part in dataset},
    }
    if model is not None:
        info["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return info


def fingerprint(dataset) -> dict:
    """Number of rows and a hash of their event ids in order."""
    event_ids = dataset.with_format("arrow")["event_id"].to_pylist()
    return {"rows": len(event_ids), "event_ids": blake2b("\n".join(event_ids).encode(), digest_size=8).hexdigest()}
