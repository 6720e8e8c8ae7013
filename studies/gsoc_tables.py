"""Tables and findings of docs/gsoc.md, from `studies/gsoc.py`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from e2evit.data.texts import read_mapping
from e2evit.metrics import METRICS
from e2evit.results.record import Interval, Result
from e2evit.results.tables import interval_cell, markdown_table

__all__ = ["TABLES", "Training", "summarise", "trainings"]

QUALITY = ("roc_auc", "accuracy", "mae_gev", "relative_resolution")
TITLES = {"scratch": "from scratch", "scratch_pt": "from scratch, with pT", "masked": "masked pre-training"}
TITLES |= {"contrastive": "contrastive pre-training"}
REFERENCE = "scratch"


@dataclass(frozen=True)
class Training:
    """One training on labels.

    Args:
        start: Its name in the plan.
        pretraining: What it starts from, if not from new weights.
        settings: Those that it has besides its recipe.
    """

    model: str
    start: str
    fold: int
    pretraining: str | None = None
    settings: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.model}_{self.start}_fold{self.fold}"


def trainings(plan: Mapping) -> list[Training]:
    """All of a plan: each start of each model on its first fold, then on the second, and so on."""
    found = [
        (place, Training(model, start, fold, how.get("pretraining"), how.get("settings", {})))
        for start, how in plan["starts"].items()
        for place, fold in enumerate(how["folds"])
        for model in plan["models"]
    ]
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def summarise(plan: Mapping, folder: Path) -> dict:
    """`runs` and `pretraining`: what was measured, and how the loss began and ended; empty if nothing was."""
    runs, before = [], []
    for one in trainings(plan):
        if (path := folder / f"results/{one.name}.json").exists():
            result = Result.from_json(path)
            entry = {"name": one.name, "model": one.model, "start": one.start, "fold": one.fold}
            entry |= {name: getattr(result, name) for name in ("date", "commit", "parameters", "training")}
            entry["jets"] = result.data
            for predictor, found in {"": "model", "constant_": "constant"}.items():
                entry |= {f"{predictor}{key}": result.metric(key, found) for key in QUALITY}
            runs.append(entry | _losses(folder / one.name, "classification_loss"))
    for model in plan["models"]:
        for objective in plan["pretraining"]:
            if (folder / f"{model}_{objective}/run_info.json").exists():
                entry = {"model": model, "objective": objective}
                before.append(entry | _losses(folder / f"{model}_{objective}", "loss"))
    return {"runs": runs, "pretraining": before} if runs else {}


def _losses(checkpoint: Path, name: str) -> dict:
    """A loss in the first steps (in a short run, the first epoch) and over the last epoch."""
    info = read_mapping(checkpoint / "run_info.json", "JSON")
    last = {key: value for key, value in info["epochs"][-1].items() if not key.startswith("validation")}
    parts = {
        "first_loss": (info["curve"] or info["epochs"])[0][name],
        "last_loss": last[name],
        "seconds": info["seconds"],
    }
    return parts | {"images_seen": info["images_seen"]} | {k: last[k] for k in ("retrieval_accuracy",) if k in last}


def _read(results: Path) -> dict:
    return read_mapping(results / "gsoc.json", "JSON")


def outcome(results: Path) -> str:
    """Each start of each model: mean and standard deviation over folds, or the interval over jets of a single one."""
    summary, rows = _read(results), []
    for model, start in _starts(summary):
        runs = [run for run in summary["runs"] if (run["model"], run["start"]) == (model, start)]
        cells = [_over_folds([run[key] for run in runs], METRICS[key].format) for key in QUALITY]
        minutes = np.mean([run["seconds"] for run in runs]) / 60
        rows.append([model, TITLES.get(start, start), str(len(runs)), f"{minutes:.0f}", *cells])
    each_fold = {run["fold"]: run for run in summary["runs"]}.values()
    constant = [_over_folds([run[f"constant_{key}"] for run in each_fold], METRICS[key].format) for key in QUALITY]
    rows.append(["constant", "", "", "", *constant])
    return markdown_table(["", "", "folds", "minutes", *(METRICS[key].heading for key in QUALITY)], rows)


def differences(results: Path) -> str:
    """What each start changes against new weights, on the same folds."""
    summary, rows = _read(results), []
    by_place = {(run["model"], run["start"], run["fold"]): run for run in summary["runs"]}
    for model, start in _starts(summary):
        folds = [fold for own, how, fold in by_place if (own, how) == (model, start)]
        folds = [fold for fold in folds if start != REFERENCE and (model, REFERENCE, fold) in by_place]
        if folds:
            pairs = [(by_place[model, start, fold], by_place[model, REFERENCE, fold]) for fold in folds]
            cells = []
            for key in QUALITY:
                changes = [[own[key][0] - reference[key][0], math.nan, math.nan] for own, reference in pairs]
                cells.append(_over_folds(changes, f"+{METRICS[key].format}"))
            rows.append([model, TITLES.get(start, start), str(len(folds)), *cells])
    return markdown_table(["", "", "folds", *(METRICS[key].heading for key in QUALITY)], rows)


def starts(results: Path) -> str:
    """Each training: its classification loss in the first steps and over the last epoch, and its AUC."""
    summary = _read(results)
    rows = [
        [
            run["model"],
            TITLES.get(run["start"], run["start"]),
            str(run["fold"]),
            f"{run['first_loss']:.3f} → {run['last_loss']:.3f}",
            interval_cell(Interval(*run["roc_auc"]), METRICS["roc_auc"].format),
        ]
        for run in summary["runs"]
    ]
    heads = ["", "", "test fold", "classification loss, first steps → last epoch", METRICS["roc_auc"].heading]
    return markdown_table(heads, rows)


def standstill(results: Path) -> str:
    """How many trainings of the plan ended, and how many learned."""
    summary = _read(results)
    runs, planned = summary["runs"], len(trainings(summary["plan"]))
    finite = [run for run in runs if math.isfinite(run["last_loss"])]
    learned = [run for run in finite if run["roc_auc"][1] > 0.5 and run["last_loss"] < run["first_loss"]]
    worst = min(runs, key=lambda run: run["roc_auc"][1])
    return (
        f"Of {planned} trainings in the plan, {len(finite)} came to their end with finite losses, and {len(learned)} "
        "learned: the loss fell, and the interval of the AUC lies above 0.5. The lowest AUC is "
        f"{interval_cell(Interval(*worst['roc_auc']), '.3f')}, of {worst['name']}."
    )


def pretraining(results: Path) -> str:
    """Each pre-training: its loss in the first steps and over the last epoch."""
    rows = [
        [
            run["model"],
            run["objective"],
            str(run["images_seen"]),
            f"{run['seconds'] / 60:.0f}",
            f"{run['first_loss']:.3f} → {run['last_loss']:.3f}",
            f"{run['retrieval_accuracy']:.0%}" if "retrieval_accuracy" in run else "–",
        ]
        for run in _read(results)["pretraining"]
    ]
    heads = ["", "objective", "images seen", "minutes", "loss, first steps → last epoch", "other view found"]
    return markdown_table(heads, rows)


def _starts(summary: Mapping) -> list[tuple[str, str]]:
    """Models and starts, model by model."""
    found = dict.fromkeys((run["model"], run["start"]) for run in summary["runs"])
    models = list(dict.fromkeys(model for model, _ in found))
    return sorted(found, key=lambda pair: models.index(pair[0]))


def _over_folds(measured: list[list[float] | None], form: str) -> str:
    """Mean and standard deviation over folds; of a single one the value and its interval."""
    known = [values for values in measured if values is not None]
    if not known:
        return "–"
    plain = form.removeprefix("+")
    if len(known) == 1:
        return interval_cell(Interval(*known[0]), form)
    values = np.array(known, dtype=float)[:, 0]
    return f"{values.mean():{form}} ± {values.std(ddof=1):{plain}}"


TABLES = {
    "gsoc outcome": outcome,
    "gsoc differences": differences,
    "gsoc starts": starts,
    "gsoc standstill": standstill,
    "gsoc pretraining": pretraining,
}
