"""What a run learns: classes and masses, or hidden pixels. The loop is the same for both."""

import numpy as np
import torch
from accelerate import Accelerator
from datasets import DatasetDict

from e2evit.data.statistics import MassWeights
from e2evit.modeling.modeling_masked import E2EForMaskedImageModeling, token_grid
from e2evit.training.collate import E2ECollator

from .arguments import DataArguments
from .prediction import constant_baselines, coverage_temperature, predict, progress_bar, summarise

__all__ = ["MaskedCollator", "MaskedImages", "Supervised", "task_of"]


class Supervised:
    """Classes and masses."""

    terms = ("loss", "classification_loss", "mass_loss")

    def __init__(self, model, processor, dataset: DatasetDict, data_args: DataArguments):
        self.config, self.mass_column = model.config, data_args.mass_column
        self.mass_weights = None
        if data_args.flat_in is not None:
            self.mass_weights = MassWeights.of(
                dataset["train"],
                data_args.mass_column,
                data_args.flat_in,
                data_args.flat_bins,
                data_args.flat_max_weight,
            )
        self.collator = E2ECollator(processor, data_args.mass_column, data_args.augmentation(), self.mass_weights)
        self.validation_collator = E2ECollator(processor, data_args.mass_column)

    def constants(self, dataset: DatasetDict) -> dict[str, float]:
        """What predicting the same for every jet would reach on validation."""
        return constant_baselines(dataset, self.mass_column)

    def validate(self, accelerator: Accelerator, model, loader) -> dict[str, float]:
        return summarise(predict(accelerator, model, loader, "Validating"), self.config)

    def finish(self, accelerator: Accelerator, model, loader) -> None:
        """Calibrate the predicted width on validation jets."""
        if self.config.mass_loss != "huber":
            self.config.mass_temperature = 1.0
            predictions = predict(accelerator, model, loader, "Calibrating")
            self.config.mass_temperature = coverage_temperature(predictions)


class MaskedImages:
    """Hidden pixels (SimMIM); no labels are read."""

    terms = ("loss", "occupancy_loss", "value_loss")

    def __init__(self, model, processor, dataset: DatasetDict, data_args: DataArguments):
        grid = token_grid(model.stem, processor.image_size)
        self.collator, self.validation_collator = (
            MaskedCollator(E2ECollator(processor, data_args.mass_column, augmentation), grid, data_args.mask_ratio)
            for augmentation in (data_args.augmentation(), None)
        )

    def constants(self, dataset: DatasetDict) -> dict[str, float]:
        return {}

    @torch.no_grad()
    def validate(self, accelerator: Accelerator, model, loader) -> dict[str, float]:
        """Mean losses over the batches; the masks are the same in every epoch."""
        model.eval()
        totals = []
        for batch in progress_bar(accelerator, loader, "Validating"):
            batch.pop("rows", None)
            with accelerator.autocast():
                outputs = model(**batch)
            totals.append(torch.stack([outputs[name].float() for name in self.terms]))
        means = accelerator.reduce(torch.stack(totals).mean(0), "mean").tolist()
        return dict(zip(self.terms, means))

    def finish(self, accelerator: Accelerator, model, loader) -> None:
        pass


class MaskedCollator:
    """Rows to `pixel_values` and `bool_masked_pos` `(B, H' W')`: a share of the tokens of each image, at random.

    Args:
        collator: Makes the images.
        grid: Tokens in eta and in phi.
        ratio: Share that is hidden.

    Raises:
        ValueError: for a ratio that is not between 0 and 1.
    """

    def __init__(self, collator: E2ECollator, grid: tuple[int, int], ratio: float):
        if not 0 < ratio < 1:
            raise ValueError(f"`mask_ratio` is between 0 and 1, got {ratio}.")
        self.collator, self.num_tokens, self.ratio = collator, grid[0] * grid[1], ratio
        self.columns, self.seed = collator.columns, collator.seed

    def __call__(self, rows) -> dict[str, torch.Tensor]:
        batch = self.collator(rows)
        pixel_values = batch["pixel_values"]
        # as for the augmentation: from the batch, not from who makes it
        sample = np.flatnonzero(pixel_values.numpy()[0])[:64]
        rng = self.collator.random_numbers(sample, np.array([len(pixel_values)]))
        order = rng.random((len(pixel_values), self.num_tokens)).argsort(axis=1)
        masked = torch.from_numpy(order < round(self.ratio * self.num_tokens))
        kept = {name: batch[name] for name in ("pixel_values", "rows") if name in batch}
        return kept | {"bool_masked_pos": masked}


def task_of(model, processor, dataset: DatasetDict, data_args: DataArguments) -> Supervised | MaskedImages:
    """What a model with these heads learns."""
    cls = MaskedImages if isinstance(model, E2EForMaskedImageModeling) else Supervised
    return cls(model, processor, dataset, data_args)
