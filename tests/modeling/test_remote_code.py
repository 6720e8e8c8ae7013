"""A saved folder works where e2evit cannot be imported, and gives the same bits."""

import subprocess
import sys

import pytest
import torch
from models import MODELS, batch, make

from e2evit import E2EImageProcessor
from e2evit.data import find_schema

LOAD = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "e2evit":
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification
folder, inputs, outputs = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
AutoModel.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
assert "e2evit" not in sys.modules and type(model).__module__.startswith("transformers_modules")
with torch.no_grad():
    result = model(**torch.load(inputs, weights_only=True))
row = {"pixel_index": [7], "pixel_value": [2.0]}
torch.save({"logits": result.logits, "mass_preds": result.mass_preds,
            "pixel_values": processor(row, return_tensors="pt")["pixel_values"]}, outputs)
"""


@pytest.mark.parametrize("name", ["linearvit", "xcit", "vit"])
def test_folder_loads_without_the_package(name, tmp_path, monkeypatch):
    model, inputs = make(name), batch()
    processor = E2EImageProcessor(find_schema("simulated").channel_names)
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    assert {f"modeling_{MODELS[name]().model_type.removeprefix('e2e_')}.py", "configuration_e2e.py"} <= {
        path.name for path in folder.iterdir()
    }
    torch.save(inputs, tmp_path / "inputs.pt")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    command = [sys.executable, "-c", LOAD, str(folder), str(tmp_path / "inputs.pt"), str(tmp_path / "outputs.pt")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "outputs.pt", weights_only=True)
    with torch.no_grad():
        expected = model(**inputs)
    assert torch.equal(found["logits"], expected.logits)
    assert torch.equal(found["mass_preds"], expected.mass_preds)
    row = {"pixel_index": [7], "pixel_value": [2.0]}
    assert torch.equal(found["pixel_values"], processor(row, return_tensors="pt")["pixel_values"])


def test_modeling_folder_refuses_to_be_a_top_level_package(tmp_path):
    from pathlib import Path

    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", "import modeling"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "e2evit.modeling" in done.stderr
