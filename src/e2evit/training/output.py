"""What a run leaves: a folder for `from_pretrained`, with recipe and record, written by one run at a time."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from safetensors import SafetensorError

from e2evit.data.locks import LOCK_FILE, held
from e2evit.data.manifest import weights_hashes
from e2evit.results.record import fingerprint, provenance

from .process import is_first_process
from .weights import whole_model

__all__ = ["check_output_dir", "claimed_output_dir", "run_info", "save_checkpoint", "write_files"]


def check_output_dir(output_dir: str | None, resume: bool, overwrite: bool) -> Path:
    """The output folder, if it may be written to.

    Raises:
        ValueError: if none was given, or it is not empty and is neither to be resumed nor overwritten.
    """
    if output_dir is None:
        raise ValueError("Where should the checkpoint go? Pass `--output_dir`.")
    folder = Path(output_dir).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; `--output_dir` needs a folder.")
    if folder.exists() and any(file.name != LOCK_FILE for file in folder.iterdir()) and not (resume or overwrite):
        raise ValueError(
            f"{folder} is not empty: pass `--resume_from_checkpoint` to resume that run, `--overwrite_output_dir` to "
            "start over, or choose another folder."
        )
    return folder


@contextmanager
def claimed_output_dir(output_dir: str | None, resume: bool = False, overwrite: bool = False) -> Iterator[Path]:
    """The output folder, kept from other runs until this one ends.

    Raises:
        ValueError: as [`check_output_dir`].
        InUse: if another run writes there.
    """
    folder = check_output_dir(output_dir, resume=True, overwrite=True)  # a run that is using it would not be empty
    with held(folder) if is_first_process() else nullcontext():
        yield check_output_dir(output_dir, resume, overwrite)


def save_checkpoint(
    accelerator: Accelerator, model, processor, output_dir: Path, settings: Mapping, info: dict
) -> torch.nn.Module | None:
    """Write weights, configuration, processor, recipe and record of the run, for `from_pretrained`.

    Args:
        settings: The whole recipe, by name.
        info: See [`run_info`].

    Returns:
        The model as one process has it, ready for use; of a sharded one, `None` on all but the main process.
    """
    whole = whole_model(accelerator, model)
    model = None if whole is None else accelerator.unwrap_model(whole, keep_fp32_wrapper=False).eval()
    if not accelerator.is_main_process:
        return model

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
        record = info | {"sha256": weights_hashes(folder)}
        (folder / "run_info.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    write_files(output_dir, write)
    return model


def write_files(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary folder, then move its files to `folder` one by one, the weights last.

    Raises:
        OSError: if a file cannot be written, e.g. on a full disk. `folder` is then as it was, unless moving the
            finished files failed: run the same command again then.
    """
    temporary = folder / "incomplete"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        for file in sorted(temporary.iterdir(), key=lambda file: file.suffix == ".safetensors"):
            file.replace(folder / file.name)
    except SafetensorError as error:
        raise OSError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def run_info(dataset, accelerator: Accelerator | None = None, model: torch.nn.Module | None = None) -> dict:
    """Provenance, fingerprints of the data and, if given, the number of parameters of the model."""
    hardware = {"threads": torch.get_num_threads()}
    if accelerator is not None:
        hardware |= {
            "device": str(accelerator.device),
            "num_processes": accelerator.num_processes,
            "precision": accelerator.mixed_precision,
        }
    info = provenance(**hardware) | {"data": {part: fingerprint(dataset[part]) for part in dataset}}
    if model is not None:
        info["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return info
