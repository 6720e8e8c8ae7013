"""What a checkpoint folder must not contain, wherever it comes from."""

import json
import re
from pathlib import Path

__all__ = ["check_checkpoint"]

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
MAX_HEADER = 25_000_000  # bytes: that of safetensors' own reader is 100 MB, of our largest model 100 kB
CODE_REFERENCE = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")
TOKEN = re.compile(rb"hf_[A-Za-z0-9_]{8,}")
ACTIVE_HTML = re.compile(r"<\s*(script|iframe|object|embed|form|link|meta|base)\b|\bon\w+\s*=|javascript\s*:", re.I)
TEXT = (".json", ".yaml", ".yml", ".md", ".py", ".txt")


def check_checkpoint(folder: str | Path, subfolders: bool = True) -> None:
    """Refuse a folder that could run code when loaded, or that refers to files outside it.

    Refused are pickles and other files that hold Python objects, symbolic links, a safetensors header that is broken
    or absurdly large, tensors that lie outside their file, code references (`auto_map`, `custom_pipelines`) that
    are not `module.Class` of a file in the folder, cards with active HTML, and files that hold a Hub token.

    Shapes that do not fit the configuration are refused by transformers when it loads the weights.

    Args:
        subfolders: Look into subfolders too, which are published but not loaded; those of a training run hold states
            to resume from.

    Raises:
        ValueError: for the first of these; it names the file.
        FileNotFoundError: if there is no configuration or no `model.safetensors`.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}: it is not a checkpoint.")
    for path in sorted(folder.rglob("*") if subfolders else folder.glob("*")):
        name = path.relative_to(folder)
        if path.is_symlink():
            raise ValueError(f"{folder}: {name} is a symbolic link; put the file itself there.")
        if path.suffix.lower() in PICKLES:
            raise ValueError(
                f"{folder}: {name} can hold a pickle, which runs code when it is loaded; remove it, or "
                "convert it to safetensors (`e2evit convert`)."
            )
        if path.suffix == ".safetensors":
            _check_header(path)
        if path.suffix in TEXT and (token := TOKEN.search(path.read_bytes())):
            raise ValueError(f"{folder}: {name} holds what looks like a Hub token ({token[0][:6].decode()}...).")
        if path.suffix == ".md" and (html := ACTIVE_HTML.search(path.read_text(errors="replace", encoding="utf-8"))):
            raise ValueError(f"{folder}: {name} holds active HTML ({html[0]!r}); a card is Markdown and pictures.")
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            _check_references(folder, name)


def _check_header(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER, size - 8):
            raise ValueError(
                f"{path}: its header claims {length} bytes of a file of {size}; it is damaged or hostile."
            )
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{path}: its header is not that of a safetensors file ({error}).") from error
    if max(ends, default=0) != size - 8 - length:
        raise ValueError(f"{path}: the tensors end at byte {max(ends, default=0)}, the file at {size - 8 - length}.")


def _check_references(folder: Path, name: str) -> None:
    try:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / name} is not JSON ({error}).") from error
    pipelines = config.get("custom_pipelines") or {}
    references = [entry.get("impl") for entry in pipelines.values()]
    for value in (config.get("auto_map") or {}).values():
        references += value if isinstance(value, list) else [value]
    for reference in references:
        # `org/name--module.Class` would fetch code from another repository
        if reference is None:
            continue
        if not isinstance(reference, str) or not CODE_REFERENCE.fullmatch(reference):
            raise ValueError(
                f"{folder / name}: a code reference is `module.Class` of a file beside it, got {reference!r}."
            )
        if not (folder / f"{reference.split('.')[0]}.py").is_file():
            raise ValueError(f"{folder / name} refers to {reference}, and there is no {reference.split('.')[0]}.py.")
