"""Is a model pre-trained on masked images better than one trained from scratch in the same time?

python studies/pretraining.py

needs jets of kept particles (docs/tokens.md). It compares few and many labels, for several seeds; finished runs are
kept, and `--seeds` does a part. `studies/render.py` then writes the tables of its page from the results.
"""

from dataclasses import dataclass, field
from pathlib import Path

from pretraining_tables import SCRATCH, name_of, summarise
from steps import RECIPES, Job, ParallelArguments, check_unchanged, digest, run_jobs
from transformers import HfArgumentParser

from e2evit.cli.errors import one_line_errors
from e2evit.data.packaged import read_recipe
from e2evit.results.record import write_record


@dataclass
class PretrainingArguments:
    study: str = field(default="recipes/pretraining/study.yaml", metadata={"help": "Fractions of labels, and epochs."})
    data_dir: str = field(default="runs/study/data", metadata={"help": "Simulated jets."})
    output_dir: str = field(default="runs/pretraining", metadata={"help": "Checkpoints."})
    results_dir: str = field(default="results/pretraining", metadata={"help": "Metrics and per-jet predictions."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where prepared Arrow files go."})
    mixed_precision: str = field(default="auto", metadata={"help": "Of the trainings: no, bf16 or auto."})
    seeds: list[int] | None = field(default=None, metadata={"help": "Seeds to run in this call. Default: all."})


def main() -> None:
    arguments, parallel = HfArgumentParser([PretrainingArguments, ParallelArguments]).parse_args_into_dataclasses()
    study = read_recipe(arguments.study)
    jobs = [Job(f"seed{seed}", one_seed(study, seed, arguments)) for seed in arguments.seeds or study["seeds"]]
    run_jobs([job for job in jobs if job.steps], parallel, Path(arguments.output_dir) / "logs")
    results = Path(arguments.results_dir)
    summary = summarise(study, results, Path(arguments.output_dir))
    write_record(results / "summary.json", summary)


def one_seed(study: dict, seed: int, arguments: PretrainingArguments) -> list[tuple]:
    """The steps that are left: pre-train in each way; then fine-tune and train from scratch with each fraction of the
    labels.
    """
    folder, results, steps = Path(arguments.output_dir), Path(arguments.results_dir), []
    recipes = (RECIPES / f"pretraining/{name}.yaml" for name in ("pretrain", "finetune", "scratch"))
    settings = {name: value for name, value in study.items() if name != "seeds"}
    check_unchanged(folder / f"recipes/seed{seed}", digest(*recipes, settings))
    data = ["--data_dir", arguments.data_dir]
    data += ["--cache_dir", arguments.cache_dir] if arguments.cache_dir else []
    of_all, of_finetuning = (
        [word for name, value in study.get(key, {}).items() for word in (f"--{name}", value)]
        for key in ("settings", "finetune_settings")
    )

    def train(script: str, recipe: Path, output: Path, fraction: float, epochs: int, *more) -> None:
        if (output / "run_info.json").exists():
            return
        step = (
            *(script, recipe, *data, *of_all, *more),
            *("--train_fraction", fraction, "--validation_fraction", study["validation_fraction"]),
            *("--fraction_seed", seed, "--seed", seed, "--num_train_epochs", epochs),
            *("--validation_interval", max(1, epochs // study["validations"])),
            *("--output_dir", output, "--mixed_precision", arguments.mixed_precision, "--resume_from_checkpoint"),
        )
        steps.append(step)

    new, starts = ("--model_config", study["model_config"]), {}
    for start, before in study["pretraining"].items():
        pretrained = folder / f"pretrained_{start}_seed{seed}"
        truth = ("--truth_columns", *before["truth_columns"]) if "truth_columns" in before else ()
        recipe = RECIPES / "pretraining/pretrain.yaml"
        train("scripts/pretrain.py", recipe, pretrained, before["fraction"], before["epochs"], *new, *truth)
        recipe = RECIPES / "pretraining/finetune.yaml"
        starts[start] = (recipe, *of_finetuning, "--model_name_or_path", pretrained)
    starts[SCRATCH] = (RECIPES / "pretraining/scratch.yaml", *new)
    for share, settings in study["labels"].items():
        for start, (recipe, *model) in starts.items():
            name = name_of(start, share, seed)
            if (results / f"{name}.json").exists():
                continue
            epochs = settings["scratch_epochs" if start == SCRATCH else "finetune_epochs"]
            train("scripts/train.py", recipe, folder / name, settings["fraction"], epochs, *model)
            measure = (
                *("scripts/eval.py", folder / name, *data, "--results", results / f"{name}.json"),
                *("--split", study["split"], f"--{study['split']}_fraction", study["measured_fraction"]),
                *("--mixed_precision", "no"),
            )
            steps.append(measure)
    return steps


if __name__ == "__main__":
    with one_line_errors("pretraining.py"):
        main()
