"""Fixtures shared by all tests: random sparse jets on disk, no simulation, no network."""

import os
import re
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import pyarrow.parquet as pq
import pytest
from samples import row_table

# the tools that a marker needs, and how to install them
TOOLS = {
    "browser": (("chromium",), "apt-get install chromium"),
    "cpp": (("cmake", "c++"), "apt-get install cmake g++"),
}


def pytest_configure(config):
    hide_gpus(config)
    divide_cores(config)


def hide_gpus(config):
    """Tests run on the CPU, but with `-m gpu`, which chooses those that need a GPU; here, before CUDA starts."""
    if re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic algorithms
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def divide_cores(config):
    """Give each process of xdist cores of its own: training uses all it sees, and threads that share one wait."""
    worker = getattr(config, "workerinput", None)
    if worker and hasattr(os, "sched_setaffinity"):
        number, cores = int(worker["workerid"].removeprefix("gw")), sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number :: worker["workercount"]] or [cores[number % len(cores)]])


def pytest_collection_modifyitems(items):
    """Files with slow tests start first, so that no process waits for one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("thorough")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip tests whose tools are missing; with E2EVIT_REQUIRE=all, as in `.ci/run`, they fail."""
    for marker, (commands, how) in TOOLS.items():
        missing = [command for command in commands if shutil.which(command) is None]
        if missing and item.get_closest_marker(marker):
            stop = pytest.fail if os.environ.get("E2EVIT_REQUIRE") == "all" else pytest.skip
            stop(f"needs {' and '.join(missing)}: {how}, then pytest -m {marker}")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU: run pytest -m gpu on a machine that has one")


@pytest.fixture(scope="session")
def jets_dir(tmp_path_factory):
    """A folder like those of scripts/simulate.py with 160 jets in two files."""
    folder = tmp_path_factory.mktemp("jets")
    for part in range(2):
        pq.write_table(row_table(80, seed=part), folder / f"part-{part}.parquet")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _own_caches(tmp_path_factory):
    """Cache prepared data in a folder of this test run."""
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def simulated_jets():
    """The folder of 220 committed simulated jets; tests that use it need no Pythia."""
    return Path(__file__).parent / "data/jets"
