"""The comparison of all models: simulate, train, evaluate, compare. `make study` runs this.

python studies/study.py

Results whose files are in `results_dir` are kept, and a run that was interrupted resumes from its state.
`studies/render.py` then writes the tables of the study's page from the results.
"""

from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from steps import Job, ParallelArguments, check_unchanged, digest, run_jobs, run_script
from transformers import HfArgumentParser

from e2evit.cli.errors import one_line_errors
from e2evit.data.packaged import read_recipe


@dataclass
class StudyArguments:
    study: str = field(default="recipes/study/study.yaml", metadata={"help": "Samples and runs."})
    recipe: str = field(default="recipes/study/train.yaml", metadata={"help": "Settings of every run."})
    output_dir: str = field(default="runs/study", metadata={"help": "Data and checkpoints."})
    results_dir: str = field(default="results/study", metadata={"help": "Metrics and per-jet predictions."})
    figures_dir: str = field(default="docs/study", metadata={"help": "Figures of the comparison."})
    num_proc: int = field(default=2, metadata={"help": "Processes of the simulation."})
    max_runs: int | None = field(default=None, metadata={"help": "Train at most this many networks in this call."})


def ordered(seeds_of: dict[str, list[int]]) -> list[tuple[str, int]]:
    """Models and seeds: the first seed of every model, then the second of each."""
    columns = zip_longest(*([(name, seed) for seed in seeds] for name, seeds in seeds_of.items()))
    return [pair for column in columns for pair in column if pair is not None]


def main() -> None:
    arguments, parallel = HfArgumentParser([StudyArguments, ParallelArguments]).parse_args_into_dataclasses()
    study, recipe = map(read_recipe, (arguments.study, arguments.recipe))
    folder, results = Path(arguments.output_dir), Path(arguments.results_dir)
    data = folder / "data"
    targets = ["--data_dir", data, "--mass_column", recipe["mass_column"]]
    targets += ["--classes", *recipe["classes"], "--mass_classes", *recipe["mass_classes"]]

    for sample in study["simulation"]:
        run_script(
            *("scripts/simulate.py", "--output_dir", data, "--processes", *sample["processes"]),
            *("--num_jets", sample["num_jets"], "--num_proc", arguments.num_proc),
            *study["simulation_arguments"].split(),
            *study.get("detector_arguments", "").split(),
        )
    seeds = [seed for seed in study["tree_seeds"] if not (results / f"trees_all_seed{seed}.json").exists()]
    if seeds:
        run_script(
            *("scripts/boosted_trees.py", *targets),
            *("--results_dir", results, "--seed", *seeds),
        )
    missing = [
        (name, seed) for name, seed in ordered(study["runs"]) if not (results / f"{name}_seed{seed}.json").exists()
    ]
    configs = {name: Path(arguments.recipe).parent / f"{name}.json" for name in study["runs"]}
    for name, seed in ordered(study["runs"]):
        check_unchanged(folder / f"recipes/{name}_seed{seed}", digest(Path(arguments.recipe), configs[name]))
    jobs = []
    for name, seed in missing[: arguments.max_runs]:
        checkpoint, config = folder / f"{name}_seed{seed}", configs[name]
        train = (
            *("scripts/train.py", arguments.recipe, "--data_dir", data, "--model_config", config),
            *("--output_dir", checkpoint, "--seed", seed, "--save_steps", 200, "--resume_from_checkpoint"),
        )
        result = results / f"{name}_seed{seed}.json"
        # in float32 on any machine, so that results of several machines can be compared
        measure = ("scripts/eval.py", checkpoint, "--data_dir", data, "--mixed_precision", "no", "--results", result)
        jobs.append(Job(checkpoint.name, [train, measure]))
    print(f"\n{len(missing)} networks to train: {', '.join(f'{name}_seed{seed}' for name, seed in missing) or 'none'}")
    samples = {}
    if "robustness" in study:
        samples, steps = other_samples(study, arguments)
        # beside the trainings, or after them
        jobs.insert(0 if parallel.parallel_runs > 1 else len(jobs), Job("robustness samples", steps))
    run_jobs(jobs, parallel, folder / "logs")
    run_script(
        *("scripts/compare.py", "--results", *sorted(results.glob("*_seed*.json"))),
        *("--output_dir", results / "comparison", "--figures", arguments.figures_dir),
        *("--references", *study["references"]),
    )
    for name in study["references"]:
        first = f"{name}_seed{study['runs'][name][0]}"
        if (folder / first / "config.json").exists():
            run_script(
                *("scripts/display_jets.py", folder / first, "--data_dir", data),
                *("--results", results / f"{first}.json", "--output", Path(arguments.figures_dir) / f"jets_{name}"),
            )
    if samples:
        robustness(study, samples, targets, arguments)


def other_samples(study: dict, arguments: StudyArguments) -> tuple[dict[str, Path], list[tuple]]:
    """Folders of the jets of the robustness tests by title, and the steps that simulate them."""
    settings, folders, steps = study["robustness"], {}, []
    processes = [process for part in study["simulation"] for process in part["processes"]]
    for title, changes in settings["samples"].items():
        folders[title] = Path(arguments.output_dir) / f"robustness/{title.replace(' ', '_').replace('-', '_').lower()}"
        step = (
            *("scripts/simulate.py", "--output_dir", folders[title], "--processes", *processes),
            *("--num_jets", settings["num_jets"], "--num_proc", arguments.num_proc),
            *study["simulation_arguments"].split(),
            *study.get("detector_arguments", "").split(),
            *("--seed", settings["seed"], *changes),
        )
        steps.append(step)
    return folders, steps


def robustness(study: dict, samples: dict[str, Path], targets: list, arguments: StudyArguments) -> None:
    """Measure the networks with a checkpoint on other jets."""
    settings, folder = study["robustness"], Path(arguments.output_dir)
    checkpoints = [folder / f"{name}_seed{seed}" for name, seed in settings["models"].items()]
    run_script(
        *("studies/robustness.py", *targets, "--max_jets", settings["max_jets"]),
        *("--checkpoints", *(path for path in checkpoints if (path / "config.json").exists())),
        *(
            "--samples",
            *(f"{title}={path}" for title, path in samples.items()),
            "--results_dir",
            Path(arguments.results_dir) / "robustness",
        ),
    )


if __name__ == "__main__":
    with one_line_errors("study.py"):
        main()
