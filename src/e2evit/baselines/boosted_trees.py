"""Boosted trees on jet variables, the baseline without a network; they minimise what networks minimise.

The classifier minimises the cross-entropy. Three regressors minimise the pinball losses of quantiles of the logarithm
of the mass: the median is the mass, the others give its uncertainty.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from e2evit.metrics.mass import coverage_temperature
from e2evit.results.measure import column
from e2evit.results.predictions import Predictions

__all__ = [
    "DEFAULTS",
    "QUANTILES",
    "STOPPING",
    "TARGETS",
    "BoostedTrees",
    "TreeJets",
    "best_iteration",
    "check_jets",
    "fit_classes",
    "fit_log_mass",
    "fit_trees",
]

TARGETS = ("class", "mass")
QUANTILES = (0.16, 0.5, 0.84)  # those that networks learn
# half of the variables at each split: with all of them, trainings would hardly depend on their seed
DEFAULTS = {
    "learning_rate": 0.05,
    "max_leaf_nodes": 31,
    "min_samples_leaf": 20,
    "l2_regularization": 1.0,
    "max_features": 0.5,
}
STOPPING = {"max_iter": 2000, "n_iter_no_change": 20, "tol": 1e-5, "early_stopping": True}
_LEAST_SCALE = 1e-6  # of the mass, where quantiles coincide: an uncertainty is positive


@dataclass
class TreeJets:
    """What trees see of jets, and their targets.

    Attributes:
        variables: `(n, k)`, NaN where a variable is not defined.
        labels: -100 where unknown.
        mass_labels: In GeV, NaN where unknown.
    """

    variables: np.ndarray
    labels: np.ndarray
    mass_labels: np.ndarray

    @classmethod
    def of(cls, rows: Dataset, variables: np.ndarray, mass_column: str) -> "TreeJets":
        """With the targets of `rows`."""
        return cls(variables, column(rows, "labels", -100).astype(int), column(rows, mass_column))

    def with_class(self) -> tuple[np.ndarray, np.ndarray]:
        """Variables and classes of the jets whose class is known."""
        known = self.labels != -100
        return self.variables[known], self.labels[known]

    def with_mass(self) -> tuple[np.ndarray, np.ndarray]:
        """Variables of the jets whose mass is known, and its logarithm."""
        known = np.isfinite(self.mass_labels) & (self.mass_labels > 0)
        return self.variables[known], np.log(self.mass_labels[known])


@dataclass
class BoostedTrees:
    """Trained trees.

    Attributes:
        classifier: Of the classes.
        regressors: Of the quantiles of the logarithm of the mass; none if no training jet has a mass.
        settings: By target.
        temperature: Factor on the predicted uncertainty, calibrated on validation jets.
    """

    classifier: HistGradientBoostingClassifier
    regressors: list[HistGradientBoostingRegressor]
    settings: Mapping[str, Mapping[str, float]]
    temperature: float = 1.0

    def predict(self, variables: np.ndarray) -> Predictions:
        """Classes and masses of jets by their variables `(n, k)`."""
        probabilities = _at_best(self.classifier, self.classifier.staged_predict_proba(variables))
        if not self.regressors:
            return Predictions.of_classes(probabilities, np.full(len(variables), np.nan))
        return Predictions.of_classes(probabilities, *self.masses(variables))

    def masses(self, variables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mass and uncertainty [GeV], made of the quantiles as [`mass_in_gev`] makes those of a network."""
        logarithms = (_at_best(regressor, regressor.staged_predict(variables)) for regressor in self.regressors)
        lower, mass, upper = map(np.exp, logarithms)
        # trained one by one, they may cross
        scale = (np.maximum(upper, mass) - np.minimum(lower, mass)) / 2
        return mass, self.temperature * np.maximum(scale, _LEAST_SCALE * mass)

    def record(self) -> dict[str, Any]:
        """Settings and numbers of iterations, for a result."""
        iterations = {"class": best_iteration(self.classifier), "mass": [*map(best_iteration, self.regressors)]}
        return {"settings": {name: dict(chosen) for name, chosen in self.settings.items()}, "iterations": iterations}


def best_iteration(model: HistGradientBoostingClassifier | HistGradientBoostingRegressor) -> int:
    """The number of iterations with the smallest loss on validation jets, minus `validation_score_` there."""
    return max(1, int(np.argmax(model.validation_score_)))  # the score of no iterations is the first


def _at_best(model, stages: Iterator[np.ndarray]) -> np.ndarray:
    """Predictions without the iterations after the best one, which training ran while waiting for a better one."""
    return next(islice(stages, best_iteration(model) - 1, None))


def check_jets(train: TreeJets, validation: TreeJets, num_classes: int) -> None:
    """Check that there is something to learn, and to stop by.

    Raises:
        ValueError: if a class has no training jet, or a target no validation jet.
    """
    found = len(np.unique(train.with_class()[1]))
    if num_classes < 2 or found != num_classes:
        raise ValueError(f"Training jets have {found} of {num_classes} classes; trees need all, and two at least.")
    for what, of in (("class", TreeJets.with_class), ("mass", TreeJets.with_mass)):
        if len(of(train)[1]) and not len(of(validation)[1]):
            raise ValueError(f"The validation split has no jet with a {what}, by which training would stop.")


def fit_trees(
    train: TreeJets,
    validation: TreeJets,
    num_classes: int,
    seed: int = 0,
    settings: Mapping[str, Mapping[str, float]] | None = None,
) -> BoostedTrees:
    """Train on the jets that have the respective target, and calibrate the uncertainty of the mass.

    Args:
        validation: Jets of other events: training stops when these get no better.
        num_classes: All of them need training jets.
        seed: Draws the variables that are tried at each split.
        settings: As [`DEFAULTS`], for each of [`TARGETS`].

    Raises:
        ValueError: as [`check_jets`].
    """
    check_jets(train, validation, num_classes)
    settings = settings or dict.fromkeys(TARGETS, DEFAULTS)
    classifier = fit_classes(train, validation, settings["class"], seed)
    shares = QUANTILES if len(train.with_mass()[1]) else ()
    regressors = [fit_log_mass(train, validation, settings["mass"], seed, share) for share in shares]
    trees = BoostedTrees(classifier, regressors, settings)
    if regressors:
        trees.temperature = coverage_temperature(validation.mass_labels, *trees.masses(validation.variables))
    return trees


def fit_classes(
    train: TreeJets, validation: TreeJets, settings: Mapping[str, float], seed: int = 0
) -> HistGradientBoostingClassifier:
    """A classifier by the cross-entropy, see [`best_iteration`]."""
    model = HistGradientBoostingClassifier(random_state=seed, **STOPPING, **settings)
    (x, y), (x_val, y_val) = train.with_class(), validation.with_class()
    return model.fit(x, y, X_val=x_val, y_val=y_val)


def fit_log_mass(
    train: TreeJets, validation: TreeJets, settings: Mapping[str, float], seed: int = 0, quantile: float = 0.5
) -> HistGradientBoostingRegressor:
    """A regressor of a quantile by its pinball loss, see [`best_iteration`]."""
    model = HistGradientBoostingRegressor(
        loss="quantile", quantile=quantile, random_state=seed, **STOPPING, **settings
    )
    (x, y), (x_val, y_val) = train.with_mass(), validation.with_mass()
    return model.fit(x, y, X_val=x_val, y_val=y_val)
