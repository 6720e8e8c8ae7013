"""Publish a checkpoint: assemble its folder, load it without e2evit and compare, upload it in one commit.

python scripts/push_to_hub.py runs/xcit --results results/xcit.json --repo_id ORG/NAME --private
"""

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from e2evit.hub.assemble import assemble_model
from e2evit.hub.publish import publish_model
from e2evit.training import parse_recipe


@dataclass
class PushArguments:
    repo_id: str = field(metadata={"help": "ORG/NAME; created if it does not exist."})
    results: str = field(metadata={"help": "What scripts/eval.py wrote of this checkpoint."})
    private: bool = field(default=False, metadata={"help": "Whether a new repository is private."})
    revision: str | None = field(default=None, metadata={"help": "Branch; the main one if not given."})
    tag: str | None = field(default=None, metadata={"help": "Name for the commit."})
    dry_run: bool = field(default=False, metadata={"help": "Assemble and check, and send nothing."})
    output_dir: str | None = field(default=None, metadata={"help": "Keep the assembled folder here."})


def main() -> None:
    checkpoint, arguments = parse_recipe(PushArguments, first="checkpoint")
    try:
        with tempfile.TemporaryDirectory() as base:
            target = Path(arguments.output_dir or f"{base}/model")
            folder = assemble_model(checkpoint, target, arguments.repo_id, arguments.results)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            size = sum(path.stat().st_size for path in files) / 2**20
            print(f"Assembled {len(files)} files, {size:.1f} MiB; loads without e2evit and says the same")
            if arguments.dry_run:
                for path in files:
                    print(f"{path.stat().st_size:>10} {path.relative_to(folder)}")
                return
            address = publish_model(folder, arguments.repo_id, arguments.private, arguments.revision, arguments.tag)
            print(f"Published {address}")
    except (OSError, ValueError) as error:
        sys.exit(f"push_to_hub.py: {error}")


if __name__ == "__main__":
    main()
