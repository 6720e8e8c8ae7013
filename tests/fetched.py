"""Packages that only tests need, and that cannot be dependencies."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

CACHE = Path(__file__).parents[1] / ".pytest_cache"


def fetch(*packages: str) -> Path:
    """The folder to import packages `NAME==VERSION` from, which pip fetches once, without their dependencies.

    Without them, the test is skipped, or with `E2EVIT_REQUIRE=all` fails.
    """
    folder = CACHE / f"{packages[0].replace('==', '-')}-{sys.implementation.cache_tag}"
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / f"{folder.name}.lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
                command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--retries", "1"]
                command += ["--disable-pip-version-check", "--target", f"{temporary}/packages", *packages]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode and os.environ.get("E2EVIT_REQUIRE") != "all":
                    pytest.skip(f"needs {packages[0]} from PyPI: {done.stderr.strip().splitlines()[-1]}")
                assert done.returncode == 0, done.stderr[-2000:]
                Path(temporary, "packages").rename(folder)
    return folder
