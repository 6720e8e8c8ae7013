"""docs/pretraining.md from the results of `studies/pretraining.py`."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import stats

from e2evit.results.tables import insert, markdown_table

__all__ = ["name_of", "render_pretraining", "summarise"]

STARTS = {"finetune": "pre-trained", "scratch": "from scratch"}
_QUALITY = (
    ("mean AUC", "roc_auc_macro", ".4f"),
    ("accuracy", "accuracy", ".3f"),
    ("MAE [GeV]", "mae_gev", ".1f"),
    ("resolution", "relative_resolution", ".3f"),
)


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
            info = json.loads(path.read_text())
            summary["seeds"].append(seed)
            summary["pretraining"].append({name: info[name] for name in ("images_seen", "seconds", "best_loss")})
    for share in study["labels"]:
        paths = {
            seed: [results / f"{name_of(start, share, seed)}.json" for start in STARTS] for seed in summary["seeds"]
        }
        done = [seed for seed, both in paths.items() if all(path.exists() for path in both)]
        if not done:
            continue
        pairs = zip(*([json.loads(path.read_text()) for path in paths[seed]] for seed in done))
        records = dict(zip(STARTS, map(list, pairs)))
        entry: dict = {"seeds": done}
        for start, found in records.items():
            entry[start] = {"training": [record["training"] for record in found]}
            entry[start] |= {
                key: _over_seeds([record["metrics"]["model"][key] for record in found]) for _, key, _ in _QUALITY
            }
        entry["difference"] = {
            key: _over_seeds(np.subtract(entry["finetune"][key]["values"], entry["scratch"][key]["values"]))
            for _, key, _ in _QUALITY
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


def render_pretraining(text: str, results: Path) -> str:
    """`text` (docs/pretraining.md) with its table and findings written anew from `results` (results/pretraining)."""
    summary = json.loads((results / "summary.json").read_text())
    return insert(insert(text, "outcome", _table(summary)), "findings", _findings(summary))


def _table(summary: Mapping) -> str:
    rows, before = [], np.mean([run["seconds"] for run in summary["pretraining"]])
    for share, entry in summary["labels"].items():
        for start, title in (*STARTS.items(), ("difference", "difference")):
            found, minutes = entry[start], "–"
            if start in STARTS:
                seconds = np.mean([run["seconds"] for run in found["training"]])
                minutes = f"{(seconds + before * (start == 'finetune')) / 60:.0f}"
            cells = [_cell(found[key], form, start == "difference") for _, key, form in _QUALITY]
            about = [share, f"{len(entry['seeds'])}"] if start == "finetune" else ["", ""]
            rows.append([*about, title, minutes, *cells])
    return markdown_table(["labels", "seeds", "", "minutes, all in all", *(title for title, _, _ in _QUALITY)], rows)


def _cell(found: Mapping, form: str, signed: bool) -> str:
    half = "" if found["half_interval"] is None else f" ± {found['half_interval']:{form}}"
    return f"{found['mean']:{'+' if signed else ''}{form}}{half}"


def _findings(summary: Mapping) -> str:
    """What the intervals allow to say, share by share."""
    lines = []
    for share, entry in summary["labels"].items():
        said = []
        for title, key, _ in _QUALITY:
            found, sign = entry["difference"][key], 1 if key in ("roc_auc_macro", "accuracy") else -1
            clear = found["half_interval"] is not None and abs(found["mean"]) > found["half_interval"]
            verdict = ("better" if sign * found["mean"] > 0 else "worse") if clear else "no clear difference"
            said.append(f"{title} {verdict}")
        lines.append(f"* with {share} of the labels, pre-training: {', '.join(said)}")
    minutes = np.mean([run["seconds"] for run in summary["pretraining"]]) / 60
    images = summary["pretraining"][0]["images_seen"]
    first = f"{len(summary['seeds'])} seeds; pre-training on {images} images took {minutes:.0f} minutes each."
    return "\n".join([first, *lines])
