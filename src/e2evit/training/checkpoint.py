"""New models, and those of checkpoints to train further or to measure."""

import copy
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from huggingface_hub import file_exists, try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    AutoModelForObjectDetection,
    PreTrainedConfig,
)
from transformers.utils import cached_file

from e2evit.data import DatasetSchema, training_statistics
from e2evit.data.manifest import RUN_INFO_FILE, check_weights
from e2evit.data.packaged import read_recipe
from e2evit.data.texts import read_mapping
from e2evit.modeling import CANDIDATE_FAMILIES, FAMILIES, E2EConfig, E2EImageProcessor
from e2evit.modeling.modeling_head import has_no_heads

from .arguments import TargetArguments
from .guards import check_image_size, check_normalisation
from .heads import auxiliary_fields, predicted_fields, truth_fields, with_new_classifier

__all__ = [
    "TrainedOn",
    "find_checkpoint",
    "import_model_module",
    "load_model",
    "new_model",
    "pretrained_model",
    "read_config",
    "read_model_config",
    "reads_candidates",
]

logger = logging.getLogger(__name__)


def find_checkpoint(path: str | Path) -> str:
    """A checkpoint's folder or Hub id as `from_pretrained` takes it.

    Raises:
        ValueError: for a missing folder, one that is not a checkpoint, or a name that is not ORG/NAME.
    """
    folder, text = Path(path).expanduser(), str(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{path} is not a checkpoint: it has no config.json. Has its training finished?")
        for name in ("config.json", "preprocessor_config.json"):
            if (folder / name).is_file():
                read_mapping(folder / name, "JSON")  # transformers shows a traceback for invalid JSON
        return str(folder)
    is_local = text.startswith((".", "/", "~")) or text.count("/") > 1 or folder.exists()
    if is_local or ("/" in text and folder.parent.is_dir()):
        raise ValueError(f"There is no checkpoint folder {path}.")
    if "/" not in text:
        raise ValueError(f"There is no checkpoint folder {path}, and a model on the Hub is called ORG/NAME.")
    return text


@dataclass(frozen=True)
class TrainedOn:
    """What a checkpoint reads and predicts.

    Attributes:
        label_names: Classes in the order of its classifier; none of a pre-trained model, which has no classifier.
        targets: Those of the recipe it was trained with, as far as it holds one.
        reads_events: Whether it predicts all jets of an event at once.
        reads_candidates: Whether it reads candidates instead of images.
        recipe: What it was trained with; empty if it does not say.
    """

    path: str
    channel_names: tuple[str, ...]
    label_names: tuple[str, ...]
    targets: TargetArguments
    reads_events: bool = False
    reads_candidates: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str | Path) -> "TrainedOn":
        """From a checkpoint's folder or Hub id.

        Raises:
            ValueError: as [`find_checkpoint`], and for a configuration without `channel_names`.
        """
        path = find_checkpoint(path)
        config = read_config(path)
        file = cached_file(path, "recipe.yaml", _raise_exceptions_for_missing_entries=False)
        recipe = read_mapping(file) if file else {}
        known = [field.name for field in fields(TargetArguments)]
        names = () if has_no_heads(config) else tuple(config.id2label[number] for number in range(config.num_labels))
        if config.channel_names is None:
            raise ValueError(f"{path} does not say what its channels are: set `channel_names` in its config.json.")
        return cls(
            path,
            tuple(config.channel_names),
            names,
            TargetArguments(**{name: recipe[name] for name in known if name in recipe}),
            _reads_events(config),
            config.model_type in CANDIDATE_FAMILIES,
            recipe,
        )


def read_config(path: str | Path) -> E2EConfig:
    """The configuration of a checkpoint.

    Raises:
        ValueError: if there is no such checkpoint, a field of it has a wrong value, or no module that was imported
            registers its architecture.
        OSError: if the Hub does not answer.
    """
    if not Path(path).is_dir():
        _ask_the_hub_once(str(path))
    try:
        config = AutoConfig.from_pretrained(path)
        if not hasattr(config, "channel_names"):
            raise ValueError(f"{path} is a {config.model_type!r} of transformers, not a model of detector images.")
        return config
    except StrictDataclassError as error:
        raise ValueError(f"The configuration of {path} is wrong: {' '.join(str(error).split())}") from None
    except ValueError as error:
        if "does not recognize this architecture" not in str(error):
            raise
        raise ValueError(
            f"The architecture of {path} is not registered: import the module that registers it (`--model_module`)."
        ) from None


