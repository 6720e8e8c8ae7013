"""Kill a training run at random moments, resume it each time, and compare its weights with an uninterrupted run's.

python benchmarks/chaos.py --results results/chaos.json

Two of three kills are SIGKILL, the others SIGTERM. One process on the CPU, where equal means equal to the last bit.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from e2evit.results.record import write_record
from e2evit.training import PREEMPTED_EXIT_CODE
from e2evit.training.state import latest_state

ROOT = Path(__file__).parents[1]


def start(arguments: argparse.Namespace, output: Path) -> subprocess.Popen:
    command = [sys.executable, ROOT / "scripts/train.py", "--model_config", ROOT / "recipes/models/xcit_nano.json"]
    command += ["--data_dir", arguments.jets, "--cache_dir", output.parent / "cache", "--mass_column", "jet_mass"]
    command += ["--num_train_epochs", arguments.epochs, "--per_device_batch_size", 16, "--ema_decay", 0.99]
    command += ["--save_steps", arguments.save_steps, "--resume_from_checkpoint", "--report_to", "none"]
    command += ["--output_dir", output]
    with (output.parent / f"{output.name}.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results/chaos.json")
    parser.add_argument("--jets", type=Path, default=ROOT / "tests/data/jets")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--save_steps", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder) / "whole", Path(folder) / "parts"
        begin = time.perf_counter()
        if start(arguments, whole).wait():
            sys.exit((whole.parent / "whole.log").read_text(encoding="utf-8")[-3000:])
        seconds = time.perf_counter() - begin
        codes, states = [], []
        progress = tqdm(total=arguments.kills, desc="Kills")
        while len(codes) < arguments.kills:
            process = start(arguments, parts)
            before = latest_state(parts / "state")
            # at any moment of starting, training, validating or saving, but not so early that the run never advances
            minimum = 0 if rng.random() < 0.2 else seconds / arguments.kills
            time.sleep(minimum + rng.expovariate(1 / 3))
            number = signal.SIGKILL if len(codes) % 3 else signal.SIGTERM
            if process.poll() is not None:
                sys.exit(f"The run ended after {len(codes)} kills: give it more `--epochs`.")
            os.kill(process.pid, number)
            codes.append(process.wait())
            after = latest_state(parts / "state")
            states.append(after.name if after else None)
            if before and (not after or after.name < before.name):
                sys.exit(f"Lost {before}.")
            progress.update()
        progress.close()
        if start(arguments, parts).wait():
            sys.exit((parts.parent / "parts.log").read_text(encoding="utf-8")[-3000:])
        expected, resumed = (load_file(path / "model.safetensors") for path in (whole, parts))
        histories = [
            json.loads((path / "run_info.json").read_text(encoding="utf-8"))["epochs"] for path in (whole, parts)
        ]
    equal = expected.keys() == resumed.keys() and all(torch.equal(expected[name], resumed[name]) for name in expected)
    losses = [[entry["loss"] for entry in history] for history in histories]
    record = {
        "equal_weights": equal,
        "equal_losses": losses[0] == losses[1],
        "kills": len(codes),
        "sigkill": sum(code == -signal.SIGKILL for code in codes),
        "sigterm_saved": sum(code == PREEMPTED_EXIT_CODE for code in codes),
        "sigterm_before_the_loop": sum(code == -signal.SIGTERM for code in codes),
        "newest_state_after_each": states,
        "epochs": arguments.epochs,
        "save_steps": arguments.save_steps,
        "seed": arguments.seed,
    }
    write_record(arguments.results, record)
    print(json.dumps(record, indent=2))
    sys.exit(not (record["equal_weights"] and record["equal_losses"]))


if __name__ == "__main__":
    main()
