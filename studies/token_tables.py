"""Tables of docs/tokens.md, from the results of `studies/tokens.py` and of trainings of full length."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from particle_tables import AUC, RESOLUTION, spread
from sklearn.metrics import roc_auc_score

from e2evit.metrics import METRICS, discriminant
from e2evit.results.predictions import BACKGROUND, MODEL, read_predictions
from e2evit.results.record import Result, read_results
from e2evit.results.tables import interval_cell, markdown_table

__all__ = ["TABLES", "against_background", "summarise", "variants"]


def against_background(path: Path) -> dict[str, float]:
    """ROC AUC of each heavy class against the background alone, the jets scored by p(class) / (p(class) + p(QCD))."""
    result = Result.from_json(path)
    jets = read_predictions({path: result})
    probabilities = jets.probabilities[result.name].astype(float)
    areas = {}
    for number, name in enumerate(result.label_names):
        if number != BACKGROUND:
            chosen = np.isin(jets.labels, (BACKGROUND, number))
            scores = discriminant(probabilities[chosen], number, BACKGROUND)
            areas[name] = float(roc_auc_score(jets.labels[chosen] == number, scores))
    return areas


def summarise(plan: dict, results: Path, earlier: Sequence[dict] = ()) -> list[dict]:
    """One row for each training of the plan that has been measured, and the earlier ones.

    Args:
        results: Folder of `MODEL_seedSEED.json`.
        earlier: Rows of trainings whose results may no longer be there, in the plan or not.

    Raises:
        ValueError: as [`read_results`], or if validation jets were not measured.
    """
    planned = [
        (question, name, seed, path)
        for question, models in plan["models"].items()
        for name in models
        for seed in plan["seeds"]
        if (path := results / f"{name}_seed{seed}.json").exists()
    ]
    rows = {(run["model"], run["seed"]): run for run in earlier}
    rows |= {
        (name, seed): {
            "question": question,
            "model": name,
            "seed": seed,
            "commit": result.commit,
            "parameters": result.parameters,
            "images_seen": result.training["images_seen"],
            "rows": result.data["validation"]["rows"],
            "pileup": result.pileup,
            "without": result.without,
            "against_qcd": against_background(path),
            "metrics": result.metrics[MODEL],
        }
        for (question, name, seed, path), result in zip(planned, _of_validation([row[-1] for row in planned]))
    }
    order = [(name, seed) for models in plan["models"].values() for name in models for seed in plan["seeds"]]
    return [rows[key] for key in dict.fromkeys([*order, *rows]) if key in rows]


def _of_validation(paths: list[Path]) -> list[Result]:
    results = read_results(paths) if paths else []
    if other := [path for path, result in zip(paths, results) if result.split != "validation"]:
        raise ValueError(f"{other[0]} was not measured on validation jets.")
    return results


def variants(results: Path) -> str:
    """All models of the plan: mean ± deviation over the seeds.

    Raises:
        ValueError: if a training is not as long as the time of its steps says.
    """
    runs = json.loads((results / "tokens.json").read_text(encoding="utf-8"))["runs"]
    steps = json.loads((results / "token_steps.json").read_text(encoding="utf-8"))["steps"]
    times = np.array([run["images_seen"] * steps[run["model"]]["relative"] for run in runs])
    if np.ptp(times) > 0.02 * times.min():
        name = runs[int(np.abs(times - np.median(times)).argmax())]["model"]
        raise ValueError(
            f"The training of {name} in tokens.json does not fit token_steps.json: run one of them again."
        )
    pairs = [f"{name} / QCD" for name in runs[0]["against_qcd"]]
    heads = ["", "seeds", "M parameters", "step", METRICS[AUC].title, *pairs, METRICS[RESOLUTION].title]
    rows, question = [], None
    for name in dict.fromkeys(run["model"] for run in runs):
        own = [run for run in runs if run["model"] == name]
        if own[0]["question"] != question:
            question = own[0]["question"]
            rows.append([f"*{question}*", *[""] * (len(heads) - 1)])
        areas = np.array([[*run["against_qcd"].values()] for run in own]).T
        rows.append(
            [
                name.replace("_", " "),
                str(len(own)),
                f"{own[0]['parameters'] / 1e6:.2f}",
                f"{steps[name]['relative']:.2f}",
                spread(np.array([run["metrics"][AUC] for run in own]), METRICS[AUC].format),
                *(spread(values, METRICS[AUC].format) for values in areas),
                spread(np.array([run["metrics"][RESOLUTION] for run in own]), METRICS[RESOLUTION].format),
            ]
        )
    return markdown_table(heads, rows)


def beside_xcit(results: Path) -> str:
    """Trainings of full length; `hitvit/pileup60` holds the same ones, measured on images of more pile-up.

    Raises:
        ValueError: as [`full_length`].
    """
    return full_length(results / "hitvit", results / "hitvit/pileup60")


def without_effects(results: Path) -> str:
    """The same with a detector without effects.

    Raises:
        ValueError: as [`full_length`].
    """
    return full_length(results / "hitvit/without_effects")


def full_length(folder: Path, of_more_pileup: Path | None = None) -> str:
    """Trainings of full length, each a row, and mean ± deviation of each model with several.

    Args:
        of_more_pileup: Folder of the same trainings, measured on images of more pile-up, for further columns.

    Raises:
        ValueError: as [`read_results`], or if there are none, or validation jets were not measured.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ValueError(f"There are no results in {folder}.")
    found = _of_validation(paths)
    of_more = _of_validation([of_more_pileup / path.name for path in paths]) if of_more_pileup else []
    areas = [against_background(path) for path in paths]
    pairs = [f"{name} / QCD" for name in areas[0]]
    forms = [METRICS[AUC].format] * (1 + len(pairs)) + [METRICS[key].format for key in (RESOLUTION, AUC, RESOLUTION)]
    values = [
        [result.metrics[MODEL][AUC], *area.values(), result.metrics[MODEL][RESOLUTION]]
        for result, area in zip(found, areas)
    ]
    for row, at_60 in zip(values, of_more):
        row += [at_60.metrics[MODEL][key] for key in (AUC, RESOLUTION)]
    rows = []
    for model in dict.fromkeys(result.model for result in found):
        own = [number for number, result in enumerate(found) if result.model == model]
        for number in own:
            cells = [f"{value:{form}}" for value, form in zip(values[number], forms)]
            for place, key in ((0, AUC), (len(pairs) + 1, RESOLUTION)):
                cells[place] = interval_cell(found[number].metric(key), METRICS[key].format)
            rows.append([f"{model}, seed {found[number].seed}", f"{found[number].parameters / 1e6:.2f}", *cells])
        if len(own) > 1:
            means = [spread(of_metric, form) for of_metric, form in zip(np.array([values[i] for i in own]).T, forms)]
            rows.append([f"**{model}, mean**", "", *means])
    heads = ["", "M parameters", METRICS[AUC].title, *pairs, METRICS[RESOLUTION].title]
    heads += ["mean AUC at pile-up 60", "resolution at pile-up 60"] if of_more else []
    return markdown_table(heads, rows)


TABLES = {"hitvit": beside_xcit, "hitvit without effects": without_effects, "token variants": variants}
