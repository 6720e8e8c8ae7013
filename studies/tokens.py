"""What each part of HitViT gives: its variants, and models on patches, trained for the same time.

python studies/tokens.py --data_dir data/jets

The plan is recipes/tokens/study.yaml, the jets are those of docs/tokens.md. Steps of all models are timed first
(`results/token_steps.json`; remove it to time them on another machine), new models beside the reference. Then each
trains on as many jets as fill the same time. All are measured on validation jets, into `results/tokens.json`;
trainings in it are not repeated.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from steps import Job, ParallelArguments, check_unchanged, digest, run_jobs, run_script
from token_steps import check_plan, write_configs
from token_tables import summarise, variants
from transformers import HfArgumentParser

from e2evit.cli.errors import one_line_errors
from e2evit.data.packaged import read_recipe
from e2evit.results.record import write_record


@dataclass
class TokenStudyArguments:
    study: str = field(default="recipes/tokens/study.yaml", metadata={"help": "Models, seeds and length."})
    data_dir: str = field(default="data/jets", metadata={"help": "Simulated jets."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where prepared Arrow files go."})
    output_dir: str = field(default="runs/tokens", metadata={"help": "Checkpoints and their results."})
    results_dir: str = field(default="results", metadata={"help": "Where tokens.json and token_steps.json go."})
    mixed_precision: str = field(default="auto", metadata={"help": "Of timing and training: no, bf16 or auto."})
    models: list[str] | None = field(default=None, metadata={"help": "Models to train in this call. Default: all."})
    seeds: list[int] | None = field(default=None, metadata={"help": "Seeds to train in this call. Default: all."})


def main() -> None:
    options, parallel = HfArgumentParser([TokenStudyArguments, ParallelArguments]).parse_args_into_dataclasses()
    plan, folder, results = read_recipe(options.study), Path(options.output_dir), Path(options.results_dir)
    check_plan(plan, options.study, options.models, options.mixed_precision)
    plan["seeds"] = sorted({*plan["seeds"], *(options.seeds or ())})
    configs, words = write_configs(plan, folder / "configs"), ["--data_dir", options.data_dir]
    words += ["--cache_dir", options.cache_dir] if options.cache_dir else []
    precision = ("--mixed_precision", options.mixed_precision)
    timed = results / "token_steps.json"
    known = json.loads(timed.read_text(encoding="utf-8"))["steps"] if timed.exists() else {}
    if missing := [name for name in configs if name not in known]:
        run_script(
            *("studies/token_steps.py", *words, *precision, "--study", options.study, "--results", timed),
            *("--configs_dir", folder / "configs", "--models", *missing),
        )
    steps = json.loads(timed.read_text(encoding="utf-8"))["steps"]
    words += ["--validation_fraction", plan["validation_fraction"]]
    table = results / "tokens.json"
    earlier = json.loads(table.read_text(encoding="utf-8"))["runs"] if table.exists() else []
    done, jobs = {(run["model"], run["seed"]) for run in earlier}, []
    for seed in options.seeds or plan["seeds"]:
        for name in options.models or configs:
            run, result = folder / f"{name}_seed{seed}", folder / "results" / f"{name}_seed{seed}.json"
            fraction = round(plan["fraction"] / steps[name]["relative"], 4)
            settings = {"epochs": plan["epochs"], "fraction": fraction}
            check_unchanged(folder / f"recipes/{run.name}", digest(Path(plan["training"]), configs[name], settings))
            if result.exists() or (name, seed) in done:
                continue
            train = (
                *("scripts/train.py", plan["training"], *words, *precision),
                *("--train_fraction", fraction, "--fraction_seed", seed, "--seed", seed),
                *("--model_config", configs[name], "--output_dir", run, "--resume_from_checkpoint"),
                *("--num_train_epochs", plan["epochs"], "--validation_interval", plan["epochs"]),
            )
            measured = (*words, "--split", "validation", "--mixed_precision", "no", "--results", result)
            jobs.append(Job(run.name, [train, ("scripts/eval.py", run, *measured)]))
    run_jobs(jobs, parallel, folder / "logs")
    write_record(table, {"runs": summarise(plan, folder / "results", earlier)})
    print(variants(results))


if __name__ == "__main__":
    with one_line_errors("tokens.py"):
        main()
