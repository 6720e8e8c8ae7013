"""The tables of docs/limits.md on files that someone else wrote, from `benchmarks/fuzz.py`."""

import json
from functools import partial
from pathlib import Path

from e2evit.results.tables import markdown_table

__all__ = ["TABLES"]

HEADS = ("files", "refused", "as written", "read", "changed", "faults", "longest [s]", "memory [MiB]")
FAULTS = ("wrong value", "refused a good file", "traceback", "crash", "slow", "memory", "outside read", "code run")


def fuzz(file: str, results: Path) -> str:
    """Outcomes by reader, and what they are of."""
    measured = json.loads((results / file).read_text(encoding="utf-8"))
    rows = [
        [
            row["reader"],
            *(str(row[name]) for name in ("files", "refused", "equal", "read", "changed")),
            str(sum(row[name] for name in FAULTS)),
            f"{row['longest_seconds']:.0f}",
            str(row["largest_mib"]),
        ]
        for row in measured["readers"]
    ]
    files = measured["files"]
    return (
        f"{files['mutated']} damaged and {files['crafted']} crafted files and the intact ones, "
        f"{sum(row['files'] for row in measured['readers'])} readings:\n\n" + markdown_table(["reader", *HEADS], rows)
    )


TABLES = {"fuzz": partial(fuzz, "fuzz.json"), "fuzz of ROOT": partial(fuzz, "fuzz_root.json")}
