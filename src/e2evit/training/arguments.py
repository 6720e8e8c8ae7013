"""Settings of a run: defaults < recipe < command line."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from datasets import Dataset, DatasetDict

from e2evit.data import DatasetSchema, find_schema, load_e2e
from e2evit.transforms.augment import Augmentation
from e2evit.transforms.targets import select_targets
from e2evit.transforms.transverse import TRANSVERSE, to_transverse

from .optim import OPTIMIZERS

__all__ = ["DataArguments", "ModelArguments", "TrainArguments"]


def _field(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass
class DataArguments:
    dataset_name: str = _field("simulated", "Entry of the data schema, or custom.")
    data_dir: str | None = _field(None, "Folder with the files of the data set, or with its prepared rows.")
    schema: str | None = _field(None, "YAML file of a custom data set that is not prepared.")
    cache_dir: str | None = _field(None, "Where prepared Arrow files go; the cache of `datasets` if not given.")
    mass_column: str = _field("mass_labels", "Column that is the regression target [GeV].")
    classes: list[str] | None = field(
        default=None, metadata={"help": "Classes to tell apart; jets of others have no label. Default: all."}
    )
    mass_classes: list[str] | None = field(
        default=None, metadata={"help": "Classes whose jets have a mass to learn. Default: all."}
    )
    transverse: bool = _field(
        False, "Make calorimeter energies transverse ones; images do not say where on the detector they lie."
    )
    train_fraction: float = _field(1.0, "Share of the training jets that is used.")
    validation_fraction: float = _field(1.0, "Share of the validation jets that is used.")
    test_fraction: float = _field(1.0, "Share of the test jets that is used.")
    fraction_seed: int = _field(0, "Which jets these are; smaller shares are part of larger ones.")
    flips: bool = _field(True, "Mirror training images in eta and in phi at random.")
    tower_shift: int = _field(0, "Shift training images by up to so many towers.")
    energy_smearing: float = _field(0.0, "Relative spread of each calorimeter's energy scale in training images.")
    dead_towers: float = _field(0.0, "Share of HCAL towers that are dead in a training image.")
    dead_crystals: float = _field(0.0, "Share of ECAL crystals that are dead in a training image.")
    noise_hits: float = _field(0.0, "Mean number of extra hits in each tracker layer of a training image.")
    layer_drop: float = _field(0.0, "Probability that a tracker layer is dead in a training image.")
    mask_ratio: float = _field(0.6, "Share of the tokens that pre-training hides.")
    flat_in: str | None = _field(None, "Weigh jets flat in `mass` or in `mass_pt` in the mass loss.")
    flat_bins: int = _field(20, "Bins of those weights along each axis.")
    flat_max_weight: float = _field(10.0, "Largest weight, as a multiple of the mean.")
    num_workers: int = _field(0, "Processes that load batches beside the training process.")

    def load(self, channel_names: Sequence[str] | None = None) -> tuple[DatasetDict, DatasetSchema]:
        """The rows in three splits with the targets that were asked for, and their schema.

        Args:
            channel_names: Those that a checkpoint reads: energies become transverse ones if its are, whatever
                `transverse` says.

        Raises:
            ValueError: if the data has other channels than `channel_names`, for a share that is not in (0, 1]; and as
                [`load_e2e`], [`to_transverse`] and [`select_targets`].
        """
        shares = {split: getattr(self, f"{split}_fraction") for split in ("train", "validation", "test")}
        for split, share in shares.items():
            if not 0 < share <= 1:
                raise ValueError(f"`{split}_fraction` is more than 0 and at most 1, got {share}.")
        dataset = load_e2e(self.dataset_name, self.data_dir, schema=self.schema, cache_dir=self.cache_dir)
        schema = find_schema(self.dataset_name, self.data_dir, self.schema)
        if self.transverse if channel_names is None else {*channel_names} & {*TRANSVERSE.values()}:
            dataset, schema = to_transverse(dataset, schema)
        if channel_names is not None and list(channel_names) != list(schema.channel_names):
            raise ValueError(
                f"The checkpoint reads the channels {', '.join(channel_names)}; {schema.name!r} has "
                f"{', '.join(schema.channel_names)}."
            )
        dataset, schema = select_targets(dataset, schema, self.mass_column, self.classes, self.mass_classes)
        for split, share in shares.items():
            if share < 1 and split in dataset:
                dataset[split] = _share_of(dataset[split], share, self.fraction_seed)
        return dataset, schema

    def record(self, schema: DatasetSchema, split: str) -> dict:
        """What results say of the jets that they were measured on."""
        return {
            "dataset": self.dataset_name,
            "split": split,
            "mass_column": self.mass_column,
            "mass_classes": self.mass_classes,
            "label_names": list(schema.label_names),
            "channel_names": list(schema.channel_names),
            "image_size": list(schema.image_size),
        }

    def augmentation(self) -> Augmentation:
        """What happens to training images."""
        return Augmentation(**{field.name: getattr(self, field.name) for field in fields(Augmentation)})


def _share_of(rows: Dataset, share: float, seed: int) -> Dataset:
    """A random part of the rows, at least one, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(rows))[: max(1, round(share * len(rows)))]
    return rows.select(np.sort(chosen))


