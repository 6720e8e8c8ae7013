"""Boosted trees on classical jet variables, the baseline without a network."""

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from e2evit.results.measure import Predictions

__all__ = ["tree_predictions"]

# stopped early on a tenth of the training jets
SETTINGS = {"max_iter": 1000, "learning_rate": 0.05, "early_stopping": True, "validation_fraction": 0.1}


def tree_predictions(
    train_variables: np.ndarray,
    labels: np.ndarray,
    masses: np.ndarray,
    variables: np.ndarray,
    num_classes: int,
    seed: int = 0,
) -> Predictions:
    """Classes and masses of jets, from two ensembles that each learn from the training jets with that target.

    Args:
        train_variables: `(n, k)`, of [`jet_features`].
        labels: Of the training jets, -100 where unknown.
        masses: Of the training jets [GeV], NaN where unknown.
        variables: `(m, k)`, of the jets to predict.
        num_classes: Of which each has training jets.

    Raises:
        ValueError: if a class has no training jet.
    """
    known, with_mass = labels != -100, np.isfinite(masses)
    if len(np.unique(labels[known])) != num_classes:
        raise ValueError(f"Training jets have {len(np.unique(labels[known]))} of {num_classes} classes.")
    classifier = HistGradientBoostingClassifier(random_state=seed, **SETTINGS)
    probabilities = classifier.fit(train_variables[known], labels[known]).predict_proba(variables)
    mass = np.full(len(variables), np.nan)
    if with_mass.any():
        regressor = HistGradientBoostingRegressor(random_state=seed, **SETTINGS)
        mass = regressor.fit(train_variables[with_mass], masses[with_mass]).predict(variables)
    return Predictions.of_classes(probabilities, mass)
