"""Settings of a run: defaults < recipe < command line."""

from dataclasses import dataclass, field

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
    flips: bool = _field(True, "Mirror training images in eta and in phi at random.")
    num_workers: int = _field(0, "Processes that load batches beside the training process.")


@dataclass
class ModelArguments:
    model_config: str | None = _field(None, "JSON with `model_type` and the fields of its configuration.")
    model_name_or_path: str | None = _field(None, "Checkpoint to fine-tune instead of a new model.")


@dataclass
class TrainArguments:
    output_dir: str | None = _field(None, "Folder of the checkpoint.")
    resume_from_checkpoint: bool = _field(False, "Go on with the run that `output_dir` holds.")
    overwrite_output_dir: bool = _field(False, "Start anew in an `output_dir` that is not empty.")
    num_train_epochs: int = _field(10, "Passes over the training split.")
    per_device_batch_size: int = _field(64, "Jets in a batch of one process.")
    gradient_accumulation_steps: int = _field(1, "Batches per optimiser step.")
    learning_rate: float = _field(1e-3, "Peak of the schedule.")
    weight_decay: float = _field(0.05, "AdamW's, on matrices and kernels; vectors and biases are exempt.")
    warmup_ratio: float = _field(0.1, "Share of the steps in which the rate rises linearly; a cosine follows.")
    max_grad_norm: float = _field(1.0, "Length to which the gradient is clipped.")
    mixed_precision: str = _field("auto", "no, bf16, fp16, or auto: bf16 where the hardware computes in it.")
    seed: int = _field(0, "Of initial weights, order of the data and augmentation.")
    logging_steps: int = _field(20, "Optimiser steps between two lines of a log that is no terminal.")
