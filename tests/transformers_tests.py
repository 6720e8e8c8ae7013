"""The tests that transformers runs on each of its own models, for ours.

Only its source distribution has them: pip fetches that of the installed version once, into `.pytest_cache`.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import transformers
from filelock import FileLock

CACHE = Path(__file__).parents[1] / ".pytest_cache"
PACKAGE = "tests_of_transformers"
FILES = [f"test_{subject}_common.py" for subject in ("modeling", "backbone", "configuration", "image_processing")]
# what these files import from others that the distribution lacks
LACKING = {
    f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    f"{PACKAGE}.utils.test_configuration_utils": {
        "config_common_kwargs": {  # fields of every configuration, with other values than their defaults
            "return_dict": False,
            "output_hidden_states": True,
            "dtype": "float16",
            "chunk_size_feed_forward": 5,
            "architectures": ["Another"],
            "id2label": {0: "jet"},
            "label2id": {"jet": 0},
            "problem_type": "regression",
        }
    },
    "fetch_hub_objects_for_ci": {"url_to_local_path": None},
}


def load(subject: str) -> ModuleType:
    """The file of common tests of a `subject`, such as "modeling".

    Without it, the tests of the calling file are skipped, or with `E2EVIT_REQUIRE=all` fail.
    """
    try:
        folder = _fetch()
    except (OSError, subprocess.CalledProcessError, tarfile.TarError, KeyError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        line = f"needs the source distribution of transformers {transformers.__version__} from PyPI: {reason.strip()}"
        if os.environ.get("E2EVIT_REQUIRE") == "all":
            raise RuntimeError(line) from error
        pytest.skip(line.splitlines()[0], allow_module_level=True)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    for name, contents in LACKING.items():
        sys.modules.setdefault(name, ModuleType(name)).__dict__.update(contents)
    return import_module(f"{PACKAGE}.test_{subject}_common")


@cache
def _fetch() -> Path:
    """The folder that holds the package of tests."""
    release = f"transformers-{transformers.__version__}"
    folder = CACHE / release
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / f"{release}.lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
                _download(release, Path(temporary))
                _unpack(Path(temporary) / f"{release}.tar.gz", release, Path(temporary) / "unpacked")
                (Path(temporary) / "unpacked").rename(folder)
    return folder


def _download(release: str, folder: Path) -> None:
    requirement = release.replace("-", "==")
    options = ["--no-deps", "--no-binary", "transformers", "--retries", "1", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    subprocess.run(command, check=True, capture_output=True, text=True)


def _unpack(archive: Path, release: str, folder: Path) -> None:
    package = folder / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    with tarfile.open(archive) as opened:
        for name in FILES:
            file = opened.extractfile(f"{release}/tests/{name}")
            if file is None:
                raise OSError(f"{release}/tests/{name} is not a file")
            (package / name).write_bytes(file.read())
