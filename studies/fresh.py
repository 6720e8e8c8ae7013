"""What a new detector response in every epoch buys over fixed images, at the same number of images seen.

python studies/fresh.py

trains each model on fixed images, on fresh ones with 21 collisions of pile-up, and on fresh ones with 0 to 60, for
4 and 20 epochs, and measures it with 21 and with 60. Results that are there are kept; interrupted runs resume.
"""

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from steps import run_script
from transformers import HfArgumentParser

from e2evit.data.packaged import read_recipe

TRAINING = {
    "fixed": ["--pileup", 21],
    "fresh": ["--pileup", 21, "--fresh"],
    "fresh_range": ["--pileup", 0, 60, "--fresh"],
}
MEASURED = (21, 60)


@dataclass
class FreshArguments:
    study: str = field(
        default="recipes/study/study.yaml", metadata={"help": "Samples, as in the comparison of models."}
    )
    recipe: str = field(default="recipes/study/train.yaml", metadata={"help": "Settings of every run."})
    models: list[str] = field(default_factory=lambda: ["xcit", "linearvit"], metadata={"help": "Models to train."})
    epochs: list[int] = field(default_factory=lambda: [4, 20], metadata={"help": "Numbers of epochs."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of each training."})
    output_dir: str = field(default="runs/fresh", metadata={"help": "Data and checkpoints."})
    results_dir: str = field(default="results/fresh", metadata={"help": "Metrics and per-jet predictions."})
    num_proc: int = field(default=2, metadata={"help": "Processes of the simulation."})
    num_workers: int = field(default=2, metadata={"help": "Processes that make images during training."})


def main() -> None:
    (arguments,) = HfArgumentParser(FreshArguments).parse_args_into_dataclasses()
    study, recipe = read_recipe(arguments.study), Path(arguments.recipe)
    folder, results = Path(arguments.output_dir), Path(arguments.results_dir)
    data = folder / "data"
    for sample in study["simulation"]:
        run_script(
            *("scripts/simulate.py", "--output_dir", data, "--keep", "particles", "--num_proc", arguments.num_proc),
            *("--processes", *sample["processes"], "--num_jets", sample["num_jets"]),
            *study["simulation_arguments"].split(),
        )
    for seed, epochs, model, training in product(arguments.seeds, arguments.epochs, arguments.models, TRAINING):
        name = f"{model}_{training}_{epochs}"
        measured = {mean: results / f"pileup_{mean}/{name}_seed{seed}.json" for mean in MEASURED}
        if all(path.exists() for path in measured.values()):
            continue
        checkpoint = folder / f"{name}_seed{seed}"
        run_script(
            *("scripts/train.py", recipe, "--data_dir", data, "--model_config", recipe.parent / f"{model}.json"),
            *("--output_dir", checkpoint, "--seed", seed, "--num_train_epochs", epochs, *TRAINING[training]),
            *("--num_workers", arguments.num_workers, "--save_steps", 200, "--resume_from_checkpoint"),
        )
        for mean, path in measured.items():
            run_script(
                *("scripts/eval.py", checkpoint, "--data_dir", data, "--pileup", mean),
                *("--mixed_precision", "no", "--results", path),
            )


if __name__ == "__main__":
    main()
