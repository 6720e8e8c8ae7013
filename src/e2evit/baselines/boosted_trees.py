"""Boosted trees on classical jet variables, the baseline without a network."""

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from e2evit.results.predictions import Predictions

__all__ = ["tree_predictions"]

# early stopping on a tenth of the training jets
SETTINGS = {"max_iter": 1000, "learning_rate": 0.05, "early_stopping": True, "validation_fraction": 0.1}


def tree_predictions(
    train_variables: np.ndarray,
    labels: np.ndarray,
    mass_labels: np.ndarray,
    variables: np.ndarray,
    num_classes: int,
    seed: int = 0,
) -> Predictions:
    """Predict classes and masses with two ensembles, each trained on the jets that have its target.

    Args:
        train_variables: `(n, k)`, from [`jet_features`].
        labels: Classes of the training jets, -100 where unknown.
        mass_labels: Masses of the training jets [GeV], NaN where unknown.
        variables: `(m, k)`, of the jets to predict.
        num_classes: All of them need training jets.

    Raises:
        ValueError: if a class has no training jet.
    """
    known, has_mass = labels != -100, np.isfinite(mass_labels)
    if len(np.unique(labels[known])) != num_classes:
        raise ValueError(f"Training jets have {len(np.unique(labels[known]))} of {num_classes} classes.")
    classifier = HistGradientBoostingClassifier(random_state=seed, **SETTINGS)
    probabilities = classifier.fit(train_variables[known], labels[known]).predict_proba(variables)
    mass_preds = np.full(len(variables), np.nan)
    if has_mass.any():
        regressor = HistGradientBoostingRegressor(random_state=seed, **SETTINGS)
        mass_preds = regressor.fit(train_variables[has_mass], mass_labels[has_mass]).predict(variables)
    return Predictions.of_classes(probabilities, mass_preds)
