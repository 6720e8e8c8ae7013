"""What each part of HitViT gives: its variants, and models on patches, trained for the same time.

python studies/tokens.py

The plan is recipes/tokens/study.yaml, the jets those of `make study` or others in `--data_dir`. Steps of all models
are timed first (`results/token_steps.json`; remove it to time them on another machine), then each trains on as many
jets as fill the same time. All are measured on validation jets, into `results/tokens.json`; finished runs are kept.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from steps import run_script
from token_steps import step_times
from token_tables import summarise
from transformers import HfArgumentParser

from e2evit.data.packaged import read_recipe
from e2evit.results.record import write_record
from e2evit.training import DataArguments, Recipe, TargetArguments, TrainArguments, load_data


@dataclass
class TokenStudyArguments:
    study: str = field(default="recipes/tokens/study.yaml", metadata={"help": "Models, seeds and length."})
    data_dir: str = field(default="runs/study/data", metadata={"help": "Simulated jets."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where prepared Arrow files go."})
    output_dir: str = field(default="runs/tokens", metadata={"help": "Checkpoints and their results."})
    results_dir: str = field(default="results", metadata={"help": "Where tokens.json and token_steps.json go."})
    mixed_precision: str = field(default="auto", metadata={"help": "Of timing and training: no, bf16 or auto."})
    models: list[str] | None = field(default=None, metadata={"help": "Models to train in this call. Default: all."})
    seeds: list[int] | None = field(default=None, metadata={"help": "Seeds to train in this call. Default: all."})


def main() -> None:
    (options,) = HfArgumentParser(TokenStudyArguments).parse_args_into_dataclasses()
    plan, folder, results = read_recipe(options.study), Path(options.output_dir), Path(options.results_dir)
    configs = write_configs(plan, folder / "configs")
    if not (timed := results / "token_steps.json").exists():
        write_record(timed, {"steps": time_steps(plan, configs, options)}, threads=1)
    steps = json.loads(timed.read_text(encoding="utf-8"))["steps"]
    words = ["--data_dir", options.data_dir, *(["--cache_dir", options.cache_dir] if options.cache_dir else [])]
    words += ["--validation_fraction", plan["validation_fraction"]]
    for seed in options.seeds or plan["seeds"]:
        for name in options.models or configs:
            run, result = folder / f"{name}_seed{seed}", folder / "results" / f"{name}_seed{seed}.json"
            if result.exists():
                continue
            fraction = round(plan["fraction"] / steps[name]["relative"], 4)
            run_script(
                *("scripts/train.py", plan["training"], *words, "--train_fraction", fraction),
                *("--model_config", configs[name], "--output_dir", run, "--seed", seed, "--fraction_seed", seed),
                *("--num_train_epochs", plan["epochs"], "--validation_interval", plan["epochs"]),
                *("--mixed_precision", options.mixed_precision, "--resume_from_checkpoint"),
            )
            run_script("scripts/eval.py", run, *words, "--split", "validation", "--results", result)
    write_record(results / "tokens.json", {"runs": summarise(plan, folder / "results")})


def write_configs(plan: dict, folder: Path) -> dict[str, Path]:
    """The configuration file of each model of the plan, by name; fields become a file in `folder`."""
    base = json.loads(Path(plan["base"]).read_text(encoding="utf-8"))
    configs = {}
    for models in plan["models"].values():
        for name, of_model in models.items():
            configs[name] = folder / f"{name}.json" if isinstance(of_model, dict) else Path(of_model)
            if isinstance(of_model, dict):
                folder.mkdir(parents=True, exist_ok=True)
                configs[name].write_text(json.dumps(base | of_model, indent=2) + "\n", encoding="utf-8")
    return configs


def time_steps(plan: dict, configs: dict[str, Path], options: TokenStudyArguments) -> dict:
    """As [`step_times`], on training jets of the study."""
    settings = read_recipe(plan["training"])
    of_targets = {name: settings.pop(name) for name in [*settings] if hasattr(TargetArguments(), name)}
    of_data = {"train_fraction": plan["fraction"], "validation_fraction": plan["validation_fraction"]}
    data = DataArguments(data_dir=options.data_dir, cache_dir=options.cache_dir, **of_data)
    dataset, schema = load_data(data, TargetArguments(**of_targets))
    recipe = Recipe(training=TrainArguments(**settings))
    return step_times(configs, plan["reference"], dataset["train"], schema, recipe, options.mixed_precision)


if __name__ == "__main__":
    main()
