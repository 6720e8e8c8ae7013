"""What a run learns: classes and masses, masked pixels, or views that match. The loop is the same for all."""

from collections.abc import Mapping
from math import isfinite

import torch
from accelerate import Accelerator
from datasets import DatasetDict

from e2evit.data.statistics import MassWeights
from e2evit.metrics.mass import coverage_temperature
from e2evit.transforms.augment import Draw, jet_keys
from e2evit.transforms.event_jets import jets_of_events
from e2evit.transforms.random_numbers import uniform

from .arguments import Recipe
from .candidates import CandidateCollator
from .collate import E2ECollator, split_pixels
from .contrastive import ContrastiveCollator, ContrastiveLoss
from .decorrelation import decorrelation_metrics, mass_correlation
from .events import EventCollator
from .guards import check_containment
from .particles import PreparedImages
from .prediction import constant_baselines, predict, progress_bar, summarise

__all__ = ["ContrastiveImages", "MaskedCollator", "MaskedImages", "Supervised", "Unlabelled", "make_task"]

# what pre-training reads: images, dense or as lists of pixels, and truth
KEPT = ("pixel_values", "pixel_index", "pixel_value", "row_offsets", "truth_labels", "rows")


class Supervised:
    """Classes, masses and, if the model estimates it, containment; if asked for, scores that do not depend on the mass
    of the background.
    """

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
        own = {"with_labels": with_labels, "packed": model.reads_rows, "containment": self.config.containment}
        if self.config.containment:
            self.terms = (*self.terms, "containment_loss")
            check_containment(self.jets["train"])
        self.decorrelation_weight = recipe.decorrelation.decorrelation_weight
        if self.decorrelation_weight:
            self.terms = (*self.terms, "decorrelation_loss")
            own["truth_columns"] = [recipe.decorrelation.decorrelation_mass]
        fresh = {} if queries else {"images": fresh_images(recipe, model.reads_candidates)}
        collator = EventCollator if queries else CandidateCollator if model.reads_candidates else E2ECollator
        self.collator = collator(processor, self.mass_column, recipe.augmentation, self.mass_weights, **own, **fresh)
        self.validation_collator = collator(processor, self.mass_column, **own)

    def constants(self, dataset: DatasetDict) -> dict[str, float]:
        """What the same prediction for every jet reaches on validation."""
        return constant_baselines(self.jets, self.mass_column)

    def losses(self, model, batch: dict) -> Mapping[str, torch.Tensor]:
        """The terms of the loss of a batch, by name."""
        if not self.decorrelation_weight:
            return model(**batch)
        # outside the model, which is not to see the mass, and outside what is compiled
        outputs = model(**{name: values for name, values in batch.items() if name != "truth_labels"})
        correlation = mass_correlation(outputs.logits, batch["labels"], batch["truth_labels"][..., 0])
        loss = outputs.loss + self.decorrelation_weight * correlation
        return {**outputs, "loss": loss, "decorrelation_loss": correlation}

    def validate(self, accelerator: Accelerator, model, loader) -> dict[str, float]:
        predictions = predict(accelerator, model, loader, "Validating")
        metrics = summarise(predictions, self.config)
        if self.decorrelation_weight:
            masses = predictions["truth_labels"][:, 0]
            metrics |= decorrelation_metrics(predictions["logits"], predictions["labels"], masses)
            metrics["loss"] += self.decorrelation_weight * metrics["decorrelation_loss"]
        return _with_finite_loss(metrics)

    def finish(self, accelerator: Accelerator, model, loader) -> None:
        """Calibrate the predicted mass uncertainty on validation jets."""
        if self.config.mass_loss != "huber":
            self.config.mass_temperature = 1.0
            predictions = predict(accelerator, model, loader, "Calibrating")
            names = ("mass_labels", "mass_preds", "mass_scale_preds")
            self.config.mass_temperature = coverage_temperature(*(predictions[name] for name in names))


class Unlabelled:
    """Pre-training: terms of a loss that a model computes from images alone.

    A subclass sets the terms and both collators, of which the one for validation draws the same random numbers in
    every epoch.
    """

    terms: tuple[str, ...]

    def constants(self, dataset: DatasetDict) -> dict[str, float]:
        return {}

    def losses(self, model, batch: dict) -> Mapping[str, torch.Tensor]:
        return model(**batch)

    @torch.no_grad()
    def validate(self, accelerator: Accelerator, model, loader) -> dict[str, float]:
        """Means of the terms over the batches."""
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


