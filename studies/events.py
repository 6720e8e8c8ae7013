"""Is one pass over an event as accurate as one pass per jet, and does the answer depend on the rest of the event?

python studies/events.py --data_dir data/events

The jets are those of docs/events.md, the plan is recipes/events/study.yaml. Both models train on the same jets and are
measured on the same test jets; the one that reads whole events also in the surroundings of other events
(`studies/transplants.py`). Results go into `results/events`; finished runs are kept.
"""

from dataclasses import dataclass, field
from pathlib import Path

from event_tables import MODELS, events, transplants
from steps import Job, ParallelArguments, check_unchanged, digest, run_jobs
from transformers import HfArgumentParser

from e2evit.cli.errors import one_line_errors
from e2evit.data.packaged import read_recipe


@dataclass
class EventStudyArguments:
    study: str = field(default="recipes/events/study.yaml", metadata={"help": "Recipes, seeds and length."})
    data_dir: str = field(default="data/events", metadata={"help": "Simulated events."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where prepared Arrow files go."})
    output_dir: str = field(default="runs/event_study", metadata={"help": "Checkpoints."})
    results_dir: str = field(default="results", metadata={"help": "The folder events/ in it gets the results."})
    mixed_precision: str = field(default="auto", metadata={"help": "Of the trainings: no, bf16 or auto."})
    seeds: list[int] | None = field(default=None, metadata={"help": "Seeds to run in this call. Default: all."})


def main() -> None:
    options, parallel = HfArgumentParser([EventStudyArguments, ParallelArguments]).parse_args_into_dataclasses()
    plan, results, jobs = read_recipe(options.study), Path(options.results_dir), []
    data = ["--data_dir", options.data_dir]
    data += ["--cache_dir", options.cache_dir] if options.cache_dir else []
    for seed in options.seeds or plan["seeds"]:
        for kind in MODELS:
            run, result = Path(options.output_dir) / f"{kind}_seed{seed}", results / f"events/{kind}_seed{seed}.json"
            check_unchanged(Path(options.output_dir) / f"recipes/{run.name}", digest(Path(plan[kind])))
            job = Job(run.name, [])
            if not result.exists():
                train = (
                    *("scripts/train.py", plan[kind], *data, "--seed", seed),
                    *("--mixed_precision", options.mixed_precision, "--output_dir", run, "--resume_from_checkpoint"),
                )
                measure = (
                    *("scripts/eval.py", run, *data, "--event_jets", kind, "--results", result),
                    *("--mixed_precision", "no", "--per_device_batch_size", 8, "--model_name", kind),
                )
                job.steps += [train, measure]
            moved = result.with_name(f"transplants_seed{seed}.json")
            if kind == "queries" and not moved.exists():
                job.steps.append(("studies/transplants.py", *data, "--checkpoint", run, "--results", moved))
            if job.steps:
                jobs.append(job)
    run_jobs(jobs, parallel, Path(options.output_dir) / "logs")
    print(f"{events(results)}\n\n{transplants(results)}")


if __name__ == "__main__":
    with one_line_errors("events.py"):
        main()
