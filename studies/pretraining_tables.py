"""Tables and findings of docs/pretraining.md, from `studies/pretraining.py` and `benchmarks/masked_steps.py`."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import stats

from e2evit.metrics import METRICS
from e2evit.results.record import Result
from e2evit.results.tables import markdown_table

__all__ = ["TABLES", "name_of", "summarise"]

STARTS = {"finetune": "pre-trained", "scratch": "from scratch"}
QUALITY = ("roc_auc_macro", "accuracy", "mae_gev", "relative_resolution")


def name_of(start: str, share: str, seed: int) -> str:
    """Of a run and its results."""
    return f"{start}_{share.removesuffix(' %')}_percent_seed{seed}"


def summarise(study: Mapping, results: Path, runs: Path) -> dict:
    """For each share of labels, values, means and 95 % intervals (Student's t) over the seeds that have both results.

    Differences are pre-trained minus from scratch, by seed: both had the same labels.

    Args:
        study: The settings.
        results: Folder of `NAME.json`.
        runs: Folder of the checkpoints, for what pre-training took.
    """
    summary: dict = {"seeds": [], "pretraining": [], "labels": {}}
    for seed in study["seeds"]:
        path = runs / f"pretrained_seed{seed}/run_info.json"
        if path.exists():
            info = json.loads(path.read_text(encoding="utf-8"))
            summary["seeds"].append(seed)
            summary["pretraining"].append({name: info[name] for name in ("images_seen", "seconds", "best_loss")})
    for share in study["labels"]:
        paths = {
            seed: [results / f"{name_of(start, share, seed)}.json" for start in STARTS] for seed in summary["seeds"]
        }
        done = [seed for seed, both in paths.items() if all(path.exists() for path in both)]
        if not done:
            continue
        pairs = zip(*([Result.from_json(path) for path in paths[seed]] for seed in done))
        measured = dict(zip(STARTS, map(list, pairs)))
        entry: dict = {"seeds": done}
        for start, trainings in measured.items():
            entry[start] = {"training": [result.training for result in trainings]}
            entry[start] |= {key: _over_seeds([result.metric(key).value for result in trainings]) for key in QUALITY}
        entry["difference"] = {
            key: _over_seeds(np.subtract(entry["finetune"][key]["values"], entry["scratch"][key]["values"]))
            for key in QUALITY
        }
        summary["labels"][share] = entry
    return summary


def _over_seeds(values) -> dict:
    """Mean and half of its 95 % interval, `None` for a single seed."""
    values = np.asarray(values, dtype=float)
    half = None
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return {"values": values.tolist(), "mean": float(values.mean()), "half_interval": half}


def _summary(results: Path) -> dict:
    return json.loads((results / "pretraining/summary.json").read_text(encoding="utf-8"))


def outcome(results: Path) -> str:
    """Quality by share of labels: pre-trained, from scratch, and the difference."""
    summary, rows = _summary(results), []
    before = np.mean([run["seconds"] for run in summary["pretraining"]])
    for share, entry in summary["labels"].items():
        for start, title in (*STARTS.items(), ("difference", "difference")):
            measured, minutes = entry[start], "–"
            if start in STARTS:
                seconds = np.mean([run["seconds"] for run in measured["training"]])
                minutes = f"{(seconds + before * (start == 'finetune')) / 60:.0f}"
            cells = [_cell(measured[key], METRICS[key].format, start == "difference") for key in QUALITY]
            about = [share, f"{len(entry['seeds'])}"] if start == "finetune" else ["", ""]
            rows.append([*about, title, minutes, *cells])
    return markdown_table(["labels", "seeds", "", "total minutes", *(METRICS[key].heading for key in QUALITY)], rows)


def _cell(metric: Mapping, form: str, signed: bool) -> str:
    half = "" if metric["half_interval"] is None else f" ± {metric['half_interval']:{form}}"
    return f"{metric['mean']:{'+' if signed else ''}{form}}{half}"


def findings(results: Path) -> str:
    """What the intervals support, share by share."""
    summary, lines = _summary(results), []
    for share, entry in summary["labels"].items():
        verdicts = []
        for key in QUALITY:
            mean, half = (entry["difference"][key][name] for name in ("mean", "half_interval"))
            is_better = (mean > 0) == METRICS[key].higher_is_better
            is_clear = half is not None and abs(mean) > half
            verdict = ("better" if is_better else "worse") if is_clear else "no clear difference"
            verdicts.append(f"{METRICS[key].title} {verdict}")
        lines.append(f"* with {share} of the labels, pre-training: {', '.join(verdicts)}")
    minutes = np.mean([run["seconds"] for run in summary["pretraining"]]) / 60
    images = summary["pretraining"][0]["images_seen"]
    first = f"{len(summary['seeds'])} seeds; pre-training on {images} images took {minutes:.0f} minutes each."
    return "\n".join([first, "", *lines])


def masked_steps(results: Path) -> str:
    """CPU time of HitViT's pre-training steps."""
    measured = json.loads((results / "masked_steps.json").read_text(encoding="utf-8"))
    precisions = ("float32", "bfloat16")
    rows = [
        [name, *(cell for precision in precisions for cell in _step_cells(measured[precision][name]))]
        for name in measured["float32"]
    ]
    heads = [head for precision in precisions for head in (f"{precision} [ms per jet]", "of the full model's")]
    note = f"{measured['jets']} jets of {measured['tokens_per_jet']:.0f} tokens, eager, CPU time of one thread"
    return f"{markdown_table(['', *heads], rows)}\n\n{note} (`python benchmarks/masked_steps.py`)."


def _step_cells(step: Mapping[str, float]) -> tuple[str, str]:
    return f"{step['ms_per_jet']:.1f}", f"{step['of_full']:.2f}"


TABLES = {"pretraining outcome": outcome, "pretraining findings": findings, "masked steps": masked_steps}
