"""Checks before a run, warnings during it, and a replay of the step at which it failed."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict
from safetensors.torch import save_file

from e2evit.data import DatasetSchema
from e2evit.data.statistics import auxiliary
from e2evit.metrics.mass import central_68
from e2evit.results.measure import column
from e2evit.results.predictions import BACKGROUND
from e2evit.transforms.event_jets import JET_COLUMNS
from e2evit.transforms.targets import check_mass_column, columns_with_values

__all__ = [
    "check_auxiliary",
    "check_containment",
    "check_decorrelation",
    "check_image_size",
    "check_normalisation",
    "check_not_empty",
    "check_splits",
    "check_targets",
    "save_replay",
    "warn_if_constant",
]

logger = logging.getLogger(__name__)

FEW_JETS = 100  # of the background in a batch: if they do not depend on the mass at all, dCorr² is 0.03 +- 0.013
NARROW = 0.05  # relative spread of the masses, below which a constant looks like a good prediction


def check_image_size(path: str, processor, schema: DatasetSchema) -> None:
    """Refuse data whose images differ in size from the checkpoint's: a pixel's index means nothing without the size.

    Raises:
        ValueError: with both sizes.
    """
    if list(processor.image_size) == list(schema.image_size):
        return
    own, given = (f"{height} x {width}" for height, width in (processor.image_size, schema.image_size))
    advice = "choose data of that size"
    if "jets" in schema.lists:
        advice = "cut windows around the jets of events with `event_jets: windows`"
    raise ValueError(f"{path} reads images of {own} pixels, and {schema.name!r} has {given}: {advice}.")


def check_normalisation(path: str, processor, schema: DatasetSchema, fine_tuning: bool = False) -> None:
    """Refuse pixels that are scaled in another way than those that the checkpoint was trained on; warn if it is to be
    fine-tuned. Older checkpoints do not say.

    Raises:
        ValueError: with both scales.
    """
    own = getattr(processor, "normalisation", None)
    if own is None or own == schema.normalisation:
        return
    told = f"{path} was trained on pixels that are {own!r}, and those of {schema.name!r} are {schema.normalisation!r}"
    if not fine_tuning:
        raise ValueError(f"{told}: its predictions would be wrong. Choose other data, or fine-tune it on these.")
    logger.warning(f"{told}: `channel_scale` of its processor stays.")


def check_not_empty(dataset: DatasetDict) -> None:
    """Check that the training and validation splits are not empty.

    Raises:
        ValueError: naming the split that is empty.
    """
    sizes = {part: len(rows) for part, rows in dataset.items()}
    for part in ("train", "validation"):
        if not sizes.get(part):
            counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ValueError(f"The {part} split is empty ({counts} jets): add more jets, from more events.")


def check_targets(dataset: DatasetDict, mass_column: str, needs_masses: bool, with_labels: bool = True) -> None:
    """Check that the training jets have a class or a mass to learn; warn if there is but one class, or hardly a spread
    of masses.

    Args:
        needs_masses: Whether masses were asked for, so that it is an error if there are none.
        with_labels: Whether classes are wanted, so that a single one is worth a warning.

    Raises:
        ValueError: if there is nothing to learn, all masses are the same, or a label is not the number of a class.
    """
    feature = dataset["train"].features["labels"]
    num_classes = feature.num_classes if isinstance(feature, ClassLabel) else 1
    for part, rows in dataset.items():
        labels = rows.with_format("arrow")["labels"].drop_null().to_numpy()
        if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
            raise ValueError(
                f"The labels of the {part} split go from {labels.min()} to {labels.max()}, but the data set names "
                f"{num_classes} classes: correct `labels` in its schema."
            )
    train = dataset["train"].with_format("arrow")
    labels = np.unique(train["labels"].drop_null().to_numpy())
    masses = train[mass_column].to_numpy().astype(float)
    masses = masses[np.isfinite(masses)]
    others = [name for name in columns_with_values(dataset) if name != mass_column]
    choice = f"columns with values: {', '.join(others) or 'none'}"
    if masses.size and masses.min() == masses.max():
        raise ValueError(
            f"All masses in `{mass_column}` of the training jets are {masses[0]:g} GeV, and a constant cannot be "
            f"learned. Choose another `mass_column` ({choice}), or pass `mass_classes: none` to train without masses."
        )
    if not masses.size and needs_masses:
        raise ValueError(f"No training jet has a mass in `{mass_column}`; {choice}.")
    if not masses.size and labels.size < 2:
        what = "no labels" if not labels.size else "labels of one class only"
        raise ValueError(
            f"There is nothing to learn: the training jets have {what} and no masses in `{mass_column}`; {choice}."
        )
    if masses.size:
        low, median, high = central_68(masses)
        if (spread := (high - low) / 2 / abs(median)) < NARROW:
            logger.warning(
                f"Half of the central 68 % of the masses in `{mass_column}` is {spread:.1%} of their median: "
                "predicting the same mass for every jet has this resolution. Choose a target that varies, such as "
                "`--mass_column jet_mass` (docs/training.md#targets)."
            )
    if masses.size and labels.size == 1 and with_labels:
        logger.warning(
            f"All training jets are of one class: no classes are learned, only masses in `{mass_column}`. "
            "Add another class, or say that you want masses alone with `--mass_classes`."
        )
    if not masses.size:
        logger.info(f"No training jet has a mass in `{mass_column}`: only the classes are trained")


def check_auxiliary(dataset: Mapping[str, Dataset], names: Sequence[str], flips: bool = False) -> None:
    """Check that every jet has the scalars that a model reads besides the image.

    Args:
        flips: Whether images are mirrored.

    Raises:
        ValueError: with the number of jets that lack one; for one named twice, or positions beside mirrored images.
    """
    if twice := sorted(name for name in set(names) if names.count(name) > 1):
        raise ValueError(f"`aux_names` has {twice[0]} twice.")
    if flips and (positions := [name for name in names if name in ("ieta", "iphi")]):
        raise ValueError(
            f"`flips` mirror the image, but not {', '.join(positions)}, which the model reads: set `flips: false`."
        )
    for name in names:
        for part, rows in dataset.items():
            lacking = int((~np.isfinite(auxiliary(rows, name))).sum())
            if lacking:
                above = " above 0" if name.startswith("log_") else ""
                raise ValueError(
                    f"The model reads {name}, and {lacking} of {len(rows)} jets of the {part} split have no "
                    f"`{name.removeprefix('log_')}`{above}: leave it out of `aux_names`, or choose data that has it."
                )


def check_containment(train: Dataset) -> None:
    """Check that `merged` is known for some training jets; warn if it is constant.

    Raises:
        ValueError: if none does.
    """
    known = [] if "merged" not in train.column_names else train.with_format("arrow")["merged"].drop_null().unique()
    if not len(known):
        raise ValueError(
            "`containment: true` in the model's configuration needs jets of heavy particles with the column `merged`, "
            "and no training jet has a value there: leave the field out, or simulate such jets with `e2evit simulate`."
        )
    if len(known) == 1:
        logger.warning(
            f"`merged` is {str(known[0]).lower()} for all training jets: there is no containment to learn. Simulate "
            "them without `--merged_only`."
        )


def check_decorrelation(jets: DatasetDict, mass_column: str, share: float, of_events: bool = False) -> None:
    """Check that scores can be decorrelated from a mass: there are signals, and background jets with different masses.
    Those without a mass are left out of the term, which the log says, as it warns of small batches.

    Args:
        share: Fraction of the training split that is in a batch of one process.
        of_events: Whether jets are those of events, of which batches hold few columns.

    Raises:
        ValueError: if there are not, or `mass_column` holds no numbers.
    """
    check_mass_column(jets, mass_column, "decorrelation_mass")
    if of_events and mass_column not in JET_COLUMNS:
        raise ValueError(
            f"`decorrelation_mass` is {mass_column!r}; with `event_jets: queries`, it is jet_mass or mass_labels."
        )
    feature = jets["train"].features["labels"]
    if not isinstance(feature, ClassLabel) or feature.num_classes < 2:
        raise ValueError("`decorrelation_weight` needs a background and a signal, and the data has no two classes.")
    name = feature.names[BACKGROUND]
    for part in ("validation", "train"):
        masses = column(jets[part], mass_column)[column(jets[part], "labels") == BACKGROUND]
        known = masses[np.isfinite(masses)]
        if not known.size or (part == "train" and known.min() == known.max()):
            got = f"all have {known[0]:g} GeV" if known.size else "none has any"
            raise ValueError(
                f"`decorrelation_weight` needs background jets ({name}) with different masses in `{mass_column}`; of "
                f"{masses.size} in the {part} split {got}. Choose another `decorrelation_mass` (columns with values: "
                f"{', '.join(columns_with_values(jets))}), or `classes` that begin with the background; with "
                "`mass_classes`, other classes lose their `mass_column`."
            )
    if known.size < masses.size:
        logger.warning(
            f"{masses.size - known.size} of {masses.size} training jets of class {name} have no `{mass_column}`: "
            "scores are decorrelated on the others"
        )
    if (expected := share * known.size) < FEW_JETS:
        logger.warning(
            f"A batch holds about {expected:.0f} jets of class {name}, of which the distance correlation is mostly "
            f"chance: increase `per_device_batch_size` to {FEW_JETS} of them or, better, 1000."
        )


def check_splits(dataset: DatasetDict) -> None:
    """Check that no event is in two splits.

    Raises:
        ValueError: with an example and the number of such rows.
    """
    events = {part: rows.with_format("arrow")["event_id"] for part, rows in dataset.items()}
    parts = list(events)
    for number, first in enumerate(parts):
        for second in parts[number + 1 :]:
            shared = pc.filter(events[second], pc.is_in(events[second], value_set=pa.chunked_array(events[first])))
            if len(shared):
                raise ValueError(
                    f"{len(shared)} rows of {second} belong to events that are also in {first}, for example "
                    f"{shared[0].as_py()!r}: {second} would measure what was memorised. Split by event, as `load_e2e` "
                    "does."
                )


def warn_if_constant(entry: dict[str, float], constant: dict[str, float]) -> None:
    """Warn if an epoch ended no better than a constant prediction."""
    pairs = [("accuracy", 1), ("mass_mae_gev", -1)]
    better = [sign * (entry[f"validation_{name}"] - constant[name]) > 0 for name, sign in pairs if name in constant]
    if better and not any(better):
        logger.warning("Not better than a constant prediction yet, neither in accuracy nor in mass.")


def save_replay(folder: Path, weights: dict, batch: dict, where: dict) -> None:
    """Save all that is needed to repeat a step of this process, or nothing: weights, batch and random numbers."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for name, tensors in (("model", weights), ("batch", batch)):
            tensors = {key: value.contiguous().cpu() for key, value in tensors.items()}
            save_file(tensors, folder / f"{name}.safetensors")
        (folder / "step.json").write_text(json.dumps(where, indent=1), encoding="utf-8")
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
