"""A folder with code works where e2evit cannot be imported, with bit-identical outputs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from forked import LIBRARIES, run_python
from models import batch, make
from transformers import AutoImageProcessor, AutoModelForImageClassification

from e2evit import E2EImageProcessor
from e2evit.data import find_schema
from e2evit.hub.code import add_code

# code that every model needs
SHARED = {
    *("configuration_e2e", "files_e2e", "geometry_e2e", "image_processing_e2e", "limits_e2e", "pipeline_e2e"),
    *("pixels_e2e", "unpacked_e2e"),
    *("modeling_checkpointing", "modeling_constants", "modeling_e2e", "modeling_head", "modeling_precision"),
    *("modeling_sizes", "modeling_stem", "modeling_trainer", "modeling_wrapped"),
}
# code for models with our own blocks
BLOCKS = {
    *("modeling_activations", "modeling_branches", "modeling_cross_covariance", "modeling_depthwise"),
    *("modeling_kernels", "modeling_layers", "modeling_masked", "modeling_operators"),
}
NEEDS = {
    "linearvit": SHARED
    | BLOCKS
    | {"configuration_linearvit", "modeling_linearvit", "modeling_attention", "modeling_mixers"}
    | {"modeling_attention_pooling"},
    "xcit": SHARED | BLOCKS | {"configuration_xcit", "modeling_xcit"},
    "hitvit": SHARED
    | BLOCKS
    | {"configuration_hitvit", "modeling_hitvit", "configuration_xcit", "modeling_xcit", "modeling_patches"}
    | {f"modeling_{name}" for name in ("curves", "tokens", "packed", "local", "pooling", "events", "hitvit_masked")}
    | {"modeling_attention_pooling"},
    "vit": SHARED | {"configuration_baseline", "modeling_baseline"},
}

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


@pytest.mark.parametrize("name", NEEDS)
def test_folder_loads_without_the_package(name, tmp_path, monkeypatch):
    model, inputs = make(name), batch()
    processor = E2EImageProcessor(find_schema("simulated").channel_names)
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    assert not list(folder.glob("*.py")), "training saves no code"
    add_code(folder)
    assert {path.stem for path in folder.glob("*.py")} == NEEDS[name]
    torch.save(inputs, tmp_path / "inputs.pt")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    files = tmp_path / "inputs.pt", tmp_path / "outputs.pt"
    done = run_python("-c", LOAD, folder, *files, cwd=tmp_path, preloaded=LIBRARIES)
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = torch.load(tmp_path / "outputs.pt", weights_only=True)
    with torch.no_grad():
        expected = model(**inputs)
    assert torch.equal(loaded["logits"], expected.logits)
    assert torch.equal(loaded["mass_preds"], expected.mass_preds)
    row = {"pixel_index": [7], "pixel_value": [2.0]}
    assert torch.equal(loaded["pixel_values"], processor(row, return_tensors="pt")["pixel_values"])


def test_code_references_are_saved_only_with_code(tmp_path):
    """With e2evit, a folder with code loads as e2evit's own classes, which save neither code nor code references."""
    model = make("xcit")
    model.save_pretrained(tmp_path / "checkpoint")
    E2EImageProcessor(find_schema("simulated").channel_names).save_pretrained(tmp_path / "checkpoint")
    add_code(tmp_path / "checkpoint")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "checkpoint")
    assert type(loaded) is type(model)
    loaded.save_pretrained(tmp_path / "again")
    AutoImageProcessor.from_pretrained(tmp_path / "checkpoint").save_pretrained(tmp_path / "again")
    for path in (tmp_path / "again").glob("*.json"):
        assert not {"auto_map", "custom_pipelines"} & set(json.loads(path.read_text())), path.name
    assert not list((tmp_path / "again").glob("*.py"))


def test_code_of_other_packages_is_not_added(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match=r"holds a 'vit'; e2evit has linearvit, xcit, hitvit, e2e_baseline\."):
        add_code(tmp_path)


OLDER = """
import importlib.util, sys, torch
from pathlib import Path
# an older copy of the code, with a different convolution, is loaded first
spec = importlib.util.spec_from_file_location("older", Path(sys.argv[1]) / "__init__.py")
older = importlib.util.module_from_spec(spec)
sys.modules["older"] = older
spec.loader.exec_module(older)
from older.modeling_depthwise import depthwise_conv as older_conv
from e2evit.modeling.modeling_depthwise import depthwise_conv, plain_depthwise_conv
inputs = torch.randn(1, 5, 5, 4), torch.randn(4, 1, 3, 3), torch.randn(4)
expected = plain_depthwise_conv(*inputs)
torch.testing.assert_close(depthwise_conv(*inputs), expected)
torch.testing.assert_close(older_conv(*inputs), 2 * expected)
"""


def test_older_code_in_the_same_process_keeps_its_own_operators(tmp_path):
    source = Path(__file__).parents[2] / "modeling"
    shutil.copytree(source, tmp_path / "older", ignore=shutil.ignore_patterns("__pycache__", "kernels"))
    (tmp_path / "older/__init__.py").write_text("")
    path = tmp_path / "older/modeling_depthwise.py"
    text = path.read_text()
    new = "return plain_depthwise_conv(hidden_states, weight.to(dtype), bias.to(dtype)).contiguous()"
    assert new in text
    path.write_text(text.replace(new, new.replace("return ", "return 2 * ")))
    done = run_python("-c", OLDER, tmp_path / "older", preloaded=LIBRARIES)
    assert done.returncode == 0, done.stderr[-3000:]


def test_modeling_folder_refuses_to_be_a_top_level_package(tmp_path):
    done = run_python("-c", "import modeling", preloaded=LIBRARIES)
    assert done.returncode != 0
    assert "e2evit.modeling" in done.stderr
