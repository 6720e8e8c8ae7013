"""Cards are what results render to, and valid."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import AutoImageProcessor, AutoModelForImageClassification

from e2evit.hub.assemble import check_loads
from e2evit.hub.card import CAPTIONS, render_card
from e2evit.hub.safety import check_checkpoint

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("model_type", ["linearvit", "xcit"])
def test_committed_card_is_what_its_results_render_to(model_type):
    name = f"quickstart_{model_type}_nano"
    record = json.loads((ROOT / f"results/quickstart_seed0_{model_type}_nano.json").read_text())
    recipe, checkpoint = f"recipes/quickstart/{model_type}_nano.yaml", f"runs/quickstart/{model_type}_nano"
    assert (ROOT / recipe).is_file()
    card = render_card(ROOT / "model_cards/TEMPLATE.md", record, model_type, recipe, checkpoint)
    text = (ROOT / f"model_cards/{name}.md").read_text()
    assert text.strip() == str(card).strip(), "run `python studies/render.py`"

    data = ModelCard.load(ROOT / f"model_cards/{name}.md").data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "image-classification",
        "apache-2.0",
    )
    values = {result.metric_type: result.metric_value for result in data.eval_results}
    assert values["roc_auc"] == round(record["metrics"]["model"]["roc_auc"], 4)
    for channel in ("trk_pt", "trk_dz", "bpix3"):
        assert f"`{channel}`" in text


def test_unknown_family():
    with pytest.raises(ValueError, match="no card for 'vit'"):
        render_card("", {}, "vit", "", "")


@pytest.mark.parametrize("folder", sorted((ROOT / "checkpoints").iterdir()), ids=lambda folder: folder.name)
def test_bundled_checkpoints(folder, tmp_path):
    """Each is safe, small, has the card that its results render to, and loads and predicts where e2evit is not."""
    check_checkpoint(folder)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 6 * 2**20
    for code in folder.glob("*.py"):  # copies for remote code: scripts/push_to_hub.py makes them anew
        assert code.read_text() == (ROOT / "modeling" / code.name).read_text(), f"{code.name} is an old copy"
    record = json.loads((folder / "results.json").read_text())
    assert record == json.loads((ROOT / f"results/study/{folder.name}_seed0.json").read_text())
    figures = list(CAPTIONS)
    assert sorted(path.stem for path in (folder / "figures").iterdir()) == sorted(figures)
    template, model_id = ROOT / "model_cards/TEMPLATE.md", f"checkpoints/{folder.name}"
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    card = render_card(template, record, model_type, "recipe.yaml", model_id, figures)
    assert (folder / "README.md").read_text().strip() == str(card).strip()
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    check_loads(folder, model, AutoImageProcessor.from_pretrained(folder))
