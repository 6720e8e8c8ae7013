"""Tables of docs/detector-study.md, from the summaries of `studies/particles.py`."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from e2evit.metrics import METRICS
from e2evit.results.predictions import MODEL
from e2evit.results.record import Result
from e2evit.results.tables import markdown_table

__all__ = ["AUC", "RESOLUTION", "TABLES", "spread", "summarise"]

AUC, RESOLUTION = "roc_auc_macro", "relative_resolution"


def summarise(results: Path, samples: Iterable[str]) -> list[dict]:
    """One row for each training that was measured on all samples.

    Args:
        results: Folder of `SAMPLE/MODEL_TRAINING_EPOCHS_seedSEED.json`.
    """
    folders = [results / sample for sample in samples]
    runs = []
    for path in sorted(folders[0].glob("*_seed*.json")):
        if not all((folder / path.name).exists() for folder in folders):
            continue
        model, rest = path.stem.split("_", 1)
        training, epochs, seed = rest.rsplit("_", 2)
        measured = {folder.name: Result.from_json(folder / path.name) for folder in folders}
        any_result = next(iter(measured.values()))
        runs.append(
            {
                "model": model,
                "training": training,
                "epochs": int(epochs),
                "seed": int(seed.removeprefix("seed")),
                "commit": any_result.commit,
                "parameters": any_result.parameters,
                "images_seen": any_result.training["images_seen"],
                "seconds": any_result.training["seconds"],
                "train_rows": any_result.data["train"]["rows"],
                "test_rows": any_result.data["test"]["rows"],
                "metrics": {sample: result.metrics[MODEL] for sample, result in measured.items()},
            }
        )
    return runs


def _read(results: Path, plan: str) -> dict:
    return json.loads((results / f"particles_{plan}.json").read_text(encoding="utf-8"))


def _of(runs: Sequence[dict], **wanted) -> list[dict]:
    return [run for run in runs if all(run[name] == value for name, value in wanted.items())]


def _values(runs: Sequence[dict], sample: str, key: str) -> np.ndarray:
    return np.array([run["metrics"][sample][key] for run in runs])


def spread(values: np.ndarray, form: str) -> str:
    """Mean ± deviation over trainings, a dash for none."""
    if len(values) == 0:
        return "–"
    deviation = f" ± {values.std(ddof=1):{form}}" if len(values) > 1 else ""
    return f"{values.mean():{form}}{deviation}"


def _jets(summary: dict) -> str:
    """Raises `ValueError` if the trainings differ in their jets."""
    sizes = {(run["train_rows"], run["test_rows"]) for run in summary["runs"]}
    if len(sizes) > 1:
        raise ValueError(f"Trainings on other numbers of jets, in one table: {sorted(sizes)}.")
    train, test = (f"{number:,}".replace(",", " ") for number in sizes.pop())
    return f"{train} training and {test} test jets"


def _names(runs: Sequence[dict], name: str) -> list:
    return list(dict.fromkeys(run[name] for run in runs))


def fresh(results: Path) -> str:
    """What a new response in every epoch buys: mean ± deviation over the seeds."""
    summary = _read(results, "fresh")
    runs, rows = summary["runs"], []
    for model in _names(runs, "model"):
        for epochs in sorted(_names(runs, "epochs")):
            for training, title in FRESH.items():
                chosen = _of(runs, model=model, epochs=epochs, training=training)
                if not chosen:
                    continue
                aucs = [_values(chosen, sample, AUC) for sample in ("pileup_21", "pileup_60")]
                cells = [*(spread(auc, METRICS[AUC].format) for auc in aucs), spread(aucs[0] - aucs[1], ".4f")]
                cells += [
                    spread(_values(chosen, sample, RESOLUTION), METRICS[RESOLUTION].format)
                    for sample in ("pileup_21", "pileup_60")
                ]
                rows.append([model, str(epochs), title, str(len(chosen)), *cells])
    heads = ["", "epochs", "trained on", "seeds", "mean AUC at 21", "at 60", "drop", "mass resolution at 21", "at 60"]
    return f"{_jets(summary)}:\n\n{markdown_table(heads, rows)}"


def detectors(results: Path) -> str:
    """Trained and tested with and without the effects: mean ± deviation over the seeds."""
    summary = _read(results, "detectors")
    runs, tables = summary["runs"], []
    cases = [(training, sample) for training in DETECTORS for sample in DETECTORS]
    for key in (AUC, RESOLUTION):
        rows = []
        for model in _names(runs, "model"):
            cells = [
                spread(_values(_of(runs, model=model, training=training), sample, key), METRICS[key].format)
                for training, sample in cases
            ]
            numbers = [str(len(_of(runs, model=model, training=training))) for training in DETECTORS]
            rows.append([model, " / ".join(numbers), *cells])
        heads = [f"{DETECTORS[training]} → {DETECTORS[sample]}" for training, sample in cases]
        seeds = f"seeds, {' / '.join(DETECTORS.values())}"
        tables.append(markdown_table([METRICS[key].title, seeds, *heads], rows))
    return "\n\n".join([f"{_jets(summary)}; trained → tested:", *tables, *_order(runs)])


def _order(runs: Sequence[dict]) -> list[str]:
    """The models with several trainings on both, by mean AUC on the same detector; nothing for fewer than two."""
    models = [
        name
        for name in _names(runs, "model")
        if all(len(_of(runs, model=name, training=detector)) > 1 for detector in DETECTORS)
    ]
    if len(models) < 2:
        return []
    lines = []
    for detector, title in DETECTORS.items():
        means = {model: _values(_of(runs, model=model, training=detector), detector, AUC).mean() for model in models}
        order = ", ".join(sorted(means, key=lambda model: -means[model]))
        lines.append(f"* {title}: {order}")
    return ["\n".join(["Models by mean AUC, trained and tested on the same detector:", "", *lines])]


FRESH = {
    "fixed": "fixed images, pile-up 21",
    "fresh": "fresh images, pile-up 21",
    "fresh_range": "fresh images, pile-up 0–60",
}
DETECTORS = {"without_effects": "simple", "with_effects": "full"}
TABLES = {"fresh": fresh, "detectors": detectors}
