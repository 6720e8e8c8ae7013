"""Production on a Dask cluster, including a worker killed midway, and the recipes for batch systems."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import distributed
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from e2evit.data import jobs
from e2evit.simulation import SimulationSettings, simulate

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster


@pytest.mark.distributed
@pytest.mark.slow
def test_particles_are_those_of_local_processes(cluster, tmp_path):
    settings = SimulationSettings(seed=6, shard_size=10, keep="particles")
    simulate(tmp_path / "cluster", ["qcd"], 20, settings, scheduler=cluster.scheduler_address)
    simulate(tmp_path / "local", ["qcd"], 20, settings, num_proc=2)
    rows = {}
    for place in ("cluster", "local"):
        paths = sorted((tmp_path / place).glob("*.parquet"))
        assert [path.name for path in paths] == ["qcd-00000-10.parquet", "qcd-00001-10.parquet"]
        rows[place] = pa.concat_tables([pq.read_table(path) for path in paths])
    assert rows["cluster"]["particle_id"].combine_chunks().offsets.to_numpy()[-1] > 20 * 100
    assert rows["cluster"].equals(rows["local"])


@pytest.mark.distributed
@pytest.mark.slow
def test_a_worker_dies_and_the_production_ends_with_the_same_bytes(cluster, tmp_path):
    settings = SimulationSettings(seed=5, pileup=0.0, shard_size=20)
    failed = []

    def produce():
        try:
            simulate(tmp_path / "cluster", ["qcd"], 120, settings, scheduler=cluster.scheduler_address)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=produce)
    thread.start()
    deadline = time.monotonic() + 200
    while (
        len(list((tmp_path / "cluster").glob("*.parquet"))) < 2 and thread.is_alive() and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    killed = next(iter(cluster.workers.values())).pid
    os.kill(killed, signal.SIGKILL)
    thread.join()
    assert not failed
    assert killed not in {nanny.pid for nanny in cluster.workers.values()}
    simulate(tmp_path / "local", ["qcd"], 120, settings)
    names = sorted(path.name for path in (tmp_path / "local").iterdir())
    assert len([name for name in names if name.endswith(".parquet")]) == 6
    for name in names:
        assert (tmp_path / "cluster" / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name


def test_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "SCHEDULER_TIMEOUT", 1)
    with pytest.raises(OSError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:1 within 1 s"):
        simulate(tmp_path / "out", ["qcd"], 10, scheduler="tcp://127.0.0.1:1")
    assert not (tmp_path / "out").exists()


def test_without_the_cluster_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"e2evit\[cluster\]"):
        simulate(tmp_path / "out", ["qcd"], 10, scheduler="tcp://127.0.0.1:1")


@pytest.mark.parametrize(
    ("system", "directive"), [("slurm", "#SBATCH --mem=4G"), ("htcondor", "MY.DaskWorkerMemory = 4000000000")]
)
def test_recipes_for_batch_systems(system, directive):
    """The job that the recipe would submit requests the stated resources and starts a Dask worker."""
    recipe = ROOT / f"recipes/dask/{system}.py"
    done = subprocess.run(
        [sys.executable, recipe, "--jobs", "10", "--print_job"], capture_output=True, text=True, check=True
    )
    assert directive in done.stdout
    assert re.search(r"distributed\.cli\.dask_worker|dask worker", done.stdout)
