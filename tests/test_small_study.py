"""Small studies: their plans, and the tables of their results."""

import pytest
import yaml
from forked import TWICE, run_python
from small_tables import scalars

PLAN = "recipes/scalars/study.yaml"


@pytest.mark.thorough
def test_a_small_study(tmp_path):
    """A call trains what it may, the second the rest, and a third finds a changed recipe."""
    with open(PLAN, encoding="utf-8") as file:
        plan = yaml.safe_load(file)
    plan["simulation"] = {
        "arguments": "--keep particles --pileup 0",
        "samples": [dict(plan["simulation"]["samples"][0])],
    }
    plan["simulation"]["samples"][0]["num_jets"] = 40
    plan["runs"] = {name: plan["runs"][name] | {"num_train_epochs": 1} for name in ("hitvit", "particle_transformer")}
    study = tmp_path / "scalars/study.yaml"
    study.parent.mkdir()
    study.write_text(yaml.safe_dump(plan))
    command = ["studies/small.py", "--study", study, "--max_runs", 1, "--num_proc", 1]
    command += ["--output_dir", tmp_path / "runs", "--results_dir", tmp_path / "results"]
    done = run_python("-c", TWICE, *command)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    first, second = done.stdout.split("second call")
    for text, model in ((first, "hitvit"), (second, "particle_transformer")):
        assert text.count("$ python scripts/train.py") == 1
        assert f"{model}_seed0" in text
    assert scalars(tmp_path / "results") in second, "the table is printed"
    assert "X → ττ" in second

    plan["runs"]["hitvit"]["learning_rate"] = 1.0
    study.write_text(yaml.safe_dump(plan))
    done = run_python(*command)
    assert done.returncode == 1
    assert "The recipe of hitvit_seed0 has changed" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training: recipes/scalars/train.yaml\nruns: {}\n",
            "is no plan of a small study: it lacks seeds, simulation.",
        ),
        ("{training: a, simulation: {}, seeds: [0], runs: {vit: {}}}", "vit in `runs` lacks a `model_config`."),
    ],
)
def test_plans_that_lack_something(text, message, tmp_path):
    (tmp_path / "study.yaml").write_text(text)
    done = run_python("studies/small.py", "--study", tmp_path / "study.yaml")
    assert done.returncode == 1
    assert done.stderr.strip().endswith(message)
