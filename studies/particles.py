"""Trainings on kept particles, of which every run makes the images it needs.

python studies/particles.py --plan fresh --fraction 0.1       # what a new response of the detector in every epoch buys
python studies/particles.py --plan detectors --fraction 0.25  # trained and tested with and without its effects

Results that are there are kept, and an interrupted run resumes from its state. All metrics go to one file a plan,
`results/particles_PLAN.json`; results with per-jet predictions stay beside the checkpoints.
"""

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal

from particle_tables import summarise
from particle_trees import measure_trees
from steps import Job, ParallelArguments, check_unchanged, digest, run_jobs, run_script
from transformers import HfArgumentParser

from e2evit.cli.errors import one_line_errors
from e2evit.data.packaged import read_recipe
from e2evit.results.record import write_record


@dataclass
class Plan:
    """What one study trains, and what it is measured on.

    Args:
        trainings, samples: Words for the command line by name.
        models: Seeds by model.
        epochs: Lengths of the trainings.
    """

    trainings: dict[str, list]
    samples: dict[str, list]
    models: dict[str, list[int]]
    epochs: list[int]


MODELS = {
    "xcit": "recipes/quickstart/xcit_nano.json",
    "linearvit": "recipes/quickstart/linearvit_nano.json",
    "resnet15": "recipes/particles/resnet15.json",
}
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
        models={"trees": [0, 1, 2], "xcit": [0, 1, 2], "linearvit": [0, 1, 2], "resnet15": [0]},
        epochs=[4],
    ),
}


@dataclass
class ParticleStudyArguments:
    plan: Literal["fresh", "detectors"] = field(metadata={"help": "What to train and measure."})
    study: str = field(
        default="recipes/study/study.yaml", metadata={"help": "Samples, as in the comparison of models."}
    )
    recipe: str = field(default="recipes/particles/train.yaml", metadata={"help": "Settings of every run."})
    models: list[str] = field(default_factory=list, metadata={"help": "Models to train. Default: those of the plan."})
    seeds: list[int] = field(default_factory=list, metadata={"help": "Seeds to train. Default: those of the plan."})
    epochs: list[int] = field(default_factory=list, metadata={"help": "Numbers of epochs. Default: the plan's."})
    fraction: float = field(default=1.0, metadata={"help": "Fraction of the training and validation jets."})
    output_dir: str = field(default="runs/particles", metadata={"help": "Data, checkpoints and results of each."})
    results_dir: str = field(default="results", metadata={"help": "Where all metrics go, particles_PLAN.json."})
    num_proc: int = field(default=2, metadata={"help": "Processes of the simulation."})
    num_workers: int = field(default=2, metadata={"help": "Processes that make images during training."})
    max_runs: int | None = field(default=None, metadata={"help": "Train at most this many models in this call."})


def main() -> None:
    options, parallel = HfArgumentParser([ParticleStudyArguments, ParallelArguments]).parse_args_into_dataclasses()
    plan, folder = PLANS[options.plan], Path(options.output_dir)
    data, results = folder / "data", folder / "results" / options.plan
    for sample in read_recipe(options.study)["simulation"]:
        run_script(
            *("scripts/simulate.py", "--output_dir", data, "--keep", "particles", "--num_proc", options.num_proc),
            *("--processes", *sample["processes"], "--num_jets", sample["num_jets"]),
            *read_recipe(options.study)["simulation_arguments"].split(),
        )
    of_data = ["--data_dir", data, "--train_fraction", options.fraction, "--validation_fraction", options.fraction]
    trained, jobs = 0, []
    for epochs, model in product(options.epochs or plan.epochs, options.models or plan.models):
        for seed, training in product(options.seeds or plan.models[model], plan.trainings):
            name = f"{model}_{training}_{epochs}_seed{seed}"
            model_config = [Path(MODELS[model])] if model in MODELS else []
            settings = {"fraction": options.fraction, "words": plan.trainings[training]}
            check_unchanged(folder / f"recipes/{name}", digest(Path(options.recipe), *model_config, settings))
            paths = {sample: results / sample / f"{name}.json" for sample in plan.samples}
            missing = {path: plan.samples[sample] for sample, path in paths.items() if not path.exists()}
            if not missing or trained == options.max_runs:
                continue
            trained += 1
            if model == "trees":
                tests = {path: [*of_data, *words] for path, words in missing.items()}
                measure_trees(read_recipe(options.recipe), [*of_data, *plan.trainings[training]], tests, seed)
                continue
            train = (
                *("scripts/train.py", options.recipe, *of_data, *plan.trainings[training]),
                *("--model_config", MODELS[model]),
                *("--output_dir", folder / name, "--seed", seed, "--num_train_epochs", epochs),
                *("--num_workers", options.num_workers, "--save_steps", 500, "--resume_from_checkpoint"),
            )
            measured = [
                ("scripts/eval.py", folder / name, *of_data, *words, "--mixed_precision", "no", "--results", path)
                for path, words in missing.items()
            ]
            jobs.append(Job(name, [train, *measured]))
    run_jobs(jobs, parallel, folder / "logs")
    summary = {"runs": summarise(results, plan.samples)}
    write_record(Path(options.results_dir) / f"particles_{options.plan}.json", summary)


if __name__ == "__main__":
    with one_line_errors("particles.py"):
        main()
