"""Results files to a table."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

__all__ = ["read_predictions", "read_results", "render_readme", "results_table"]

COLUMNS = (
    ("ROC AUC (95 %)", "roc_auc", ".3f"),
    ("rejection at 50 %", "rejection_at_50", ".1f"),
    ("mass MAE [GeV]", "mae_gev", ".1f"),
    ("rel. mass resolution", "relative_resolution", ".3f"),
)


def read_results(paths: Sequence[str | Path]) -> dict[str, dict]:
    """Records by the name of their file.

    Raises:
        ValueError: if they were not measured on the same jets with the same target.
    """
    records = {Path(path).stem: json.loads(Path(path).read_text()) for path in paths}

    def measured_on(record):
        return {key: record[key] for key in ("dataset", "split", "mass_column")} | record["data"][record["split"]]

    first, *others = records
    for name in others:
        if measured_on(records[name]) != measured_on(records[first]):
            raise ValueError(
                f"{first} and {name} were not measured on the same jets: "
                f"{measured_on(records[first])} against {measured_on(records[name])}."
            )
    return records


def read_predictions(paths: Sequence[str | Path]):
    """Per-jet predictions that lie beside results.

    Returns:
        labels, masses [GeV], scores and predicted masses [GeV] by the name of the file, `image mass` added where
        there is one.
    """
    tables = {Path(path).stem: pq.read_table(Path(path).with_suffix(".parquet")) for path in paths}
    first = next(iter(tables.values()))
    columns = {name: (table, "model") for name, table in tables.items()}
    if "image mass mass" in first.column_names:
        columns["image mass"] = (first, "image mass")
    scores, masses = (
        {name: table[f"{column} {kind}"].to_numpy() for name, (table, column) in columns.items()}
        for kind in ("score", "mass")
    )
    return first["labels"].to_numpy(), first["mass_labels"].to_numpy(), scores, masses


def results_table(records: dict[str, dict]) -> str:
    """One Markdown table: each model, then the baselines, which are the same jets' in every record."""
    rows = {name: record["metrics"]["model"] for name, record in records.items()}
    baselines = next(iter(records.values()))["metrics"]
    return _markdown([(name, metrics) for name, metrics in [*rows.items(), *baselines.items()] if name != "model"])


def render_readme(text: str, results: Path) -> str:
    """`text` with the table between its markers written anew from the quickstart's records in `results`."""
    rows = []
    for seed in sorted(
        {int(path.stem.split("_")[1].removeprefix("seed")) for path in results.glob("quickstart_*.json")}
    ):
        prefix = f"quickstart_seed{seed}_"
        records = read_results(sorted(results.glob(f"{prefix}*.json")))
        metrics = {name.removeprefix(prefix): record["metrics"]["model"] for name, record in records.items()}
        metrics |= {k: v for k, v in next(iter(records.values()))["metrics"].items() if k != "model"}
        rows += [(f"{name}, seed {seed}", values) for name, values in metrics.items()]
    start, end = (
        "<!-- quickstart table: rendered from results/*.json by scripts/render.py -->",
        "<!-- end of quickstart table -->",
    )
    before, rest = text.split(start)
    return f"{before}{start}\n{_markdown(rows)}\n{end}{rest.split(end)[1]}"


def _markdown(rows: Sequence[tuple[str, dict[str, float]]]) -> str:
    lines = [["", *(title for title, _, _ in COLUMNS)], ["---", *["---:"] * len(COLUMNS)]]
    lines += [[name, *(_cell(metrics, key, form) for _, key, form in COLUMNS)] for name, metrics in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(line, widths)) + " |" for line in lines)


def _cell(metrics: dict[str, float], key: str, form: str) -> str:
    if key not in metrics:
        return "–"
    return f"{metrics[key]:{form}} ({metrics[f'{key}_low']:{form}}–{metrics[f'{key}_high']:{form}})"
