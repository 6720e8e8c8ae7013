"""The `e2evit` command. `scripts/*.py` start the same commands for `accelerate launch`."""

from .command import run

__all__ = ["run"]
