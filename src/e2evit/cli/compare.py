"""Compare models measured on the same jets: tables, paired tests, figures.

examples:
  e2evit compare --results results/linearvit_seed0.json results/xcit_seed0.json --output_dir comparison

Results whose names differ only in `_seedN` are trainings of one model. Paired tests compare all trainings of a
reference with those of every other model; by default the reference is the model with the best mean AUC. Results of
the same kept particles at several pile-ups can be compared: the names of their models then end in `_pileup60`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from e2evit.data.jobs import write_whole_text
from e2evit.metrics import METRICS
from e2evit.plots import comparison_figures, quality_against_cost, save_figure
from e2evit.plots.models import MIN_MODELS, MIN_PASSING
from e2evit.results.compare import compare_models, spread_over_seeds
from e2evit.results.predictions import IMAGE_MASS, read_predictions
from e2evit.results.record import Result, by_model, read_results
from e2evit.results.tables import PRINTED, comparison_table, conditions, results_table, signals_table

from .parser import parse

SPREADS = ("roc_auc", "roc_auc_macro", "accuracy", "rejection_at_50", "mae_gev", "relative_resolution", "slope")
NEEDS = {"cost": f"{MIN_MODELS} networks", "sculpting": f"{MIN_PASSING} background jets that pass the tagger"}
RANKED_BY = ("roc_auc_macro", "roc_auc", "relative_resolution")  # the first that all models have


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
    results = read_results(options.results)
    if options.output_dir and results[0].weights is not None:
        raise ValueError(
            f"Models are tested without weights, and {options.results[0]} was measured with {results[0].weights!r}: "
            "leave out `--output_dir`, or measure it without."
        )
    groups, references = by_model(results), options.references or []
    unknown = [model for model in references if model not in groups]
    if unknown:
        raise ValueError(f"No results of {', '.join(unknown)}; there are {', '.join(groups)}.")
    by_name = {result.name: result for result in results}
    printed = results_table(by_name, keys=PRINTED), signals_table(by_name), conditions(results)
    print("\n\n".join(filter(None, printed)))
    if options.output_dir:
        folder = Path(options.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in tables(results, options).items():
            write_whole_text(folder / path, text + "\n")
            print(f"Wrote {folder / path}")
    if options.figures:  # of the first training of each model, references before the others
        firsts = [groups[model][0] for model in dict.fromkeys([*references, *groups])]
        paths = dict(zip((result.name for result in results), options.results))
        figures = comparison_figures(read_predictions({paths[result.name]: result for result in firsts}), firsts[0])
        figures["cost"] = quality_against_cost(firsts, ranking_metric(results))
        for name, figure in figures.items():
            if figure is None:
                print(f"No figure {name}: it needs {NEEDS[name]}.")
            else:
                print(f"Wrote {save_figure(figure, Path(options.figures) / name)}")


def ranking_metric(results: list[Result]) -> str:
    """Key of the metric that models are ranked by."""
    for key in RANKED_BY:
        if all(result.metric(key) for result in results):
            return key
    raise ValueError(f"The results share no metric to rank the models by: each needs one of {', '.join(RANKED_BY)}.")


def tables(results: list[Result], options: CompareArguments) -> dict[str, str]:
    """Contents of the files by name."""
    groups, key = by_model(results), ranking_metric(results)
    spreads = spread_over_seeds(groups, SPREADS)
    best = (max if METRICS[key].higher_is_better else min)(spreads, key=lambda model: spreads[model][key]["mean"])
    predictions = read_predictions(dict(zip(options.results, results)))
    predictions.mass_preds.pop(IMAGE_MASS, None)  # no model, and each further test weakens the others
    trainings = {model: [result.name for result in group] for model, group in groups.items()}
    paired = {
        reference: compare_models(predictions, trainings, reference) for reference in options.references or [best]
    }
    return {
        "comparison.json": json.dumps({"models": spreads, "paired": paired}, indent=1),
        "comparison.md": comparison_table(spreads, paired),
        "comparison.tex": comparison_table(spreads, paired, "latex"),
    }
