"""Tables of docs/tokens.md, from the results of `studies/tokens.py`."""

import json
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from e2evit.metrics import METRICS
from e2evit.results.predictions import BACKGROUND, read_predictions
from e2evit.results.record import Result
from e2evit.results.tables import markdown_table

__all__ = ["TABLES", "against_background", "summarise"]

AUC, RESOLUTION = "roc_auc_macro", "relative_resolution"


def against_background(path: Path) -> dict[str, float]:
    """ROC AUC of each heavy class against the background alone, the jets scored by p(class) / (p(class) + p(QCD))."""
    result = Result.from_json(path)
    jets = read_predictions({path: result})
    probabilities = jets.probabilities[result.name]
    areas = {}
    for number, name in enumerate(result.label_names):
        if number == BACKGROUND:
            continue
        chosen = np.isin(jets.labels, (BACKGROUND, number))
        ratio = probabilities[chosen, number] / probabilities[chosen][:, [BACKGROUND, number]].sum(1)
        areas[name] = float(roc_auc_score(jets.labels[chosen] == number, ratio))
    return areas


def summarise(plan: dict, results: Path) -> list[dict]:
    """One row for each training of the plan that has been measured.

    Args:
        results: Folder of `MODEL_seedSEED.json`.
    """
    runs = []
    for question, models in plan["models"].items():
        for name in models:
            for seed in plan["seeds"]:
                if not (path := results / f"{name}_seed{seed}.json").exists():
                    continue
                result = Result.from_json(path)
                runs.append(
                    {
                        "question": question,
                        "model": name,
                        "seed": seed,
                        "commit": result.commit,
                        "parameters": result.parameters,
                        "images_seen": result.training["images_seen"],
                        "seconds": result.training["seconds"],
                        "rows": result.data["validation"]["rows"],
                        "against_qcd": against_background(path),
                        "metrics": result.metrics["model"],
                    }
                )
    return runs


def _spread(values: list[float], form: str) -> str:
    deviation = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{deviation}"


def variants(results: Path) -> str:
    """All models of the plan: mean ± deviation over the seeds."""
    runs = json.loads((results / "tokens.json").read_text(encoding="utf-8"))["runs"]
    steps = json.loads((results / "token_steps.json").read_text(encoding="utf-8"))["steps"]
    rows, question = [], None
    for name in dict.fromkeys(run["model"] for run in runs):
        own = [run for run in runs if run["model"] == name]
        if own[0]["question"] != question:
            question = own[0]["question"]
            rows.append([f"*{question}*", *[""] * 9])
        areas = {key: [run["against_qcd"][key] for run in own] for key in own[0]["against_qcd"]}
        rows.append(
            [
                name.replace("_", " "),
                str(len(own)),
                f"{own[0]['parameters'] / 1e6:.2f}",
                f"{steps[name]['relative']:.2f}",
                _spread([run["metrics"][AUC] for run in own], METRICS[AUC].format),
                *(_spread(values, ".4f") for values in areas.values()),
                _spread([run["metrics"][RESOLUTION] for run in own], METRICS[RESOLUTION].format),
            ]
        )
    pairs = [f"{name} / QCD" for name in runs[0]["against_qcd"]]
    heads = ["", "seeds", "M parameters", "step", METRICS[AUC].title, *pairs, METRICS[RESOLUTION].title]
    return markdown_table(heads, rows)


TABLES = {"token variants": variants}
