"""The batch files, as far as they can be tested without a batch system."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


SRUN = 'while [[ $1 == -* ]]; do shift; done; SLURM_PROCID=1 SLURM_LOCALID=1 exec "$@"'
JOBS = {  # what their arguments become
    "train": "node1 8 1 1 4 activated scripts/train.py a.yaml --output_dir a folder --resume_from_checkpoint\n",
    "study": "activated a.yaml --device cuda --parallel_runs 4 --output_dir a folder\n",
}


@pytest.mark.parametrize("code", [0, 75, 3])
@pytest.mark.parametrize("name", JOBS)
def test_a_slurm_job(name, code, tmp_path):
    """It activates the environment, starts training with rank and address, and requeues itself after exit code 75."""
    tools = tmp_path / "bin"
    tools.mkdir()
    programs = {
        "scontrol": f'echo "$@" >> {tmp_path}/scontrol; if [ $1 = show ]; then echo node1; echo node2; fi',
        "srun": SRUN,
        "python": f'echo $MASTER_ADDR $WORLD_SIZE $RANK $LOCAL_RANK $LOCAL_WORLD_SIZE $VENV "$@"; exit {code}',
        "activate": "export VENV=activated",
    }
    for program, text in programs.items():
        (tools / program).write_text(f"#!/bin/bash\n{text}\n")
        (tools / program).chmod(0o755)
    environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "E2EVIT_ENV": str(tmp_path)}
    environment |= {"SLURM_JOB_ID": "123", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NTASKS": "8"}
    environment |= {"SLURM_NTASKS_PER_NODE": "4"}
    job = ["bash", ROOT / f"recipes/clusters/{name}.slurm", "a.yaml", "--output_dir", "a folder"]
    done = subprocess.run(job, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout == JOBS[name]
    requeued = (tmp_path / "scontrol").exists() and "requeue 123" in (tmp_path / "scontrol").read_text()
    assert requeued == (code == 75)


def test_a_slurm_job_of_one_process(tmp_path):
    """Without a group, whose single process Accelerate would wrap for DDP."""
    for program, text in {"scontrol": "echo node1", "srun": SRUN, "python": 'echo "${WORLD_SIZE-none} $1"'}.items():
        (tmp_path / program).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / program).chmod(0o755)
    (tmp_path / "activate").touch()
    (tmp_path / "bin").symlink_to(tmp_path)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "E2EVIT_ENV": str(tmp_path)}
    environment |= {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1",
    }
    job = ["bash", ROOT / "recipes/clusters/train.slurm", "a.yaml"]
    done = subprocess.run(job, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "none scripts/train.py\n", done.stderr


@pytest.mark.parametrize("name", JOBS)
def test_a_slurm_job_needs_its_environment(name, tmp_path):
    job = ["bash", ROOT / f"recipes/clusters/{name}.slurm", "a.yaml"]
    done = subprocess.run(job, env=os.environ | {"E2EVIT_ENV": str(tmp_path)}, capture_output=True, check=False)
    assert done.returncode == 1