@dataclass
class ModelArguments:
    model_config: str | None = _field(None, "JSON with `model_type` and the fields of its configuration.")
    model_name_or_path: str | None = _field(None, "Checkpoint to fine-tune instead of a new model.")


@dataclass
class TrainArguments:
    output_dir: str | None = _field(None, "Folder of the checkpoint.")
    resume_from_checkpoint: bool = _field(False, "Go on with the run that `output_dir` holds.")
    overwrite_output_dir: bool = _field(False, "Start anew in an `output_dir` that is not empty.")
    save_steps: int = _field(0, "Optimiser steps between two states to resume from, beside one after each epoch.")
    keep_states: int = _field(1, "States that are kept.")
    num_train_epochs: int = _field(10, "Passes over the training split.")
    per_device_batch_size: int = _field(64, "Jets in a batch of one process.")
    gradient_accumulation_steps: int = _field(1, "Batches per optimiser step.")
    optimizer: str = _field("adamw", "adamw, or muon: Muon for matrices outside the heads, AdamW for the rest.")
    learning_rate: float = _field(1e-3, "Peak of the schedule.")
    weight_decay: float = _field(0.05, "On matrices and kernels; vectors and biases are exempt.")
    layer_decay: float = _field(1.0, "Factor on the rate for each block that is further from the head.")
    head_first_epochs: int = _field(0, "Epochs in which the heads alone are trained.")
    ema_decay: float = _field(0.0, "Of the running mean of the weights that is evaluated and saved; 0: no mean.")
    validation_interval: int = _field(1, "Epochs between two validations; there is one after the last epoch.")
    early_stopping_epochs: int = _field(0, "Stop after so many epochs without a better validation loss; 0: never.")
    warmup_ratio: float = _field(0.1, "Share of the steps in which the rate rises linearly; a cosine follows.")
    max_grad_norm: float = _field(1.0, "Length to which the gradient is clipped.")
    mixed_precision: str = _field("auto", "no, bf16, fp16, or auto: bf16 where it is faster than float32.")
    torch_compile: bool = _field(False, "Compile the model: slow to start.")
    push_to_hub: str | None = _field(None, "ORG/NAME: measure the checkpoint on test and publish it at the end.")
    hub_private: bool = _field(False, "Whether a new repository of `push_to_hub` is private.")
    report_to: str = _field("auto", "tensorboard, wandb, trackio, none, or auto: TensorBoard where it is installed.")
    seed: int = _field(0, "Of initial weights, order of the data and augmentation.")
    logging_steps: int = _field(20, "Optimiser steps between two lines of a log that is no terminal.")

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"`optimizer` is {' or '.join(OPTIMIZERS)}, got {self.optimizer!r}.")
        if self.validation_interval < 1:
            raise ValueError(f"`validation_interval` is 1 or more, got {self.validation_interval}.")
        if 0 < self.early_stopping_epochs < self.validation_interval:
            raise ValueError(
                f"`early_stopping_epochs` ({self.early_stopping_epochs}) is less than `validation_interval` "
                f"({self.validation_interval}): the run would stop before it is validated."
            )
