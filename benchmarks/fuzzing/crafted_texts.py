"""JSON, YAML, weights and rows of text: a checkpoint's files, recipes, schemas, results."""

import json
import pickle
import struct
import tempfile
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
import yaml
from e2evit.modeling import E2EImageProcessor, XCiTConfig
from safetensors.torch import load, save
from transformers import AutoModelForImageClassification

from e2evit.hub.export import export_onnx
from e2evit.results.predictions import hash_of_ids, write_predictions
from e2evit.results.record import Result

from .case import Case, Payload
from .sample import CHANNELS, LABELS, MASSES, SHAPE, Intact, schema

__all__ = ["CHECKPOINT", "COMPANIONS", "RESULT", "TEXTS", "text_cases"]

ODD_VALUES = (float("nan"), float("inf"), -1, 0, 1e-45, 1e38, 2**70, "1", None, [[1]])
NUMBERS = {  # of each file, those that decide on memory, time or values
    "config": (
        *("image_size", "num_channels", "mass_mean", "mass_std", "mass_temperature", "layer_norm_eps", "hidden_size"),
        *("num_hidden_layers", "num_attention_heads", "mlp_ratio", "patch_size", "num_class_attention_layers"),
    ),
    "processor": ("channel_scale", "image_size", "channel_names", "data_format", "aux_std"),
}
AUTO_CLASSES = ("AutoConfig", "AutoModelForImageClassification")
TEXTS_IN_YAML = {"run recipe", "recipe", "search", "schema"}
LARGE = {"num_hidden_layers": 10**6, "hidden_size": 10**9, "image_size": [10**6, 10**6], "patch_size": 10**9}


def _tiny() -> XCiTConfig:
    return XCiTConfig(
        image_size=list(SHAPE[1:]),
        num_channels=SHAPE[0],
        channel_names=list(CHANNELS),
        patch_size=2,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_class_attention_layers=1,
        architectures=["XCiTForImageClassification"],
        id2label={0: "qcd", 1: "top"},
        label2id={"qcd": 0, "top": 1},
    )


def _checkpoint() -> dict[str, bytes]:
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(_tiny())
    processor = E2EImageProcessor(CHANNELS, SHAPE[1:], [1.5, 2.0, 0.5])
    weights = save(model.state_dict(), {"format": "pt"})
    recipe = {"mass_column": "mass_labels", "classes": ["qcd", "top"], "seed": 0, "learning_rate": 0.001}
    return {
        "config.json": model.config.to_json_string(use_diff=False).encode(),
        "preprocessor_config.json": processor.to_json_string().encode(),
        "model.safetensors": weights,
        "run_info.json": json.dumps({"sha256": {"model.safetensors": sha256(weights).hexdigest()}}).encode(),
        "recipe.yaml": yaml.safe_dump(recipe).encode(),
    }


def _result() -> Result:
    metrics = {"model": {"roc_auc": 0.9, "roc_auc_low": 0.8, "roc_auc_high": 0.95}}
    scores = np.linspace(0, 1, len(LABELS), dtype=np.float32)
    event_ids = [f"jets:{row}" for row in range(len(LABELS))]
    return Result(
        model="tiny",
        seed=0,
        date="2026-01-01T00:00:00Z",
        commit=None,
        versions={},
        hardware={"processor": None},
        dataset="custom",
        split="test",
        data={"test": {"rows": len(LABELS), "event_ids": hash_of_ids(event_ids)}},
        mass_column="mass_labels",
        label_names=["qcd", "top"],
        channel_names=list(CHANNELS),
        image_size=list(SHAPE[1:]),
        metrics=metrics,
        predictions={
            "event_id": event_ids,
            "labels": LABELS,
            "mass_labels": MASSES,
            "model score": scores,
            "model mass": MASSES + 1,
            "model p_qcd": 1 - scores,
            "model p_top": scores,
        },
    )


CHECKPOINT, RESULT = _checkpoint(), _result()


def _companions() -> dict[str, dict[str, bytes]]:
    result = json.dumps({name: value for name, value in vars(RESULT).items() if name != "predictions"}).encode()
    return dict.fromkeys(("config", "processor", "weights", "run recipe"), CHECKPOINT) | {
        "result": {},
        "predictions": {"result.json": result},
    }


