"""How old results are: the commit that each was measured with, and what has changed since in what it measures.

python studies/age.py
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from e2evit.results.tables import markdown_table

__all__ = ["LOST", "TABLES", "Measured", "changes_since", "in_history", "measured_files"]

ROOT = Path(__file__).parents[1]
_NETWORKS = ("modeling", "src/e2evit/data", "src/e2evit/metrics", "src/e2evit/results", "src/e2evit/transforms")
_TRAINED = (*_NETWORKS, "src/e2evit/training")
_SIMULATION = ("src/e2evit/simulation",)
_TREES = ("src/e2evit/baselines", "src/e2evit/data", "src/e2evit/metrics", "src/e2evit/results")
_HITVIT = (*_TRAINED, *_SIMULATION, "recipes/study", "recipes/tokens/windows.json", "recipes/pretraining/hitvit.json")
_COMPARED = (*_TRAINED, *_SIMULATION, "recipes/comparison", "studies/comparison_scores.py")
# what a file of results measures: the first pattern that matches counts
SOURCES = {
    "quickstart_*.json": (*_TRAINED, *_SIMULATION, "recipes/quickstart", "src/e2evit/baselines"),
    "study/trees_*.json": _TREES,
    "study/robustness/trees_*.json": _TREES,
    "study/robustness/*.json": _NETWORKS,
    "study/earlier/*/*.json": (),  # recipes of the past: they stay as they are
    "study/*.json": (*_TRAINED, "recipes/study"),
    "pretraining/*.json": (*_TRAINED, *_SIMULATION, "recipes/pretraining"),
    "events/transplants_*.json": (*_TRAINED, *_SIMULATION, "recipes/events", "studies/transplants.py"),
    "events/*.json": (*_TRAINED, *_SIMULATION, "recipes/events"),
    "particles_*.json": (*_TRAINED, *_SIMULATION, "recipes/particles", "recipes/quickstart"),
    "hitvit/*.json": _HITVIT,
    "hitvit/pileup60/*.json": _HITVIT,
    "hitvit/without_effects/*.json": _HITVIT,
    "token_steps.json": (
        "modeling",
        "src/e2evit/training",
        "recipes/study",
        "recipes/tokens",
        "studies/token_steps.py",
    ),
    "comparison/steps.json": (
        *("modeling", "src/e2evit/training", "recipes/comparison", "studies/comparison_steps.py"),
        "studies/token_steps.py",
    ),
    "comparison/blind_files.json": (*_SIMULATION, "recipes/comparison/study.yaml"),
    "comparison/opened.json": (),  # the commit of the blind test
    "comparison/claims.json": _COMPARED,
    "comparison/pileup.json": _COMPARED,
    "comparison/*.json": (*_TRAINED, *_SIMULATION, "recipes/comparison"),
    "comparison/blind/*/*/*.json": (*_TRAINED, *_SIMULATION, "recipes/comparison"),
    "tokens.json": (*_TRAINED, *_SIMULATION, "recipes/study", "recipes/tokens"),
    "scalars/*.json": (*_TRAINED, *_SIMULATION, "recipes/scalars"),
    "simulation_particles.json": (*_SIMULATION, "benchmarks/particle_images.py"),
    "simulation_validation.json": (
        *_SIMULATION,
        "src/e2evit/baselines",
        "src/e2evit/metrics",
        "studies/simulation_checks.py",
        "studies/validate_simulation.py",
    ),
    "simulation_effects.json": (*_SIMULATION, "studies/detector_effects.py", "studies/simulation_checks.py"),
    "simulation_*.json": (*_SIMULATION, "src/e2evit/baselines"),
    "ablation.json": (*_TRAINED, "recipes/study", "benchmarks/ablation.py"),
    "attention_scaling.json": ("modeling", "benchmarks/attention_scaling.py"),
    "chaos.json": (
        "src/e2evit/training",
        "src/e2evit/simulation",
        "src/e2evit/data/manifest.py",
        "benchmarks/chaos.py",
    ),
    "cmssw.json": (
        "modeling",
        "src/e2evit/hub/export.py",
        "src/e2evit/hub/cmssw.py",
        "src/e2evit/hub/int8.py",
        "recipes/study",
        "benchmarks/cmssw.py",
        "benchmarks/run_onnx.py",
    ),
    "empty_pixels.json": ("modeling", "benchmarks/empty_pixels.py"),
    "empty_tokens.json": ("modeling", "benchmarks/empty_tokens.py"),
    "event_scaling.json": ("modeling", "benchmarks/event_scaling.py"),
    "export.json": ("modeling", "src/e2evit/hub/export.py", "src/e2evit/hub/int8.py", "benchmarks/export.py"),
    "feeding.json": (*_TRAINED, "benchmarks/feeding.py"),
    "fuzz.json": ("modeling", "src/e2evit", "deploy/cpp", "benchmarks/fuzz.py", "benchmarks/fuzzing"),
    "fuzz_root.json": ("src/e2evit/data", "benchmarks/fuzz.py", "benchmarks/fuzzing"),
    "freed_memory.json": ("modeling", "src/e2evit/training", "benchmarks/freed_memory.py"),
    "gsoc.json": (*_TRAINED, *_SIMULATION, "recipes/gsoc", "studies/gsoc.py", "studies/gsoc_files.py"),
    "learning.json": ("modeling", "benchmarks/learning.py"),
    "loading.json": ("src/e2evit/data", "benchmarks/loading.py"),
    "masked_steps.json": ("modeling", "recipes/pretraining/hitvit.json", "benchmarks/masked_steps.py"),
    "model_speed.json": ("modeling", "benchmarks/models.py"),
    "visitors.json": ("src/e2evit/cli", "src/e2evit/plots", "benchmarks/visitors.py"),
}
# commits that results name and the history does not hold
LOST = dict.fromkeys(
    (
        "24a8f46213ef1ae3b03565db79ff6124902bccf6",
        "3a3ac83e16d9472062732a39a1ecb3f5d5f5ae57",
        "8b0c2b4feb15b6bab28ced2ffeae19428a07be13",
        "9e02a1f637065ec91afb6b2d2acd13156984fc33",
        "d1abf648ce085dfbfb298474bf29dbee876d1da5",
        "e74743278ff885de7c9be70b391153b4bd53229f",
    ),
    "not in the history, and its code cannot be recovered",
)


@dataclass(frozen=True)
class Measured:
    """One file of results.

    Attributes:
        name: Its path within `results/`.
        date, commit: As it says, None where it says nothing.
        sources: Paths of what it measures.
    """

    name: str
    date: str | None
    commit: str | None
    sources: tuple[str, ...]

    @property
    def origin(self) -> str:
        """What is known of the commit."""
        if self.commit is None:
            return "unknown: measured before provenance was recorded"
        return f"{self.commit[:8]}: {LOST[self.commit]}" if self.commit in LOST else self.commit[:8]


def measured_files(results: Path) -> list[Measured]:
    """All files that hold measurements, but not those that a user of this clone has made.

    Raises:
        ValueError: for a file under version control that no pattern of [`SOURCES`] matches.
    """
    of_user = {ROOT / name for name in (_git("ls-files", "--others", "results") or "").splitlines()}
    measured = []
    for path in sorted(results.rglob("*.json")):
        name, entries = path.relative_to(results), json.loads(path.read_text(encoding="utf-8"))
        if "date" not in entries:  # made of other results
            continue
        sources = next((paths for pattern, paths in SOURCES.items() if name.match(pattern)), None)
        if sources is None and path.resolve() in of_user:
            continue
        if sources is None:
            raise ValueError(f"{name}: say in studies/age.py what it measures.")
        # a summary is as old as what it sums up
        runs = entries.get("runs", ())
        parts = (*(runs.values() if isinstance(runs, dict) else runs), *entries.get("steps", {}).values())
        commits = {part["commit"] for part in parts if "commit" in part}
        for commit in sorted(commits, key=str) or [entries["commit"]]:
            measured.append(Measured(str(name), entries["date"], commit, sources))
    return measured


def in_history(commit: str) -> bool:
    return _git("merge-base", "--is-ancestor", commit, "HEAD") is not None


def changes_since(measured: Measured) -> int:
    """Number of commits since the measurement that touch what was measured.

    Raises:
        RuntimeError: if git cannot count them.
    """
    return _changes(measured.commit, measured.sources) if measured.sources else 0


@cache
def _changes(commit: str, sources: tuple[str, ...]) -> int:
    number = _git("rev-list", "--count", f"{commit}..HEAD", "--", *sources)
    if number is None:
        raise RuntimeError(f"git cannot count the commits since {commit}.")
    return int(number)


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def age_table(results: Path) -> str:
    """Date and commit of every measurement, one row for files that share both."""
    groups: dict[tuple, list[str]] = {}
    for measured in measured_files(results):
        date = "–" if measured.date is None else measured.date[:10]
        groups.setdefault((date, measured.origin), []).append(measured.name.removesuffix(".json"))
    rows = [[date, origin, _listed(names)] for (date, origin), names in sorted(groups.items())]
    return markdown_table(["written", "with commit", "results"], rows, "---")


def _listed(names: Sequence[str]) -> str:
    """The names in their order; several that differ only in the seed of a training as one, with their number."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"_seed\d+$", "", name), []).append(name)
    return ", ".join(of[0] if len(of) == 1 else f"{title} ({len(of)})" for title, of in groups.items())


TABLES = {"age of results": age_table}


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(
        arguments
    )
    if _git("rev-parse", "--is-shallow-repository") != "false":
        sys.exit("age.py: this needs a clone with its history (`git fetch --unshallow`).")
    for measured in measured_files(ROOT / "results"):
        if measured.commit is None or measured.commit in LOST:
            print(f"{measured.name}: {measured.origin}")
        elif number := changes_since(measured):
            print(f"{measured.name}: {number} commits since {measured.origin} touch what it measures")


if __name__ == "__main__":
    main()
