"""What a run learns: classes and masses, or masked pixels. The loop is the same for both."""

from math import isfinite

import numpy as np
import torch
from accelerate import Accelerator
from datasets import DatasetDict

from e2evit.data.statistics import MassWeights
from e2evit.modeling.modeling_masked import token_grid
from e2evit.transforms.event_jets import jets_of_events

from .arguments import Recipe
from .collate import E2ECollator
from .events import EventCollator
from .particles import PreparedImages
from .prediction import constant_baselines, coverage_temperature, predict, progress_bar, summarise

__all__ = ["MaskedCollator", "MaskedImages", "Supervised", "make_task"]


class Supervised:
    """Classes and masses."""

    terms = ("loss", "classification_loss", "mass_loss")

    def __init__(self, model, processor, dataset: DatasetDict, recipe: Recipe):
        self.config, self.mass_column = model.config, recipe.targets.mass_column
        weights, queries = recipe.mass_weights, recipe.data.event_jets == "queries"
        self.jets = jets_of_events(dataset) if queries else dataset
        self.mass_weights = None
        if weights.flat_in is not None:
            self.mass_weights = MassWeights.of(
                self.jets["train"], self.mass_column, weights.flat_in, weights.flat_bins, weights.flat_max_weight
            )
        if not self.config.has_exclusive_classes:
            raise ValueError(f"`problem_type` is {self.config.problem_type!r}, but a jet has one class.")
        with_labels = self.config.num_labels > 1  # a single class teaches nothing
        own = {"with_labels": with_labels, "packed": model.reads_rows}
        fresh = {} if queries else {"images": fresh_images(recipe)}
        collator = EventCollator if queries else E2ECollator
        self.collator = collator(processor, self.mass_column, recipe.augmentation, self.mass_weights, **own, **fresh)
        self.validation_collator = collator(processor, self.mass_column, **own)

    def constants(self, dataset: DatasetDict) -> dict[str, float]:
        """What the same prediction for every jet reaches on validation."""
        return constant_baselines(self.jets, self.mass_column)

    def validate(self, accelerator: Accelerator, model, loader) -> dict[str, float]:
        return _with_finite_loss(summarise(predict(accelerator, model, loader, "Validating"), self.config))

    def finish(self, accelerator: Accelerator, model, loader) -> None:
        """Calibrate the predicted mass uncertainty on validation jets."""
        if self.config.mass_loss != "huber":
            self.config.mass_temperature = 1.0
            predictions = predict(accelerator, model, loader, "Calibrating")
            self.config.mass_temperature = coverage_temperature(predictions)


class MaskedImages:
    """Masked pixels (SimMIM); labels are not read."""

    terms = ("loss", "occupancy_loss", "value_loss")

    def __init__(self, model, processor, dataset: DatasetDict, recipe: Recipe):
        grid = token_grid(model.stem, processor.image_size)
        self.collator, self.validation_collator = (
            MaskedCollator(
                E2ECollator(processor, recipe.targets.mass_column, augmentation, images=images),
                grid,
                recipe.mask.mask_ratio,
            )
            for augmentation, images in ((recipe.augmentation, fresh_images(recipe)), (None, None))
        )

    def constants(self, dataset: DatasetDict) -> dict[str, float]:
        return {}

    @torch.no_grad()
    def validate(self, accelerator: Accelerator, model, loader) -> dict[str, float]:
        """Mean losses over the batches, with the same masks in every epoch."""
        model.eval()
        totals = []
        for batch in progress_bar(accelerator, loader, "Validating"):
            batch.pop("rows", None)
            with accelerator.autocast():
                outputs = model(**batch)
            totals.append(torch.stack([outputs[name].float() for name in self.terms]))
        means = accelerator.reduce(torch.stack(totals).mean(0), "mean").tolist()
        return _with_finite_loss(dict(zip(self.terms, means)))

    def finish(self, accelerator: Accelerator, model, loader) -> None:
        pass


class MaskedCollator:
    """Rows to `pixel_values` and `bool_masked_pos` `(B, H' W')`, a random fraction of the tokens of each image.

    Args:
        collator: Makes the images.
        grid: Tokens in eta and in phi.
        ratio: Fraction of the tokens to hide, between 0 and 1.
    """

    def __init__(self, collator: E2ECollator, grid: tuple[int, int], ratio: float):
        self.collator, self.num_tokens, self.ratio = collator, grid[0] * grid[1], ratio
        self.columns, self.seed = collator.columns, collator.seed

    def __call__(self, rows) -> dict[str, torch.Tensor]:
        batch = self.collator(rows)
        pixel_values = batch["pixel_values"]
        # as in the augmentation, they depend on the batch, not on the process that makes it
        sample = np.flatnonzero(pixel_values.numpy()[:1])[:64]
        rng = self.collator.random_numbers(sample, np.array([len(pixel_values)]))
        order = rng.random((len(pixel_values), self.num_tokens)).argsort(axis=1)
        masked = torch.from_numpy(order < round(self.ratio * self.num_tokens))
        kept = {name: batch[name] for name in ("pixel_values", "rows") if name in batch}
        return kept | {"bool_masked_pos": masked}


def fresh_images(recipe: Recipe) -> PreparedImages | None:
    """What makes the training images of particles in every epoch, if the recipe asks for it."""
    return PreparedImages(recipe.data, recipe.targets.transverse) if recipe.training.fresh else None


def _with_finite_loss(metrics: dict[str, float]) -> dict[str, float]:
    """The same metrics; with a loss of NaN or infinity no epoch would be the best, and untrained weights be kept."""
    if not isfinite(metrics["loss"]):
        raise FloatingPointError(
            f"The validation loss is {metrics['loss']}: try a lower learning rate, and check the masses."
        )
    return metrics


def make_task(model, processor, dataset: DatasetDict, recipe: Recipe) -> Supervised | MaskedImages:
    """What a run of this recipe learns."""
    return (Supervised if recipe.mask is None else MaskedImages)(model, processor, dataset, recipe)
