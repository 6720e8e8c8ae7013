"""The study from data to results, on a few jets, and the functions that only it uses."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from e2evit.modeling import modeling_depthwise
from forked import TWICE, run_python
from models import make
from torch import nn

from e2evit.results.compare import ROBUSTNESS
from e2evit.results.record import Result
from e2evit.training.cost import count_macs
from e2evit.transforms.variations import VARIATIONS

ROOT = Path(__file__).parents[1]


def test_macs_of_a_convolution():
    class Convolution(nn.Module):
        config, device = SimpleNamespace(num_channels=3, image_shape=(8, 8), num_aux_features=0), torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, pixel_values, aux_values=None):
            return self.conv(pixel_values)

    assert count_macs(Convolution()) == 8 * 8 * 4 * 3 * 3 * 3


def test_macs_grow_with_the_grid():
    """In proportion for linear attention, our own depthwise convolution included."""
    small, large = (count_macs(make("linearvit", image_size=side, num_aux_features=0)) for side in (100, 200))
    assert 3.8 < large / small < 4.2
    assert modeling_depthwise.USE_OPERATOR


@pytest.mark.thorough
def test_a_small_study(tmp_path):
    """One network and the trees; a second call finds everything done."""
    model = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "tiny.json").write_text(json.dumps(model | {"log_mass": True, "mass_loss": "quantile"}))
    recipe = yaml.safe_load((ROOT / "recipes/study/train.yaml").read_text())
    recipe |= {"classes": ["qcd", "w"], "num_train_epochs": 1, "cache_dir": str(tmp_path / "cache")}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(recipe))
    study = {
        "simulation": [{"processes": ["qcd", "w", "x_qq"], "num_jets": 60}],
        "simulation_arguments": "--pileup 0 --seed 1",
        "tree_seeds": [0],
        "references": ["tiny"],
        "runs": {"tiny": [0]},
        "robustness": {
            "models": {"tiny": 0, "not_trained": 0},
            "max_jets": 20,
            "seed": 2,
            "num_jets": 20,
            "samples": {"tune 4C": ["--pythia", "Tune:pp = 5"]},
        },
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    command = ["studies/study.py", "--study", tmp_path / "study.yaml"]
    command += ["--recipe", tmp_path / "train.yaml", "--output_dir", tmp_path / "runs"]
    command += ["--results_dir", tmp_path / "results", "--figures_dir", tmp_path / "figures"]
    done = run_python("-c", TWICE, *command)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    _, second = done.stdout.split("second call")
    assert "scripts/train.py" not in second
    assert "boosted_trees.py" not in second
    assert (tmp_path / "results/comparison/comparison.md").is_file()
    assert {"roc.png", "jets_tiny.png"} <= {path.name for path in (tmp_path / "figures").iterdir()}
    robust = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results/robustness").iterdir()}
    assert {stem: (entry["model"], entry["seed"]) for stem, entry in robust.items()} == {
        "tiny_seed0": ("tiny", 0),
        "trees_all": ("trees_all", None),
    }
    for entry in robust.values():
        found = entry["conditions"]
        assert list(found) == ["nominal", *VARIATIONS, "tune 4C"]
        assert found["tune 4C"]["jets"] == 60
        assert all({"value", "low", "high"} == set(found["nominal"][name]) for name in ROBUSTNESS)
    assert "trees_all, nominal" not in second
    names = {path.stem for path in (tmp_path / "results").glob("*.json")}
    assert names == {"tiny_seed0", "trees_3_seed0", "trees_all_seed0"}
    result = Result.from_json(tmp_path / "results/tiny_seed0.json")
    assert (result.model, result.seed, result.label_names) == ("tiny", 0, ["qcd", "w"])
    assert result.cost["macs"] > 0
    assert result.training["images_seen"] == result.data["train"]["rows"]
    assert result.training["images_per_second"] > 0
    assert result.training["hardware"]["num_processes"] == 1
    assert {"accuracy", "roc_auc", "relative_resolution", "coverage_68"} <= set(result.metrics["model"])
