"""Kill a training and a simulation at random moments, damage saved states, and resume: is the result the same?

python benchmarks/chaos.py --results results/chaos.json

Two of three kills of a training are SIGKILL, the others SIGTERM; a simulation gets SIGKILL, in turn its main process
and all its processes. One process trains on the CPU, where equal means equal to the last bit. Finished parts are kept
in `--folder` until all are done: run the same command again after an interruption.
"""

import argparse
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from e2evit.cli.command import run as command
from e2evit.data.jobs import write_whole_text
from e2evit.results.record import current_commit, write_record
from e2evit.training import (
    PREEMPTED_EXIT_CODE,
    DataArguments,
    TargetArguments,
    TrainArguments,
    TrainedModel,
    train,
)
from e2evit.training.state import latest_state

ROOT = Path(__file__).parents[1]
FORKS = get_context("forkserver")
TINY = {
    "model_type": "xcit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "drop_path_rate": 0.3,
}
SIMULATED = (
    "--processes",
    "qcd",
    "x_qq",
    "--shard_size",
    "4",
    "--pileup",
    "2",
    "--pool_size",
    "50",
    "--num_proc",
    "2",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results/chaos.json")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "e2evit-chaos"))
    parser.add_argument("--jets", type=Path, default=ROOT / "tests/data/jets")
    parser.add_argument("--kills", type=int, default=20, help="of a training, and as many of a simulation")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--save_steps", type=int, default=3)
    parser.add_argument("--num_jets", type=int, default=120, help="of each simulated process")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    FORKS.set_forkserver_preload(["e2evit.cli.train"])
    record = {name: value for name, value in vars(arguments).items() if isinstance(value, int)}
    settings = record | {"jets": str(arguments.jets), "commit": current_commit()}
    folders = []
    for part in (killed_training, killed_simulation, damaged_states):
        folders.append(folder := arguments.folder / part.__name__)
        outcome = finished(folder, settings)
        if outcome is None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            outcome = part(arguments, folder)
            write_whole_text(folder.with_suffix(".json"), json.dumps({"settings": settings, "outcome": outcome}))
        record[part.__name__] = outcome
    write_record(arguments.results, record)
    for folder in folders:  # and nothing else: `--folder` may hold more
        shutil.rmtree(folder)
        folder.with_suffix(".json").unlink()
    with suppress(OSError):
        arguments.folder.rmdir()
    print(json.dumps(record, indent=2))
    sys.exit(not all(value for part in record.values() if isinstance(part, dict) for value in passed(part)))


def finished(folder: Path, settings: dict) -> dict | None:
    """The outcome of a part that an earlier call finished with the same settings."""
    done = folder.with_suffix(".json")
    earlier = json.loads(done.read_text(encoding="utf-8")) if done.exists() else {}
    return earlier["outcome"] if earlier.get("settings") == settings else None


def passed(part: dict) -> list[bool]:
    return [value for value in part.values() if isinstance(value, bool)]


class Training:
    """`e2evit train`, forked from a process that has imported PyTorch; used as a `Popen`."""

    def __init__(self, log: Path, *arguments):
        self.process = FORKS.Process(target=train_command, args=(log, list(map(str, arguments))))
        self.process.start()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode


def train_command(log: Path, arguments: list[str]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    command("train", arguments)


def finish(process: subprocess.Popen | Training, log: Path) -> None:
    if process.wait():
        sys.exit(log.read_text(encoding="utf-8")[-3000:])


def kill_repeatedly(
    arguments, begin: Callable[[], subprocess.Popen | Training], progress: Callable[[], int], end: Callable, what: str
) -> list[int]:
    """Let the same command advance by some units, `kills` times, and `end` it at a random moment.

    Args:
        progress: How many units are finished.
        end: Called with the process and the number of the kill.

    Returns:
        The exit codes.
    """
    rng, codes = random.Random(arguments.seed), []
    for number in tqdm(range(arguments.kills), desc=what):
        process, before = begin(), progress()
        units = rng.choice((0, 1, 2, 3))  # 0: while it starts
        while process.poll() is None and progress() < before + units:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 4 if units == 0 else 0.5))
        if process.poll() is not None:
            sys.exit(f"{what}: the run ended by itself after {number} kills; give it more to do.")
        end(process, number)
        codes.append(process.wait())
        if progress() < before:
            sys.exit(f"{what}: kill {number + 1} lost something finished.")
    return codes


