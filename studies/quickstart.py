"""From nothing to two trained checkpoints: simulate, train, evaluate, compare. `make quickstart` runs this.

python studies/quickstart.py --output_dir runs/quickstart --seed 0
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from steps import run_script
from transformers import HfArgumentParser

from e2evit.cli.errors import one_line_errors
from e2evit.data import find_schema, load_e2e
from e2evit.plots import event_display, save_figure

MODELS = ("linearvit_nano", "xcit_nano")


@dataclass
class QuickstartArguments:
    output_dir: str = field(default="runs/quickstart", metadata={"help": "Data, checkpoints and figures."})
    results_dir: str = field(default="results", metadata={"help": "Metrics and per-jet predictions."})
    results_prefix: str = field(default="", metadata={"help": "quickstart_seedN_ for those in the README."})
    num_jets: int = field(default=5000, metadata={"help": "Jets of each class."})
    num_proc: int = field(default=2, metadata={"help": "Processes of the simulation."})
    seed: int = field(default=0, metadata={"help": "Seed of the simulation and the training."})
    simulate_arguments: str = field(default="", metadata={"help": "More arguments for scripts/simulate.py."})
    train_arguments: str = field(default="", metadata={"help": "More arguments for scripts/train.py, in one string."})


def main() -> None:
    (arguments,) = HfArgumentParser(QuickstartArguments).parse_args_into_dataclasses()
    start = time.perf_counter()
    folder, results = Path(arguments.output_dir), Path(arguments.results_dir)
    data = folder / "data"
    run_script(
        *("scripts/simulate.py", "--output_dir", data, "--processes", "qcd", "top"),
        *("--num_jets", arguments.num_jets, "--num_proc", arguments.num_proc, "--seed", arguments.seed),
        *("--match_pt", "--merged_only", *arguments.simulate_arguments.split()),
    )
    files = []
    for model in MODELS:
        files.append(results / f"{arguments.results_prefix}{model}.json")
        run_script(
            *("scripts/train.py", f"recipes/quickstart/{model}.yaml", "--data_dir", data),
            *("--output_dir", folder / model, "--seed", arguments.seed, "--resume_from_checkpoint"),
            *arguments.train_arguments.split(),
        )
        run_script("scripts/eval.py", folder / model, "--data_dir", data, "--results", files[-1])

    dataset, schema = load_e2e("simulated", data, split="test"), find_schema("simulated", data)
    shown = dataset[dataset["labels"].index(1)]
    title = f"top jet, $p_T$ = {shown['pt']:.0f} GeV, m = {shown['jet_mass']:.0f} GeV"
    display = save_figure(event_display(shown, schema, title), folder / "figures/event_display")
    run_script("scripts/compare.py", "--results", *files, "--figures", folder / "figures")
    print(f"Wrote {display}")
    print(f"\n{len(dataset)} test jets, simulated with Pythia 8 and a parametrised detector; 95 % intervals.")
    print(f"Took {(time.perf_counter() - start) / 60:.1f} minutes. Load a checkpoint with\n")
    print(
        f"""    from e2evit import load_e2e
    from transformers import pipeline

    jets = load_e2e("simulated", "{data}", split="test")
    predict = pipeline("e2e-jets", model="{folder / MODELS[0]}")
    for prediction in predict(jets, batch_size=64):
        print(prediction)  # probabilities of {", ".join(schema.label_names)}; mass in GeV"""
    )


if __name__ == "__main__":
    with one_line_errors("quickstart.py"):
        main()
