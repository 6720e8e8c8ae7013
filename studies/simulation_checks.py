"""Checks of the simulation: occupancies, masses, calorimeter response, boosted trees on jet variables."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from e2evit.baselines.jet_features import FEATURE_GROUPS, VARIABLE_SETS, jet_features, variables
from e2evit.data import DatasetSchema
from e2evit.data.grid import ENDCAP_ROWS, ROWS, TOWER, WINDOW
from e2evit.metrics.bootstrap import with_intervals
from e2evit.metrics.classification import accuracy
from e2evit.metrics.mass import central_68, half_width_68, relative_resolution

__all__ = [
    "mass_baseline",
    "mass_study",
    "nuisances",
    "occupancy",
    "percentiles",
    "real_occupancy",
    "response",
    "tagging_baseline",
    "tagging_study",
]

FOLDS = 5


def occupancy(dataset: Dataset, schema: DatasetSchema) -> dict[str, np.ndarray]:
    """Number of non-zero pixels (HCAL: towers) in each channel of each image, `(num_images,)` each."""
    index = dataset.with_format("arrow")["pixel_index"].combine_chunks()
    image = np.repeat(np.arange(len(index)), np.diff(index.offsets.to_numpy()))
    number, (_, height, width) = len(schema.channel_names), schema.image_shape
    channel = index.flatten().to_numpy().astype(np.int64) // (height * width)
    counts = np.bincount(image * number + channel, minlength=len(index) * number).reshape(-1, number)
    return {name: counts[:, i] / (TOWER**2 if name == "hcal" else 1) for i, name in enumerate(schema.channel_names)}


def real_occupancy(folder: str | Path, schema: DatasetSchema) -> dict[str, dict[str, float]]:
    """[`occupancy`] of the real samples in tests/data, by channel.

    Returns:
        `image`, the one real image, and `jets`, medians over the 20 real jets whose candidates pass our detector.
    """
    from e2evit.simulation.candidates import candidate_images  # needs the `sim` extra

    image = np.load(Path(folder) / "boostedtop/boostedtop_image_uint8.npz")["X"]
    pixels = (image != 0).sum(axis=(1, 2)) / np.where(np.array(schema.channel_names) == "hcal", TOWER**2, 1)
    arrays = np.load(Path(folder) / "pfnano/pfnano_ak8_window_pfcands.npz")
    counts = occupancy(Dataset(candidate_images(arrays["jets"], arrays["cands"])), schema)
    medians = {name: float(np.median(values)) for name, values in counts.items()}
    return {"image": dict(zip(schema.channel_names, pixels.tolist())), "jets": medians}


def percentiles(values) -> dict[str, float]:
    """Median and central 68 %."""
    return dict(zip(("p16", "median", "p84"), central_68(values)))


def response(true, seen, edges, events=None) -> list[dict[str, float]]:
    """Jet response in bins of the particle-level pT.

    Args:
        true, seen: Particle-level pT and that of the image [GeV], `(num_jets,)` each.
        edges: Of the bins in `true` [GeV].
        events: As in [`e2evit.metrics.bootstrap.resamples`].

    Returns:
        One row per bin: `low`, `high`, the median `response` of seen / true, and `resolution`, half of its central
        68 % over the median, both with 95 % intervals; NaN without intervals in an empty bin.
    """

    def statistics(ratio):
        if not len(ratio):
            return {"response": np.nan, "resolution": np.nan}
        median = float(np.median(ratio))
        return {"response": median, "resolution": half_width_68(ratio) / median}

    true, ratio, rows = np.asarray(true), np.asarray(seen) / np.asarray(true), []
    for low, high in itertools.pairwise(edges):
        inside = (true >= low) & (true < high)
        of_bin = None if events is None else events[inside]
        rows.append(
            {"low": float(low), "high": float(high)} | with_intervals(statistics, ratio[inside], events=of_bin)
        )
    return rows


def tagging_baseline(x: np.ndarray, labels: np.ndarray, event_ids: np.ndarray) -> dict[str, float]:
    """AUC of boosted trees (one-vs-one average for more than two classes), cross-validated by event.

    Returns:
        `auc` and `error`, the mean over the folds and its standard error; `accuracy`.
    """
    groups = np.unique(event_ids, return_inverse=True)[1]
    folds = GroupKFold(FOLDS, shuffle=True, random_state=0)
    scores = cross_val_predict(
        HistGradientBoostingClassifier(random_state=0), x, labels, groups=groups, cv=folds, method="predict_proba"
    )
    aucs = []
    for _, test in folds.split(x, labels, groups):
        score = scores[test, 1] if scores.shape[1] == 2 else scores[test]
        aucs.append(roc_auc_score(labels[test], score, multi_class="ovo"))
    return {
        "auc": float(np.mean(aucs)),
        "error": float(np.std(aucs, ddof=1) / FOLDS**0.5),
        "accuracy": accuracy(np.searchsorted(np.unique(labels), labels), scores),
    }


def mass_baseline(x: np.ndarray, masses: np.ndarray, event_ids) -> dict[str, float]:
    """Mean absolute error [GeV] and relative resolution of boosted trees, cross-validated by event.

    Resolution is half the central 68 % of predicted over true mass; `constant` is the error of predicting the mean.
    """
    groups = np.unique(event_ids, return_inverse=True)[1]
    folds = GroupKFold(FOLDS, shuffle=True, random_state=0)
    predicted = cross_val_predict(HistGradientBoostingRegressor(random_state=0), x, masses, groups=groups, cv=folds)
    return {
        "mae": float(np.abs(predicted - masses).mean()),
        "constant": float(np.abs(masses - masses.mean()).mean()),
        "resolution": relative_resolution(masses, predicted),
        "number": len(masses),
    }


def tagging_study(features, nuisances, labels, names: Sequence[str], event_ids) -> dict[str, dict]:
    """[`tagging_baseline`] of the first class against each other and of all classes, for growing sets of variables.

    Args:
        features: Returned by `jet_features`.
        nuisances: Returned by [`nuisances`]; the control.
    """
    tasks = {f"{names[0]} / {name}": np.isin(labels, (0, number)) for number, name in enumerate(names) if number}
    tasks["all classes"] = np.ones(len(labels), bool)
    inputs = {title: variables(features, groups) for title, groups in VARIABLE_SETS.items()} | {"nuisances": nuisances}
    studies = {}
    for task, chosen in tasks.items():
        studies[task] = {
            title: tagging_baseline(x[chosen], labels[chosen], event_ids[chosen]) for title, x in inputs.items()
        }
        print(task, {title: round(value["auc"], 3) for title, value in studies[task].items()}, flush=True)
    return studies


def mass_study(jets: Dataset, schema: DatasetSchema) -> dict[str, dict[str, float]]:
    """[`mass_baseline`] on all variables by class, for jets that contain the whole decay and for all jets."""
    x = variables(jet_features(jets, schema), FEATURE_GROUPS)
    labels, masses, merged = (np.array(jets[name]) for name in ("labels", "mass_labels", "merged"))
    event_ids, studies = np.array(jets["event_id"][:]), {}
    for number, name in enumerate(schema.label_names):
        for title, chosen in (("contained", merged & (labels == number)), ("all", labels == number)):
            studies[f"{name}, {title}"] = mass_baseline(x[chosen], masses[chosen], event_ids[chosen])
            print(f"{name}, {title}", studies[f"{name}, {title}"], flush=True)
    return studies


def nuisances(dataset: Dataset) -> np.ndarray:
    """Quantities that must not distinguish classes: pile-up, seed tower, pT, reach into the endcaps.

    The jet's eta is not among them: how far the seed lies from the axis is substructure. Nor is the number of jets of
    its event in the data set, which no row knows: some processes never have two.
    """
    rows = dataset.with_format("numpy")
    first_row = (rows["ieta"][:] - WINDOW // TOWER // 2) * TOWER
    borders = [np.maximum(ENDCAP_ROWS - first_row, 0), np.maximum(first_row + WINDOW - ROWS + ENDCAP_ROWS, 0)]
    scalars = [rows[name][:] for name in ("num_pileup", "ieta", "iphi", "pt")]
    return np.stack([*scalars, *borders], axis=1).astype(float)