def _ask_the_hub_once(model: str) -> None:
    """transformers asks for one file after another, each several times: minutes for a name that is misspelt."""
    if isinstance(try_to_load_from_cache(model, "config.json"), str):
        return
    try:
        known = file_exists(model, "config.json")
    except Exception as error:  # those of its HTTP library too
        raise OSError(f"There is no checkpoint folder {model}, and the Hub does not answer: {error}") from error
    if not known:
        raise ValueError(f"There is no checkpoint folder {model}, and no model of that name on the Hub.")


def new_model(
    model_config: str | Path | E2EConfig,
    schema: DatasetSchema,
    train_split: Dataset,
    mass_column: str = "mass_labels",
    masked: bool = False,
    queries: bool = False,
    truth_columns: Sequence[str] | None = None,
    aux_names: Sequence[str] | None = None,
) -> tuple[torch.nn.Module, E2EImageProcessor]:
    """A model with new weights, and its processor; both hold statistics of the training split.

    Args:
        model_config: A JSON file, or a configuration; image size, channels and classes are those of the data.
        masked: A model for masked images instead of one for classes and masses.
        queries: A model that predicts all jets of an event at once.
        truth_columns: Columns that a model for masked images also predicts.
        aux_names: Scalars that the heads also read, see [`E2EImageProcessor`].

    Raises:
        ValueError: for an architecture without such a model or prediction, and as [`column_moments`] and
            [`read_model_config`].
    """
    config_class, own = _model_fields(model_config)
    if truth_columns:
        own |= truth_fields(config_class, train_split, truth_columns)
    statistics = training_statistics(train_split, schema.image_shape, mass_column, own.get("log_mass", False))
    config = config_class(
        **own
        | {
            "image_size": list(schema.image_size),
            "num_channels": len(schema.channel_names),
            "channel_names": list(schema.channel_names),
            "num_aux_features": len(aux_names or ()),
        }
        | predicted_fields(schema, statistics)
    )
    processor = E2EImageProcessor(
        channel_names=schema.channel_names,
        image_size=schema.image_size,
        channel_scale=[round(scale, 6) for scale in statistics.channel_scale],
        normalisation=schema.normalisation,
        **auxiliary_fields(train_split, aux_names or ()),
    )
    auto_class = _auto_class(masked, queries)
    _check_family(config, queries)
    if masked and config.model_type in CANDIDATE_FAMILIES:
        raise ValueError(f"Pre-training hides pixels of images; a {config.model_type!r} reads candidates.")
    return auto_class.from_config(config), processor


def pretrained_model(
    path: str | Path,
    schema: DatasetSchema,
    train_split: Dataset,
    mass_column: str = "mass_labels",
    masked: bool = False,
    queries: bool = False,
    truth_columns: Sequence[str] | None = None,
    aux_names: Sequence[str] | None = None,
) -> tuple[torch.nn.Module, E2EImageProcessor]:
    """The model of a checkpoint, to be fine-tuned, and its processor.

    A pre-trained model, which has no such heads, gets new ones, with statistics of the masses in the training split.
    One with other classes than the data gets a new classifier; its mass head stays.

    Raises:
        ValueError: for a checkpoint of other channels, another size of images, other truth or other scalars, and as
            [`find_checkpoint`].
    """
    path = find_checkpoint(path)
    processor, config = AutoImageProcessor.from_pretrained(path), read_config(path)
    if processor.channel_names != list(schema.channel_names):
        raise ValueError(
            f"{path} reads the channels {', '.join(processor.channel_names)}; "
            f"{schema.name!r} has {', '.join(schema.channel_names)}."
        )
    check_image_size(path, processor, schema)
    check_normalisation(path, processor, schema, fine_tuning=True)
    _check_family(config, queries)
    if masked:
        before = list(getattr(config, "truth_columns", ()))
        if truth_columns is not None and list(truth_columns) != before:
            raise ValueError(f"{path} predicts {', '.join(before) or 'no columns'}, not {', '.join(truth_columns)}.")
        return load_model(path, config, AutoModelForMaskedImageModeling, new_heads=True), processor
    new_heads = has_no_heads(config)
    if new_heads:
        statistics = training_statistics(train_split, schema.image_shape, mass_column, config.log_mass)
        config.num_aux_features = len(aux_names or ())
        for name, value in predicted_fields(schema, statistics).items():
            setattr(config, name, value)
        for name, value in auxiliary_fields(train_split, aux_names or ()).items():
            setattr(processor, name, value)
    elif aux_names is not None and list(aux_names) != processor.aux_names:
        read = ", ".join(processor.aux_names) or "nothing"
        raise ValueError(f"{path} reads {read} besides the image, and its heads cannot change: leave `aux_names` out.")
    model = load_model(path, config, _auto_class(queries=queries), new_heads)
    known = sorted(config.label2id, key=config.label2id.get)
    if schema.label_names and known != list(schema.label_names):
        logger.info(f"{path} tells {', '.join(known)} apart: a new classifier for {', '.join(schema.label_names)}")
        model = with_new_classifier(model, schema.label_names)
    return model, processor


