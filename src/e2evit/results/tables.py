"""Results as tables, in Markdown and LaTeX."""

from collections.abc import Mapping, Sequence

from e2evit.metrics import METRICS
from e2evit.metrics.classification import effective_number
from e2evit.metrics.signals import SIGNAL_EFFICIENCIES
from e2evit.metrics.table import CONTAINMENT

from .compare import COMPARED
from .predictions import MODEL
from .record import Interval, Result, interval

__all__ = [
    "PRINTED",
    "comparison_table",
    "conditions",
    "interval_cell",
    "markdown_table",
    "masses_table",
    "metrics_table",
    "p_value_text",
    "results_table",
    "signals_table",
]

SIGNAL_COLUMNS = {"roc_auc": ".4f"} | {f"rejection_at_{percent}": ".0f" for percent in SIGNAL_EFFICIENCIES}
COLUMNS = (
    *("roc_auc_macro", "roc_auc", "rejection_at_50", "mae_gev", "relative_resolution", "slope"),
    *("containment_auc", "containment_calibration_error"),
)
PRINTED = (*COLUMNS[:3], "mass_divergence_at_50", *COLUMNS[3:])  # by commands: what a rejection costs is beside it
MASS_COLUMNS = (
    *("relative_resolution", "corrected_resolution", "tail_share", "response", "closure", "coverage_68"),
    "pull_width",
)


def results_table(results: Mapping[str, Result], baselines: bool = True, keys: Sequence[str] = COLUMNS) -> str:
    """A Markdown table of models by title, then of the baselines of the first one: they are the same for all results
    of the same pile-up.

    Args:
        baselines: Whether to list those.
        keys: The metrics, of which those are shown that any result has.
    """
    rows = [(title, result.metrics[MODEL]) for title, result in results.items()]
    if baselines:
        firsts: dict[str, Result] = {}
        for result in results.values():
            firsts.setdefault(result.pileup_text, result)
        for pileup, first in firsts.items():
            at = f", pile-up {pileup}" if len(firsts) > 1 else ""
            rows += [(f"{name}{at}", metrics) for name, metrics in first.metrics.items() if name != MODEL]
    return metrics_table(rows, keys)


def conditions(results: Sequence[Result]) -> str:
    """On which jets results that [`read_results`] lets pass were measured, at which pile-up, with which weights."""
    first = results[0]
    split = "" if first.split == "all" else f"{first.split} "
    parts = [f"{first.data[first.split]['rows']} {split}jets of {first.dataset}"]
    if pileups := dict.fromkeys(result.pileup_text for result in results if result.pileup):
        parts.append(f"pile-up {' and '.join(pileups)}")
    parts.append(f"weights {first.weights}" if first.weights else "all jets count the same")
    if (weights := first.predictions.get("weight")) is not None:
        parts[-1] += f", which fluctuate as {effective_number(weights):.0f} jets of equal weight"
    return f"Measured on {'; '.join(parts)}."


def signals_table(results: Mapping[str, Result]) -> str:
    """A Markdown table of each signal against the background, for each model by title; empty for two classes."""
    rows = []
    for title, result in results.items():
        metrics, background = result.metrics[MODEL], result.label_names[0] if result.label_names else ""
        for name in result.label_names[1:]:
            pair = f"{name}_vs_{background}"
            if f"{pair}_roc_auc" in metrics:
                cells = [_signal_cell(metrics, f"{pair}_{key}", form) for key, form in SIGNAL_COLUMNS.items()]
                rows.append([f"{title}, {name} / {background}", *cells])
    heads = ["", "ROC AUC", *(f"rejection at {percent} %" for percent in SIGNAL_EFFICIENCIES)]
    return markdown_table(heads, rows) if rows else ""


def masses_table(results: Mapping[str, Result]) -> str:
    """A Markdown table of the masses of all jets, of contained and uncontained ones, and of each process, for each
    model by title; empty where neither containment nor processes are known.
    """
    rows, marks = [], ("_relative_resolution", "_closure")  # which each group of jets has one of
    for title, result in results.items():
        metrics = result.metrics[MODEL]
        found = dict.fromkeys(key.removesuffix(mark) for mark in marks for key in metrics if key.endswith(mark))
        groups = sorted(found, key=lambda group: group not in CONTAINMENT)
        rows += [(title, metrics)] * bool(groups)
        for group in groups:
            start = f"{group}_"
            own = {key.removeprefix(start): value for key, value in metrics.items() if key.startswith(start)}
            rows.append((f"{title}, {group.replace('contained_', 'contained ')}", own))
    return metrics_table(rows, MASS_COLUMNS) if rows else ""


