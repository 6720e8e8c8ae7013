"""docs/study.md from the results of `make study`."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from e2evit.results.tables import (
    COMPARED,
    comparison_table,
    insert,
    interval_cell,
    markdown_table,
    p_value_text,
    read_results,
    seed_groups,
)

__all__ = ["render_study"]

_QUALITY = (
    ("mean AUC", "roc_auc_macro", ".4f"),
    ("accuracy", "accuracy", ".3f"),
    ("rejection at 50 %", "rejection_at_50", ".1f"),
    ("MAE [GeV]", "mae_gev", ".1f"),
    ("resolution", "relative_resolution", ".4f"),
    ("slope", "slope", ".2f"),
    ("coverage of 1 σ", "coverage_68", ".3f"),
)
_ROBUST = (
    ("mean AUC", "roc_auc_macro", ".3f"),
    ("resolution", "relative_resolution", ".3f"),
    ("median response", "median_response", ".3f"),
)


def render_study(text: str, results: Path) -> str:
    """`text` (docs/study.md) with its tables and findings written anew from `results`.

    Raises:
        ValueError: if results are not of the same jets.
    """
    text = insert(text, "ablation", _ablation(json.loads((results / "ablation.json").read_text())))
    results = results / "study"
    paths = sorted(results.glob("*_seed*.json"))
    records = read_results(paths)
    found = json.loads((results / "comparison/comparison.json").read_text())
    text = insert(text, "sample", _sample(records, paths[0]))
    text = insert(text, "models", _models(records))
    text = insert(text, "baselines", _baselines(records))
    text = insert(text, "comparison", comparison_table(found["models"], found["paired"]))
    text = insert(text, "findings", _findings(found))
    text = insert(text, "sculpting", _sculpting(records))
    text = insert(text, "bins", _bins(records))
    text = insert(text, "recipes", _recipes(results / "earlier", records))
    robust = {path.stem: json.loads(path.read_text()) for path in sorted((results / "robustness").glob("*.json"))}
    return insert(text, "robustness", _robustness(robust))


def _sample(records: Mapping[str, dict], path: Path) -> str:
    record = next(iter(records.values()))
    test = pq.read_table(path.with_suffix(".parquet"), columns=["labels", "mass_labels"])
    labels, masses = test["labels"].to_numpy(), test["mass_labels"].to_numpy()
    rows = [[name, f"{(labels == number).sum()}"] for number, name in enumerate(record["label_names"])]
    rows.append([f"{', '.join(record['mass_classes'])} (mass alone)", f"{np.isfinite(masses).sum()}"])
    sizes = ", ".join(f"{part} {found['rows']}" for part, found in record["data"].items())
    return f"Jets: {sizes}. Of the test jets:\n\n{markdown_table(['class', 'test jets'], rows)}"


def _ranked(records: Mapping[str, dict]) -> dict[str, dict]:
    """The first training of each model; the best first."""
    firsts = {model: records[names[0]] for model, names in seed_groups(list(records)).items()}
    return dict(sorted(firsts.items(), key=lambda item: -item[1]["metrics"]["model"]["roc_auc_macro"]))


def _models(records: Mapping[str, dict]) -> str:
    """Cost and quality."""
    rows = []
    for name, record in _ranked(records).items():
        cost, training, metrics = record.get("cost"), record["training"], record["metrics"]["model"]
        cells = [f"{record['parameters'] / 1e6:.2f}" if "parameters" in record else "–"]
        cells.append(f"{cost['macs'] / 1e6:.0f}" if cost else "–")
        cells.append(f"{training['images_seen'] / 1000:.0f}" if "images_seen" in training else "–")
        cells.append(f"{_minutes(training):.1f}")
        rows.append([name, *cells, *(interval_cell(metrics, key, form) for _, key, form in _QUALITY)])
    costs = ["parameters [M]", "multiplications [M]", "images seen [1 000]", "training [min]"]
    table = markdown_table(["", *costs, *(title for title, _, _ in _QUALITY)], rows)
    trained = {name: record["training"] for name, record in records.items() if "images_seen" in record["training"]}
    hours = sum(map(_minutes, trained.values())) / 60
    notes = [f"All {len(trained)} trainings of networks together: {hours:.1f} hours of one core at their usual rates."]
    in_bf16 = [name for name, training in trained.items() if _precision(training) == "bf16"]
    if in_bf16:
        names = ", ".join(in_bf16)
        notes.append(f"Trained in bfloat16, since the processor had such products: {names}; the others in float32.")
    return "\n\n".join([table, *notes])


def _precision(training: Mapping) -> str:
    return training.get("hardware", {}).get("precision", "no")


def _minutes(training: Mapping[str, float]) -> float:
    if "images_per_second" in training:
        return training["images_seen"] / training["images_per_second"] / 60
    return training["seconds"] / 60


def _baselines(records: Mapping[str, dict]) -> str:
    measured = next(record["metrics"] for record in records.values() if "constant" in record["metrics"])
    rows = [
        [name, *(interval_cell(metrics, key, form) for _, key, form in _QUALITY)]
        for name, metrics in measured.items()
        if name != "model"
    ]
    return markdown_table(["", *(title for title, _, _ in _QUALITY)], rows)


def _sculpting(records: Mapping[str, dict]) -> str:
    rows = []
    for name, record in _ranked(records).items():
        metrics, cells = record["metrics"]["model"], []
        for key in ("mass_divergence_at_50", "mass_divergence_at_30"):
            cells += [interval_cell(metrics, key, ".2f"), f"{metrics[f'{key}_chance']:.2f}"]
        rows.append([name, *cells])
    heads = ["signal efficiency 50 %", "chance at 50 %", "signal efficiency 30 %", "chance at 30 %"]
    return markdown_table(["", *heads], rows)


def _bins(records: Mapping[str, dict]) -> str:
    """The AUC of the signal, then the mass resolution, in bins."""
    tables, ranked = [], _ranked(records)
    for title, name, key in (
        ("AUC, jet mass [GeV]", "roc_auc in jet mass", "roc_auc"),
        ("AUC, jet pT [GeV]", "roc_auc in pt", "roc_auc"),
        ("resolution, true mass [GeV]", "response in mass", "relative_resolution"),
        ("resolution, jet pT [GeV]", "response in pt", "relative_resolution"),
    ):
        binned = {model: record["in_bins"][name] for model, record in ranked.items()}
        edges = [f"{row['low']:.0f}–{row['high']:.0f}" for row in next(iter(binned.values()))]
        rows = [[model, *(interval_cell(row, key, ".3f") for row in found)] for model, found in binned.items()]
        tables.append(markdown_table([title, *edges], rows))
    return "\n\n".join(tables)


def _findings(found: Mapping) -> str:
    """Who is significantly better than whom, in words."""
    paragraphs = []
    for reference, others in found["paired"].items():
        lines = [f"Against **{reference}**, on the same jets:"]
        for other, entry in others.items():
            verdicts = []
            for key, title in COMPARED.items():
                if key not in entry:
                    continue
                difference, p_value = entry[key]["difference"], entry[key]["p_holm"]
                is_better = difference < 0 if key == "relative_resolution" else difference > 0
                verdict = "no significant difference" if p_value >= 0.05 else "worse" if is_better else "**better**"
                verdicts.append(f"{title} {verdict} ({p_value_text(p_value)})")
            lines.append(f"* {other}: {', '.join(verdicts)}")
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


def _ablation(found: Mapping) -> str:
    """What each variant reached, the mean over its seeds."""
    columns = {
        "training_loss_second_half": ("training loss, second half", ".3f"),
        "validation_loss": ("validation loss", ".3f"),
        "validation_accuracy": ("accuracy", ".3f"),
        "validation_mass_resolution": ("resolution", ".3f"),
    }
    rows = [
        [
            name,
            f"{len(runs)}",
            *(f"{np.mean([run[key] for run in runs]):{form}}" for key, (_, form) in columns.items()),
        ]
        for name, runs in found["variants"].items()
        if runs
    ]
    heads = ["", "trainings", *(title for title, _ in columns.values())]
    return f"{found['num_jets']} jets, each once.\n\n{markdown_table(heads, rows)}"


def _recipes(earlier: Path, records: Mapping[str, dict]) -> str:
    """Trainings with the recipes of the folders of `earlier`, oldest first, and with that of now if there is one."""
    rows = []
    for name in sorted({path.stem for path in earlier.glob("*/*.json")}):
        found = {path.parent.name: json.loads(path.read_text()) for path in earlier.glob(f"*/{name}.json")}
        found = dict(sorted(found.items(), key=lambda item: item[1]["date"]))
        if name in records:
            found["now"] = records[name]
        for recipe, record in found.items():
            cells = [interval_cell(record["metrics"]["model"], key, form) for _, key, form in _QUALITY]
            model, _, seed = name.partition("_seed")
            rows.append([f"{model}{f' seed {seed}' if seed != '0' else ''}, {recipe.replace('_', ' ')}", *cells])
    return markdown_table(["", *(title for title, _, _ in _QUALITY)], rows)


def _robustness(robust: Mapping[str, Mapping]) -> str:
    """A table for each quantity: models in columns, conditions in rows."""
    tables, models = [], [name.partition("_seed")[0] for name in robust]
    conditions = list(dict.fromkeys(title for found in robust.values() for title in found))
    for title, key, form in _ROBUST:
        rows = []
        for condition in conditions:
            cells = []
            for found in robust.values():
                value = found.get(condition, {}).get(key)
                cells.append(
                    f"{value['value']:{form}} ± {(value['high'] - value['low']) / 2:{form}}" if value else "–"
                )
            jets = next(found[condition]["jets"] for found in robust.values() if condition in found)
            rows.append([condition, f"{jets}", *cells])
        tables.append(f"**{title}**\n\n{markdown_table(['', 'jets', *models], rows)}")
    return "\n\n".join(tables)