def load_model(
    path: str | Path, config: E2EConfig | None = None, auto_class=None, new_heads: bool = False
) -> torch.nn.Module:
    """A checkpoint as a model in evaluation mode, by default for the classes and masses of what it was trained on.

    Args:
        new_heads: Whether heads that the checkpoint does not have get new weights, to be trained.

    Raises:
        ValueError: if its weights are damaged, are not those that training wrote, or do not fit its configuration; and
            for a pre-trained checkpoint without `new_heads`.
    """
    check_weights(_local_folder(path))
    config = config or read_config(path)
    if not new_heads and has_no_heads(config):
        raise ValueError(f"{path} has been pre-trained and predicts no classes: fine-tune it first.")
    auto_class = auto_class or _auto_class(queries=_reads_events(config))
    try:
        model, info = auto_class.from_pretrained(path, config=config, output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"The weights of {path} are damaged: {error}.") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"Weights of {path} have other shapes than its config.json says; the log names them."
        ) from None
    unfit = [f"{key} is {kind}" for kind in ("missing", "unexpected") for key in sorted(info[f"{kind}_keys"])]
    if unfit and not new_heads:
        raise ValueError(f"The weights of {path} do not fit its config.json: {unfit[0]}. Use those that belong to it.")
    return model


def _local_folder(path: str | Path) -> str | Path:
    """The folder of a checkpoint; of one on the Hub, that of the downloaded weights if it has a record of its run."""
    if Path(path).is_dir():
        return path
    unless = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    files = [cached_file(path, name, **unless) for name in (RUN_INFO_FILE, "model.safetensors")]
    return Path(files[1]).parent if all(files) else path


def _auto_class(masked: bool = False, queries: bool = False):
    kind = AutoModelForObjectDetection if queries else AutoModelForImageClassification
    return AutoModelForMaskedImageModeling if masked else kind


def _check_family(config: E2EConfig, queries: bool) -> None:
    able = [name for name, family in FAMILIES.items() if family.of_events is not None]
    if queries and config.model_type not in able:
        raise ValueError(f"`event_jets: queries` needs a model of type {', '.join(able)}, got {config.model_type!r}.")


def _reads_events(config: E2EConfig) -> bool:
    return any(name.endswith("ForJetsInEvents") for name in config.architectures or ())


def read_model_config(path: str | Path, **overrides) -> E2EConfig:
    """A configuration from its JSON file; unlike `AutoConfig`, it refuses fields that the configuration does not have.

    Raises:
        ValueError: for a missing file, an unknown field, or a `model_type` that is missing or not registered.
    """
    config_class, fields = _model_fields(path)
    return config_class(**(fields | overrides))


def reads_candidates(model_config: str | Path | E2EConfig) -> bool:
    """Whether a new model of this configuration reads candidates instead of images."""
    return _model_fields(model_config)[0].model_type in CANDIDATE_FAMILIES


def import_model_module(name: str | None) -> None:
    """Import the module that registers an architecture from outside e2evit; the current folder is searched as well.

    Raises:
        ValueError: if it cannot be imported.
    """
    if name is None:
        return
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        import_module(name)
    except ImportError as error:
        raise ValueError(f"`model_module` {name} cannot be imported: {error}") from error


def _model_fields(source: str | Path | E2EConfig) -> tuple[type[E2EConfig], dict]:
    """The class of a configuration, and the fields that are its own rather than those of any model."""
    if isinstance(source, PreTrainedConfig):
        names = set(type(source).__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)
        return type(source), {name: copy.deepcopy(getattr(source, name)) for name in sorted(names)}
    own = read_recipe(source, "JSON")
    if "model_type" not in own:
        raise ValueError(f"{source}: `model_type` is missing.")
    model_type = own.pop("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{source}: the `model_type` {model_type!r} is not registered: import the module that registers it "
            "(`--model_module`)."
        )
    config_class = CONFIG_MAPPING[model_type]
    unknown = sorted(set(own) - set(config_class.__dataclass_fields__))
    if unknown:
        raise ValueError(f"{source}: {config_class.__name__} has no field {', '.join(unknown)}.")
    return config_class, own
