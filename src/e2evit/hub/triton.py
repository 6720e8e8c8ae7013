"""Model repositories of the Triton Inference Server, with the fields that CMS's SONIC models have."""

import hashlib
import json
import re
import shutil
from pathlib import Path

from e2evit.data.jobs import write_whole, write_whole_text

__all__ = ["MAX_BATCH_SIZE", "check_target", "write_triton"]

MAX_BATCH_SIZE = 64  # jets of one request; SONIC sends those of an event together
LABELS, VERSION = "labels.txt", "1"


def check_target(folder: str | Path, name: str) -> None:
    """Refuse a name that is no folder or no word in a URL, and a model that has other versions.

    Raises:
        ValueError: naming it.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(f"A Triton model name has letters, digits, `_`, `.` and `-`, got {name!r}: set `name`.")
    target = Path(folder) / name
    if target.is_file() or Path(folder).is_file():
        raise ValueError(f"{target} or its folder is a file: choose another model repository.")
    if versions := sorted(path.name for path in target.glob("[0-9]*") if path.name != VERSION):
        told = f"{target} has version {versions[0]} beside {VERSION}"
        raise ValueError(f"{told}, which a new config.pbtxt may not fit: choose another `name`, or move it away.")


def write_triton(onnx_file: str | Path, folder: str | Path, name: str) -> Path:
    """Write the model `FOLDER/NAME` of a repository: `1/model.onnx`, the classes in `labels.txt`, and `config.pbtxt`.

    Args:
        onnx_file: As written by [`export_onnx`], whose metadata name the classes.

    Returns:
        `FOLDER/NAME`.

    Raises:
        ValueError: as [`check_target`].
        OSError: if a file cannot be written.
    """
    import onnx

    check_target(folder, name)
    model = onnx.load(onnx_file)
    classes = json.loads({entry.key: entry.value for entry in model.metadata_props}["class_names"])
    target = Path(folder) / name
    (target / VERSION).mkdir(parents=True, exist_ok=True)
    write_whole(target / VERSION / "model.onnx", lambda temporary: shutil.copyfile(onnx_file, temporary))
    write_whole_text(target / LABELS, "".join(f"{label}\n" for label in classes))
    # what SONIC's server compares before it loads a model
    checksum = hashlib.md5((target / VERSION / "model.onnx").read_bytes(), usedforsecurity=False).hexdigest()
    write_whole_text(target / "config.pbtxt", _config(model.graph, name, checksum))
    return target


def _config(graph, name: str, checksum: str) -> str:
    outputs = [_tensor(value, LABELS if value.name == "probabilities" else None) for value in graph.output]
    return f"""name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH_SIZE}
input [{", ".join(map(_tensor, graph.input))}]
output [{", ".join(outputs)}]
dynamic_batching {{
}}
model_repository_agents {{
  agents [{{
    name: "checksum"
    parameters {{
      key: "MD5:1/model.onnx"
      value: "{checksum}"
    }}
  }}]
}}
"""


def _tensor(value, labels: str | None = None) -> str:
    """An input or output; its dimensions are those of one jet."""
    sizes = [side.dim_value for side in value.type.tensor_type.shape.dim[1:]]
    lines = [f'name: "{value.name}"', "data_type: TYPE_FP32", f"dims: {sizes}"]
    lines += [f'label_filename: "{labels}"'] if labels else []
    return "{\n  " + "\n  ".join(lines) + "\n}"
