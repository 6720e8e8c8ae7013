"""Give damaged and crafted files to every reader of e2evit, and count what comes of it.

python benchmarks/fuzz.py --results results/fuzz.json
python benchmarks/fuzz.py --kinds root --results results/fuzz_root.json
python benchmarks/fuzz.py --only "crafted hdf5 link absolute"

Each file is read in a process of its own. Good outcomes: refused with a clean error, equal to what the file holds, or
`read` where there is nothing to compare. `changed` are other values after damage to bytes that no checksum covers,
which nobody can tell. All others are faults. Run the same command again to resume.
"""

import argparse
import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import fuzzing  # noqa: F401  (sets the environment, before the others import anything)
from fuzzing.case import mutants, whole
from fuzzing.crafted_hdf5 import hdf5_cases
from fuzzing.crafted_tables import npy_cases, npz_cases, other_cases, parquet_cases, rows_cases
from fuzzing.crafted_texts import TEXTS, export_tiny, text_cases
from fuzzing.processes import FAULTS, run_cases
from fuzzing.readers import READERS, run_program, start_readers
from fuzzing.root_files import root_cases, root_formats
from fuzzing.sample import FORMATS
from tqdm import tqdm

from e2evit.results.record import current_commit, write_record
from e2evit.results.tables import markdown_table

ROOT = Path(__file__).parents[1]
CRAFTED = (hdf5_cases, parquet_cases, rows_cases, npz_cases, npy_cases, other_cases, text_cases, root_cases)


def all_cases(arguments: argparse.Namespace) -> list:
    """Mutated and crafted cases, in an order that mixes their kinds."""
    crafted = [case for cases in CRAFTED for case in cases()][:: arguments.every]
    wholes = [(kind, intact, arguments.mutants) for kind, intact in (FORMATS | root_formats()).items()]
    wholes += [(kind, intact, 2 * arguments.mutants) for kind, intact in TEXTS.items()]  # which have one reader each
    intact = [whole(kind, intact) for kind, intact, _ in wholes]
    mutated = [case for of_kind in wholes for case in mutants(*of_kind, arguments.seed)]
    names = Counter(case.name for case in crafted)
    assert max(names.values(), default=1) == 1, names.most_common(3)
    chosen = [case for case in (*intact, *crafted, *mutated) if case.kind in (arguments.kinds or READERS)]
    return [case for case in chosen if arguments.only in (None, case.name)]


def resume(path: Path, settings: dict) -> list[dict]:
    """Outcomes of an earlier call with the same settings; none if there was none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if lines and json.loads(lines[0]) == settings:
        return [json.loads(line) for line in lines[1:] if line.endswith("}")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    return []


def table(outcomes: list[dict]) -> list[dict]:
    """One row per reader: files by outcome, the longest time and the largest growth of memory."""
    rows = []
    for reader in sorted({outcome["reader"] for outcome in outcomes}):
        own = [outcome for outcome in outcomes if outcome["reader"] == reader]
        counts = Counter(outcome["outcome"] for outcome in own)
        row = {"reader": reader, "files": len(own)}
        row |= {name: counts[name] for name in ("refused", "equal", "read", "changed", *FAULTS)}
        row |= {"longest_seconds": max(o["seconds"] for o in own), "largest_mib": max(o["mib"] for o in own)}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results/fuzz.json")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/fuzz", help="folder of the outcomes so far")
    parser.add_argument("--mutants", type=int, default=65, help="damaged copies of each data file; twice for texts")
    parser.add_argument("--every", type=int, default=1, help="take one of so many crafted files")
    parser.add_argument("--only", help="name of a single case, whose outcomes are printed")
    parser.add_argument("--readers", nargs="+", help="only these")
    parser.add_argument("--kinds", nargs="+", choices=READERS, help="only files of these formats")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--program", type=Path, help="the C++ program of deploy/cpp, built")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    readers = dict(READERS)
    if arguments.program:
        model = export_tiny(arguments.work)
        readers["row"] = {"C++ program": partial(run_program, arguments.program.resolve(), model)}
    if arguments.readers:
        readers = {
            kind: {name: read for name, read in of_kind.items() if name in arguments.readers}
            for kind, of_kind in readers.items()
        }
    cases = all_cases(arguments)
    settings = {name: getattr(arguments, name) for name in ("mutants", "every", "only", "readers", "kinds", "seed")}
    settings |= {"commit": current_commit(), "program": str(arguments.program)}
    log = arguments.work / "outcomes.jsonl"
    outcomes = resume(log, settings)
    done = {(outcome["case"], outcome["reader"]) for outcome in outcomes}

    def readers_of(case) -> dict:
        return {name: read for name, read in readers.get(case.kind, {}).items() if (case.name, name) not in done}

    start_readers()
    total = sum(len(readers.get(case.kind, ())) for case in cases)
    with (
        log.open("a", encoding="utf-8") as file,
        tqdm(total=total, initial=len(outcomes), desc="Reading", unit="file") as progress,
    ):
        for outcome in run_cases(cases, readers_of, arguments.work, arguments.processes):
            file.write(json.dumps(outcome) + "\n")
            file.flush()
            outcomes.append(outcome)
            progress.update()
            if outcome["outcome"] in FAULTS or arguments.only:
                progress.write(
                    f"{outcome['case']} | {outcome['reader']}: {outcome['outcome']} {outcome['detail'][:200]}"
                )
    faults = [outcome for outcome in outcomes if outcome["outcome"] in FAULTS]
    rows = table(outcomes)
    print(markdown_table(["reader", *list(rows[0])[1:]], [[str(value) for value in row.values()] for row in rows]))
    if not arguments.only:
        sizes = Counter(case.name.split()[0] for case in cases)  # whole, crafted, mutated
        write_record(arguments.results, {"files": sizes, "seed": arguments.seed, "readers": rows, "faults": faults})
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
