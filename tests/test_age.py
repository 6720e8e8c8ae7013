"""Each result names a commit in the history, or studies/age.py says why it cannot."""

import json
import re
import subprocess
from pathlib import Path

import age
import pytest
from forked import run_python

ROOT = Path(__file__).parents[1]
FILES = age.measured_files(ROOT / "results")


@pytest.fixture
def history():
    command = ["git", "rev-parse", "--is-shallow-repository"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.stdout.strip() != "false":
        pytest.skip("needs a clone with its history: git fetch --unshallow")


def test_commits_of_results_are_in_the_history(history):
    named = {measured.commit for measured in FILES if measured.commit}
    lost = {commit for commit in named if not age.in_history(commit)}
    assert lost == set(age.LOST), "measure again, or list the commit with its reason in studies/age.py"


def test_sources_of_results_exist():
    assert len(FILES) > 50
    paths = {path for measured in FILES for path in measured.sources}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_outdated_results_are_listed(history):
    done = run_python("studies/age.py")
    assert done.returncode == 0, done.stderr
    known = [measured for measured in FILES if measured.commit and measured.commit not in age.LOST]
    counts = {measured.name: age.changes_since(measured) for measured in known}
    listed = dict(re.findall(r"^(.+): (\d+) commits since", done.stdout, re.MULTILINE))
    assert listed == {name: str(number) for name, number in counts.items() if number}
    assert "ablation.json: unknown: measured before provenance was recorded" in done.stdout


def test_an_unknown_commit_is_not_counted_as_unchanged(history):
    with pytest.raises(RuntimeError, match="git cannot count the commits since 0000"):
        age.changes_since(age.Measured("a.json", None, "0" * 40, ("modeling",)))


def test_an_undescribed_file_is_refused(tmp_path):
    (tmp_path / "new.json").write_text('{"date": null, "commit": null}')
    with pytest.raises(ValueError, match=r"new\.json: say in studies/age\.py what it measures"):
        age.measured_files(tmp_path)
    (tmp_path / "new.json").write_text("{}")  # derived from other results
    assert age.measured_files(tmp_path) == []


def test_results_of_a_user_are_left_out(tmp_path, monkeypatch):
    """Of the quickstart, say; also where the folder is given relative to the current one."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results/new.json").write_text('{"date": null, "commit": null}')
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    monkeypatch.setattr(age, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    for results in (tmp_path / "results", Path("results")):
        assert age.measured_files(results) == []


def test_a_summary_is_as_old_as_its_runs(tmp_path):
    runs = {f"hitvit_seed{seed}": {"commit": commit} for seed, commit in enumerate(("a" * 40, "b" * 40))}
    entries = {"date": "2026-01-01T00:00:00Z", "commit": "c" * 40, "runs": runs}
    for name in ("comparison/validation", "study/vit_seed1", "study/xcit_seed0", "study/xcit_seed1"):
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(entries))
    assert [measured.commit[0] for measured in age.measured_files(tmp_path)] == ["a", "b"] * 4
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in age.age_table(tmp_path).splitlines()[2:]]
    listed = "comparison/validation, study/vit_seed1, study/xcit (2)"
    assert rows == [["2026-01-01", letter * 8, listed] for letter in "ab"]
