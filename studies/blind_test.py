"""The blind tests of the comparison: simulated once all training is done, and opened once.

python studies/blind_test.py --make     # simulate it, and write the hashes of its files: commit them
python studies/blind_test.py            # measure every model that was trained on all jets

It opens only if all code, recipes/comparison, the validation results and the hashes are committed as they are; if the
files have these hashes; and if every training of the plan is done, with the weights that were validated. `opened.json`
then names the commit, and another plan, or another training, cannot open the test again. An interrupted call resumes.
At the end come the claims, and how each model changes with pile-up (`claims.json`, `pileup.json`).
"""

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from comparison import check_plan, simulate, trees_step
from comparison_scores import claims, pileup_changes
from comparison_tables import TREES, digest, read_runs, trainings, weights_file
from comparison_weights import restore
from steps import ROOT, Job, ParallelArguments, run_jobs
from transformers import HfArgumentParser

from e2evit.cli.errors import one_line_errors
from e2evit.data.jobs import write_whole_text
from e2evit.data.manifest import sha256_of
from e2evit.data.packaged import read_recipe
from e2evit.data.texts import read_mapping
from e2evit.results.record import write_record

CODE = [ROOT / name for name in ("modeling", "src", "scripts", "studies")]


@dataclass
class BlindArguments:
    study: str = field(default="recipes/comparison/study.yaml", metadata={"help": "The plan."})
    output_dir: str = field(default="runs/comparison", metadata={"help": "Of studies/comparison.py."})
    results_dir: str = field(default="results/comparison", metadata={"help": "What is committed."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where prepared Arrow files go."})
    make: bool = field(default=False, metadata={"help": "Simulate the jets instead of measuring on them."})
    num_proc: int = field(default=2, metadata={"help": "Processes of the simulation."})


def hashes(folder: Path) -> dict[str, str]:
    """Of the files with jets, by test and name."""
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(folder.glob("*/*.parquet"))}


def check_trained(plan: dict, folder: Path, results: Path, runs: dict[str, dict]) -> None:
    """Check that every training of the plan is done, and that its checkpoint is the one that was validated; restore
    those that are not on this machine from the weights that were kept.

    Raises:
        ValueError: naming the first that is not.
    """
    for one in trainings(plan):
        weights, kept = folder / one.name / "model.safetensors", weights_file(results, one.name)
        run, is_network = runs.get(one.name, {}), one.model != TREES  # trees are retrained, deterministically
        there = not is_network or weights.exists() or kept.exists()
        if run.get("recipe") != digest(plan, one.model) or not there:
            raise ValueError(f"The training {one.name} is missing: run studies/comparison.py.")
        if is_network and not weights.exists():
            restore(kept, weights.parent, run["weights"])
        if is_network and run["weights"] != sha256_of(weights):
            raise ValueError(
                f"{weights} is not what was validated: remove its folder, and it is restored from {kept}."
            )


def check_committed(*paths: str | Path) -> str:
    """The commit that is checked out, in which `paths` are as they are on disk.

    Raises:
        ValueError: if one of them differs from the commit, or is not in it, or there is no commit.
    """
    if outside := [str(path) for path in paths if not Path(path).resolve().is_relative_to(ROOT)]:
        raise ValueError(f"{outside[0]} is outside the clone {ROOT}, so that no commit holds it: move it there.")
    names = [str(Path(path).resolve().relative_to(ROOT)) for path in paths]
    changed = _git("status", "--porcelain", "--untracked-files=all", "--", *names)
    unknown = [name for name in names if not _git("ls-files", "--", name)]
    if changed or unknown:
        what = ", ".join(unknown or [line[3:] for line in changed.splitlines()])
        raise ValueError(f"{what} differs from the commit: the test opens for what is committed. Commit it first.")
    return _git("rev-parse", "HEAD")


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *words], check=False, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise ValueError(f"{ROOT} must be a git clone: {done.stderr.strip()}")
    return done.stdout.rstrip()


