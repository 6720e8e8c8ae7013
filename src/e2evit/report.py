"""Results files to a table."""

import json
from collections.abc import Sequence
from pathlib import Path

__all__ = ["read_results", "results_table"]

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


def results_table(records: dict[str, dict]) -> str:
    """One Markdown table: each model, then the baselines, which are the same jets' in every record."""
    rows = {name: record["metrics"]["model"] for name, record in records.items()}
    baselines = next(iter(records.values()))["metrics"]
    rows |= {name: metrics for name, metrics in baselines.items() if name != "model"}
    header = ["", *(title for title, _, _ in COLUMNS)]
    lines = [header, ["---", *["---:"] * len(COLUMNS)]]
    for name, metrics in rows.items():
        lines.append([name, *(_cell(metrics, key, form) for _, key, form in COLUMNS)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(line, widths)) + " |" for line in lines)


def _cell(metrics: dict[str, float], key: str, form: str) -> str:
    if key not in metrics:
        return "–"
    return f"{metrics[key]:{form}} ({metrics[f'{key}_low']:{form}}–{metrics[f'{key}_high']:{form}})"