class MaskedImages(Unlabelled):
    """Masked pixels and, if the model predicts them, columns of simulation truth; labels are not read."""

    terms = ("loss", "occupancy_loss", "value_loss")

    def __init__(self, model, processor, dataset: DatasetDict, recipe: Recipe):
        truth_columns = getattr(model.config, "truth_columns", ())
        if truth_columns:
            self.terms = (*self.terms, "truth_loss")
        self.collator, self.validation_collator = (
            MaskedCollator(
                E2ECollator(
                    processor,
                    recipe.targets.mass_column,
                    augmentation,
                    images=images,
                    packed=model.reads_rows,
                    truth_columns=truth_columns,
                ),
                model.mask_grid(processor.image_size),
                recipe.mask.mask_ratio or model.mask_ratio,
            )
            for augmentation, images in ((recipe.augmentation, fresh_images(recipe)), (None, None))
        )
        self.validation_collator.seed(0, 0)


class ContrastiveImages(Unlabelled):
    """Two augmented views of each image, also in validation; labels are not read."""

    terms = ContrastiveLoss._fields

    def __init__(self, model, processor, dataset: DatasetDict, recipe: Recipe):
        common = processor, recipe.targets.mass_column, recipe.augmentation
        self.collator, self.validation_collator = (
            ContrastiveCollator(E2ECollator(*common, images=images, packed=model.reads_rows))
            for images in (fresh_images(recipe), None)
        )
        self.validation_collator.seed(0, 0)


class MaskedCollator:
    """Rows to images and `bool_masked_pos` `(B, H' W')`, a random fraction of the tokens of each image.

    Args:
        collator: Makes the images, dense or as lists of pixels.
        grid: Tokens in eta and in phi.
        ratio: Fraction of the tokens to hide, between 0 and 1.

    Raises:
        ValueError: for a ratio that hides no token, or all of them.
    """

    def __init__(self, collator: E2ECollator, grid: tuple[int, int], ratio: float):
        self.collator, self.num_tokens = collator, grid[0] * grid[1]
        self.num_hidden = round(ratio * self.num_tokens)
        if not 0 < self.num_hidden < self.num_tokens:
            raise ValueError(
                f"`mask_ratio` {ratio:g} hides {self.num_hidden} of {self.num_tokens} tokens: it must hide some and "
                "leave some."
            )
        self.columns, self.seed, self.read = collator.columns, collator.seed, collator.read

    def __call__(self, rows) -> dict[str, torch.Tensor]:
        return self.finish(self.read(rows))

    def finish(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As [`E2ECollator.finish`]."""
        jets = jet_keys(split_pixels(batch)[0]).unsqueeze(1)
        tokens = torch.arange(self.num_tokens, device=jets.device)
        drawn = uniform(*self.collator.seeds, Draw.MASK, jets, tokens)
        masked = drawn.argsort(dim=1, stable=True) < self.num_hidden
        images = self.collator.finish(batch)
        return {name: images[name] for name in KEPT if name in images} | {"bool_masked_pos": masked}


def fresh_images(recipe: Recipe, candidates: bool = False) -> PreparedImages | None:
    """What makes the training images, or candidates, of particles in every epoch, if the recipe asks for it."""
    return PreparedImages(recipe.data, recipe.targets.transverse, candidates) if recipe.training.fresh else None


def _with_finite_loss(metrics: dict[str, float]) -> dict[str, float]:
    """The same metrics; with a loss of NaN or infinity no epoch would be the best, and untrained weights be kept."""
    if not isfinite(metrics["loss"]):
        raise FloatingPointError(
            f"The validation loss is {metrics['loss']}: try a lower learning rate, and check the masses."
        )
    return metrics


def make_task(model, processor, dataset: DatasetDict, recipe: Recipe) -> Supervised | Unlabelled:
    """What a run of this recipe learns."""
    unlabelled = MaskedImages if recipe.mask is not None else ContrastiveImages
    return (unlabelled if recipe.is_pretraining else Supervised)(model, processor, dataset, recipe)
