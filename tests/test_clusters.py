"""The batch files, as far as they can be tested without a batch system."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("code", [0, 75, 3])
def test_the_slurm_job(code, tmp_path):
    """It activates the environment, starts training with rank and address, and requeues itself after exit code 75."""
    tools = tmp_path / "bin"
    tools.mkdir()
    programs = {
        "scontrol": f'echo "$@" >> {tmp_path}/scontrol; if [ $1 = show ]; then echo node1; echo node2; fi',
        "srun": 'shift; SLURM_PROCID=1 SLURM_LOCALID=1 exec "$@"',
        "python": f'echo "$MASTER_ADDR $WORLD_SIZE $RANK $LOCAL_RANK $LOCAL_WORLD_SIZE $VENV $@"; exit {code}',
        "activate": "export VENV=activated",
    }
    for name, text in programs.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "E2EVIT_ENV": str(tmp_path)}
    environment |= {"SLURM_JOB_ID": "123", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NTASKS": "8"}
    environment |= {"SLURM_NTASKS_PER_NODE": "4"}
    job = ["bash", ROOT / "recipes/clusters/train.slurm", "recipe.yaml", "--output_dir", "a folder"]
    done = subprocess.run(job, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout == (
        "node1 8 1 1 4 activated scripts/train.py recipe.yaml --output_dir a folder --resume_from_checkpoint\n"
    )
    assert ("requeue 123" in (tmp_path / "scontrol").read_text()) == (code == 75)


def test_the_slurm_job_needs_its_environment(tmp_path):
    job = ["bash", ROOT / "recipes/clusters/train.slurm", "recipe.yaml"]
    done = subprocess.run(job, env=os.environ | {"E2EVIT_ENV": str(tmp_path)}, capture_output=True, check=False)
    assert done.returncode == 1
