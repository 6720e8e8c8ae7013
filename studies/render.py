"""Write the tables of README.md and docs/ and the model cards from what results/ holds.

    python studies/render.py            # write
    python studies/render.py --check    # exit with 1 if something is not up to date

A page gets the table NAME between two lines, wherever they stand:

    <!-- NAME: rendered by studies/render.py -->
    <!-- end of NAME -->
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import age
import comparison_scores
import comparison_tables
import event_tables
import fuzz_tables
import gpu_tables
import gsoc_tables
import particle_tables
import pretraining_tables
import simulation_tables
import speed_tables
import study_tables
import token_tables

from e2evit.hub.card import CAPTIONS, render_card
from e2evit.results.record import Result

ROOT = Path(__file__).parents[1]
# by name, the function that makes the table from the folder of results
TABLES: dict[str, Callable[[Path], str]] = {
    **speed_tables.TABLES,
    **simulation_tables.TABLES,
    **study_tables.TABLES,
    **pretraining_tables.TABLES,
    **fuzz_tables.TABLES,
    **particle_tables.TABLES,
    **token_tables.TABLES,
    **event_tables.TABLES,
    **gpu_tables.TABLES,
    **comparison_tables.TABLES,
    **comparison_scores.TABLES,
    **gsoc_tables.TABLES,
    **age.TABLES,
}
START = re.compile(r"^<!-- (?P<name>.+): rendered by studies/render\.py -->$", re.MULTILINE)


def render_page(text: str, tables: Mapping[str, Callable[[Path], str]], results: Path) -> str:
    """`text` with each marked table written anew.

    Raises:
        ValueError: for an unknown table, or one without its end.
    """
    parts, place = [], 0
    for start in START.finditer(text):
        name = start["name"]
        if name not in tables:
            raise ValueError(f"There is no table {name!r}; known ones: {', '.join(tables)}.")
        end = text.find(f"<!-- end of {name} -->", start.end())
        if end < 0:
            raise ValueError(f"The table {name!r} has no line `<!-- end of {name} -->`.")
        parts += [text[place : start.end()], "\n", tables[name](results), "\n"]
        place = end
    return "".join([*parts, text[place:]])


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Contents of every page with tables.

    Raises:
        ValueError: as [`render_page`], with the name of the file.
    """
    rendered = {}
    for path in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        text = path.read_text(encoding="utf-8")
        if START.search(text):
            try:
                rendered[path] = render_page(text, TABLES, root / "results")
            except ValueError as error:
                raise ValueError(f"{path.relative_to(root)}: {error}") from None
    return rendered


def cards(root: Path = ROOT) -> dict[Path, str]:
    """Contents of the model cards: of the quickstart's models and of the bundled checkpoints."""
    template, rendered = root / "model_cards/TEMPLATE.md", {}
    for model_type in ("linearvit", "xcit"):
        name = f"{model_type}_nano"
        result = Result.from_json(root / f"results/quickstart_seed0_{name}.json")
        card = render_card(template, result, model_type, f"recipes/quickstart/{name}.yaml", f"runs/quickstart/{name}")
        rendered[root / f"model_cards/quickstart_{name}.md"] = str(card)
    for folder in sorted((root / "checkpoints").iterdir()):
        result = Result.from_json(folder / "results.json")
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        figures = [name for name in CAPTIONS if (folder / f"figures/{name}.png").is_file()]
        card = render_card(template, result, model_type, "recipe.yaml", f"checkpoints/{folder.name}", figures)
        rendered[folder / "README.md"] = str(card)
    return rendered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file would change")
    arguments = parser.parse_args()
    try:
        rendered = pages() | cards()
    except (OSError, ValueError) as error:
        sys.exit(f"render.py: {error}")
    changed = [
        path for path, text in rendered.items() if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path in changed:
        print(f"{path.relative_to(ROOT)} {'is not up to date' if arguments.check else 'written'}")
        if not arguments.check:
            path.write_text(rendered[path], encoding="utf-8")
    if arguments.check and changed:
        sys.exit("render.py: run `python studies/render.py`.")


if __name__ == "__main__":
    main()
