"""The steps of a study: scripts, each in a process of its own, so that none holds the memory of the one before."""

import subprocess
import sys
from pathlib import Path

__all__ = ["RECIPES", "run_script"]

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"


def run_script(script: str, *arguments) -> None:
    """Run a script, such as "scripts/train.py", in one process of this interpreter.

    Raises:
        SystemExit: if it fails, which ends the study.
    """
    words = [str(part) for part in (script, *arguments)]
    print(f"\n$ python {' '.join(words)}", flush=True)
    if subprocess.run([sys.executable, ROOT / script, *words[1:]], check=False).returncode:
        sys.exit(f"This step failed: python {' '.join(words)}")
