"""What `studies/small.py` prints of its plans."""

from pathlib import Path

from comparison_scores import NOT_YET, score_table

from e2evit.results.predictions import MODEL
from e2evit.results.record import by_model, read_results

__all__ = ["TABLES", "scalars"]

MASSES = {
    "corrected_resolution": ("resolution", ".4f"),
    "response": ("median response", ".3f"),
    "tail_share": ("tails", ".3f"),
    "coverage_68": ("coverage", ".3f"),
}
BASELINE = "image mass"


def scalars(results: Path) -> str:
    """One table for each decay: the models, and the invariant mass of the image."""
    paths = sorted((results / "scalars").glob("*_seed*.json"))
    if not paths:
        return NOT_YET
    found = read_results(paths)
    rows = {model: [result.metrics[MODEL] for result in of_model] for model, of_model in by_model(found).items()}
    rows[BASELINE] = [found[0].metrics[BASELINE]]  # the same jets for all
    tables = []
    for decay, title in (("x_gammagamma", "X → γγ"), ("x_tautau", "X → ττ")):
        columns = {f"{decay}_{metric}": column for metric, column in MASSES.items()}
        tables += [f"{title}:", score_table(rows, columns)]
    rows_of = {part: f"{size['rows']:,}".replace(",", " ") for part, size in found[0].data.items()}
    return "\n\n".join([f"{rows_of['train']} training and {rows_of['test']} test jets.", *tables])


TABLES = {"scalars": scalars}  # by the name of the plan's folder
