"""Tables and findings of docs/study.md, from the results of `make study`."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from e2evit.metrics import METRICS
from e2evit.results.compare import COMPARED
from e2evit.results.predictions import MODEL
from e2evit.results.record import Interval, Result, by_model, interval, read_results
from e2evit.results.tables import comparison_table, interval_cell, markdown_table, metrics_table, p_value_text

__all__ = ["TABLES"]

QUALITY = (
    *("roc_auc_macro", "accuracy", "rejection_at_50", "mae_gev", "relative_resolution"),
    *("slope", "coverage_68"),
)
ROBUST = ("roc_auc_macro", "relative_resolution", "response")


def _paths(results: Path) -> list[Path]:
    return sorted((results / "study").glob("*_seed*.json"))


def _ranked(results: Path) -> list[Result]:
    """The first training of each model; the best first."""
    firsts = [group[0] for group in by_model(read_results(_paths(results))).values()]
    return sorted(firsts, key=lambda result: -result.metric("roc_auc_macro").value)


def sample(results: Path) -> str:
    """Numbers of jets by split and class."""
    path = _paths(results)[0]
    result = Result.from_json(path)
    test = pq.read_table(path.with_suffix(".parquet"), page_checksum_verification=True)
    labels, mass_labels = test["labels"].to_numpy(), test["mass_labels"].to_numpy()
    rows = [[name, f"{(labels == number).sum()}"] for number, name in enumerate(result.label_names)]
    rows.append([f"{', '.join(result.mass_classes)} (mass alone)", f"{np.isfinite(mass_labels).sum()}"])
    sizes = ", ".join(f"{split} {data['rows']}" for split, data in result.data.items())
    return f"Jets: {sizes}. Of the test jets:\n\n{markdown_table(['class', 'test jets'], rows)}"


def models(results: Path) -> str:
    """Cost and quality."""
    rows = []
    for result in _ranked(results):
        seen = result.training.get("images_seen")
        cells = [
            "–" if result.parameters is None else f"{result.parameters / 1e6:.2f}",
            "–" if result.cost is None else f"{result.cost['macs'] / 1e6:.0f}",
            "–" if seen is None else f"{seen / 1000:.0f}",
            f"{_minutes(result.training):.1f}",
        ]
        quality = (interval_cell(result.metric(key), METRICS[key].format) for key in QUALITY)
        rows.append([result.model, *cells, *quality])
    costs = ["parameters [M]", "MACs [M]", "images seen [1 000]", "training [min]"]
    table = markdown_table(["", *costs, *(METRICS[key].heading for key in QUALITY)], rows)
    networks = [result for result in read_results(_paths(results)) if "images_seen" in result.training]
    hours = sum(_minutes(result.training) for result in networks) / 60
    notes = [
        f"All {len(networks)} trainings of networks together: {hours:.1f} hours of one core at their usual rates."
    ]
    in_bf16 = [result.name for result in networks if result.training.get("hardware", {}).get("precision") == "bf16"]
    if in_bf16:
        names = ", ".join(in_bf16)
        notes.append(f"Trained in bfloat16, on processors with bfloat16 products: {names}; the others in float32.")
    return "\n\n".join([table, *notes])


def _minutes(training: Mapping[str, float]) -> float:
    if "images_per_second" in training:
        return training["images_seen"] / training["images_per_second"] / 60
    return training["seconds"] / 60


def baselines(results: Path) -> str:
    """Baselines without training."""
    measured = next(result for result in read_results(_paths(results)) if len(result.metrics) > 1)
    return metrics_table([(name, values) for name, values in measured.metrics.items() if name != MODEL], QUALITY)


def _comparison(results: Path) -> dict:
    return json.loads((results / "study/comparison/comparison.json").read_text(encoding="utf-8"))


def comparison(results: Path) -> str:
    """Spread over trainings, and paired differences."""
    measured = _comparison(results)
    return comparison_table(measured["models"], measured["paired"])


def findings(results: Path) -> str:
    """Which model is significantly better than which, in words."""
    paragraphs = []
    for reference, others in _comparison(results)["paired"].items():
        lines = [f"Against **{reference}**, on the same jets:", ""]
        for other, entry in others.items():
            verdicts = [_verdict(key, entry[key]) for key in COMPARED if key in entry]
            lines.append(f"* {other}: {', '.join(verdicts)}")
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


def _verdict(key: str, difference: Mapping[str, float]) -> str:
    """On the other model: the difference is reference minus other."""
    reference_is_better = (difference["difference"] > 0) == METRICS[key].higher_is_better
    verdict = "worse" if reference_is_better else "**better**"
    if difference["p_holm"] >= 0.05:
        verdict = "no significant difference"
    return f"{METRICS[key].title} {verdict} ({p_value_text(difference['p_holm'])})"


def sculpting(results: Path) -> str:
    """Divergence of the background's mass spectrum, beside that of chance."""
    rows = []
    for result in _ranked(results):
        cells = []
        for key in ("mass_divergence_at_50", "mass_divergence_at_30"):
            form = METRICS[key].format
            cells += [interval_cell(result.metric(key), form), f"{result.metrics[MODEL][f'{key}_chance']:{form}}"]
        rows.append([result.model, *cells])
    heads = ["signal efficiency 50 %", "chance at 50 %", "signal efficiency 30 %", "chance at 30 %"]
    return markdown_table(["", *heads], rows)


