"""Converting checkpoint files to folders; files that would run code, or are no checkpoint, are refused."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from e2evit.modeling import FAMILIES
from forked import run_python
from safetensors import safe_open
from transformers import AutoModelForImageClassification

from e2evit.hub.conversion import _REFERENCES, _published_xcit, adapt_stem, convert_reference, read_state_dict

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/data/golden/xcit_p16_tokensnorm_false.safetensors"


@pytest.fixture(scope="module")
def golden():
    with safe_open(GOLDEN, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    weights = {key.removeprefix("weight/"): value for key, value in tensors.items() if key.startswith("weight/")}
    return weights, tensors["pixel_values"], tensors["logits"]


def test_script_converts_a_checkpoint_file(golden, tmp_path):
    weights, pixel_values, logits = golden
    torch.save({"model": weights, "epoch": 3}, tmp_path / "authors.pth")
    command = ["scripts/convert_checkpoint.py", tmp_path / "authors.pth", "--model_type", "xcit"]
    command += ["--output_dir", tmp_path / "out", "--fields", json.dumps({"tokens_norm": False, "image_size": 64})]
    done = run_python(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values).logits, logits, rtol=0, atol=2e-5)


def test_adapted_stem_sees_grey_as_grey(golden):
    weights, _, _ = golden
    key = "patch_embed.proj.0.0.weight"
    kernel = adapt_stem(weights, 8)[key]
    assert kernel.shape[1] == 8
    grey = torch.randn(1, 1, 16, 16)
    before = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weights[key])
    torch.testing.assert_close(torch.nn.functional.conv2d(grey.expand(-1, 8, -1, -1), kernel), before)
    with pytest.raises(ValueError, match="first convolutions"):
        adapt_stem({"head.weight": kernel}, 8)


class Malicious:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize("kind", ["code", "text", "numbers", "safetensors"])
def test_refused_files(kind, tmp_path, capsys):
    path = tmp_path / ("file.safetensors" if kind == "safetensors" else "file.pth")
    if kind == "code":
        path.write_bytes(pickle.dumps({"model": Malicious()}, protocol=2))
    elif kind == "numbers":
        torch.save({"model": {"epoch": 3}}, path)
    else:
        path.write_text("<html>not weights</html>")
    with pytest.raises(ValueError, match=path.name):
        read_state_dict(path)
    assert "never run" not in capsys.readouterr().out


def test_every_family_with_an_architecture_of_its_own_has_a_conversion():
    assert set(_REFERENCES) == {name for name, family in FAMILIES.items() if family.backbone is not None}


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/models/xcit_*_p16.json")), ids=lambda path: path.stem)
def test_published_sizes_need_no_more_than_their_weights(path):
    """The normalisation of tokens, which shapes do not show, is that of the published model; others must say it."""
    recipe = json.loads(path.read_text())
    assert _published_xcit(recipe) == {"tokens_norm": recipe["tokens_norm"]}


def test_unpublished_sizes_must_say_which_tokens_they_normalise(golden):
    with pytest.raises(ValueError, match=r"Not a published size.*pass `tokens_norm`"):
        convert_reference(golden[0], "xcit")
