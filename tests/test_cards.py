"""Cards are what results render to, and valid."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from e2evit.hub.card import render_card

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("model_type", ["linearvit", "xcit"])
def test_committed_card_is_what_its_results_render_to(model_type):
    name = f"quickstart_{model_type}_nano"
    record = json.loads((ROOT / f"results/quickstart_seed0_{model_type}_nano.json").read_text())
    recipe, checkpoint = f"recipes/quickstart/{model_type}_nano.yaml", f"runs/quickstart/{model_type}_nano"
    assert (ROOT / recipe).is_file()
    card = render_card(ROOT / "model_cards/TEMPLATE.md", record, model_type, recipe, checkpoint)
    text = (ROOT / f"model_cards/{name}.md").read_text()
    assert text.strip() == str(card).strip(), "run `python scripts/render.py`"

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