def killed_training(arguments, folder: Path) -> dict:
    """Are weights and losses those of a run that nothing interrupted?"""
    whole, parts, log = folder / "whole", folder / "parts", folder / "log.txt"
    (folder / "model.json").write_text(json.dumps(TINY), encoding="utf-8")

    def begin(output: Path = parts) -> Training:
        options = ["--data_dir", arguments.jets, "--cache_dir", folder / "cache", "--mass_column", "jet_mass"]
        options += ["--num_train_epochs", arguments.epochs, "--per_device_batch_size", 16, "--ema_decay", 0.99]
        options += ["--save_steps", arguments.save_steps, "--resume_from_checkpoint", "--report_to", "none"]
        return Training(log, "--model_config", folder / "model.json", *options, "--output_dir", output)

    names: list[str] = []

    def saved() -> int:
        """A number that grows with each state."""
        newest = latest_state(parts / "state")
        name = newest.name if newest else ""
        if name and name not in names:
            names.append(name)
        return names.index(name) + 1 if name else 0

    def end(process: Training, number: int) -> None:
        os.kill(process.pid, signal.SIGKILL if number % 3 else signal.SIGTERM)

    finish(begin(whole), log)
    codes = kill_repeatedly(arguments, begin, saved, end, "Kills of a training")
    finish(begin(), log)
    expected, resumed = (load_file(path / "model.safetensors") for path in (whole, parts))
    histories = [json.loads((path / "run_info.json").read_text(encoding="utf-8"))["epochs"] for path in (whole, parts)]
    losses = [[entry["loss"] for entry in history] for history in histories]
    return {
        "equal_weights": equal(expected, resumed),
        "equal_losses": losses[0] == losses[1],
        "kills": len(codes),
        "sigkill": sum(code == -signal.SIGKILL for code in codes),
        "sigterm_saved": sum(code == PREEMPTED_EXIT_CODE for code in codes),
        "sigterm_before_the_loop": sum(code == -signal.SIGTERM for code in codes),
    }


def killed_simulation(arguments, folder: Path) -> dict:
    """Are all files the same to the byte, and nothing left over?"""
    whole, parts, log = folder / "whole", folder / "parts", folder / "log.txt"

    def begin(output: Path = parts) -> subprocess.Popen:
        words = (sys.executable, ROOT / "scripts/simulate.py", *SIMULATED, "--num_jets", arguments.num_jets)
        words += ("--seed", arguments.seed, "--output_dir", output)
        with log.open("a", encoding="utf-8") as file:
            return subprocess.Popen(list(map(str, words)), stdout=file, stderr=file, start_new_session=True)

    def end(process: subprocess.Popen, number: int) -> None:
        (os.killpg if number % 2 else os.kill)(process.pid, signal.SIGKILL)

    finish(begin(whole), log)
    codes = kill_repeatedly(
        arguments, begin, lambda: len(list(parts.glob("[!.]*.parquet"))), end, "Kills of a simulation"
    )
    finish(begin(), log)
    expected, resumed = ({path.name: path.read_bytes() for path in made.iterdir()} for made in (whole, parts))
    return {"equal_files": expected == resumed, "files": len(expected), "kills": len(codes)}


def damaged_states(arguments, folder: Path) -> dict:
    """Is each damage noticed, the state before taken, and the result the same; and refused without another state?"""
    logging.disable(logging.WARNING)
    (folder / "model.json").write_text(json.dumps(TINY), encoding="utf-8")
    data = DataArguments(data_dir=str(arguments.jets), cache_dir=str(folder / "cache"))

    def run(output: Path) -> TrainedModel:
        settings = TrainArguments(
            output_dir=str(output),
            num_train_epochs=2,
            per_device_batch_size=64,
            ema_decay=0.9,
            keep_states=2,
            resume_from_checkpoint=True,
            mixed_precision="no",
            report_to="none",
        )
        return train(folder / "model.json", data, settings, targets=TargetArguments(mass_column="jet_mass"))

    whole, copy, rng = folder / "whole", folder / "copy", random.Random(arguments.seed)
    run(whole)
    expected = load_file(whole / "model.safetensors")
    newest = latest_state(whole / "state").relative_to(whole)
    names = sorted(path.name for path in (whole / newest).iterdir())
    cases = [(name, damage) for name in names for damage in (truncate, empty, delete, flip)]
    equals = refusals = unchanged = 0
    for name, damage in tqdm(cases, desc="Damaged states"):
        shutil.copytree(whole, copy)
        damage(copy / newest / name, rng)
        run(copy)
        equals += equal(expected, load_file(copy / "model.safetensors"))
        shutil.rmtree(copy)
        shutil.copytree(whole, copy)
        for state in (copy / "state").iterdir():
            if state.name != newest.name:
                shutil.rmtree(state)
        damage(copy / newest / name, rng)
        before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
        try:
            run(copy)
        except ValueError as error:
            refusals += f"intact ({newest.name}: " in str(error)
        unchanged += before == {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
        shutil.rmtree(copy)
    return {
        "equal_weights_from_the_state_before": equals == len(cases),
        "refused_without_another_state": refusals == unchanged == len(cases),
        "files": names,
        "damages": ["truncated", "emptied", "deleted", "one bit flipped"],
        "cases": len(cases),
    }


def truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(1, path.stat().st_size))


def empty(path: Path, rng: random.Random) -> None:
    os.truncate(path, 0)


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


if __name__ == "__main__":
    main()
