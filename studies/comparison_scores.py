"""Tables of docs/comparison.md: what the models reached on validation jets and on the blind tests, the claims, and how
the models change with pile-up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from comparison_tables import STUDY, networks, trainings

from e2evit.data.packaged import read_recipe
from e2evit.data.texts import read_mapping
from e2evit.metrics import discriminant
from e2evit.metrics.bootstrap import event_numbers
from e2evit.metrics.mass import response_statistics
from e2evit.results.compare import compare_models, holm, paired_bootstrap, paired_difference
from e2evit.results.predictions import BACKGROUND, MODEL, JetPredictions, read_predictions
from e2evit.results.record import Result, by_model, read_results
from e2evit.results.tables import markdown_table, p_value_text

__all__ = ["NOT_YET", "TABLES", "claims", "pileup_changes", "score_table"]

NOT_YET = "*Not measured yet.*"
SIGNALS = {"top": "top", "w": "W", "z": "Z", "h": "H"}
TAGGING = {
    "roc_auc_macro": ("mean AUC", ".4f"),
    **{f"{name}_vs_qcd_roc_auc": (f"{shown} / QCD", ".4f") for name, shown in SIGNALS.items()},
}
REJECTION = {
    f"{name}_vs_qcd_rejection_at_{share}": (f"{shown} 1/ε_B at {share} %", ".0f")
    for name, shown in SIGNALS.items()
    for share in (30, 50, 70)
}
MASSES = {
    "corrected_resolution": ("resolution, all", ".4f"),
    "contained_corrected_resolution": ("contained", ".4f"),
    "uncontained_corrected_resolution": ("not contained", ".4f"),
    "coverage_68": ("coverage, all", ".3f"),
    "contained_coverage_68": ("contained", ".3f"),
    "tail_share": ("tails", ".3f"),
    "containment_auc": ("AUC of containment", ".3f"),
}
COVERAGE = {
    "lowest_coverage": ("lowest", ".3f"),
    "highest_coverage": ("highest", ".3f"),
    "honest_bins": ("share of bins that agree with .683", ".2f"),
}
HONEST = 0.683
CLOSURE = {f"{name}_closure": (shown, ".3f") for name, shown in SIGNALS.items()}
RESAMPLES = 1000


def score_table(runs: Mapping[str, Sequence[Mapping[str, float]]], columns: Mapping[str, tuple[str, str]]) -> str:
    """Mean ± deviation over the trainings of each model, or the value of its only one.

    Args:
        runs: The metrics of each training, by model.
        columns: Heading and format by metric.
    """
    rows, squares, freedom = [], dict.fromkeys(columns, 0.0), dict.fromkeys(columns, 0)
    for model, trained in runs.items():
        cells = []
        for key, (_, form) in columns.items():
            values = [metrics[key] for metrics in trained if key in metrics]
            cells.append(format(np.mean(values), form) if values else "–")
            if len(values) > 1:
                cells[-1] += f" ± {np.std(values, ddof=1):{form}}"
                squares[key] += np.var(values) * len(values)
                freedom[key] += len(values) - 1
        rows.append([model, str(len(trained)), *cells])
    if any(freedom.values()):
        pooled = [
            f"± {np.sqrt(squares[key] / freedom[key]):{form}}" if freedom[key] else "–"
            for key, (_, form) in columns.items()
        ]
        rows.append(["standard deviation, pooled", "", *pooled])
    return markdown_table(["", "trainings", *(heading for heading, _ in columns.values())], rows)


def claims(paths: Sequence[Path], reference: str, others: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """`reference` against each of the others on the jets of a blind test, all tests corrected together (Holm).

    Args:
        paths: Results of all trainings of these models, with their predictions.

    Returns:
        By metric, then by the other model: what [`paired_difference`] returns, and `p_holm`.
    """
    results = read_results(paths)
    groups = by_model(results)
    by_path = {path: result for path, result in zip(paths, results) if result.model in (reference, *others)}
    jets = read_predictions(by_path)
    names = {model: [result.name for result in groups[model]] for model in (reference, *others)}
    label_names = results[0].label_names
    has_mass, without_mass = np.isfinite(jets.mass_labels), np.full(len(jets.labels), np.nan)
    of_all = compare_models(replace(jets, mass_labels=without_mass), names, reference)
    of_h = compare_models(_pair(jets, label_names.index("h")), names, reference)
    found = {
        "mean AUC": {other: entry["roc_auc_macro"] for other, entry in of_all.items()},
        "AUC of H / QCD": {other: entry["roc_auc_macro"] for other, entry in of_h.items()},
        "resolution, all": _resolutions(jets, names, reference, has_mass),
        "resolution, contained": _resolutions(jets, names, reference, has_mass & _merged(paths[0])),
    }
    entries = [entry for of_metric in found.values() for entry in of_metric.values()]
    for entry, corrected in zip(entries, holm([entry["p_value"] for entry in entries])):
        entry["p_holm"] = corrected
    return found


def pileup_changes(folder: Path, trained_at: float) -> dict[str, dict]:
    """How much each model changes on the same jets from the pile-up of its training to others.

    Each training is compared with itself: the variance is that of the jets plus, with several trainings, that of their
    mean change.

    Args:
        folder: With the results of a blind test, and their predictions, in `pileup_MEAN`.

    Returns:
        By model: its number of `trainings`, and `changes` by metric and pile-up, each with `difference`, `low` and
        `high`.
    """
    paths = sorted(folder.glob("pileup_*/*_seed*.json"))
    results = read_results(paths)
    jets, names = read_predictions(dict(zip(paths, results))), {}
    for path, result in zip(paths, results):  # the name of a result has its pile-up in it
        of_model = names.setdefault(path.stem.rpartition("_seed")[0], {})
        of_model.setdefault(path.parent.name.removeprefix("pileup_"), {})[result.seed] = result.name
    has_mass, without_mass = np.isfinite(jets.mass_labels), np.full(len(jets.labels), np.nan)
    found: dict[str, dict] = {}
    for model, by_seed in names.items():
        seeds = sorted(by_seed[f"{trained_at:g}"])
        trained = {pileup: [of[seed] for seed in seeds] for pileup, of in by_seed.items()}
        before, changes = trained.pop(f"{trained_at:g}"), {"mean AUC": {}, "resolution, all": {}}
        for pileup, after in trained.items():
            sides = {"after": after, "before": before}
            of_all = compare_models(replace(jets, mass_labels=without_mass), sides, "after", same_trainings=True)
            entries = of_all["before"]["roc_auc_macro"], _resolutions(jets, sides, "after", has_mass, True)["before"]
            for of_metric, entry in zip(changes.values(), entries):
                of_metric[pileup] = {key: entry[key] for key in ("difference", "low", "high")}
        found[model] = {"trainings": len(seeds), "changes": changes}
    return found


def _corrected(mass_labels: np.ndarray, mass_preds: np.ndarray) -> float:
    return response_statistics(mass_labels, mass_preds)["corrected_resolution"]


def _resolutions(
    jets: JetPredictions,
    names: Mapping[str, Sequence[str]],
    reference: str,
    chosen: np.ndarray,
    same_trainings: bool = False,
) -> dict[str, dict[str, float]]:
    """The corrected resolution of `reference` minus that of each other model, on the chosen jets."""
    numbers, masses, found = event_numbers(jets.event_ids), jets.mass_labels[chosen], {}
    events = None if numbers is None else numbers[chosen]
    predicted = {model: [jets.mass_preds[name][chosen].astype(float) for name in of] for model, of in names.items()}
    values = {model: [_corrected(masses, one) for one in of] for model, of in predicted.items()}
    for other in names:
        if other != reference:
            sides = predicted[reference], predicted[other]
            error = paired_bootstrap(_corrected, [masses], *sides, RESAMPLES, events=events)
            found[other] = paired_difference(values[reference], values[other], error, same_trainings)
    return found


def _merged(path: Path) -> np.ndarray:
    """Which jets of a result contain all of the decay."""
    table = pq.read_table(path.with_suffix(".parquet"), columns=["merged"], page_checksum_verification=True)
    return table["merged"].to_numpy() == 1


def _pair(jets: JetPredictions, signal: int) -> JetPredictions:
    """The jets of a signal and of the background alone, scored as two classes."""
    chosen = np.isin(jets.labels, (BACKGROUND, signal))
    scores = {name: discriminant(values.astype(float), signal) for name, values in jets.probabilities.items()}
    return replace(
        jets,
        labels=np.where(chosen, (jets.labels == signal).astype(int), -100),
        mass_labels=np.full(len(chosen), np.nan),
        probabilities={name: np.stack([1 - score, score], axis=1) for name, score in scores.items()},
    )


def _on_validation(results: Path) -> dict[str, list[dict[str, float]]]:
    """The metrics of each training by model, those on a part of the jets as models of their own."""
    table = results / "comparison/validation.json"
    runs = read_mapping(table, "JSON").get("runs", {}) if table.exists() else {}
    found: dict[str, list] = {}
    for one in trainings(read_recipe(STUDY)):
        if one.name in runs:
            found.setdefault(one.title, []).append(runs[one.name]["metrics"])
    return found


def _blind(results: Path, test: str, pileup: str) -> dict[str, list[dict[str, float]]]:
    """The metrics of each training by model on a blind test."""
    paths = sorted((results / f"comparison/blind/{test}/pileup_{pileup}").glob("*_seed*.json"))
    groups = by_model([Result.from_json(path) for path in paths])
    order = [model for model in read_recipe(STUDY)["models"] if model in groups]
    return {model: [result.metrics[MODEL] | _coverage(result) for result in groups[model]] for model in order}


def _coverage(result: Result) -> dict[str, float]:
    """Extremes of the uncertainty's coverage in bins of predicted mass and pT, and the share of bins whose 95 %
    interval holds [`HONEST`].
    """
    rows = result.in_bins.get("uncertainty in predicted mass and pt", [])
    rows = [row for row in rows if "coverage_68" in row]
    if not rows:  # a model without uncertainties
        return {}
    values = [row["coverage_68"] for row in rows]
    agree = [row["coverage_68_low"] <= HONEST <= row["coverage_68_high"] for row in rows]
    return dict(zip(COVERAGE, (min(values), max(values), float(np.mean(agree)))))


def _scores(of: Callable[[Path], Mapping], *columns: Mapping) -> Callable[[Path], str]:
    """What makes a table for each of `columns` from the folder of results."""

    def render(results: Path) -> str:
        runs = of(results)
        return "\n\n".join(score_table(runs, some) for some in columns) if runs else NOT_YET

    return render


def _tuning(results: Path) -> str:
    """The validation loss of each trial: models by settings."""
    table = results / "comparison/tuning.json"
    if not table.exists():
        return NOT_YET
    tried = read_mapping(table, "JSON")["trials"]
    losses = {
        model: {", ".join(f"{value:g}" for value in one["settings"].values()): one["loss"] for one in trials}
        for model, trials in tried.items()
    }
    heads = sorted({name for of_model in losses.values() for name in of_model}, key=float)
    rows = [
        [model, *(f"{losses[model][name]:.3f}" if name in losses[model] else "–" for name in heads)]
        for model in networks(read_recipe(STUDY))
        if model in losses
    ]
    return markdown_table(["learning rate", *heads], rows)


def _claims(results: Path) -> str:
    table = results / "comparison/claims.json"
    if not table.exists():
        return NOT_YET
    found = read_mapping(table, "JSON")
    rows = [
        [
            f"{metric}: {found['reference']} − {other}",
            f"{entry['difference']:+.4f}",
            f"{entry['low']:+.4f} to {entry['high']:+.4f}",
            p_value_text(entry["p_holm"]),
        ]
        for metric, others in found["claims"].items()
        for other, entry in others.items()
    ]
    return markdown_table(["", "difference", "95 % CI", "p (Holm)"], rows)


def _pileup(results: Path) -> str:
    """How the metrics of each model change from the pile-up of the training; no interval says what another training
    would give where there is only one.
    """
    table = results / "comparison/pileup.json"
    if not table.exists():
        return NOT_YET
    found = read_mapping(table, "JSON")
    rows, heads = [], []
    for model in (name for name in read_recipe(STUDY)["models"] if name in found["models"]):
        entry = found["models"][model]
        flat = {(metric, mean): one for metric, of in entry["changes"].items() for mean, one in of.items()}
        heads = [f"{metric}, {found['trained_at']:g} → {mean}" for metric, mean in flat]
        cells = [f"{one['difference']:+.4f}" for one in flat.values()]
        if entry["trainings"] > 1:
            cells = [f"{cell} ({one['low']:+.4f} to {one['high']:+.4f})" for cell, one in zip(cells, flat.values())]
        rows.append([model, str(entry["trainings"]), *cells])
    return markdown_table(["", "trainings", *heads], rows)


TABLES = {
    "comparison tuning": _tuning,
    "comparison validation": _scores(_on_validation, TAGGING, MASSES),
    "comparison blind test": _scores(
        lambda results: _blind(results, "main", "21"), TAGGING, REJECTION, MASSES, COVERAGE, CLOSURE
    ),
    "comparison claims": _claims,
    "comparison of pile-ups": _pileup,
    **{
        f"comparison at pile-up {pileup}": _scores(partial(_blind, test="pileup", pileup=pileup), TAGGING, MASSES)
        for pileup in ("0", "21", "60")
    },
}