def bins(results: Path) -> str:
    """The AUC of the signal, then the mass resolution, in bins."""
    tables, ranked = [], _ranked(results)
    for title, name, key in (
        ("AUC, jet mass [GeV]", "roc_auc in jet mass", "roc_auc"),
        ("AUC, jet pT [GeV]", "roc_auc in pt", "roc_auc"),
        ("resolution, true mass [GeV]", "response in mass", "relative_resolution"),
        ("resolution, jet pT [GeV]", "response in pt", "relative_resolution"),
    ):
        edges = [f"{row['low']:.0f}–{row['high']:.0f}" for row in ranked[0].in_bins[name]]
        rows = [
            [result.model, *(interval_cell(interval(row, key), ".3f") for row in result.in_bins[name])]
            for result in ranked
        ]
        tables.append(markdown_table([title, *edges], rows))
    return "\n\n".join(tables)


def recipes(results: Path) -> str:
    """Trainings with the recipes of the folders of `study/earlier`, oldest first, then with the present one."""
    present = {result.name: result for result in read_results(_paths(results))}
    earlier: dict[str, list[tuple[str, Result]]] = {}
    for path in sorted((results / "study/earlier").glob("*/*.json")):
        result = Result.from_json(path)
        earlier.setdefault(result.name, []).append((path.parent.name.replace("_", " "), result))
    rows: list[tuple[str, Mapping]] = []
    for name in sorted(earlier):
        trainings = sorted(earlier[name], key=lambda training: training[1].date)
        trainings += [("now", present[name])] if name in present else []
        for recipe, result in trainings:
            title = f"{result.model} seed {result.seed}" if result.seed else result.model
            rows.append((f"{title}, {recipe}", result.metrics[MODEL]))
    return metrics_table(rows, QUALITY)


def robustness(results: Path) -> str:
    """A table for each metric: models in columns, conditions in rows."""
    measured = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / "study/robustness").glob("*.json"))
    ]
    by_name = {entry["model"]: entry["conditions"] for entry in measured}
    titles = list(dict.fromkeys(title for conditions in by_name.values() for title in conditions))
    tables = []
    for key in ROBUST:
        rows = []
        for title in titles:
            cells = [_robust_cell(conditions.get(title, {}).get(key), key) for conditions in by_name.values()]
            jets = next(conditions[title]["jets"] for conditions in by_name.values() if title in conditions)
            rows.append([title, f"{jets}", *cells])
        tables.append(f"**{METRICS[key].title}**\n\n{markdown_table(['', 'jets', *by_name], rows)}")
    return "\n\n".join(tables)


def _robust_cell(entry: Mapping[str, float] | None, key: str) -> str:
    if entry is None:
        return "–"
    value, low, high = Interval(**entry)
    return f"{value:{METRICS[key].format}} ± {(high - low) / 2:{METRICS[key].format}}"


def ablation(results: Path) -> str:
    """Mean over the seeds of each variant."""
    columns = {
        "training_loss_second_half": "training loss, second half",
        "validation_loss": "validation loss",
        "validation_accuracy": "accuracy",
        "validation_mass_resolution": "rel. mass resolution",
    }
    measured = json.loads((results / "ablation.json").read_text(encoding="utf-8"))
    rows = [
        [name, f"{len(runs)}", *(f"{np.mean([run[key] for run in runs]):.3f}" for key in columns)]
        for name, runs in measured["variants"].items()
        if runs
    ]
    return f"{measured['num_jets']} jets, each once.\n\n{markdown_table(['', 'trainings', *columns.values()], rows)}"


TABLES = {
    "sample": sample,
    "models": models,
    "baselines": baselines,
    "comparison": comparison,
    "findings": findings,
    "sculpting": sculpting,
    "bins": bins,
    "recipes": recipes,
    "robustness": robustness,
    "ablation": ablation,
}
