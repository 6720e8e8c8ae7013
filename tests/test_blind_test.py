"""A rehearsal of the comparison, whose blind test can be opened only once: from simulation to claims, on a few jets.

It runs the `studies` of a clone, with the package that is installed.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GUNS = ["x_qq", "x_bb", "x_gg", "x_top"]


def few_jets(plan):
    """The plan with a few jets, and a few short trainings."""

    def samples(number):
        return [{"processes": ["qcd", "top", "w", "z", "h", *GUNS], "num_jets": number}]

    plan["simulation"] |= {"samples": samples(80)}
    plan["simulation"]["arguments"] += " --pool_size 100"
    for seed, test in enumerate(plan["blind_tests"].values()):
        test |= {"samples": samples(20), "arguments": f"--keep particles --match_pt --seed {seed} --pool_size 100"}
    plan["models"] = {"hitvit": {1: [0], 0.5: [0]}, "particle_transformer": {1: [0, 1]}, "trees_candidates": {1: [0]}}
    plan["claims"]["others"] = ["particle_transformer", "trees_candidates"]
    plan["settings"]["trees_candidates"] = {"tune_trials": 1}
    return plan


@pytest.mark.thorough
def test_a_small_comparison_from_simulation_to_claims(tmp_path):
    clone, work = tmp_path / "clone", tmp_path / "work"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)

    def run(script, *words):
        folders = () if script in ("render", "comparison_figures") else ("--output_dir", work / "runs")
        command = [sys.executable, f"studies/{script}.py", *folders, *words]
        done = subprocess.run(command, cwd=clone, capture_output=True, encoding="utf-8", check=False)
        return done.returncode, done.stdout + done.stderr

    def commit():
        subprocess.run(["git", "-C", clone, "add", "--all"], check=True)
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", clone, *who, "commit", "--quiet", "--message", "next"], check=True)

    def refuses(message, *words):
        code, output = run("blind_test", *words)
        assert code == 1
        assert message in output
        assert "Traceback" not in output

    study, results = clone / "recipes/comparison/study.yaml", clone / "results/comparison"
    study.write_text(yaml.safe_dump(few_jets(yaml.safe_load(study.read_text())), sort_keys=False))
    recipe = clone / "recipes/comparison/train.yaml"
    recipe.write_text(recipe.read_text() + "logging_steps: 1\n")  # figures need points
    commit()
    refuses("The training hitvit_seed0 is missing", "--make")
    code, output = run("comparison", "--parallel_runs", "2")
    assert code == 0, output
    names = {"hitvit_seed0", "hitvit_0.5_seed0", "trees_candidates_seed0"}
    names |= {f"particle_transformer_seed{seed}" for seed in (0, 1)}
    assert set(json.loads((results / "validation.json").read_text())["runs"]) == names
    refuses("differs from the commit", "--make")
    commit()
    code, output = run("blind_test", "--make")
    assert code == 0, output
    refuses("blind_files.json differs from the commit")
    commit()
    assert run("comparison_figures")[0] == 0
    code, output = run("blind_test", "--parallel_runs", "2")
    assert code == 0, output
    measured = {path.relative_to(results / "blind").as_posix() for path in results.glob("blind/*/*/*.json")}
    folders = ("main/pileup_21", *(f"pileup/pileup_{mean}" for mean in (0, 21, 60)))
    names.remove("hitvit_0.5_seed0")
    assert measured == {f"{folder}/{name}.json" for folder in folders for name in names}
    claims = json.loads((results / "claims.json").read_text())["claims"]
    assert {*claims["mean AUC"]} == {"particle_transformer", "trees_candidates"}
    changes = json.loads((results / "pileup.json").read_text())["models"]
    assert {*changes["hitvit"]["changes"]["mean AUC"]} == {"0", "60"}
    assert run("render")[0] == 0
    assert "Not measured yet" not in (clone / "docs/comparison.md").read_text()
    before = {path: path.read_bytes() for path in results.glob("blind/*/*/*")}
    assert run("blind_test")[0] == 0  # an interrupted call would go on; here nothing is left to measure
    assert {path: path.read_bytes() for path in results.glob("blind/*/*/*")} == before
    study.write_text(study.read_text() + "# changed\n")
    commit()
    refuses("opened at commit")
