"""Tables of docs/comparison.md."""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import steps

from e2evit.data.manifest import sha256_of
from e2evit.data.packaged import read_recipe
from e2evit.data.splits import SPLIT_FRACTIONS
from e2evit.data.texts import read_mapping
from e2evit.results.predictions import MODEL
from e2evit.results.record import Result
from e2evit.results.tables import markdown_table

__all__ = [
    "TABLES",
    "TREES",
    "Training",
    "digest",
    "networks",
    "note_of",
    "plan_table",
    "read_runs",
    "summarise",
    "training_jets",
    "trainings",
    "weights_file",
]

STUDY = Path(__file__).parents[1] / "recipes/comparison/study.yaml"
TREES = "trees_candidates"  # the only model of a plan that is no network


@dataclass(frozen=True)
class Training:
    """One training of a model with a seed, on a share of the training jets."""

    model: str
    share: float
    seed: int

    @property
    def title(self) -> str:
        """The model, and the share if it is not all."""
        return self.model if self.share == 1 else f"{self.model}_{self.share:g}"

    @property
    def name(self) -> str:
        return f"{self.title}_seed{self.seed}"

    @property
    def epochs(self) -> int:
        """Passes, for which every training sees the same number of jets."""
        return round(1 / self.share)


def trainings(plan: dict) -> list[Training]:
    """All trainings of a plan: the first seed of each model, then the second, and so on; those on a part of the jets
    come last.
    """
    columns = [
        [Training(model, float(share), seed) for seed in seeds]
        for model, shares in plan["models"].items()
        for share, seeds in shares.items()
    ]
    rows = [one for row in zip_longest(*columns) for one in row if one is not None]
    return sorted(rows, key=lambda one: one.share < 1)


def networks(plan: dict) -> list[str]:
    """The models of a plan that are networks."""
    return [model for model in plan["models"] if model != TREES]


def digest(plan: dict, model: str) -> str:
    """A hash of all that defines the trainings of a model, besides share and seed."""
    names = [*([] if model == TREES else [f"{model}.json"]), Path(plan["training"]).name]
    own = [plan["simulation"], plan["validation_fraction"], plan["settings"].get(model, {})]
    return steps.digest(*(STUDY.parent / name for name in names), own)


def note_of(one: Training, folder: Path) -> Path:
    """Where the recipe of a training is noted before it starts, see [`steps.check_unchanged`]."""
    return folder / "recipes" / one.name


def read_runs(table: Path) -> dict[str, dict]:
    """The trainings that `validation.json` holds, by name.

    Raises:
        ValueError: if it is damaged.
    """
    runs = read_mapping(table, "JSON").get("runs", {}) if table.exists() else {}
    if not isinstance(runs, dict) or not all(isinstance(run, dict) for run in runs.values()):
        raise ValueError(f"{table} is damaged: `runs` must hold trainings by name. Restore it, e.g. with git.")
    return runs


def weights_file(results: Path, name: str) -> Path:
    """Where the weights of a training are kept, see studies/comparison_weights.py."""
    return results / "weights" / f"{name}.safetensors"


def training_jets(plan: dict) -> float:
    """About the number of jets in the training split."""
    simulated = sum(len(part["processes"]) * part["num_jets"] for part in plan["simulation"]["samples"])
    return SPLIT_FRACTIONS["train"] * simulated


def summarise(plan: dict, folder: Path, earlier: dict[str, dict]) -> dict[str, dict]:
    """By name, the metrics of each training of the plan that was measured on validation jets, and the earlier ones.
    Those of other recipes than the plan's are left out.

    Args:
        folder: With a checkpoint `NAME`, and its result `validation/NAME.json`, of each training.
        earlier: Of trainings whose checkpoints may no longer be there.
    """
    runs = {}
    for one in trainings(plan):
        if earlier.get(one.name, {}).get("recipe") == (recipe := digest(plan, one.model)):
            runs[one.name] = earlier[one.name]
        elif (path := folder / f"validation/{one.name}.json").exists() and steps.is_unchanged(
            note_of(one, folder), recipe
        ):
            result = Result.from_json(path)
            runs[one.name] = {
                "recipe": recipe,
                "weights": None if one.model == TREES else sha256_of(folder / one.name / "model.safetensors"),
                "commit": result.commit,
                "parameters": result.parameters,
                "training": result.training | _curves(folder / one.name / "run_info.json"),
                "rows": {part: rows["rows"] for part, rows in result.data.items()},
                "metrics": result.metrics[MODEL],
            }
    return runs


def _curves(run_info: Path) -> dict[str, list]:
    """The loss of training and validation jets along a training, as pairs with the number of jets seen."""
    if not run_info.exists():
        return {}
    run = read_mapping(run_info, "JSON")
    seen = run["images_seen"] / len(run["epochs"])
    validated = [(round(seen * (n + 1)), one.get("validation_loss")) for n, one in enumerate(run["epochs"])]
    curves = {
        "training_curve": [(one["images_seen"], one["loss"]) for one in run["curve"]],
        "validation_curve": [pair for pair in validated if pair[1] is not None],
    }
    return {name: [(number, round(loss, 4)) for number, loss in pairs] for name, pairs in curves.items()}


def plan_table(plan: dict, steps: Path, done: Collection[str]) -> str:
    """Each model's trainings, their cost on one core as `studies/comparison_steps.py` measured it, and how many are
    done (`done` holds their names).
    """
    measured = read_mapping(steps, "JSON") if steps.exists() else {}
    rates, macs, parameters = (measured.get(name, {}) for name in ("jets_per_second", "macs", "parameters"))
    jets, rows, every = training_jets(plan), [], trainings(plan)
    hours = 0.0
    for model in plan["models"]:
        own = [one for one in every if one.model == model]
        minutes = jets / rates[model] / 60 if model in rates else None
        hours += 0.0 if minutes is None else minutes * len(own) / 60
        cells = ["–"] * 4
        if minutes is not None:
            cells = [f"{parameters[model] / 1e6:.2f}", f"{macs[model] / 1e6:.0f}"]
            cells += [f"{rates[model]:.0f}", f"{minutes:.0f}"]
        rows.append([model, *cells, str(len(own)), str(len({one.name for one in own} & {*done}))])
    title = ["", "parameters [M]", "MACs [M]", "jets per second", "minutes per training", "trainings", "done"]
    told = f"{jets / 1000:.0f} thousand jets per training."
    if {*networks(plan)} <= {*rates}:
        told += f" All trainings of networks together take {hours:.0f} hours of one core."
    return f"{markdown_table(title, rows)}\n\n{told}"


def _plan(results: Path) -> str:
    runs = read_runs(results / "comparison/validation.json")
    return plan_table(read_recipe(STUDY), results / "comparison/steps.json", runs)


TABLES = {"comparison plan": _plan}
