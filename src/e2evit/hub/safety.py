"""What a folder to publish, or a stranger's checkpoint, may hold: a list of files, and what may be in each."""

import json
import os
import struct
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow as pa
from pyarrow import types
from safetensors import SafetensorError, safe_open

import e2evit.modeling
from e2evit.data.budget import MAX_SETTINGS
from e2evit.data.formats import FileError
from e2evit.data.manifest import check_weights
from e2evit.data.parquet import open_parquet
from e2evit.data.storage import absolute

from .markup import check_card, read_yaml, strings_of
from .references import check_json
from .tokens import check_tokens

__all__ = [
    "CHECKPOINT_FILES",
    "DATASET_FILES",
    "EVAL_RESULTS",
    "MODEL_FILES",
    "OWN_SCORES",
    "REPLACED_FILES",
    "check_checkpoint",
    "check_dataset",
    "check_finite",
    "find_files",
]

# of a training run's folder, all that publishing reads
CHECKPOINT_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "recipe.yaml", "run_info.json")
EVAL_RESULTS = ".eval_results"  # folder of the Hub's leaderboards
OWN_SCORES = "e2evit-{}.yaml"  # our files in it; others are contributed on the Hub
# what a push replaces or deletes; of the scores, only our own
REPLACED_FILES = (
    *(*CHECKPOINT_FILES, "README.md", "results.json", "figures/*.png", "*.py"),
    f"{EVAL_RESULTS}/{OWN_SCORES.format('*')}",
)
MODEL_FILES = (*REPLACED_FILES, f"{EVAL_RESULTS}/*.yaml")
DATASET_FILES = ("README.md", "e2evit.json", "bad_rows.json", "benchmark.json", "eval.yaml", "data/*.parquet")
BESIDE = (".gitattributes",)  # in every clone; not uploaded

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".dill", ".ckpt", ".joblib", ".npy", ".npz")
PNG = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = "IHDR PLTE IDAT IEND bKGD cHRM gAMA hIST pHYs sBIT sRGB tEXt tIME tRNS"  # none with packed text
EVENT_ID = "event_id"  # the one column of text
NUMBERS = (types.is_integer, types.is_floating, types.is_boolean)
LISTS = (types.is_list, types.is_large_list, types.is_fixed_size_list)
MAX_TEXT = 4 * 2**20  # bytes; our largest has 20 kB
MAX_PICTURE = 16 * 2**20
MAX_HEADER = 25_000_000  # bytes: that of safetensors' own reader is 100 MB, of our largest model 100 kB


def check_checkpoint(folder: str | Path, names: Iterable[str] | None = None) -> None:
    """Refuse a folder that could run code when loaded, refers to files outside it, or holds a credential.

    It may hold `MODEL_FILES` and nothing else. Weights are whole safetensors; Python files are those of this version
    of e2evit, byte for byte; JSON and YAML are plain, and name no code but those files; a sanitiser leaves the card as
    it is; pictures are PNG without packed texts. No text holds a token (see [`check_tokens`]). Weights have the hash
    that their training recorded, if it did.

    Shapes that do not fit the configuration are refused by transformers when it loads the weights.

    Args:
        names: Files to check instead of all.

    Raises:
        ValueError: for the first that does not fit; it names the file and what to do.
        FileNotFoundError: if there is no configuration or no `model.safetensors`.
    """
    folder = Path(absolute(folder))
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}: it is not a checkpoint.")
    _check_files(folder, find_files(folder) if names is None else names, MODEL_FILES + BESIDE)
    check_weights(folder)


def check_finite(path: Path) -> None:
    """Refuse weights that hold NaN or infinite numbers.

    Raises:
        ValueError: naming the first such tensor.
    """
    with safe_open(path, "pt") as tensors:
        for name in sorted(tensors.keys()):
            tensor = tensors.get_tensor(name)
            if tensor.is_floating_point() and not tensor.float().isfinite().all():
                raise ValueError(f"{path} holds a NaN or infinite number in the tensor {name[:80]!r}.")


def check_dataset(folder: str | Path) -> list[str]:
    """Refuse to publish a prepared data set with a credential, a symbolic link, an active card or strays in `data`.

    Returns:
        The files to publish: others in the folder stay where they are.

    Raises:
        ValueError: for the first file that does not fit.
    """
    folder = Path(absolute(folder))
    names = [name for name in find_files(folder) if _matches(name, DATASET_FILES) or name.partition("/")[0] == "data"]
    _check_files(folder, names, DATASET_FILES)
    return names


def find_files(folder: Path, patterns: Iterable[str] | None = None) -> list[str]:
    """Names of the files and links below a folder: all, or those of some patterns."""

    def fail(error: OSError):
        raise error

    names = []
    for place, folders, files in os.walk(folder, onerror=fail):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        names += [Path(place, name).relative_to(folder).as_posix() for name in files + links]
    return sorted(name for name in names if patterns is None or _matches(name, patterns))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(name.count("/") == pattern.count("/") and fnmatchcase(name, pattern) for pattern in patterns)


def _check_files(folder: Path, names: Iterable[str], allowed: Iterable[str]) -> None:
    for name in names:
        path, shown = folder / name, name if name.isprintable() else ascii(name)
        if not os.path.lexists(path):
            continue
        try:
            _check_file(path, name, allowed)
        except ValueError as error:
            raise ValueError(f"{folder}: {shown} {error}") from error


