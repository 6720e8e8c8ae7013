"""What the heads of a model predict and read, as fields of its configuration and its processor."""

import copy
from collections.abc import Sequence

import torch
from datasets import Dataset

from e2evit.data import DatasetSchema, TrainingStatistics
from e2evit.data.statistics import column_moments, moments_of_auxiliary
from e2evit.modeling import E2EConfig

__all__ = ["auxiliary_fields", "predicted_fields", "truth_fields", "with_new_classifier"]

CLASSIFIER = "head.classifier."


def predicted_fields(schema: DatasetSchema, statistics: TrainingStatistics) -> dict:
    """The fields of a configuration that say what the heads predict."""
    return {"mass_mean": statistics.mass_mean, "mass_std": statistics.mass_std} | _classes(
        schema.label_names or ("jet",)
    )


def truth_fields(config_class: type[E2EConfig], train_split: Dataset, columns: Sequence[str]) -> dict:
    """The fields of a configuration that say which columns pre-training predicts."""
    if "truth_columns" not in config_class.__dataclass_fields__:
        raise ValueError(f"`truth_columns`: a {config_class.model_type!r} learns from hidden pixels alone.")
    means, widths = column_moments(train_split, columns)
    return {"truth_columns": list(columns), "truth_mean": means, "truth_width": widths}


def auxiliary_fields(train_split: Dataset, names: Sequence[str]) -> dict:
    """The fields of a processor that say which scalars it returns."""
    means, widths = moments_of_auxiliary(train_split, names)
    return {"aux_names": list(names), "aux_mean": means, "aux_std": widths}


def with_new_classifier(model: torch.nn.Module, label_names: Sequence[str]) -> torch.nn.Module:
    config = copy.deepcopy(model.config)
    config.class_weights = None
    for name, value in _classes(label_names).items():
        setattr(config, name, value)
    changed = type(model)(config)
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(CLASSIFIER)}
    missing, unexpected = changed.load_state_dict(kept, strict=False)
    assert not unexpected, unexpected
    assert all(name.startswith(CLASSIFIER) for name in missing), missing
    return changed


def _classes(label_names: Sequence[str]) -> dict:
    return {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: number for number, name in enumerate(label_names)},
    }
