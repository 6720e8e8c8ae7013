"""One pT and eta spectrum for every process: jets are accepted with a probability learned from a pilot run."""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from .jets import MAX_ETA

__all__ = ["Acceptance"]

_POWERS = ((1, 0), (2, 0), (3, 0), (0, 2), (1, 2))  # of pT and eta, both scaled to 1
_CERTAIN = 0.99  # fraction of the target with a probability below one
_TARGET_PER_JET = 5
_ETA_FALL = 0.8


@dataclass(frozen=True)
class Acceptance:
    """Probability with which a jet is kept, so that every process gets the same spectrum.

    The target is flat in pT and falls as 1 - 0.8 (eta / 1.37)², close to the spectrum of hard processes, so that few
    jets are lost. Logistic regression between target and process estimates the ratio of their densities; a polynomial
    has few parameters, so a pilot run of some thousand jets fixes it to a few percent.

    Args:
        pt_range: In GeV.
        coefficients: Coefficients of the polynomial that is the logarithm of the ratio.
        maximum: Maximum of the polynomial, except in the 1 % of the target above it; jets there are always kept.
    """

    pt_range: tuple[float, float]
    coefficients: tuple[float, ...]
    maximum: float

    @classmethod
    def fit(cls, pt, eta, pt_range: tuple[float, float], rng: np.random.Generator) -> "Acceptance":
        """Fit to jets of a pilot run: `pt` [GeV], `eta` `(n,)`."""
        number = _TARGET_PER_JET * len(pt)
        target_pt, target_eta = rng.uniform(*pt_range, number), rng.uniform(0, MAX_ETA, 4 * number)
        kept = rng.random(4 * number) < 1 - _ETA_FALL * (target_eta / MAX_ETA) ** 2
        target_eta = target_eta[kept][:number]
        terms = np.concatenate([_terms(pt, eta, pt_range), _terms(target_pt, target_eta, pt_range)])
        is_target = np.repeat([0, 1], [len(pt), number])
        fitted = LogisticRegression(C=100.0, max_iter=1000, tol=1e-8).fit(terms, is_target)
        largest = np.quantile(terms[len(pt) :] @ fitted.coef_[0], _CERTAIN)
        return cls(tuple(pt_range), tuple(fitted.coef_[0].tolist()), float(largest))

    def probability(self, pt, eta) -> np.ndarray:
        """Probability of keeping jets with `pt` [GeV] and `eta`."""
        return np.exp(np.minimum(_terms(pt, eta, self.pt_range) @ np.array(self.coefficients) - self.maximum, 0.0))


def _terms(pt, eta, pt_range):
    x, y = (np.asarray(pt) - pt_range[0]) / (pt_range[1] - pt_range[0]), np.abs(eta) / MAX_ETA
    return np.stack([x**i * y**j for i, j in _POWERS], axis=1)