def _texts() -> dict[str, Intact]:
    recipe = {"num_train_epochs": 3, "learning_rate": 0.001, "classes": ["qcd", "top"], "mixed_precision": "bf16"}
    space = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "seed": {"choices": [0, 1]}}
    search = {"recipe": "quickstart/xcit_nano.yaml", "space": space, "settings": {"num_train_epochs": 3}}
    model = {"model_type": "xcit", "hidden_size": 8, "num_hidden_layers": 1, "layer_norm_eps": 1e-6}
    files = {
        "config": ("config.json", CHECKPOINT["config.json"]),
        "processor": ("preprocessor_config.json", CHECKPOINT["preprocessor_config.json"]),
        "weights": ("model.safetensors", CHECKPOINT["model.safetensors"]),
        "run recipe": ("recipe.yaml", CHECKPOINT["recipe.yaml"]),
        "model config": ("model.json", json.dumps(model, indent=1).encode()),
        "recipe": ("train.yaml", yaml.safe_dump(recipe).encode()),
        "search": ("search.yaml", yaml.safe_dump(search).encode()),
        "schema": ("schema.yaml", yaml.safe_dump(schema("hdf5").to_dict()).encode()),
        "result": ("result.json", COMPANIONS["predictions"]["result.json"]),
        "predictions": ("result.parquet", _predictions()),
        "row": ("row.txt", "".join(f"{7 * number} {number / 4}\n" for number in range(1, 20)).encode()),
    }
    covered = {"weights": [(0, len(CHECKPOINT["model.safetensors"]))]}  # by the hash in run_info.json
    return {kind: Intact(name, kind, data, covered.get(kind, [])) for kind, (name, data) in files.items()}


def _predictions() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.parquet"
        write_predictions(path, RESULT.predictions)
        return path.read_bytes()


COMPANIONS = _companions()
TEXTS = _texts()


def text_cases() -> Iterator[Case]:
    """Cases of every kind of text."""
    for kind, intact in TEXTS.items():
        if kind not in ("weights", "predictions"):
            for name, data in _odd_texts(kind, intact.data).items():
                yield _case(kind, name, data)
    for kind, names in NUMBERS.items():
        entries = json.loads(TEXTS[kind].data)
        for name in names:
            for value in ODD_VALUES:
                several = [value] * len(entries[name]) if isinstance(entries[name], list) else value
                yield _case(kind, f"{name} {value!r}", _json(entries | {name: several}))
    config = json.loads(TEXTS["config"].data)
    for name, value in LARGE.items():
        yield _case("config", f"{name} {value}", _json(config | {name: value}))
        yield _case("model config", f"{name} {value}", _json(json.loads(TEXTS["model config"].data) | {name: value}))
    unnamed = {name: value for name, value in config.items() if name not in ("id2label", "label2id")}
    yield _case("config", "2 * 10^7 classes", _json(unnamed | {"num_labels": 2 * 10**7}))
    yield _case("config", "depths of 10^6", _json({"model_type": "linearvit", "depths": [10**6], "hidden_sizes": [8]}))
    yield _case("config", "code of its own", _json(config | {"auto_map": dict.fromkeys(AUTO_CLASSES, "evil.Evil")}))
    yield _case(
        "config", "code of others", _json(config | {"auto_map": dict.fromkeys(AUTO_CLASSES, "a/b--evil.Evil")})
    )
    processor = json.loads(TEXTS["processor"].data)
    own_code = {"auto_map": {"AutoImageProcessor": "evil.Evil"}}
    yield _case("processor", "code of its own", _json(processor | own_code))
    yield _case("processor", "code of its own only", _json(own_code))
    for name, data in _weights().items():
        yield _case("weights", name, data, detectable="one tensor fewer" in name or "another name" in name)
    for name, text in _rows().items():
        yield _case("row", name, text.encode())
    for name in ("run recipe", "recipe", "schema", "search"):
        for key in yaml.safe_load(TEXTS[name].data):
            for value in (None, [], {}, -1, float("nan"), 10**30, "no", False, [[[]]], {"a": {"b": 1}}):
                changed = yaml.safe_load(TEXTS[name].data) | {key: value}
                yield _case(name, f"{key} {value!r}", yaml.safe_dump(changed).encode())


def _case(kind: str, name: str, data: bytes, detectable: bool = False) -> Case:
    return Case(f"crafted {kind} {name}", kind, TEXTS[kind].file_name, partial(_write, kind, data), detectable)


def _write(kind: str, data: bytes, folder: Path) -> None:
    (folder / "data/run_info.json").unlink(missing_ok=True)  # which holds a hash of the weights
    (folder / "data/evil.py").write_text(
        "import os\nos.environ['FUZZ_EXECUTED'] = '1'\nclass Evil: pass\n", encoding="utf-8"
    )
    (folder / "data" / TEXTS[kind].file_name).write_bytes(data)


def _json(entries: dict) -> bytes:
    return json.dumps(entries).encode()


