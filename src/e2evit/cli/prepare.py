"""Convert the files of an E2E data set to a Parquet repository that `datasets.load_dataset` reads.

examples:
  e2evit inspect top_gun_opendata_0.parquet
  e2evit prepare top_mass --data_dir downloads/top_gun --output_dir data/top_mass --num_proc 8

Run the same command again to resume after an interruption; finished shards are kept.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from e2evit.data import SCHEMAS, SplitRule
from e2evit.data.prepare import MANIFEST_FILE, prepare

from .parser import parse

DATASET = ("dataset", f"One of {', '.join(SCHEMAS)}, or custom.")


@dataclass
class PrepareArguments:
    data_dir: str = HfArg(help="Folder (or fsspec address) of the files.")
    output_dir: str = HfArg(help="Folder to write.")
    schema: str | None = HfArg(default=None, help="YAML schema of a custom data set.")
    salt: str = HfArg(default=SplitRule.salt, help="Another salt draws other splits.")
    shard_megabytes: float = HfArg(default=200.0, help="Size of a training shard [MB].")
    on_bad_rows: str = HfArg(
        default="error", help="error: stop at a bad row; skip: leave bad rows out, count and list them."
    )
    num_proc: int = HfArg(default=1, help="Local worker processes.")
    scheduler: str | None = HfArg(
        default=None, help="Address of a Dask scheduler, tcp://..., whose workers convert instead."
    )
    push_to_hub: str | None = HfArg(default=None, help="Upload to this data set repository, ORG/NAME.")
    private: bool = HfArg(default=False, help="Make a new repository private.")


def main(arguments: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    dataset, options = parse("e2evit prepare", __doc__, arguments, PrepareArguments, first=DATASET)
    folder = prepare(
        dataset,
        options.data_dir,
        options.output_dir,
        schema=options.schema,
        rule=SplitRule(options.salt),
        shard_megabytes=options.shard_megabytes,
        on_bad_rows=options.on_bad_rows,
        num_proc=options.num_proc,
        scheduler=options.scheduler,
    )
    print(f"Prepared {dataset} in {folder}: {describe(folder)}")
    if options.push_to_hub:
        from e2evit.hub.publish import publish_dataset  # imports torch

        print(f"Published {publish_dataset(folder, options.push_to_hub, private=options.private)}")


def describe(folder: Path) -> str:
    """How many rows a prepared folder has, and how many of them have no label."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    rows = sum(shard["rows"] for shards in manifest["shards"].values() for shard in shards)
    without = manifest.get("num_rows_without_label")
    return f"{rows} rows" + (f", {without} without a label" if without is not None else "")
