"""Compare models measured on the same jets: tables, paired tests, figures.

examples:
  e2evit compare --results results/linearvit_seed0.json results/xcit_seed0.json --output_dir comparison

Results whose names differ only in `_seedN` are trainings of one model. Paired tests compare all trainings of a
reference with those of every other model; by default the reference is the model with the best mean AUC.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from e2evit.plots import comparison_figures, quality_against_cost, save_figure
from e2evit.results.compare import compare_models, spread_over_seeds
from e2evit.results.tables import comparison_table, read_predictions, read_results, results_table, seed_groups

from .parser import parse

QUANTITIES = ("roc_auc", "roc_auc_macro", "accuracy", "rejection_at_50", "mae_gev", "relative_resolution", "slope")


@dataclass
class CompareArguments:
    results: list[str] = HfArg(help="Result files of `e2evit eval` and `e2evit trees`.")
    figures: str | None = HfArg(default=None, help="Write figures (PNG and PDF) to this folder.")
    output_dir: str | None = HfArg(default=None, help="Write tables (Markdown, LaTeX, JSON) to this folder.")
    references: list[str] | None = HfArg(
        default=None, help="Models to compare the others with, without `_seedN`. Default: the best."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    (options,) = parse("e2evit compare", __doc__, arguments, CompareArguments)
    records = read_results(options.results)
    groups, references = seed_groups(list(records)), options.references or []
    unknown = [model for model in references if model not in groups]
    if unknown:
        raise ValueError(f"No results of {', '.join(unknown)}; there are {', '.join(groups)}.")
    print(results_table(records))
    if options.output_dir:
        folder = Path(options.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in tables(records, options).items():
            temporary = folder / f"{path}.tmp"
            temporary.write_text(text + "\n")
            temporary.replace(folder / path)
            print(f"Wrote {folder / path}")
    if options.figures:  # of the first training of each model, references before the others
        firsts = [groups[model][0] for model in dict.fromkeys([*references, *groups])]
        paths = {Path(path).stem: path for path in options.results}
        figures = comparison_figures(read_predictions([paths[name] for name in firsts]))
        if any(record.get("cost") for record in records.values()):
            shown = {name: records[name] for name in firsts}
            figures["cost"] = quality_against_cost(shown, *best_quantity(records))
        for name, figure in figures.items():
            print(f"Wrote {save_figure(figure, Path(options.figures) / name)}")


def best_quantity(records: dict[str, dict]) -> tuple[str, str, bool]:
    """What models are ranked by, with its title and whether more is better."""
    metrics = [record["metrics"]["model"] for record in records.values()]
    if all("roc_auc_macro" in found for found in metrics):
        return "roc_auc_macro", "Mean AUC of the classes", True
    if all("roc_auc" in found for found in metrics):
        return "roc_auc", "ROC AUC", True
    return "relative_resolution", "Relative mass resolution", False


def tables(records: dict[str, dict], options: CompareArguments) -> dict[str, str]:
    """Contents of the files by name."""
    spreads = spread_over_seeds(records, QUANTITIES)
    quantity, _, is_better_high = best_quantity(records)
    best = (max if is_better_high else min)(spreads, key=lambda model: spreads[model][quantity]["mean"])
    found = read_predictions(options.results)
    found.mass_preds.pop("image mass", None)  # no model, and each test more makes the others weaker
    paired = {reference: compare_models(found, reference) for reference in options.references or [best]}
    return {
        "comparison.json": json.dumps({"models": spreads, "paired": paired}, indent=1),
        "comparison.md": comparison_table(spreads, paired),
        "comparison.tex": comparison_table(spreads, paired, "latex"),
    }