def _check_file(path: Path, name: str, allowed: Iterable[str]) -> None:
    if path.is_symlink():
        raise ValueError("is a symbolic link; put the file itself there.")
    if any(suffix.lower() in PICKLES for suffix in path.suffixes):
        raise ValueError(
            "can hold a pickle, which runs code when it is loaded; remove it, or convert it to safetensors "
            "(`e2evit convert`)."
        )
    if not _matches(name, allowed) or not path.is_file():
        raise ValueError(f"does not belong here; move it elsewhere. Allowed are {', '.join(allowed)}.")
    check_tokens(name.encode(errors="replace"))
    match path.name.rpartition(".")[2]:  # Path(".py").suffix is empty
        case "safetensors":
            _check_tensors(path)
        case "parquet":
            _check_parquet(path)
        case "png":
            _check_picture(_read(path, MAX_PICTURE))
        case "py":
            _check_code(path)
        case kind:
            _check_text(path, kind)


def _read(path: Path, limit: int) -> bytes:
    if (size := path.stat().st_size) > limit:
        raise ValueError(f"has {size} bytes; at most {limit} are expected.")
    return path.read_bytes()


def _check_text(path: Path, kind: str) -> None:
    """JSON, YAML, a card or plain text, including what it says after escapes are undone."""
    content = _read(path, MAX_SETTINGS if kind == "yaml" else MAX_TEXT)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start}).") from None
    strings = [text]
    match kind:
        case "json":
            strings += strings_of(check_json(text, path))
        case "yaml":
            strings += strings_of(read_yaml(text, list if path.parent.name == EVAL_RESULTS else dict))
        case "md":
            strings += check_card(text)
    check_tokens("\n".join(strings).encode(errors="replace"))


def _check_code(path: Path) -> None:
    """A checkpoint runs the code of e2evit, or none."""
    own = Path(e2evit.modeling.__file__).with_name(path.name)
    if not own.is_file() or own.read_bytes() != path.read_bytes():
        raise ValueError(
            f"is not the file of e2evit {e2evit.__version__}; delete it: where e2evit is installed, its models load "
            "without code of their own. An architecture of yours is published with a package of yours."
        )


def _check_tensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER, size - 8):
            raise ValueError(f"is damaged or hostile: its header claims {length} bytes of a file of {size}.")
        content = file.read(length)
    try:
        header = json.loads(content)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        last = max(ends, default=0)
        if last != size - 8 - length:
            raise ValueError(f"is damaged: the tensors end at byte {last}, the file at {size - 8 - length}.")
    except (
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        RecursionError,
        UnicodeError,
        json.JSONDecodeError,
    ) as error:
        raise ValueError(f"is damaged: its header is not that of a safetensors file ({error}).") from None
    try:
        with safe_open(path, "numpy"):  # types, shapes and offsets fit together
            pass
    except SafetensorError as error:
        raise ValueError(f"is damaged: its header is not that of a safetensors file ({error}).") from None
    check_tokens(content + "\n".join(strings_of(header)).encode(errors="replace"))


def _check_picture(content: bytes) -> None:
    """A PNG that holds pixels and plain texts, and nothing after its end."""
    check_tokens(content)
    position, kind = len(PNG), ""
    while content.startswith(PNG) and kind != "IEND" and position + 12 <= len(content):
        length, raw = struct.unpack_from(">I4s", content, position)
        kind = raw.decode("latin-1")
        if kind not in PNG_CHUNKS.split():
            raise ValueError(f"holds a {kind!r} chunk; save the picture again without metadata.")
        position += 12 + length
    if kind != "IEND" or position != len(content):
        raise ValueError("is not a whole PNG picture, or holds more than that.")


def _check_parquet(path: Path) -> None:
    """Numbers, lists of numbers and event ids; metadata, names and event ids are searched."""
    try:
        with open_parquet(str(path)) as file:
            schema, metadata = file.schema_arrow, file.metadata
            texts = [metadata.created_by.encode(), *_pairs(metadata.metadata), *_pairs(schema.metadata)]
            for field in schema:
                texts += [field.name.encode(), *_pairs(field.metadata)]
                if is_list := any(is_kind(field.type) for is_kind in LISTS):
                    texts += _pairs(field.type.value_field.metadata)
                kind = field.type.value_type if is_list else field.type
                is_text = field.name == EVENT_ID and types.is_string(field.type)
                if not is_text and not any(is_kind(kind) for is_kind in NUMBERS):
                    raise ValueError(
                        f"has a column {field.name!r} of {field.type}; only numbers, lists of numbers and the text "
                        f"{EVENT_ID!r} are published: remove it."
                    )
            check_tokens(b"\n".join(texts))
            for batch in file.iter_batches(columns=[EVENT_ID] if EVENT_ID in schema.names else []):
                for column in batch.columns:
                    check_tokens("\n".join(map(str, column.to_pylist())).encode(errors="replace"))
    except (pa.ArrowException, OSError, FileError) as error:
        raise ValueError(f"is not a whole Parquet file ({error}).") from None


def _pairs(metadata: dict[bytes, bytes] | None) -> list[bytes]:
    return [part for pair in (metadata or {}).items() for part in pair]
