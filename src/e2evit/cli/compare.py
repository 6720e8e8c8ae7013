"""Compare models that were measured on the same jets: tables, paired tests, figures.

python scripts/compare.py --results results/linearvit_seed0.json results/xcit_seed0.json --output_dir comparison

Names that differ in `_seedN` alone are trainings of one model. Paired tests are between all trainings of a reference,
the best model by mean AUC of the classes if none is named, and those of each other model.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from e2evit.plots import comparison_figures, quality_against_cost, save_figure
from e2evit.results.compare import compare_models, spread_over_seeds
from e2evit.results.tables import comparison_table, read_predictions, read_results, results_table, seed_groups

QUANTITIES = ("roc_auc", "roc_auc_macro", "accuracy", "rejection_at_50", "mae_gev", "relative_resolution", "slope")


@dataclass
class CompareArguments:
    results: list[str] = field(metadata={"help": "Files that scripts/eval.py or scripts/boosted_trees.py wrote."})
    figures: str | None = field(default=None, metadata={"help": "Folder for PNG and PDF figures."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder for tables in Markdown, LaTeX and JSON."})
    references: list[str] | None = field(
        default=None, metadata={"help": "Models, without `_seedN`, to compare the others with; the best one."}
    )


def main() -> None:
    (arguments,) = HfArgumentParser(CompareArguments).parse_args_into_dataclasses()
    try:
        records = read_results(arguments.results)
    except (OSError, ValueError) as error:
        sys.exit(f"compare.py: {error}")
    groups, references = seed_groups(list(records)), arguments.references or []
    unknown = [model for model in references if model not in groups]
    if unknown:
        sys.exit(f"compare.py: no results of {', '.join(unknown)}; there are those of {', '.join(groups)}.")
    print(results_table(records))
    if arguments.output_dir:
        folder = Path(arguments.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in tables(records, arguments).items():
            temporary = folder / f"{path}.tmp"
            temporary.write_text(text + "\n")
            temporary.replace(folder / path)
            print(f"Wrote {folder / path}")
    if arguments.figures:  # of the first training of each model, references before the others
        firsts = [groups[model][0] for model in dict.fromkeys([*references, *groups])]
        paths = {Path(path).stem: path for path in arguments.results}
        figures = comparison_figures(read_predictions([paths[name] for name in firsts]))
        if any(record.get("cost") for record in records.values()):
            shown = {name: records[name] for name in firsts}
            figures["cost"] = quality_against_cost(shown, *best_quantity(records))
        for name, figure in figures.items():
            print(f"Wrote {save_figure(figure, Path(arguments.figures) / name)}")


def best_quantity(records: dict[str, dict]) -> tuple[str, str, bool]:
    """What models are ranked by, with its title and whether more is better."""
    metrics = [record["metrics"]["model"] for record in records.values()]
    if all("roc_auc_macro" in found for found in metrics):
        return "roc_auc_macro", "Mean AUC of the classes", True
    if all("roc_auc" in found for found in metrics):
        return "roc_auc", "ROC AUC", True
    return "relative_resolution", "Relative mass resolution", False


def tables(records: dict[str, dict], arguments: CompareArguments) -> dict[str, str]:
    """Contents of the files by name."""
    spreads = spread_over_seeds(records, QUANTITIES)
    quantity, _, is_better_high = best_quantity(records)
    best = (max if is_better_high else min)(spreads, key=lambda model: spreads[model][quantity]["mean"])
    found = read_predictions(arguments.results)
    found.mass_preds.pop("image mass", None)  # no model, and each test more makes the others weaker
    paired = {reference: compare_models(found, reference) for reference in arguments.references or [best]}
    return {
        "comparison.json": json.dumps({"models": spreads, "paired": paired}, indent=1),
        "comparison.md": comparison_table(spreads, paired),
        "comparison.tex": comparison_table(spreads, paired, "latex"),
    }


if __name__ == "__main__":
    main()
