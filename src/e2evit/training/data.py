"""Rows for a run: loaded, with the targets it asks for, and checked before anything is trained on them."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from e2evit.data import DatasetSchema, find_schema, load_e2e
from e2evit.simulation.particle_images import response_settings
from e2evit.transforms.event_jets import JET_COLUMNS, check_events, windows_of_events
from e2evit.transforms.targets import NO_CLASS, check_mass_column, select_targets
from e2evit.transforms.transverse import TRANSVERSE, to_transverse

from .arguments import ALL, SPLITS, DataArguments, TargetArguments
from .checkpoint import TrainedOn
from .collate import MASS_COLUMN
from .particles import PreparedImages, image_schema

__all__ = ["describe_data", "load_data", "targets_of", "with_defaults", "with_test_fold"]

logger = logging.getLogger(__name__)


def load_data(
    data: DataArguments,
    targets: TargetArguments | None = None,
    channel_names: Sequence[str] | None = None,
    fresh: bool = False,
    splits: Collection[str] = SPLITS,
    candidates: bool = False,
) -> tuple[DatasetDict, DatasetSchema]:
    """The rows in three splits with the targets that were asked for, and their schema.

    Args:
        targets: See [`with_defaults`].
        channel_names: The channels that a checkpoint reads. Energies become transverse if the checkpoint's are, unless
            `targets.transverse` says otherwise.
        fresh: Leave particles in the training split: [`PreparedImages`] makes new images of them in every epoch. All
            other particles become fixed images.
        splits: The splits whose images will be read. The others keep their particles, which saves the time of making
            images. With `"all"`, there is one split of that name, which holds every jet.
        candidates: Whether rows need candidates; kept particles get them with their images.

    Raises:
        ValueError: if the data has other channels than `channel_names`, or images where particles, candidates or whole
            events are needed; and as [`load_e2e`], [`to_transverse`], [`select_targets`] and [`check_mass_column`].
    """
    targets = with_defaults(targets or TargetArguments(), channel_names)
    schema = find_schema(data.dataset_name, data.data_dir, data.schema)
    particles = schema.particles
    name = schema.name if particles else data.dataset_name
    dataset = load_e2e(name, data.data_dir, schema=data.schema, test_fold=data.test_fold, cache_dir=data.cache_dir)
    check_mass_column(dataset, targets.mass_column)
    if particles:
        schema = image_schema(schema, targets.transverse)
    elif unmet := ["fresh"] * fresh + [name for name in ("pileup", "without") if getattr(data, name) is not None]:
        raise ValueError(
            f"`{unmet[0]}` needs particles, and {data.data_dir} holds images: simulate with "
            "`e2evit simulate --keep particles`."
        )
    elif candidates and "candidates" not in schema.lists:
        raise ValueError(
            f"This model reads candidates, which the rows in {data.data_dir} do not have: simulate with "
            "`e2evit simulate --candidates` or `--keep particles`."
        )
    elif targets.transverse:
        dataset, schema = to_transverse(dataset, schema)
    if data.event_jets is not None:
        check_events(schema)
        if targets.mass_column not in JET_COLUMNS:
            raise ValueError(f"`event_jets`: the jets of events have no {targets.mass_column!r}, but jet_mass.")
    if channel_names is not None and list(channel_names) != list(schema.channel_names):
        raise ValueError(
            f"The checkpoint reads the channels {', '.join(channel_names)}; {schema.name!r} has "
            f"{', '.join(schema.channel_names)}."
        )
    dataset, schema = select_targets(
        dataset,
        schema,
        targets.mass_column,
        targets.classes,
        targets.mass_classes,
        bool(targets.contained_classes),
    )
    for split in SPLITS:
        fraction = getattr(data, f"{split}_fraction")
        if fraction < 1 and split in dataset:
            dataset[split] = _draw(dataset[split], fraction, data.fraction_seed)
    if ALL in splits:
        if drawn := [f"{split}_fraction" for split in SPLITS if getattr(data, f"{split}_fraction") < 1]:
            raise ValueError(f"The split `all` is all jets of the folder: leave out {', '.join(drawn)}.")
        if data.event_jets is not None:
            raise ValueError("The split `all` is for jets, not for whole events: choose train, validation or test.")
        dataset = DatasetDict({ALL: concatenate_datasets(list(dataset.values()))})
    if data.event_jets == "windows":
        return windows_of_events(dataset, schema)
    if particles:
        images = PreparedImages(data, targets.transverse, candidates)
        for split in dataset:
            if split in splits and not (fresh and split == "train"):
                dataset[split] = images.fixed(dataset[split], "test" if split == ALL else split)
    return dataset, schema


def with_defaults(targets: TargetArguments, channel_names: Sequence[str] | None = None) -> TargetArguments:
    """Targets whose mass column and kind of energies are settled."""
    is_transverse = bool({*(channel_names or ())} & {*TRANSVERSE.values()})
    return replace(
        targets,
        mass_column=targets.mass_column or MASS_COLUMN,
        transverse=is_transverse if targets.transverse is None else targets.transverse,
    )


def targets_of(
    checkpoint: TrainedOn, data: DataArguments, targets: TargetArguments, fine_tuning: bool = False
) -> TargetArguments:
    """`targets`, with what they leave open taken from a checkpoint's own targets; the log says what was taken.

    Classes and mass classes that the data does not have are left out.

    Args:
        fine_tuning: Whether the checkpoint gets a new classifier if the data lacks some of its classes.

    Raises:
        ValueError: if the data has none of the checkpoint's classes, and it is not to be fine-tuned.
    """
    in_data = find_schema(data.dataset_name, data.data_dir, data.schema).label_names
    defaults = {name: getattr(checkpoint.targets, name) for name in ("mass_column", "contained_classes")}
    if checkpoint.label_names and in_data:
        shared = [name for name in checkpoint.label_names if name in in_data]
        if not shared and not fine_tuning and targets.classes is None:
            raise ValueError(
                f"The data has the classes {', '.join(in_data)}; {checkpoint.path} knows "
                f"{', '.join(checkpoint.label_names)}."
            )
        if not fine_tuning or len(shared) == len(checkpoint.label_names):
            defaults["classes"] = None if shared == list(in_data) else shared
    if checkpoint.targets.mass_classes is not None and in_data:
        defaults["mass_classes"] = [name for name in checkpoint.targets.mass_classes if name in in_data] or [NO_CLASS]
    defaults = {
        name: value for name, value in defaults.items() if value is not None and getattr(targets, name) is None
    }
    for name, value in defaults.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        logger.info(f"`{name}` is taken from {checkpoint.path}: {shown}")
    return replace(targets, **defaults)


def with_test_fold(data: DataArguments, checkpoint: TrainedOn) -> DataArguments:
    """`data` with the test fold of a checkpoint that was trained on the same data set; the log says so. Data with
    splits of their own keep them, with a warning.

    Raises:
        ValueError: for another fold, whose jets the checkpoint may have been trained on.
    """
    recipe, fold = checkpoint.recipe, checkpoint.recipe.get("test_fold")
    is_same = recipe.get("dataset_name") == data.dataset_name and _same_text(recipe.get("schema"), data.schema)
    if not is_same or data.test_fold == fold:
        return data
    if data.test_fold is None and find_schema(data.dataset_name, data.data_dir, data.schema).own_split:
        logger.warning(
            f"{checkpoint.path} was trained with `test_fold: {fold}`, and {data.data_dir} has its own splits: their "
            "test jets may have been among its training jets."
        )
        return data
    if data.test_fold is None:
        logger.info(f"`test_fold` is taken from {checkpoint.path}: {fold}")
        return replace(data, test_fold=fold)
    own = "without `test_fold`" if fold is None else f"with `test_fold: {fold}`"
    raise ValueError(
        f"{checkpoint.path} was trained {own}: jets of test fold {data.test_fold} of {data.dataset_name!r} may have "
        "been among its training jets. Leave `test_fold` out."
    )


def _same_text(first: str | None, second: str | None) -> bool:
    """Whether two schemas are one file, or say the same."""
    if first is None or second is None:
        return first is second
    paths = [Path(path).expanduser() for path in (first, second)]
    if paths[0].resolve() == paths[1].resolve():
        return True
    return all(path.is_file() for path in paths) and len({path.read_bytes() for path in paths}) == 1


def describe_data(data: DataArguments, targets: TargetArguments, schema: DatasetSchema, split: str) -> dict:
    """What results record about the jets they were measured on."""
    name, pileup, without = data.dataset_name, data.pileup, data.without
    if (found := find_schema(name, data.data_dir, data.schema)).particles:
        assert data.data_dir is not None, "find_schema has refused it"
        mean, without = response_settings(data.data_dir, pileup, without)
        name, pileup = found.name, list(dict.fromkeys(mean))
    return {
        "dataset": name,
        "split": split,
        "test_fold": data.test_fold,
        "pileup": pileup,
        "without": without,
        "mass_column": targets.mass_column,
        "mass_classes": targets.mass_classes,
        "contained_classes": targets.contained_classes or None,
        "label_names": list(schema.label_names),
        "channel_names": list(schema.channel_names),
        "image_size": list(schema.image_size),
    }


def _draw(rows: Dataset, fraction: float, seed: int) -> Dataset:
    """A random fraction of the rows, at least one, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(rows))[: max(1, round(fraction * len(rows)))]
    return rows.select(np.sort(chosen))
