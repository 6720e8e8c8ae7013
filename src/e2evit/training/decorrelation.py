"""Scores that do not depend on the jet mass, by distance correlation in the loss (https://arxiv.org/abs/2001.05310)."""

import numpy as np
import torch

from e2evit.metrics.sculpting import sculpting_statistics
from e2evit.results.predictions import BACKGROUND

__all__ = ["decorrelation_metrics", "distance_correlation", "mass_correlation"]

SAMPLE = 2048  # background jets at a time in validation, as in a batch of the paper


def distance_correlation(
    first: torch.Tensor, second: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """The squared distance correlation dCorr² of two quantities: 0 if they are independent, 1 of a linear relation.

    The empirical one of Székely, Rizzo and Bakirov (https://arxiv.org/abs/0803.4101): n independent samples have about
    3 / n instead of 0. Computed in float32 or better, with memory for several n x n matrices.

    Args:
        first, second: `(n,)`; where the weight is zero they may be anything.
        weights: `(n,)`, not negative, of any sum. Default: all the same.

    Returns:
        `()`; 0 without gradient where it is not defined, if all of `first` or all of `second` are the same, and of
        fewer than three samples: two are always on a line.
    """
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    weights = torch.ones_like(first, dtype=dtype) if weights is None else weights.to(dtype)
    shares = weights / weights.sum().clamp(min=torch.finfo(dtype).tiny)

    def mean(distances: torch.Tensor) -> torch.Tensor:  # a sum, since autocast would round products of matrices
        return ((distances * shares).sum(1) * shares).sum()

    def centred(values: torch.Tensor) -> torch.Tensor:
        values = values.to(dtype).where(weights > 0, 0.0)
        distances = (values.unsqueeze(1) - values).abs()  # has the gradient 0 at equal values
        means = (distances * shares).sum(1)
        return distances - means.unsqueeze(1) - means + (means * shares).sum()

    first, second = centred(first), centred(second)
    covariance, *variances = mean(first * second), mean(first.square()), mean(second.square())
    is_defined = ((weights > 0).sum() > 2) & (variances[0] > 0) & (variances[1] > 0)
    # replaced before the roots: their infinite gradient at 0 times zero would be NaN
    widths = [variance.where(is_defined, 1.0).sqrt() for variance in variances]
    return (covariance / widths[0] / widths[1]).where(is_defined, 0.0)


def mass_correlation(logits: torch.Tensor, labels: torch.Tensor, masses: torch.Tensor) -> torch.Tensor:
    """dCorr² of mass and score over the background jets of a batch whose mass is known.

    Others have the weight zero rather than being left out, so that shapes are fixed and no GPU is waited for.

    Args:
        logits: `(..., num_labels)`.
        labels, masses: `(...)`; masses in any unit, NaN where unknown.
    """
    scores, masses = _scores(logits.flatten(0, -2)), masses.flatten()
    return distance_correlation(masses, scores, (labels.flatten() == BACKGROUND) & masses.isfinite())


def _scores(logits: torch.Tensor) -> torch.Tensor:
    """log (1 - p_b) / p_b with the probability p_b of the background, `(n, num_labels)` to `(n,)`.

    It rises with 1 - p_b, on which a tagger is cut, so that both are independent of the mass or neither. But float32
    rounds 1 - p_b to 0 and 1, and its gradient vanishes there.
    """
    logits = logits.float()
    return logits[:, BACKGROUND + 1 :].logsumexp(1) - logits[:, BACKGROUND]


def decorrelation_metrics(logits: np.ndarray, labels: np.ndarray, masses: np.ndarray) -> dict[str, float]:
    """What validation logs: `decorrelation_loss`, the mean of [`mass_correlation`] over samples of at most 2 048
    background jets, whatever the batch size, and `mass_divergence_at_50` of [`sculpting_statistics`].

    Args:
        logits: `(n, num_labels)`.
        labels, masses: `(n,)`, -100 and NaN where unknown; some background jets have a mass.
    """
    known = (labels > BACKGROUND) | ((labels == BACKGROUND) & np.isfinite(masses))  # of signals, scores are enough
    logits, labels, masses = (torch.from_numpy(values[known]) for values in (logits, labels, masses))
    background = (labels == BACKGROUND).nonzero().flatten()
    number = -(-len(background) // SAMPLE)
    # every `number`-th jet, since rows may be in the order of their processes
    samples = (background[start::number] for start in range(number))
    correlations = [mass_correlation(logits[rows], labels[rows], masses[rows]).item() for rows in samples]
    is_signal = (labels != BACKGROUND).long()
    sculpting = sculpting_statistics(*(values.numpy() for values in (is_signal, _scores(logits), masses)))
    name = "mass_divergence_at_50"
    return {"decorrelation_loss": float(np.mean(correlations)), name: sculpting[name]}
