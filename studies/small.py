"""A small study: a few trainings, each measured on the test jets.

python studies/small.py --study recipes/scalars/study.yaml    # masses of X → γγ and X → ττ

A plan has jets of its own, a training recipe, and what each model changes in it. Results go into `results/PLAN`;
finished runs are kept, and interrupted ones resume. Then the plan's table is printed.
"""

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from comparison import simulate
from small_tables import TABLES
from steps import Job, ParallelArguments, check_unchanged, digest, run_jobs
from transformers import HfArgumentParser

from e2evit.cli.errors import one_line_errors
from e2evit.cli.parser import as_flags
from e2evit.data.packaged import read_recipe


@dataclass
class SmallStudyArguments:
    study: str = field(metadata={"help": "The plan, such as recipes/scalars/study.yaml."})
    output_dir: str | None = field(default=None, metadata={"help": "Jets and checkpoints. Default: runs/PLAN."})
    results_dir: str = field(default="results", metadata={"help": "The folder PLAN/ in it gets the results."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where prepared Arrow files go."})
    num_proc: int = field(default=2, metadata={"help": "Processes of the simulation."})
    max_runs: int | None = field(default=None, metadata={"help": "Train at most this many models in this call."})


def main() -> None:
    options, parallel = HfArgumentParser([SmallStudyArguments, ParallelArguments]).parse_args_into_dataclasses()
    path, plan = Path(options.study), read_recipe(options.study)
    if missing := sorted({"simulation", "training", "runs", "seeds"} - {*plan}):
        raise ValueError(f"{path} is no plan of a small study: it lacks {', '.join(missing)}.")
    if lacking := [model for model, settings in plan["runs"].items() if "model_config" not in settings]:
        raise ValueError(f"{path}: {', '.join(lacking)} in `runs` lacks a `model_config`.")
    if options.max_runs is not None and options.max_runs < 0:
        raise ValueError(f"`max_runs` must be 0 or more, got {options.max_runs}.")
    folder = Path(options.output_dir or f"runs/{path.parent.name}")
    results = Path(options.results_dir) / path.parent.name
    jobs = []
    for seed, (model, settings) in product(plan["seeds"], plan["runs"].items()):
        name = f"{model}_seed{seed}"
        recipe = digest(Path(plan["training"]), Path(settings["model_config"]), plan["simulation"], settings)
        check_unchanged(folder / f"recipes/{name}", recipe)
        if (results / f"{name}.json").exists():
            continue
        data = ("--data_dir", folder / "data", *as_flags({"cache_dir": options.cache_dir}))
        train = (
            *("scripts/train.py", plan["training"], *data, *as_flags(settings), "--seed", seed),
            *("--output_dir", folder / name, "--save_steps", 500, "--resume_from_checkpoint"),
        )
        measure = (
            *("scripts/eval.py", folder / name, *data, "--model_name", model, "--mixed_precision", "no"),
            *("--results", results / f"{name}.json"),
        )
        jobs.append(Job(name, [train, measure]))
    simulate(folder / "data", plan["simulation"], options.num_proc)
    run_jobs(jobs[: options.max_runs], parallel, folder / "logs")
    if path.parent.name in TABLES:
        print(TABLES[path.parent.name](Path(options.results_dir)))


if __name__ == "__main__":
    with one_line_errors("small.py"):
        main()
