"""Tables of docs/events.md, from the results of `studies/events.py`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from particle_tables import AUC, RESOLUTION, spread

from e2evit.metrics import METRICS
from e2evit.results.predictions import MODEL
from e2evit.results.record import read_results
from e2evit.results.tables import markdown_table

__all__ = ["MODELS", "TABLES", "events", "transplants"]

MODELS = ("queries", "windows")
_CHANGE = "mean_change_of_score"


def _shown(metrics: Mapping[str, float]) -> list[str]:
    return [AUC if AUC in metrics else "roc_auc", "accuracy", RESOLUTION]  # with two classes there is one area


def _cells(measured: Sequence[Mapping[str, float]]) -> list[str]:
    keys = _shown(measured[0])
    return [spread(np.array([metrics[key] for metrics in measured]), METRICS[key].format) for key in keys]


def events(results: Path) -> str:
    """The model of whole events beside the one of single jets: mean ± deviation over the seeds.

    Raises:
        ValueError: as [`read_results`], or if there are none.
    """
    paths = sorted(path for kind in MODELS for path in (results / "events").glob(f"{kind}_seed*.json"))
    if not paths:
        raise ValueError(f"There are no results in {results / 'events'}.")
    found = read_results(paths)
    rows = []
    for kind in MODELS:
        if not (own := [result for result in found if result.model == kind]):
            continue
        minutes = spread(np.array([result.training["seconds"] / 60 for result in own]), ".0f")
        cells = _cells([result.metrics[MODEL] for result in own])
        rows.append([kind, str(len(own)), f"{own[0].parameters / 1e6:.2f}", minutes, *cells])
    titles = [METRICS[key].title for key in _shown(found[0].metrics[MODEL])]
    heads = ["", "seeds", "M parameters", "minutes of training", *titles]
    jets = found[0].data
    sizes = f"{jets['train']['rows']} training jets, {jets['test']['rows']} test jets."
    return f"{markdown_table(heads, rows)}\n\n{sizes}"


def transplants(results: Path) -> str:
    """The model of whole events on its test jets in the surroundings of other events: mean ± deviation over the seeds.

    Raises:
        ValueError: if there are no results.
    """
    paths = sorted((results / "events").glob("transplants_seed*.json"))
    if not paths:
        raise ValueError(f"There are no results of transplants in {results / 'events'}.")
    runs = [json.loads(path.read_text(encoding="utf-8"))["conditions"] for path in paths]
    rows = []
    for condition in runs[0]:
        measured = [run[condition] for run in runs]
        change = spread(np.array([metrics[_CHANGE] for metrics in measured]), ".3f")
        rows.append([condition, str(len(runs)), *_cells(measured), change])
    titles = [METRICS[key].title for key in _shown(measured[0])]
    return markdown_table(["", "seeds", *titles, "mean change of the score"], rows)


TABLES = {"events": events, "transplants": transplants}
