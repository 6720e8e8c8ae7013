"""Search for settings with Optuna; prune what is worse than the median, resume where an earlier call stopped.

accelerate launch scripts/tune.py recipes/tune/xcit_nano.yaml --data_dir data/jets --output_dir runs/tuning

leaves the best settings as a recipe in OUTPUT_DIR/best.yaml, all trials in trials.json and a figure of them. SIGTERM
saves the trial's state and ends with exit code 75.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from e2evit.plots import save_figure, tuning
from e2evit.training import PREEMPTED_EXIT_CODE, Preempted, Recipe, as_flags, parse_recipe
from e2evit.training.tuning import read_search, trial_recipe, tune

from .train import GROUPS


@dataclass
class TuneArguments:
    output_dir: str = field(metadata={"help": "Trials, storage, and what was found."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the jets."})
    num_trials: int = field(default=20, metadata={"help": "Finished or pruned ones, of earlier calls too."})
    storage: str | None = field(default=None, metadata={"help": "Optuna storage, to share trials between machines."})


def main() -> None:
    path, arguments = parse_recipe(TuneArguments, first="search")
    try:
        search = read_search(path)
        flags = as_flags(search.settings | ({"data_dir": arguments.data_dir} if arguments.data_dir else {}))
        recipe = Recipe(*parse_recipe(*GROUPS, arguments=[search.recipe, *flags]))
        study = tune(search, recipe, arguments.output_dir, arguments.num_trials, arguments.storage)
    except Preempted as stopped:
        print(stopped, flush=True)
        sys.exit(PREEMPTED_EXIT_CODE)
    except (ImportError, ValueError) as error:
        sys.exit(f"tune.py: {error}")
    folder = Path(arguments.output_dir)
    trials = [
        {"number": trial.number, "state": trial.state.name, "params": trial.params}
        | {"value": trial.value, "by_epoch": trial.intermediate_values}
        for trial in study.trials
    ]
    best = folder / "best"
    best.mkdir(exist_ok=True)
    found, default = trial_recipe(recipe, study.best_params, best).flat(), Recipe().flat()
    settings = {name: value for name, value in found.items() if value != default[name] and name != "data_dir"}
    for file, text in {"trials.json": json.dumps(trials, indent=1), "best.yaml": yaml.safe_dump(settings)}.items():
        temporary = folder / f"{file}.tmp"
        temporary.write_text(text + "\n")
        temporary.replace(folder / file)
    figure = save_figure(tuning(trials, search.objective, search.direction), folder / "tuning")
    print(f"Best {search.objective}: {study.best_value:.4g} with {study.best_params}")
    print(f"Wrote {folder / 'best.yaml'}, {folder / 'trials.json'} and {figure}")


if __name__ == "__main__":
    main()
