"""`Result`: everything one evaluation measured, on which jets, and with what; a JSON file on disk."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from datasets import Dataset
from huggingface_hub.dataclasses import type_validator

from e2evit.data.jobs import write_whole_text
from e2evit.data.storage import absolute
from e2evit.data.texts import read_mapping

from .predictions import MODEL, hash_of_ids, write_predictions

__all__ = [
    "Interval",
    "Result",
    "by_model",
    "fingerprint",
    "interval",
    "model_name",
    "provenance",
    "read_results",
    "write_record",
]

PACKAGES = ("e2evit", "torch", "transformers", "datasets", "accelerate", "numpy", "scikit-learn")
COMMAND_TIMEOUT = 10  # seconds


class Interval(NamedTuple):
    """A value and its 95 % interval; NaN bounds where none was computed."""

    value: float
    low: float
    high: float


@dataclass(kw_only=True)
class Result:
    """One training of one model, measured on one split.

    Attributes:
        model: Name of the model, shared by its trainings.
        seed: Seed of the training, if known.
        date: UTC, ISO 8601.
        commit: Commit of e2evit; None outside a clone, or where it was not recorded.
        versions: Versions of Python and packages.
        hardware: `processor` (model name), `machine` (architecture), `cores`, and where they matter `threads`,
            `device`, `num_processes`, `precision`.
        data: `rows` and a hash of the `event_ids` of each split.
        mass_column: Column that masses are measured against.
        mass_classes: The only classes from which the mass was learned.
        contained_classes: Whether only jets that contain all of the decay have a class; None: no.
        pileup, without: Of images made of particles: mean number of pile-up collisions, or its range, and the effects
            of the detector that were left out; None of images, which are as they were simulated.
        test_fold: Fold whose jets were measured, of a data set that was divided into folds.
        aux_names: What the model reads besides images.
        weights: Column of the weights that metrics take into account; None: all jets count the same.
        parameters: Parameters of the network.
        cost: `macs` of an image, `images_per_second`, `batch_size`, `peak_memory_gib`.
        training: `images_seen`, `seconds`, `best_epoch`, `images_per_second`, `hardware`.
        metrics: By predictor (`"model"` and baselines), then by the keys of `METRICS`, `roc_auc_CLASS` and, as
            `top_vs_qcd_roc_auc`, those of `e2evit.metrics.signal_metrics`, and as `x_qq_coverage_68` and `w_closure`
            those of `mass_by_process` and `closures`; with `_low` and `_high`.
        in_bins: Rows with `low`, `high`, `number` and metrics, by e.g. `"roc_auc in pt"`.
        predictions: Columns of per-jet predictions of a new result; stored as Parquet beside the JSON.
    """

    model: str
    seed: int | None
    date: str | None
    commit: str | None
    versions: dict[str, str]
    hardware: dict[str, str | int | None]
    dataset: str
    split: str
    data: dict[str, dict[str, str | int]]
    mass_column: str
    mass_classes: list[str] | None = None
    contained_classes: bool | None = None
    pileup: list[float] | None = None
    without: list[str] | None = None
    test_fold: int | None = None
    aux_names: list[str] | None = None
    weights: str | None = None
    label_names: list[str]
    channel_names: list[str]
    image_size: list[int]
    parameters: int | None = None
    cost: dict[str, float | int] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, float | int]]
    in_bins: dict[str, list[dict[str, float | int]]] = field(default_factory=dict)
    predictions: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        for name, expected in get_type_hints(type(self)).items():
            try:
                type_validator(name, getattr(self, name), expected)
            except TypeError as error:
                raise ValueError(f"`{name}` of a result: {_innermost(error)}.") from None
        if self.split not in self.data:
            raise ValueError(f"`data` of a result: no split {self.split!r}, got {', '.join(self.data) or 'none'}.")
        if missing := {"rows", "event_ids"} - self.data[self.split].keys():
            raise ValueError(f"`data` of a result: {self.split} has no {', '.join(sorted(missing))}.")
        if MODEL not in self.metrics:
            raise ValueError(f"`metrics` of a result: no {MODEL!r}, got {', '.join(self.metrics) or 'none'}.")
        if "processor" not in self.hardware:
            raise ValueError("`hardware` of a result: no 'processor'.")

    @property
    def name(self) -> str:
        """Name of this training: model and seed."""
        return self.model if self.seed is None else f"{self.model}_seed{self.seed}"

    @property
    def pileup_text(self) -> str:
        """`60`, or `0-60` for a range; nothing where it is not known."""
        return "-".join(f"{mean:g}" for mean in self.pileup or ())

    def metric(self, key: str, predictor: str = MODEL) -> Interval | None:
        """A metric of a predictor, None if it was not measured."""
        return interval(self.metrics.get(predictor, {}), key)

    @classmethod
    def from_json(cls, path: str | Path) -> "Result":
        """Read what [`Result.to_json`] wrote; per-jet predictions stay in their file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a result; the message names the file and the field.
        """
        entries = read_mapping(Path(path).expanduser(), "JSON")
        known = {entry.name: entry for entry in fields(cls) if entry.name != "predictions"}
        required = [n for n, entry in known.items() if entry.default is MISSING and entry.default_factory is MISSING]
        missing = [name for name in required if name not in entries]
        unknown = [name for name in entries if name not in known]
        if missing or unknown:
            problems = [f"no {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(unknown)}"] * bool(unknown)
            raise ValueError(f"{path} is not a result: {'; '.join(problems)}.")
        try:
            return cls(**entries)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_json(self, path: str | Path) -> None:
        """Write the result, and its per-jet predictions, if any, as Parquet beside it; each whole or not at all."""
        path = Path(path).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.predictions:
            write_predictions(path.with_suffix(".parquet"), self.predictions)
        entries = {name: value for name, value in asdict(self).items() if name != "predictions"}
        text = json.dumps(entries, indent=2) + "\n"
        write_whole_text(path, text)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).rstrip(".")


def interval(metrics: Mapping[str, float], key: str) -> Interval | None:
    """A metric with its interval out of flat `{key, key_low, key_high}`, None if it is not there."""
    if key not in metrics:
        return None
    return Interval(metrics[key], *(metrics.get(f"{key}_{end}", float("nan")) for end in ("low", "high")))


def read_results(paths: Sequence[str | Path]) -> list[Result]:
    """Results that were measured on the same jets.

    Particles can be measured at several pile-ups: the jets are the same, so that paired tests hold. The names of the
    models then end in `_pileup60`.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a file is not a result, two are of the same training, or jets or targets differ.
    """
    results = [Result.from_json(path) for path in paths]
    shared = ("dataset", "split", "without", "label_names", "mass_column", "mass_classes")
    shared += ("contained_classes", "weights")
    pileups = [result.pileup for result in results]
    if None in pileups:
        shared = ("dataset", "split", "pileup", *shared[2:])
    elif pileups.count(pileups[0]) < len(pileups):
        results = [replace(result, model=f"{result.model}_pileup{result.pileup_text}") for result in results]

    def measured_on(result):
        return {name: getattr(result, name) for name in shared} | result.data[result.split]

    names = [result.name for result in results]
    for number, (path, result) in enumerate(zip(paths, results)):
        if result.name in names[:number]:
            raise ValueError(
                f"{paths[names.index(result.name)]} and {path} are both of {result.name}: if their models differ, "
                "name one with `--model_name` of `e2evit eval`."
            )
        first, other = measured_on(results[0]), measured_on(result)
        if different := [f"{key} {first.get(key)} and {other.get(key)}" for key in first if first[key] != other[key]]:
            raise ValueError(
                f"{names[0]} and {result.name} were not measured on the same jets and targets: {'; '.join(different)}."
            )
    return results


def by_model(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The trainings of each model, in the given order."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.model, []).append(result)
    return groups


def model_name(checkpoint: str | Path, seed: int | None) -> str:
    """Name of the model of a checkpoint: that of its folder, without the seed of the training."""
    return Path(absolute(checkpoint)).name.removesuffix(f"_seed{seed}")


def provenance(packages: Sequence[str] = (), **hardware: str | int | None) -> dict[str, Any]:
    """Date, commit, versions and hardware of a measurement made now; every file of results holds them.

    Args:
        packages: What to name the versions of, besides those of [`PACKAGES`].
        hardware: What else matters: `threads`, `device`, `num_processes`, `precision`.
    """
    machine = {"processor": processor_name(), "machine": platform.machine(), "cores": os.cpu_count()}
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": current_commit(),
        "versions": {"python": platform.python_version()} | installed_versions((*PACKAGES, *packages)),
        "hardware": machine | hardware,
    }


def write_record(
    path: str | Path, entries: Mapping[str, Any], packages: Sequence[str] = (), **hardware: str | int | None
) -> None:
    """Write the measurements of a benchmark with their [`provenance`], in place of any that `entries` hold."""
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    made = provenance(packages, **hardware)
    made |= {name: value for name, value in entries.items() if name not in made}
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    write_whole_text(path, text)


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those packages that say which they are."""
    versions = {}
    for name in packages:
        with suppress(Exception):  # not installed, or metadata that cannot be read
            versions[name] = version(name)
    return versions


def processor_name() -> str:
    """Model name of the processor, such as `AMD EPYC 9B14`."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    name = _output_of("sysctl", "-n", "machdep.cpu.brand_string") if platform.system() == "Darwin" else ""
    return name or platform.processor() or platform.machine()


def current_commit() -> str | None:
    """HEAD of the clone that e2evit runs from; None of an installed copy, even inside another repository."""

    git = ("git", "-C", str(Path(__file__).parent))
    is_ours = _output_of(*git, "ls-files", Path(__file__).name)
    return _output_of(*git, "rev-parse", "HEAD") or None if is_ours else None


def _output_of(*command: str) -> str:
    """What a command prints; nothing if it is not installed, fails, or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=COMMAND_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def fingerprint(rows: Dataset) -> dict[str, str | int]:
    """Number of rows and a hash of their event ids in order."""
    event_ids = rows.with_format("arrow")["event_id"].to_pylist()
    return {"rows": len(event_ids), "event_ids": hash_of_ids(event_ids)}