def _odd_texts(kind: str, data: bytes) -> dict[str, bytes]:
    text = data.decode()
    odd = {
        "empty": b"",
        "spaces": b" \n\t\n",
        "with a byte-order mark": b"\xef\xbb\xbf" + data,
        "in UTF-16": text.encode("utf-16"),
        "with a byte that is not UTF-8": data[:10] + b"\xff" + data[10:],
        "with NUL": data[:10] + b"\0" + data[10:],
        "100000 brackets": b"[" * 100_000,
        "100000 braces": b'{"a":' * 100_000,
        "a number of 10000 digits": data.replace(b"8", b"8" * 10_000, 1),
        "a list": b"[1, 2]",
        "a number": b"7",
        "null": b"null",
        "a word": b'"word"',
        "twice": data + data,
        "20 MB of spaces": data + b" " * 20_000_000,
        "keys that are numbers": b"{1: 2}",
    }
    if TEXTS_IN_YAML & {kind}:
        levels = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
        odd["aliases of aliases"] = f"a0: &a0 lol\n{levels}\n{text}".encode()
        first = text.split(":")[0]
        odd["a value of aliases"] = (
            f"{text}\n{first}:\n  - &a0 lol\n".encode()
            + "\n".join(f"  - &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)).encode()
        )
        odd["an object of Python"] = b"!!python/object/apply:os.putenv [FUZZ_EXECUTED, '1']\n"
        odd["an endless alias"] = b"a: &a [*a]\n"
        odd["a merge of itself"] = b"a: &a {<<: *a}\n"
        odd["tabs"] = b"a:\n\t- b\n"
        odd["a date"] = f"{text}\nseed: 2026-01-01\n".encode()
        odd["two documents"] = data + b"---\n" + data
    return odd


def _weights() -> dict[str, bytes]:
    data = TEXTS["weights"].data
    tensors = load(data)
    first = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]

    def with_header(entries) -> bytes:
        text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
        return struct.pack("<Q", len(text)) + text + body

    def with_values(value: float) -> bytes:
        return save(tensors | {first: torch.full_like(tensors[first], value)}, {"format": "pt"})

    entry = header[first]
    return {
        "empty": b"",
        "a header of 2^63 bytes": struct.pack("<Q", 2**63) + data[8:],
        "a header of 99 MB": struct.pack("<Q", 99_000_000) + data[8:],
        "a header that is no JSON": with_header(b"{" * length),
        "a header that is a list": with_header([]),
        "a header without tensors": with_header({}),
        "a pickle": pickle.dumps({first: Payload()}),
        "a tensor of nan": with_values(float("nan")),
        "a tensor of inf": with_values(float("inf")),
        "a tensor of 1e38": with_values(1e38),
        "one tensor fewer": save(
            {name: tensor for name, tensor in tensors.items() if name != first}, {"format": "pt"}
        ),
        "one tensor more": save(tensors | {"other": torch.zeros(3)}, {"format": "pt"}),
        "a tensor of another name": save(
            {name + "x" * (name == first): t for name, t in tensors.items()}, {"format": "pt"}
        ),
        "a tensor of another shape": save(tensors | {first: torch.zeros(7)}, {"format": "pt"}),
        "a shape of 2^40": with_header(header | {first: entry | {"shape": [2**40]}}),
        "a negative shape": with_header(header | {first: entry | {"shape": [-1]}}),
        "offsets beyond the end": with_header(header | {first: entry | {"data_offsets": [0, 2**40]}}),
        "an unknown type": with_header(header | {first: entry | {"dtype": "F7"}}),
        "no format": with_header({name: entry for name, entry in header.items() if name != "__metadata__"}),
        "another format": with_header(header | {"__metadata__": {"format": "tf"}}),
        "in half precision": save({name: tensor.half() for name, tensor in tensors.items()}, {"format": "pt"}),
    }


def _rows() -> dict[str, str]:
    return {
        "one number": "7\n",
        "three numbers": "1 2 3\n",
        "nan": "7 nan\n",
        "inf": "7 inf\n",
        "1e38": "7 1e38\n",
        "1e39": "7 1e39\n",
        "hexadecimal": "0x7 0x1p3\n",
        "index -1": "-1 1.0\n",
        "index 240": "240 1.0\n",
        "index 2^63": f"{2**63} 1.0\n",
        "index 5.5": "5.5 1.0\n",
        "an index twice": "7 1.0\n7 2.0\n",
        "commas": "7,1.0\n",
        "a decimal comma": "7 1,5\n",
        "no end of line": "7 1.0",
        "Windows": "7 1.0\r\n8 2.0\r\n",
        "a line of 10 MB": f"7 {'1' * 10**7}\n",
    }


def export_tiny(folder: Path) -> Path:
    """The small checkpoint as an ONNX file for the C++ program."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in CHECKPOINT.items():
        (folder / name).write_bytes(data)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    export_onnx(model, E2EImageProcessor.from_pretrained(folder), folder / "tiny_nhwc.onnx", "nhwc")
    return folder / "tiny_nhwc.onnx"
