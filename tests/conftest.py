"""Fixtures of all tests: random sparse jets on disk, no simulation, no network."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import pyarrow.parquet as pq
import pytest
from samples import row_table


@pytest.fixture(scope="session")
def jets_dir(tmp_path_factory):
    """A folder like those of scripts/simulate.py with 160 jets in two files."""
    folder = tmp_path_factory.mktemp("jets")
    for part in range(2):
        pq.write_table(row_table(80, seed=part), folder / f"part-{part}.parquet")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _own_caches(tmp_path_factory):
    """Prepared data goes to a folder of this test run."""
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def simulated_jets():
    """The folder of 220 committed jets of the simulation; tests that use it need no Pythia."""
    return Path(__file__).parent / "data/jets"