def check_unopened(opened: Path, commit: str, digest: str) -> None:
    """Note that the test is open; refuse if it was opened for other models.

    Raises:
        ValueError: naming the commit that opened it.
    """
    if opened.exists():
        before = read_mapping(opened, "JSON")
        if before.get("plan") != digest:
            raise ValueError(
                f"The test was opened at commit {before.get('commit')} for another plan: a new test needs another "
                "seed, and an `--output_dir` and a `--results_dir` of its own."
            )
        return
    write_whole_text(opened, json.dumps({"commit": commit, "plan": digest}, indent=2) + "\n")


def main() -> None:
    options, parallel = HfArgumentParser([BlindArguments, ParallelArguments]).parse_args_into_dataclasses()
    plan, folder, results = read_recipe(options.study), Path(options.output_dir), Path(options.results_dir)
    data, listed, validated = folder / "blind", results / "blind_files.json", results / "validation.json"
    recipes, runs = Path(options.study).parent, read_runs(validated)
    check_plan(plan, options.study)
    check_trained(plan, folder, results, runs)
    commit = check_committed(*CODE, recipes, validated, *([] if options.make else [listed]))
    if options.make:
        for name, test in plan["blind_tests"].items():
            simulate(data / name, test, options.num_proc)
        write_whole_text(listed, json.dumps(hashes(data), indent=2) + "\n")
        print(f"Commit {listed}, then run this script without --make.")
        return
    found = hashes(data)
    if not found or found != read_mapping(listed, "JSON"):
        raise ValueError(f"The files in {data} are not those that {listed} lists: make them again, or restore them.")
    texts = [path.read_bytes() for path in (*sorted(recipes.glob("*")), listed, validated)]
    check_unopened(results / "opened.json", commit, sha256(b"".join(texts)).hexdigest())
    jobs = []
    for name, test in plan["blind_tests"].items():
        for pileup in test["pileup"]:
            jobs += _measure(plan, options, name, pileup)
    run_jobs(jobs, parallel, folder / "logs")
    (trained_at,) = plan["blind_tests"]["main"]["pileup"]
    measured = sorted((results / f"blind/main/pileup_{trained_at:g}").glob("*_seed*.json"))
    found = {"reference": plan["claims"]["reference"], "claims": claims(measured, **plan["claims"])}
    write_record(results / "claims.json", found)
    changes = pileup_changes(results / "blind/pileup", trained_at)
    write_record(results / "pileup.json", {"trained_at": trained_at, "models": changes})


def _measure(plan: dict, options: BlindArguments, name: str, pileup: float) -> list[Job]:
    """What measures each model that was trained on all jets, and has no result yet, on a test at a pile-up."""
    folder, test = Path(options.output_dir), Path(options.output_dir) / "blind" / name
    results = Path(options.results_dir) / f"blind/{name}/pileup_{pileup:g}"
    cache = ["--cache_dir", options.cache_dir] if options.cache_dir else []
    missing = [one for one in trainings(plan) if one.share == 1 and not (results / f"{one.name}.json").exists()]
    jobs = []
    for one in missing:
        if one.model != TREES:
            words = ("--data_dir", test, *cache, "--pileup", pileup, "--split", "all", "--mixed_precision", "no")
            words += ("--model_name", one.title, "--results", results / f"{one.name}.json")
            jobs.append(
                Job(f"{one.name} on {name} at pile-up {pileup}", [("scripts/eval.py", folder / one.name, *words)])
            )
    if seeds := [one.seed for one in missing if one.model == TREES]:
        # with the trials of the validation, which are not repeated
        shutil.copytree(folder / "validation/tuning", results / "tuning", dirs_exist_ok=True)
        words = ("--data_dir", folder / "data", *cache, "--validation_fraction", plan["validation_fraction"])
        words += ("--test_dir", test, "--test_pileup", pileup)
        jobs.append(Job(f"{TREES} on {name} at pile-up {pileup}", [(*trees_step(plan, seeds, results), *words)]))
    return jobs


if __name__ == "__main__":
    with one_line_errors("blind_test.py"):
        main()
