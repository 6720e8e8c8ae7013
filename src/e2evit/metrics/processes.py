"""The mass of each process by itself, and whether processes of a fixed mass close."""

from collections.abc import Iterator

import numpy as np

from .bootstrap import intervals_of
from .mass import central_68, quantiles, relative_resolution, response_statistics, uncertainty_statistics

__all__ = ["closures", "mass_by_process"]

FIXED = 0.05  # relative half-width of the central 68 % of generator masses, below which a process has one mass
NUM_RESAMPLES = 300


def mass_by_process(
    processes: np.ndarray,
    mass_labels: np.ndarray,
    mass_preds: np.ndarray,
    scales: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    events: np.ndarray | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, float]:
    """Resolution, tails, response and, with predicted uncertainties, coverage and pull of the jets of each process.

    Args:
        processes: Their names, empty where unknown.
        mass_labels, mass_preds, scales: [GeV], of jets that have a mass to predict.

    Returns:
        `x_qq_relative_resolution`, `x_qq_coverage_68`, ..., with bootstrap intervals, of processes with two jets or
        more.
    """

    def statistics(mass, predicted, *more):  # scales and weights, where they are given
        of_jets = None if weights is None else more[-1]
        found = {"relative_resolution": relative_resolution(mass, predicted, of_jets)}
        found |= response_statistics(mass, predicted, of_jets)
        found |= {"response": float(quantiles(predicted / mass, 0.5, of_jets))}
        return found if scales is None else found | uncertainty_statistics(mass, predicted, more[0], of_jets)

    result, options = {}, {"weights": weights, "events": events, "num_resamples": num_resamples}
    for name, jets in _each(processes, np.ones(len(processes), bool), weights):
        columns = mass_labels, mass_preds, *([] if scales is None else [scales])
        found = intervals_of(jets, statistics, *columns, **options)
        result |= {f"{name}_{key}": value for key, value in found.items()}
    return result


def closures(
    processes: np.ndarray,
    generator_masses: np.ndarray,
    mass_preds: np.ndarray,
    merged: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    events: np.ndarray | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, float]:
    """Median of predicted over generator mass of each process whose jets all come from particles of one mass, such as
    W, Z, H or top, whether or not that mass was a target of training.

    Args:
        processes: Names, empty where unknown.
        generator_masses: Of the heavy particles [GeV], NaN without one.
        mass_preds: In GeV.
        merged: Whether jets contain all of the decay (1 or 0), NaN where unknown.

    Returns:
        `w_closure`, and `contained_w_closure` where `merged` is given, with bootstrap intervals; of processes with two
        jets or more.

    Raises:
        ValueError: for a predicted mass that is not finite, unless no jet has one.
    """
    if not np.isfinite(mass_preds).any():
        return {}

    def statistics(mass, predicted, of_jets=None):
        return {"closure": float(quantiles(predicted / mass, 0.5, of_jets))}

    options = {"weights": weights, "events": events, "num_resamples": num_resamples}
    result, has_mass = {}, np.isfinite(generator_masses) & (generator_masses > 0)
    for name, jets in _each(processes, has_mass, weights):
        low, median, high = central_68(generator_masses[jets])
        if (high - low) / 2 >= FIXED * median:
            continue
        if not (is_usable := np.isfinite(mass_preds) | ~jets).all():
            jet = int(np.argmin(is_usable))
            raise ValueError(f"Row {jet}: the predicted mass must be finite, and is {mass_preds[jet]}.")
        groups = {name: jets} if merged is None else {name: jets, f"contained_{name}": jets & (merged == 1)}
        for title, chosen in groups.items():
            if chosen.sum() > 1:
                columns = generator_masses, mass_preds
                found = intervals_of(chosen, statistics, *columns, **options)
                result |= {f"{title}_{key}": value for key, value in found.items()}
    return result


def _each(processes: np.ndarray, usable: np.ndarray, weights: np.ndarray | None) -> Iterator[tuple[str, np.ndarray]]:
    """Name and jets of each process that has two usable ones, with a weight that is not zero."""
    usable = usable if weights is None else usable & (weights > 0)
    for name in np.unique(processes[usable]):
        jets = usable & (processes == name)
        if name and jets.sum() > 1:
            yield str(name), jets
