"""Tables and findings of docs/pretraining.md, from `studies/pretraining.py` and `benchmarks/masked_steps.py`."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import stats

from e2evit.metrics import METRICS
from e2evit.results.record import Result
from e2evit.results.tables import markdown_table

__all__ = ["SCRATCH", "TABLES", "name_of", "summarise"]

SCRATCH = "scratch"
WAYS = {"finetune": "", "finetune_truth": " with truth"}  # of pre-training, as plans and results name them
QUALITY = ("roc_auc_macro", "accuracy", "mae_gev", "relative_resolution")


def name_of(start: str, share: str, seed: int) -> str:
    """Of a run and its results."""
    return f"{start}_{share.removesuffix(' %')}_percent_seed{seed}"


def summarise(study: Mapping, results: Path, runs: Path) -> dict:
    """For each share of labels, values, means and 95 % intervals (Student's t) over the seeds that have all results.

    Differences are pre-trained minus from scratch, by seed: both had the same labels.

    Args:
        study: The settings.
        results: Folder of `NAME.json`.
        runs: Folder of the checkpoints, for what pre-training took.
    """
    starts = [*study["pretraining"], SCRATCH]
    summary: dict = {"seeds": [], "pretraining": {start: [] for start in study["pretraining"]}, "labels": {}}
    for seed in study["seeds"]:
        paths = {start: runs / f"pretrained_{start}_seed{seed}/run_info.json" for start in study["pretraining"]}
        if all(path.exists() for path in paths.values()):
            summary["seeds"].append(seed)
            for start, path in paths.items():
                info = json.loads(path.read_text(encoding="utf-8"))
                part = {name: info[name] for name in ("images_seen", "seconds", "best_loss")}
                summary["pretraining"][start].append(part)
    for share in study["labels"]:
        paths = {
            seed: [results / f"{name_of(start, share, seed)}.json" for start in starts] for seed in summary["seeds"]
        }
        done = [seed for seed, own in paths.items() if all(path.exists() for path in own)]
        if not done:
            continue
        of_seeds = zip(*([Result.from_json(path) for path in paths[seed]] for seed in done))
        measured = dict(zip(starts, map(list, of_seeds)))
        entry: dict = {"seeds": done}
        for start, trainings in measured.items():
            entry[start] = {"training": [result.training for result in trainings]}
            entry[start] |= {key: _over_seeds([result.metric(key).value for result in trainings]) for key in QUALITY}
        entry["difference"] = {
            start: {
                key: _over_seeds(np.subtract(entry[start][key]["values"], entry[SCRATCH][key]["values"]))
                for key in QUALITY
            }
            for start in study["pretraining"]
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
    """Quality by share of labels: pre-trained in each way, from scratch, and the differences."""
    summary, rows = _summary(results), []
    before = {start: np.mean([run["seconds"] for run in runs]) for start, runs in summary["pretraining"].items()}
    for share, entry in summary["labels"].items():
        lines = []
        for start in (*before, SCRATCH):
            seconds = np.mean([run["seconds"] for run in entry[start]["training"]]) + before.get(start, 0)
            cells = [_cell(entry[start][key], METRICS[key].format, False) for key in QUALITY]
            lines.append([_named("pre-trained", start), f"{seconds / 60:.0f}", *cells])
        for start, difference in entry["difference"].items():
            cells = [_cell(difference[key], METRICS[key].format, True) for key in QUALITY]
            lines.append([_named("difference", start), "–", *cells])
        rows += [[share, str(len(entry["seeds"])), *lines[0]], *(["", "", *line] for line in lines[1:])]
    return markdown_table(["labels", "seeds", "", "total minutes", *(METRICS[key].heading for key in QUALITY)], rows)


def _named(what: str, start: str) -> str:
    return "from scratch" if start == SCRATCH else what + WAYS[start]


def _cell(metric: Mapping, form: str, signed: bool) -> str:
    half = "" if metric["half_interval"] is None else f" ± {metric['half_interval']:{form}}"
    return f"{metric['mean']:{'+' if signed else ''}{form}}{half}"


def findings(results: Path) -> str:
    """What the intervals support, share by share."""
    summary, lines = _summary(results), []
    for share, entry in summary["labels"].items():
        for start, difference in entry["difference"].items():
            verdicts = []
            for key in QUALITY:
                mean, half = (difference[key][name] for name in ("mean", "half_interval"))
                is_better = (mean > 0) == METRICS[key].higher_is_better
                is_clear = half is not None and abs(mean) > half
                verdict = ("better" if is_better else "worse") if is_clear else "no clear difference"
                verdicts.append(f"{METRICS[key].title} {verdict}")
            lines.append(f"* with {share} of the labels, {_named('pre-training', start)}: {', '.join(verdicts)}")
    took = []
    for start, runs in summary["pretraining"].items():
        minutes = np.mean([run["seconds"] for run in runs]) / 60
        took.append(
            f"{_named('pre-training', start)} on {runs[0]['images_seen']} images took {minutes:.0f} minutes each"
        )
    return "\n".join([f"{len(summary['seeds'])} seeds; {', '.join(took)}.", "", *lines])


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


TABLES = {
    "pretraining outcome": outcome,
    "pretraining findings": findings,
    "masked steps": masked_steps,
}
