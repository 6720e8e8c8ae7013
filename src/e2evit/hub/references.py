"""JSON of a checkpoint: the code that it names lies in Python files beside it."""

import json
import re
from pathlib import Path

from e2evit.modeling import CANDIDATE_FAMILIES, FAMILIES, E2EImageProcessor

__all__ = ["check_json"]

NAME, REFERENCE = re.compile(r"\w+"), re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")
# transformers loads kernels, quantisers and loops of generation by these
CODE_FIELDS = re.compile(r"_?(attn|experts)_implementation\w*|quantization_config|trust_remote_code|custom_generate")
ADDED_FIELDS = {"auto_map", "custom_pipelines"}  # by publishing


def check_json(text: str, path: Path) -> dict:
    """The object in a JSON file; code that it names at any depth is `module.Class` of a Python file beside it.

    `config.json` and `preprocessor_config.json` have only fields that our classes have.

    Raises:
        ValueError: for anything else.
    """
    fields: list[tuple[str, object]] = []

    def collect(pairs: list[tuple[str, object]]) -> dict:
        fields.extend(pairs)
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=collect)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise ValueError(f"is not JSON of an object but of a {type(content).__name__}.")
    if (known := _known_fields(path.name, content)) and (unknown := sorted(set(content) - known)):
        raise ValueError(f"has a field {unknown[0]!r}, which no {path.name} of e2evit has; remove it.")
    for name, value in fields:
        if CODE_FIELDS.fullmatch(name) and value is not None:
            raise ValueError(f"has a field {name!r}, which can load code from elsewhere; remove it.")
        if name == "auto_map":
            for reference in _entries(name, value).values():
                for one in reference if isinstance(reference, list) else [reference]:
                    _check_reference(one, path.parent)
        elif name == "custom_pipelines":
            for entry in _entries(name, value).values():
                _check_pipeline(_entries(name, entry), path.parent)
    return content


def _known_fields(name: str, content: dict) -> set[str]:
    """The fields that a file of this name may have; empty where all may be."""
    if name == "preprocessor_config.json":
        return set(E2EImageProcessor(["trk_pt"], normalisation="physical").to_dict()) | ADDED_FIELDS
    if name != "config.json":
        return set()
    model_type = content.get("model_type")
    if model_type in CANDIDATE_FAMILIES:
        raise ValueError(f"holds a {model_type!r}: models of candidates have no card and are not published.")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(f"holds a model of type {model_type!r}; those of e2evit are {', '.join(FAMILIES)}.")
    return set(FAMILIES[model_type].config().to_dict()) | ADDED_FIELDS


def _entries(name: str, value: object) -> dict:
    if not isinstance(value, dict | None):
        raise ValueError(f"has `{name}` where an object with a code reference is `module.Class`, got {value!r:.80}.")
    return value or {}


def _check_pipeline(entry: dict, folder: Path) -> None:
    """`impl` is code, `pt` names classes of transformers; a default would be a model of another repository."""
    for key, value in entry.items():
        if key == "impl":
            _check_reference(value, folder)
        elif key != "pt" or not isinstance(value, list) or not all(map(NAME.fullmatch, map(str, value))):
            raise ValueError(f"has a pipeline with {key!r}: {value!r:.80}; pipelines have `impl` and `pt` alone.")


def _check_reference(reference: object, folder: Path) -> None:
    if reference is None:
        return
    if not isinstance(reference, str) or not REFERENCE.fullmatch(reference):  # `org/name--module.Class` is elsewhere
        raise ValueError(f"names {reference!r:.80}: a code reference is `module.Class` of a file beside it.")
    if not (folder / (file := f"{reference.split('.')[0]}.py")).is_file():
        raise ValueError(f"refers to {reference}, and there is no {file}.")
