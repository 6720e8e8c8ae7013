"""Cards are valid and match what their results render to."""

import json
import re
import shutil
from pathlib import Path

import pytest
from forked import LIBRARIES, run_python
from huggingface_hub import ModelCard
from samples import make_result
from transformers import AutoImageProcessor, AutoModelForImageClassification

from e2evit.hub.assemble import check_loads
from e2evit.hub.card import CAPTIONS, render_card
from e2evit.hub.code import add_code
from e2evit.hub.safety import check_checkpoint
from e2evit.results.record import Result

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("model_type", ["linearvit", "xcit"])
def test_committed_card_matches_its_results(model_type):
    name = f"quickstart_{model_type}_nano"
    result = Result.from_json(ROOT / f"results/quickstart_seed0_{model_type}_nano.json")
    recipe, checkpoint = f"recipes/quickstart/{model_type}_nano.yaml", f"runs/quickstart/{model_type}_nano"
    assert (ROOT / recipe).is_file()
    card = render_card(ROOT / "model_cards/TEMPLATE.md", result, model_type, recipe, checkpoint)
    text = (ROOT / f"model_cards/{name}.md").read_text()
    assert text.strip() == str(card).strip(), "run `python studies/render.py`"

    data = ModelCard.load(ROOT / f"model_cards/{name}.md").data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "image-classification",
        "apache-2.0",
    )
    values = {entry.metric_type: entry.metric_value for entry in data.eval_results}
    assert values["roc_auc"] == round(result.metric("roc_auc").value, 4)
    for channel in ("trk_pt", "trk_dz", "bpix3"):
        assert f"`{channel}`" in text


def test_a_custom_data_set():
    """Nothing describes it but the result; nothing is said of it that only the simulation is."""
    measured = {"dataset": "custom", "channel_names": ["ecal", "mine"], "parameters": 9, "label_names": ["a", "b"]}
    measured["data"] = {split: {"rows": 7, "event_ids": "0"} for split in ("train", "test")}
    result = make_result("xcit", 0, {"roc_auc": 0.5}, **measured)
    text = str(render_card(ROOT / "model_cards/TEMPLATE.md", result, "xcit", "recipe.yaml", "physics/tagger"))
    assert "7 jets of the data set `custom`, mass target `jet_mass`" in text
    assert "| 1 | `mine` | mine | as in the data |" in text
    assert not re.search(r"\bNone\b|Pythia|AK8|GeV \|\n", text)


def test_containment():
    """The card says that the model estimates it, and that not all jets were contained."""

    def card(metrics, **fields):
        measured = {split: {"rows": 7, "event_ids": "0"} for split in ("train", "test")}
        result = make_result("xcit", 0, {"roc_auc": 0.5} | metrics, parameters=9, data=measured, **fields)
        return str(render_card(ROOT / "model_cards/TEMPLATE.md", result, "xcit", "recipe.yaml", "physics/tagger"))

    plain, found = card({}), card({"containment_auc": 0.91, "containment_calibration_error": 0.02})
    assert "`outputs.containment_logits.sigmoid()` is the probability" in found
    assert "AUC of containment 0.910, calibration error of containment 0.0200." in found
    assert "contain" not in plain.replace("contained jets", "")
    unselected = card({"uncontained_response": 0.5}, contained_classes=True)
    assert "classes only from jets that contain all of the decay" in unselected
    selection = "heavy particles only where their whole decay is in the jet"
    assert (selection in plain, selection in unselected) == (True, False)


def test_unknown_family():
    with pytest.raises(ValueError, match="no card for 'vit'"):
        render_card("", {}, "vit", "", "")


@pytest.mark.parametrize("folder", sorted((ROOT / "checkpoints").iterdir()), ids=lambda folder: folder.name)
def test_bundled_checkpoints(folder, tmp_path):
    """Each is safe and small, its card matches its results, and with its code it loads without e2evit."""
    check_checkpoint(folder)
    assert not list(folder.glob("*.py"))
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 6 * 2**20
    result = Result.from_json(folder / "results.json")
    measured = "hitvit" if folder.name == "hitvit" else "study"
    assert result == Result.from_json(ROOT / f"results/{measured}/{folder.name}_seed0.json")
    figures = [name for name in CAPTIONS if (folder / f"figures/{name}.png").is_file()]
    assert sorted(path.stem for path in (folder / "figures").iterdir()) == sorted(figures)
    assert len(figures) == len(CAPTIONS) - (result.split == "validation")  # too few background jets pass for a shape
    template, model_id = ROOT / "model_cards/TEMPLATE.md", f"checkpoints/{folder.name}"
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    card = render_card(template, result, model_type, "recipe.yaml", model_id, figures)
    assert (folder / "README.md").read_text().strip() == str(card).strip()
    with_code = shutil.copytree(folder, tmp_path / "model")
    add_code(with_code)
    check_checkpoint(with_code)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    check_loads(with_code, model, AutoImageProcessor.from_pretrained(folder))


@pytest.mark.parametrize("folder", sorted((ROOT / "checkpoints").iterdir()), ids=lambda folder: folder.name)
def test_the_code_of_a_bundled_card_runs(folder, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        done = run_python("-c", block, preloaded=LIBRARIES)
        assert done.returncode == 0, done.stderr[-2000:]


def test_scalars_besides_the_image():
    """The code of the card passes them, and the card says that rows must have them."""

    def card(channels, aux_names):
        measured = {split: {"rows": 7, "event_ids": "0"} for split in ("train", "test")}
        fields = {"channel_names": channels, "aux_names": aux_names, "data": measured, "parameters": 9}
        result = make_result("xcit", 0, {"roc_auc": 0.5}, **fields)
        return str(render_card(ROOT / "model_cards/TEMPLATE.md", result, "xcit", "recipe.yaml", "physics/tagger"))

    plain, told = card(["ecal"], None), card(["ecal"], ["log_pt"])
    assert '{"pixel_index": [54687], "pixel_value": [25.0]}  # 25 GeV in one ECAL crystal; or a dense array\n' in plain
    assert "heads read" not in plain
    assert told.count('{"pixel_index": [54687], "pixel_value": [25.0], "pt": 500.0}') == 2
    assert "or a dense array" not in told
    assert "Besides the image the heads read log_pt: rows must have pt" in told
    both = card(["ecal_et"], ["log_pt", "ieta"])
    assert '{"pixel_index": [54687], "pixel_value": [25.0], "ieta": 28, "pt": 500.0}' in both
    assert "rows must have pt, ieta" in both
