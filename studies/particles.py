"""Trainings on kept particles, of which every run makes the images it needs.

python studies/particles.py --plan fresh      # what a new response of the detector in every epoch buys
python studies/particles.py --plan detectors  # trained and tested with and without the detector's effects

Results that are there are kept, and an interrupted run resumes from its state.
"""

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal

from steps import run_script
from transformers import HfArgumentParser

from e2evit.data.packaged import read_recipe


@dataclass
class Plan:
    """What one study trains, and what it is measured on; names of arguments of `e2evit train` and `e2evit eval`.

    Args:
        trainings, samples: Arguments by name.
        models: The seeds of each.
        epochs: Lengths of the trainings.
    """

    trainings: dict[str, list]
    samples: dict[str, list]
    models: dict[str, list[int]]
    epochs: list[int]


DETECTORS = {"without_effects": ["--without", "all"], "with_effects": []}
PLANS = {
    "fresh": Plan(
        trainings={
            "fixed": ["--pileup", 21],
            "fresh": ["--pileup", 21, "--fresh"],
            "fresh_range": ["--pileup", 0, 60, "--fresh"],
        },
        samples={"pileup_21": ["--pileup", 21], "pileup_60": ["--pileup", 60]},
        models={"xcit": [0, 1, 2], "linearvit": [0, 1, 2]},
        epochs=[4, 20],
    ),
    "detectors": Plan(
        trainings=DETECTORS,
        samples=DETECTORS,
        models={"xcit": [0, 1, 2], "linearvit": [0, 1, 2], "resnet15": [0]},
        epochs=[4],
    ),
}


@dataclass
class ParticleStudyArguments:
    plan: Literal["fresh", "detectors"] = field(metadata={"help": "What to train and measure."})
    study: str = field(
        default="recipes/study/study.yaml", metadata={"help": "Samples, as in the comparison of models."}
    )
    recipe: str = field(default="recipes/study/train.yaml", metadata={"help": "Settings of every run."})
    models: list[str] = field(default_factory=list, metadata={"help": "Models to train. Default: those of the plan."})
    epochs: list[int] = field(default_factory=list, metadata={"help": "Numbers of epochs. Default: the plan's."})
    fraction: float = field(default=1.0, metadata={"help": "Fraction of the training jets."})
    output_dir: str = field(default="runs/particles", metadata={"help": "Data and checkpoints."})
    results_dir: str = field(default="results/particles", metadata={"help": "Metrics and per-jet predictions."})
    num_proc: int = field(default=2, metadata={"help": "Processes of the simulation."})
    num_workers: int = field(default=2, metadata={"help": "Processes that make images during training."})
    max_runs: int | None = field(default=None, metadata={"help": "Train at most this many networks in this call."})


def main() -> None:
    (arguments,) = HfArgumentParser(ParticleStudyArguments).parse_args_into_dataclasses()
    plan, study, recipe = PLANS[arguments.plan], read_recipe(arguments.study), Path(arguments.recipe)
    folder, results = Path(arguments.output_dir), Path(arguments.results_dir) / arguments.plan
    data = folder / "data"
    for sample in study["simulation"]:
        run_script(
            *("scripts/simulate.py", "--output_dir", data, "--keep", "particles", "--num_proc", arguments.num_proc),
            *("--processes", *sample["processes"], "--num_jets", sample["num_jets"]),
            *study["simulation_arguments"].split(),
        )
    trained = 0
    chosen = {model: plan.models[model] for model in arguments.models or plan.models}
    for epochs, (model, seeds), training in product(arguments.epochs or plan.epochs, chosen.items(), plan.trainings):
        for seed in seeds:
            name = f"{model}_{training}_{epochs}_seed{seed}"
            missing = {sample for sample in plan.samples if not (results / sample / f"{name}.json").exists()}
            if not missing or trained == arguments.max_runs:
                continue
            trained += 1
            run_script(
                *("scripts/train.py", recipe, "--data_dir", data, "--model_config", recipe.parent / f"{model}.json"),
                *("--output_dir", folder / name, "--seed", seed, "--num_train_epochs", epochs),
                *("--train_fraction", arguments.fraction, *plan.trainings[training]),
                *("--num_workers", arguments.num_workers, "--save_steps", 200, "--resume_from_checkpoint"),
            )
            for sample in sorted(missing):
                run_script(
                    *("scripts/eval.py", folder / name, "--data_dir", data, *plan.samples[sample]),
                    *("--mixed_precision", "no", "--results", results / sample / f"{name}.json"),
                )


if __name__ == "__main__":
    main()
