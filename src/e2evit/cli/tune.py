"""Search for hyperparameters with Optuna (needs the `tune` extra), pruning trials worse than the median.

examples:
  e2evit tune tune/xcit_nano.yaml --data_dir data/jets --output_dir runs/tuning

writes the best settings as a recipe to OUTPUT_DIR/best.yaml, all trials to trials.json, and a figure of them. Run the
same command again to resume. SIGTERM saves the state of the trial and ends with exit code 75.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from transformers.hf_argparser import HfArg

from e2evit.data.jobs import write_whole_text
from e2evit.plots import save_figure, tuning
from e2evit.training import Recipe
from e2evit.training.tuning import read_search, trial_recipe, tune

from .parser import as_flags, parse
from .train import GROUPS

SEARCH = ("search", "YAML with the recipe, the search space and the objective; see `tune/xcit_nano.yaml`.")


@dataclass
class TuneArguments:
    output_dir: str = HfArg(help="Folder for trials, storage and the best settings.")
    data_dir: str | None = HfArg(default=None, help="Folder of the jets.")
    num_trials: int = HfArg(default=20, help="Stop at this many finished or pruned trials, earlier calls included.")
    storage: str | None = HfArg(
        default=None,
        help="Optuna storage that machines share, postgresql://...; default: SQLite in the folder.",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    path, options = parse("e2evit tune", __doc__, arguments, TuneArguments, first=SEARCH)
    search = read_search(path)
    flags = as_flags(search.settings | ({"data_dir": options.data_dir} if options.data_dir else {}))
    recipe = Recipe(*parse("e2evit tune", __doc__, [search.recipe, *flags], *GROUPS))
    study = tune(search, recipe, options.output_dir, options.num_trials, options.storage)
    folder = Path(options.output_dir)
    trials = [
        {"number": trial.number, "state": trial.state.name, "params": trial.params}
        | {"value": trial.value, "by_epoch": trial.intermediate_values}
        for trial in study.trials
    ]
    best = folder / "best"
    best.mkdir(exist_ok=True)
    chosen, default = trial_recipe(recipe, study.best_params, best).flat(), Recipe().flat()
    settings = {name: value for name, value in chosen.items() if value != default[name] and name != "data_dir"}
    for file, text in {"trials.json": json.dumps(trials, indent=1), "best.yaml": yaml.safe_dump(settings)}.items():
        write_whole_text(folder / file, text + "\n")
    figure = save_figure(tuning(trials, search.objective, search.direction), folder / "tuning")
    print(f"Best {search.objective}: {study.best_value:.4g} with {study.best_params}")
    print(f"Wrote {folder / 'best.yaml'}, {folder / 'trials.json'} and {figure}")
