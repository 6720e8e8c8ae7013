"""Write the tables of README, docs/simulation.md and docs/study.md and the model cards from results.

python studies/render.py
"""

import json
from pathlib import Path

from pretraining_tables import render_pretraining
from study_tables import render_study

from e2evit.hub.card import CAPTIONS, render_card
from e2evit.results.tables import read_results, render_readme, render_simulation

ROOT = Path(__file__).parents[1]


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(render_readme(readme.read_text(), ROOT / "results"))
    simulation = ROOT / "docs/simulation.md"
    simulation.write_text(render_simulation(simulation.read_text(), ROOT / "results"))
    pretraining = ROOT / "docs/pretraining.md"
    pretraining.write_text(render_pretraining(pretraining.read_text(), ROOT / "results/pretraining"))
    study = ROOT / "docs/study.md"
    study.write_text(render_study(study.read_text(), ROOT / "results"))
    for model_type in ("linearvit", "xcit"):
        results = ROOT / f"results/quickstart_seed0_{model_type}_nano.json"
        (record,) = read_results([results]).values()
        recipe, checkpoint = f"recipes/quickstart/{model_type}_nano.yaml", f"runs/quickstart/{model_type}_nano"
        card = render_card(ROOT / "model_cards/TEMPLATE.md", record, model_type, recipe, checkpoint)
        card.save(ROOT / f"model_cards/quickstart_{model_type}_nano.md")
    for folder in sorted((ROOT / "checkpoints").iterdir()):
        record, config = (json.loads((folder / name).read_text()) for name in ("results.json", "config.json"))
        figures = [name for name in CAPTIONS if (folder / f"figures/{name}.png").is_file()]
        model_id = f"checkpoints/{folder.name}"
        card = render_card(
            ROOT / "model_cards/TEMPLATE.md", record, config["model_type"], "recipe.yaml", model_id, figures
        )
        card.save(folder / "README.md")


if __name__ == "__main__":
    main()
