"""A model's code beside its weights: with it, `trust_remote_code=True` loads a folder without e2evit."""

import json
import shutil
import sys
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

from e2evit.modeling import CANDIDATE_FAMILIES, FAMILIES, E2EImageProcessor
from e2evit.modeling.pipeline_e2e import E2EFeaturesPipeline, E2EJetsPipeline

__all__ = ["add_code", "check_publishable"]

PIPELINES = {
    "e2e-jets": (E2EJetsPipeline, "AutoModelForImageClassification"),
    "e2e-features": (E2EFeaturesPipeline, "AutoModel"),
}


def check_publishable(source: str | Path, model_type: str) -> None:
    """Refuse a model whose code is not that of e2evit.

    Args:
        source: What the error names: the checkpoint, or the file of the configuration.

    Raises:
        ValueError: for a `model_type` of another package, or a model of candidates.
    """
    if model_type in CANDIDATE_FAMILIES:
        raise ValueError(f"{source} holds a {model_type!r}: models of candidates have no card and are not published.")
    if model_type not in FAMILIES:
        raise ValueError(
            f"Only models of e2evit can be published: {source} holds a {model_type!r}; "
            f"e2evit has {', '.join(FAMILIES)}."
        )


def add_code(folder: str | Path) -> None:
    """Copy the files that the model, processor and pipelines of a folder need, and name them in its configurations.

    Raises:
        ValueError: if the folder holds a model of another package.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    check_publishable(folder, config["model_type"])
    family = FAMILIES[config["model_type"]]
    classes = {"AutoConfig": family.config, **family.auto_classes}
    config["auto_map"] = {name: _copy_code(value, folder) for name, value in classes.items()}
    config["custom_pipelines"] = {
        task: {"impl": _copy_code(pipeline, folder), "pt": [auto_class]}
        for task, (pipeline, auto_class) in PIPELINES.items()
    }
    _write_json(folder / "config.json", config)
    processor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    processor["auto_map"] = {"AutoImageProcessor": _copy_code(E2EImageProcessor, folder)}
    _write_json(folder / "preprocessor_config.json", processor)


def _copy_code(cls: type, folder: Path) -> str:
    """Copies the file that defines a class and the files it imports; returns the class as `module.Class`."""
    source = sys.modules[cls.__module__].__file__
    assert source is not None
    for path in (source, *get_relative_import_files(source)):
        shutil.copyfile(path, folder / Path(path).name)
    return f"{Path(source).stem}.{cls.__name__}"


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
