"""A whole training of the study's XCiT on a device: seconds, energy, and what making the batches takes of them."""

import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from gpu_measures import Budget, synchronize, uuid_of

from e2evit.data.packaged import read_recipe
from e2evit.training import DataArguments, Recipe, TargetArguments, TrainArguments, load_data, new_model, train
from e2evit.training.loaders import ImagesOnDevice, make_loader
from e2evit.training.process import end_processes, start_accelerator
from e2evit.training.resident import ResidentRows
from e2evit.training.tasks import make_task

__all__ = ["training"]

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes/study/train.yaml"
MODEL = ROOT / "recipes/study/xcit.json"
NUM_JETS, EPOCHS = 57_000, 20  # 46 000 of them for training
AT_ONCE, SHORT = 4, 5  # trainings, and epochs of each


def training(device: torch.device, quick: bool, budget: Budget, data_dir: str | None = None) -> dict:
    """The recipe of the study, on jets of the tests repeated to its number, or on those of `data_dir`."""
    is_gpu = device.type == "cuda"
    with TemporaryDirectory() as folder:
        root = Path(folder)
        if data_dir is None:
            data_dir = str(repeated_jets(root / "jets", (NUM_JETS if not quick else 6000) if is_gpu else 220))
        data = DataArguments(data_dir=data_dir, cache_dir=str(root / "cache"))
        load_data(data, settings_of(root, 1, 1)[0])  # its cache, which the first training would have to make
        epochs = EPOCHS if is_gpu and not quick else 2
        rows = []
        for size in (64, 512) if is_gpu else (16,):
            title = f"a training with batches of {size}"
            if budget.allows(title):
                with budget.memory_for(title):
                    rows.append(whole_training(data, root / f"run{size}", size, epochs, device))
        together = None
        if is_gpu and not quick and budget.allows(f"{AT_ONCE} trainings at once", 0.6):
            together = trainings_at_once(data, root)
    return {"rows": rows, "together": together, "epochs": epochs, "is_repeated": data_dir.startswith(folder)}


def repeated_jets(folder: Path, number: int) -> Path:
    """A data set of `number` jets: those of the tests again and again, each time as other events."""
    folder.mkdir()
    paths = sorted((ROOT / "tests/data/jets").glob("*.parquet"))
    for path in paths:
        jets = pq.read_table(path, page_checksum_verification=True)
        column, repeats = jets.column_names.index("event_id"), -(-number // len(paths) // len(jets))
        events = [f"{event}-{repeat}" for repeat in range(repeats) for event in jets["event_id"].to_pylist()]
        field = jets.schema.field("event_id")
        many = pa.concat_tables([jets] * repeats).set_column(column, field, pa.array(events, field.type))
        pq.write_table(many, folder / path.name)
    shutil.copy(ROOT / "tests/data/jets/simulation.json", folder)
    return folder


def settings_of(folder: Path, size: int, epochs: int) -> tuple[TargetArguments, TrainArguments]:
    recipe = read_recipe(RECIPE)
    of_targets = ("mass_column", "transverse", "classes", "mass_classes")
    targets = TargetArguments(**{name: recipe.pop(name) for name in of_targets})
    own = {"output_dir": str(folder), "num_train_epochs": epochs, "per_device_batch_size": size, "report_to": "none"}
    return targets, TrainArguments(**recipe | own)


def whole_training(data: DataArguments, folder: Path, size: int, epochs: int, device: torch.device) -> dict:
    targets, settings = settings_of(folder, size, epochs)
    energy, start = joules(device), time.perf_counter()
    trained = train(MODEL, data, settings, targets=targets)
    seconds = time.perf_counter() - start
    used = None if energy is None else joules(device) - energy
    rates = [epoch["images_per_second"] for epoch in trained.history.epochs]
    batches = batches_alone(data, targets, settings, device)
    return {
        "batch_size": size,
        "jets_seen": trained.history.images_seen,
        "seconds": seconds,
        "images_per_second": float(np.median(rates[1:])),
        "data_share": rates[-1] / batches,
        "joules": used,
    }


def batches_alone(data: DataArguments, targets: TargetArguments, settings: TrainArguments, device) -> float:
    """Images per second of the loader without a model."""
    accelerator = start_accelerator("no")
    dataset, schema = load_data(data, targets)
    model, processor = new_model(MODEL, schema, dataset["train"], targets.mass_column)
    task = make_task(model, processor, dataset, Recipe(data=data, targets=targets, training=settings))
    rows = ResidentRows(accelerator, dataset["train"], task.collator)
    loader = make_loader(rows, task.collator, settings.per_device_batch_size, 0, 0, accelerator)
    loader = ImagesOnDevice(accelerator.prepare(loader), task.collator)
    rates = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        synchronize(device)
        start, number = time.perf_counter(), 0
        for batch in loader:
            number += len(batch["labels"])
        synchronize(device)
        rates.append(number / (time.perf_counter() - start))
    end_processes(accelerator)
    return float(np.median(rates))


def trainings_at_once(data: DataArguments, root: Path) -> dict:
    """Seconds of one and of several short trainings, each a process, with all that comes before the first step."""
    seconds = {}
    for number in (1, AT_ONCE):
        start = time.perf_counter()
        processes = []
        for seed in range(number):
            command = [sys.executable, "scripts/train.py", RECIPE, "--model_config", MODEL]
            command += ["--data_dir", data.data_dir]
            command += ["--cache_dir", data.cache_dir, "--output_dir", root / f"of{number}_{seed}", "--seed", seed]
            command += ["--num_train_epochs", SHORT, "--report_to", "none", "--torch_compile", "true"]
            words = [str(word) for word in command]
            processes.append(subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL))
        if any([process.wait() for process in processes]):  # of all, so that none is left running
            raise RuntimeError(f"One of {number} trainings failed; its error is above.")
        seconds[str(number)] = time.perf_counter() - start
    return {"seconds": seconds, "epochs": SHORT}


def joules(device: torch.device) -> float | None:
    """Energy that the GPU has used since its driver was loaded, if nvidia-ml-py is installed and the driver tells."""
    if device.type == "cuda":
        with suppress(Exception):
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid_of(device))
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
    return None
