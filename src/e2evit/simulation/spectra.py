"""One spectrum in pT and eta, and for guns in mass, for all: jets are kept with a probability learned from a pilot."""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from e2evit.data.grid import JET_MAX_ETA

__all__ = ["Acceptance"]

_POWERS = ((1, 0), (2, 0), (3, 0), (0, 2), (1, 2))  # of pT and eta, both scaled to 1
# of the mass, scaled to 1, and of m / pT
_MASS_POWERS = ((1, 0), (2, 0), (3, 0), (1, 1), (0, 1), (0, 2), (0, 3), (0, 4))
_CERTAIN = 0.99  # fraction of the target with a probability below one
_TARGET_PER_JET = 5
# how much more often than their candidates' probability events are kept, which covers how far jets move after them
_MORE, _AT_LEAST = 1.3, 0.05
_ETA_FALL = 0.8


@dataclass(frozen=True)
class Acceptance:
    """Probability with which a jet is kept, so that every process gets the same spectrum.

    The target is flat in pT and falls as 1 - 0.8 (eta / 1.37)², close to the spectrum of hard processes, so that few
    jets are lost. Logistic regression between target and process estimates the ratio of their densities; a polynomial
    has few parameters, so a pilot run of some thousand jets fixes it to a few percent. With a `mass_range` the target
    is flat in the mass, too; m / pT, which decides whether a jet holds the whole decay, is in the polynomial.

    Args:
        pt_range, mass_range: In GeV.
        coefficients: Coefficients of the polynomial that is the logarithm of the ratio.
        maximum: Maximum of the polynomial, except in the 1 % of the target above it; jets there are always kept.
        early: The acceptance of jets of partons, which refuses events before Pythia has spent its time on them; this
            one corrects what it leaves.
    """

    pt_range: tuple[float, float]
    coefficients: tuple[float, ...]
    maximum: float
    mass_range: tuple[float, float] | None = None
    early: "Acceptance | None" = None

    @classmethod
    def fit(
        cls,
        pt,
        eta,
        pt_range: tuple[float, float],
        rng: np.random.Generator,
        mass=None,
        mass_range: tuple[float, float] | None = None,
        early: "Acceptance | None" = None,
    ) -> "Acceptance":
        """Fit to jets of a pilot run: `pt` [GeV], `eta` and, with a `mass_range`, `mass` [GeV] `(n,)`."""
        number = _TARGET_PER_JET * len(pt)
        target_pt, target_eta = rng.uniform(*pt_range, number), rng.uniform(0, JET_MAX_ETA, 4 * number)
        kept = rng.random(4 * number) < 1 - _ETA_FALL * (target_eta / JET_MAX_ETA) ** 2
        target_eta = target_eta[kept][:number]
        target_mass = rng.uniform(*mass_range, number) if mass_range else None
        terms = np.concatenate(
            [
                _terms(pt, eta, mass, pt_range, mass_range),
                _terms(target_pt, target_eta, target_mass, pt_range, mass_range),
            ]
        )
        is_target = np.repeat([0, 1], [len(pt), number])
        fitted = LogisticRegression(C=100.0, max_iter=5000, tol=1e-8).fit(terms, is_target)
        largest = np.quantile(terms[len(pt) :] @ fitted.coef_[0], _CERTAIN)
        return cls(tuple(pt_range), tuple(fitted.coef_[0].tolist()), float(largest), mass_range, early)

    def of_event(self, pt, eta, mass) -> float:
        """Probability with which the early veto keeps an event with such candidates `(n,)`.

        Without an `early` acceptance, [`given`] corrects for it, except for jets that end up more likely than their
        event was: these are kept too rarely, 0.2 % of tops and 0.01 % of the others.
        """
        if self.early is not None:
            return self.early.mean_probability(pt, eta, mass)
        return min(1.0, _MORE * self.probability(pt, eta, mass).max() + _AT_LEAST)

    def mean_probability(self, pt, eta, mass) -> float:
        """Mean of [`probability`]."""
        return self.probability(pt, eta, mass).mean()

    def given(self, kept, pt, eta, mass=None) -> np.ndarray:
        """Probability of keeping jets of events that the early veto kept with the probability `kept`."""
        probability = self.probability(pt, eta, mass)
        return probability if self.early is not None else np.minimum(probability / kept, 1.0)

    def probability(self, pt, eta, mass=None) -> np.ndarray:
        """Probability of keeping jets with `pt` [GeV], `eta` and `mass` [GeV], which is needed with a `mass_range`.

        Beyond the range in pT it is that of the range's end.
        """
        pt = np.clip(pt, *self.pt_range)
        terms = _terms(pt, eta, mass, self.pt_range, self.mass_range)
        return np.exp(np.minimum(terms @ np.array(self.coefficients) - self.maximum, 0.0))


def _terms(pt, eta, mass, pt_range, mass_range):
    x, y = (np.asarray(pt) - pt_range[0]) / (pt_range[1] - pt_range[0]), np.abs(eta) / JET_MAX_ETA
    terms = [x**i * y**j for i, j in _POWERS]
    if mass_range is not None:
        z, ratio = (np.asarray(mass) - mass_range[0]) / (mass_range[1] - mass_range[0]), mass / np.asarray(pt)
        terms += [z**i * (ratio * pt_range[0] / mass_range[1]) ** j for i, j in _MASS_POWERS]
    return np.stack(terms, axis=1)
