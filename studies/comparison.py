"""The comparison on a blind test: its training jets, and all trainings, measured on validation jets.

python studies/comparison.py --plan    # what there is to do, and how long it takes
python studies/comparison.py --tune    # the same trials for every model: copy the chosen rates into `settings`
python studies/comparison.py           # all of it, or the next part: finished trainings are not repeated

The plan is recipes/comparison/study.yaml. What a training step costs is measured first, on one core
(`results/comparison/steps.json`). All models are trained with their first seed before any with its second. Trained
weights are kept in half precision (`results/comparison/weights`): commit them with `validation.json`, so that another
machine can go on. The test comes last, once: studies/blind_test.py.
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

from comparison_tables import (
    TREES,
    Training,
    digest,
    networks,
    note_of,
    plan_table,
    read_runs,
    summarise,
    trainings,
    weights_file,
)
from steps import Job, ParallelArguments, check_unchanged, run_jobs, run_script
from transformers import HfArgumentParser
from yaml import safe_dump

from e2evit.cli.errors import one_line_errors
from e2evit.cli.parser import as_flags
from e2evit.data.jobs import write_whole_text
from e2evit.data.packaged import read_recipe
from e2evit.data.texts import read_mapping
from e2evit.results.record import write_record
from e2evit.training import TargetArguments


@dataclass
class ComparisonArguments:
    study: str = field(default="recipes/comparison/study.yaml", metadata={"help": "The plan."})
    output_dir: str = field(default="runs/comparison", metadata={"help": "Jets, checkpoints and validation results."})
    results_dir: str = field(default="results/comparison", metadata={"help": "What is committed."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where prepared Arrow files go."})
    plan: bool = field(default=False, metadata={"help": "Print the plan, and do nothing."})
    tune: bool = field(default=False, metadata={"help": "Try the settings of the plan's `tuning`, and train nothing."})
    models: list[str] | None = field(default=None, metadata={"help": "Models of this call. Default: all."})
    max_runs: int | None = field(default=None, metadata={"help": "Train at most this many networks in this call."})
    num_proc: int = field(default=2, metadata={"help": "Processes of the simulation."})


def simulate(folder: Path, plan: dict, num_proc: int) -> None:
    """The jets of a part of the plan, `arguments` and `samples`."""
    for sample in plan["samples"]:
        run_script(
            *("scripts/simulate.py", "--output_dir", folder, "--num_proc", num_proc, *plan["arguments"].split()),
            *("--processes", *sample["processes"], "--num_jets", sample["num_jets"]),
        )


def check_plan(plan: dict, path: str) -> None:
    """Check that a plan has all parts.

    Raises:
        ValueError: saying what is missing.
    """
    needed = {"training", "simulation", "blind_tests", "validation_fraction", "claims", "models", "tuning", "settings"}
    if missing := sorted(needed - {*plan}):
        raise ValueError(f"{path} is no plan of a comparison: it lacks {', '.join(missing)}.")
    main, others = (plan["blind_tests"].get(name, {}).get("pileup") for name in ("main", "pileup"))
    if not (isinstance(main, list) and isinstance(others, list) and len(main) == 1 and main[0] in others):
        raise ValueError(
            f"{path}: the blind test `main` must list one `pileup`, and the blind test `pileup` this one and others; "
            f"got {main} and {others}."
        )


def main() -> None:
    options, parallel = HfArgumentParser([ComparisonArguments, ParallelArguments]).parse_args_into_dataclasses()
    plan, folder = read_recipe(options.study), Path(options.output_dir)
    check_plan(plan, options.study)
    if options.max_runs is not None and options.max_runs < 0:
        raise ValueError(f"`max_runs` must be 0 or more, got {options.max_runs}.")
    if unknown := sorted({*(options.models or ())} - {*plan["models"]}):
        raise ValueError(f"{options.study} has no {', '.join(unknown)}, but {', '.join(plan['models'])}.")
    steps, table = (Path(options.results_dir) / f"{name}.json" for name in ("steps", "validation"))
    runs = summarise(plan, folder, read_runs(table))
    data = folder / "data"
    paths = {"data_dir": str(data), "cache_dir": options.cache_dir}
    words = as_flags(paths)
    if not options.plan:
        simulate(data, plan["simulation"], options.num_proc)
        known = read_mapping(steps, "JSON").get("jets_per_second", {}) if steps.exists() else {}
        if missing := [name for name in networks(plan) if name not in known]:
            run_script(
                "studies/comparison_steps.py",
                *words,
                "--study",
                options.study,
                "--results",
                steps,
                "--models",
                *missing,
            )
    print(plan_table(plan, steps, runs))
    if options.plan:
        return
    if options.tune:
        _tune(options, plan, paths, parallel)
        return
    missing = [one for one in trainings(plan) if one.name not in runs]
    chosen = [one for one in missing if one.model in (options.models or plan["models"])]
    chosen = chosen[: options.max_runs]
    results = Path(options.results_dir)
    for one in chosen:
        check_unchanged(note_of(one, folder), digest(plan, one.model))
    jobs = [_job(one, plan, folder, results, words) for one in chosen if one.model != TREES]
    if seeds := [one.seed for one in chosen if one.model == TREES]:
        few = (*words, "--validation_fraction", plan["validation_fraction"], "--split", "validation")
        jobs.append(Job(TREES, [(*trees_step(plan, seeds, folder / "validation"), *few)]))
    try:
        run_jobs(jobs, parallel, folder / "logs")
    finally:  # what was measured before a failure or a SIGTERM counts
        runs = summarise(plan, folder, runs)
        if runs:
            write_record(table, {"runs": runs})


def _tune(options: ComparisonArguments, plan: dict, paths: dict[str, str | None], parallel: ParallelArguments) -> None:
    """Try the same settings for each model, and write all trials to `tuning.json`."""
    folder, table, jobs = Path(options.output_dir) / "tuning", Path(options.results_dir) / "tuning.json", []
    models = [model for model in networks(plan) if model in (options.models or plan["models"])]
    for model in models:
        own = paths | plan["tuning"]["settings"] | {"model_config": f"recipes/comparison/{model}.json"}
        own["validation_fraction"] = plan["validation_fraction"]
        search = {"recipe": plan["training"], "settings": own, "space": plan["tuning"]["space"]}
        (folder / model).mkdir(parents=True, exist_ok=True)
        write_whole_text(folder / model / "search.yaml", safe_dump(search))
        jobs.append(Job(model, [("scripts/tune.py", folder / model / "search.yaml", "--output_dir", folder / model)]))
    try:
        run_jobs(jobs, parallel, folder / "logs")
    finally:
        tried = read_mapping(table, "JSON").get("trials", {}) if table.exists() else {}
        for model in models:
            if (trials := folder / model / "trials.json").exists():
                tried[model] = [
                    {"settings": one["params"], "loss": one["value"]}
                    for one in json.loads(trials.read_text(encoding="utf-8"))
                    if one["state"] == "COMPLETE"
                ]
        write_record(table, {"tuning": plan["tuning"], "trials": tried})


def trees_step(plan: dict, seeds: list[int], results_dir: Path) -> tuple:
    """Boosted trees with the classes and masses of the networks, one training per seed after the other."""
    recipe = read_recipe(plan["training"])
    targets = {one.name: recipe[one.name] for one in fields(TargetArguments) if one.name in recipe}
    return (
        *("scripts/boosted_trees.py", "--results_dir", results_dir, "--sets", TREES, "--seed", *seeds),
        *as_flags(targets | plan["settings"][TREES]),
    )


def _job(one: Training, plan: dict, folder: Path, results: Path, words: list) -> Job:
    checkpoint, own = folder / one.name, plan["settings"].get(one.model, {})
    few = (*words, "--validation_fraction", plan["validation_fraction"])
    train = (
        *("scripts/train.py", plan["training"], *few, "--model_config", f"recipes/comparison/{one.model}.json"),
        *("--train_fraction", one.share, "--num_train_epochs", one.epochs, "--seed", one.seed),
        *(["--fresh"] if one.epochs > 1 else []),
        *("--validation_interval", max(1, one.epochs // 10), "--save_steps", 500, "--resume_from_checkpoint"),
        *("--output_dir", checkpoint, *as_flags(own)),
    )
    result = folder / f"validation/{one.name}.json"
    # in float32 on any machine
    words = (*few, "--split", "validation", "--mixed_precision", "no", "--model_name", one.title)
    keep = ("studies/comparison_weights.py", checkpoint, weights_file(results, one.name))
    return Job(one.name, [train, keep, ("scripts/eval.py", checkpoint, *words, "--results", result)])


if __name__ == "__main__":
    with one_line_errors("comparison.py"):
        main()