def _signal_cell(metrics: Mapping[str, float], key: str, form: str) -> str:
    """A value with its interval, or the lower bound of a rejection if no background jet is left."""
    if key not in metrics and f"{key}_low" in metrics:
        return f"> {metrics[f'{key}_low']:{form}}"
    return interval_cell(interval(metrics, key), form)


def metrics_table(rows: Sequence[tuple[str, Mapping[str, float]]], keys: Sequence[str]) -> str:
    """A Markdown table of the metrics `keys` that any row has, with intervals; rows are a title and metrics."""
    keys = [key for key in keys if any(key in metrics for _, metrics in rows)]
    cells = [
        [title, *(interval_cell(interval(metrics, key), METRICS[key].format) for key in keys)]
        for title, metrics in rows
    ]
    return markdown_table(["", *(METRICS[key].heading for key in keys)], cells)


def comparison_table(
    spreads: Mapping[str, dict], paired: Mapping[str, Mapping[str, dict]], style: str = "markdown"
) -> str:
    """Mean ± deviation over the trainings of each model; then, for each reference, its differences from the others.

    Args:
        spreads: What [`spread_over_seeds`] returned.
        paired: What [`compare_models`] returned, by reference.
        style: `"markdown"` or `"latex"`.
    """
    # of two classes the mean AUC is the AUC
    two_classes = not any("roc_auc_macro" in entry for entry in spreads.values())
    keys = ["roc_auc" if two_classes and key == "roc_auc_macro" else key for key in COMPARED]
    titles = [METRICS[key].title for key in keys]
    rows = []
    for model, entry in spreads.items():
        rows.append(
            [model, str(entry["trainings"]), *(_spread_cell(entry.get(key), METRICS[key].format) for key in keys)]
        )
    tables = [_styled(["", "trainings", *titles], rows, style)]
    for reference, others in paired.items():
        rows = [
            [f"{reference} − {other}", *(_difference_cell(entry.get(key), METRICS[key].format) for key in COMPARED)]
            for other, entry in others.items()
        ]
        tables.append(_styled(["paired, same jets", *titles], rows, style))
    return "\n\n".join(tables)


def _spread_cell(spread: Mapping | None, form: str) -> str:
    if spread is None:
        return "–"
    deviation = "" if spread["deviation"] is None else f" ± {spread['deviation']:{form}}"
    return f"{spread['mean']:{form}}{deviation}"


def _difference_cell(difference: Mapping | None, form: str) -> str:
    if difference is None:
        return "–"
    bounds = f"{difference['low']:+{form}} to {difference['high']:+{form}}"
    return f"{difference['difference']:+{form}} ({bounds}), {p_value_text(difference['p_holm'])}"


def p_value_text(p_value: float) -> str:
    """Without the digits of extremely small values, where the normal approximation fails."""
    return "p < 1e-99" if p_value < 1e-99 else f"p = {p_value:.2g}"


def _styled(heads: Sequence[str], rows: Sequence[Sequence[str]], style: str) -> str:
    if style == "markdown":
        return markdown_table(heads, rows)
    marks = {"±": r"$\pm$", "−": r"$-$", "–": "--", "_": r"\_", "%": r"\%"}

    def line(cells):
        return " & ".join("".join(marks.get(letter, letter) for letter in cell) for cell in cells) + r" \\"

    body = "\n".join(line(row) for row in rows)
    return f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}\n{line(heads)}\n\\hline\n{body}\n\\end{{tabular}}"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], alignment: str = "---:") -> str:
    """A Markdown table with columns of equal width, the first aligned left."""
    lines = [list(heads), ["---", *[alignment] * (len(heads) - 1)], *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(line, widths)) + " |" for line in lines)


def interval_cell(metric: Interval | None, form: str) -> str:
    """A metric and its interval, a dash where it was not measured."""
    if metric is None:
        return "–"
    if metric.low != metric.low:
        return f"{metric.value:{form}}"
    # adding zero after rounding turns -0.00 into 0.00
    value, low, high = (round(number, 6) + 0.0 for number in metric)
    return f"{value:{form}} ({low:{form}}–{high:{form}})"
