"""Publish a checkpoint on the Hub: assemble its folder, check that it loads without e2evit, upload it in one commit.

examples:
  e2evit push runs/xcit --results results/xcit.json --repo_id ORG/NAME --dry_run
  e2evit push runs/xcit --results results/xcit.json --repo_id ORG/NAME --private
  e2evit push runs/xcit --results results/xcit.json --repo_id ORG/NAME --benchmark ORG/JETS
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from e2evit.data.locks import held
from e2evit.data.storage import absolute
from e2evit.hub.assemble import assemble_model
from e2evit.hub.benchmark import Benchmark
from e2evit.hub.publish import publish_model

from .parser import parse

CHECKPOINT = ("checkpoint", "Folder that `e2evit train` wrote.")


@dataclass
class PushArguments:
    repo_id: str = HfArg(help="ORG/NAME; created if it does not exist.")
    results: str = HfArg(help="Result file of `e2evit eval` for this checkpoint.")
    private: bool = HfArg(default=False, help="Make a new repository private.")
    revision: str | None = HfArg(default=None, help="Branch to upload to. Default: main.")
    tag: str | None = HfArg(default=None, help="Tag the commit with this name.")
    benchmark: str | None = HfArg(
        default=None,
        help="Benchmark on the Hub, ORG/NAME, that the results were measured on: its leaderboards get the scores.",
    )
    dry_run: bool = HfArg(default=False, help="Assemble, check and list the files; upload nothing.")
    output_dir: str | None = HfArg(default=None, help="Keep the assembled folder here.")


def main(arguments: Sequence[str] | None = None) -> None:
    checkpoint, options = parse("e2evit push", __doc__, arguments, PushArguments, first=CHECKPOINT)
    push(checkpoint, options)


def push(checkpoint: str | Path, options: PushArguments) -> None:
    """Assemble, check and upload a checkpoint, and print what was done."""
    benchmark = None if options.benchmark is None else Benchmark.of_hub(options.benchmark)
    with tempfile.TemporaryDirectory() as base:
        target = Path(absolute(options.output_dir or f"{base}/model"))
        with held(target.parent, target.name):
            folder = assemble_model(checkpoint, target, options.repo_id, options.results, benchmark=benchmark)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            size = sum(path.stat().st_size for path in files) / 2**20
            print(f"Assembled {len(files)} files, {size:.1f} MiB; without e2evit they load and predict the same")
            if options.dry_run:
                for path in files:
                    print(f"{path.stat().st_size:>10} {path.relative_to(folder)}")
                return
            address = publish_model(folder, options.repo_id, options.private, options.revision, options.tag)
        print(f"Published {address}")
