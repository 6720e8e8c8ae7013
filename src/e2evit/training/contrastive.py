"""Contrastive pre-training (SimCLR, https://arxiv.org/abs/2002.05709): match two augmented views of a jet."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from e2evit.modeling.modeling_precision import no_autocast, widen

from .collate import E2ECollator

__all__ = ["ContrastiveCollator", "ContrastiveLoss", "ContrastiveModel", "contrastive_loss"]

INPUTS = ("pixel_values", "pixel_index", "pixel_value", "row_offsets")
OTHER = "other_"  # begins the names of the second view's inputs
PROJECTION_SIZE = 128


class ContrastiveLoss(NamedTuple):
    """`loss`, and `retrieval_accuracy`: the fraction of views whose nearest neighbour is the other view."""

    loss: torch.Tensor
    retrieval_accuracy: torch.Tensor


def contrastive_loss(first: torch.Tensor, second: torch.Tensor, temperature: float) -> ContrastiveLoss:
    """NT-Xent (equation 1 of the paper), in float32 also under autocast.

    Each view is to be more similar, by the cosine, to the other view of its image than to the 2 B - 2 views of other
    images.

    Args:
        first, second: Projections of the two views `(B, P)`.
        temperature: Divides the cosines.
    """
    with no_autocast(first):
        views = F.normalize(torch.cat(widen(first, second)), dim=1)
        similarity = views @ views.T / temperature  # (2 B, 2 B)
        similarity = similarity.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -torch.inf)
        partner = torch.arange(len(views), device=views.device).roll(len(first))
        accuracy = (similarity.argmax(1) == partner).float().mean()
        return ContrastiveLoss(F.cross_entropy(similarity, partner), accuracy)


class ContrastiveModel(nn.Module):
    """A backbone with a projection head on its pooled feature. The head is not saved with the checkpoint: what it
    learns to ignore, such as the orientation of a jet, fine-tuning may need.

    Args:
        backbone: A bare `*Model` of images.
        temperature: See [`contrastive_loss`].
        projection_size: Width of the projections; 128 by default, as in the paper.
    """

    reads_candidates = False

    def __init__(self, backbone: nn.Module, temperature: float, projection_size: int | None = None):
        super().__init__()
        self.backbone, self.temperature = backbone, temperature
        width = backbone.config.hidden_size
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection_size or PROJECTION_SIZE)
        )

    @property
    def config(self):
        return self.backbone.config

    @property
    def reads_rows(self) -> bool:
        return self.backbone.reads_rows

    def parameter_depths(self) -> dict[str, int]:
        """As of the backbone; the head has the depth of what follows the last block."""
        depths = {f"backbone.{name}": depth for name, depth in self.backbone.parameter_depths().items()}
        return depths | {f"head.{name}": max(depths.values()) for name, _ in self.head.named_parameters()}

    def forward(self, **views: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of a batch of [`ContrastiveCollator`], and the retrieval accuracy."""
        second = {name.removeprefix(OTHER): v for name, v in views.items() if name.startswith(OTHER)}
        first = {name: views[name] for name in second}
        projections = [self.head(self.backbone(**view).pooler_output) for view in (first, second)]
        return contrastive_loss(*projections, self.temperature)._asdict()


class ContrastiveCollator:
    """Rows to the images of two views, `pixel_values` and `other_pixel_values`, or lists of pixels with such names.

    Args:
        collator: Makes the images, with the augmentation in which the views differ.
    """

    def __init__(self, collator: E2ECollator):
        self.collator = collator
        self.columns, self.seed, self.read = collator.columns, collator.seed, collator.read

    def __call__(self, rows) -> dict[str, torch.Tensor]:
        return self.finish(self.read(rows))

    def finish(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As [`E2ECollator.finish`]."""
        seeds = self.collator.seeds
        first, second = (self.collator.finish(dict(batch), (*seeds, view)) for view in range(2))
        views = {name: first[name] for name in (*INPUTS, "rows") if name in first}
        return views | {f"{OTHER}{name}": second[name] for name in INPUTS if name in second}
