"""The steps of a study: scripts, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

__all__ = ["RECIPES", "SCRIPTS", "launch", "run_step"]

ROOT = Path(__file__).parents[1]
SCRIPTS, RECIPES = ROOT / "scripts", ROOT / "recipes"


def run_step(*command) -> None:
    """Run a command; a study ends with the first that fails.

    Raises:
        SystemExit: if it failed.
    """
    words = [str(part) for part in command]
    print(f"\n$ {' '.join(words)}", flush=True)
    if subprocess.run(words, check=False).returncode:
        sys.exit(f"This step failed: {' '.join(words)}")


def launch(script: str) -> tuple:
    """The command that starts a script of this repository under Accelerate, in one process of this interpreter."""
    config = RECIPES / "accelerate/one_process.yaml"
    return sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, SCRIPTS / script
