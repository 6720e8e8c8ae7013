"""Dask workers as Slurm jobs for `e2evit simulate --scheduler` (needs the `cluster` extra).

Start it on a login node inside tmux and leave it running; it prints the address. Jobs that end early are replaced.

    python recipes/dask/slurm.py --jobs 40
    e2evit simulate --scheduler tcp://... --output_dir /shared/jets --processes qcd top --num_jets 500000
"""

import argparse
import signal

from dask_jobqueue import SLURMCluster

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--jobs", type=int, default=10, help="number of jobs, one worker each")
parser.add_argument("--queue", help="partition")
parser.add_argument("--account")
parser.add_argument("--print_job", action="store_true", help="only print the job script")
arguments = parser.parse_args()

# a worker needs one core and less than 1 GiB; a shard of 2 000 jets takes about 20 seconds
cluster = SLURMCluster(
    cores=1, processes=1, memory="4GB", walltime="08:00:00", queue=arguments.queue, account=arguments.account
)
if arguments.print_job:
    print(cluster.job_script())
else:
    cluster.adapt(minimum_jobs=1, maximum_jobs=arguments.jobs)
    print(f"--scheduler {cluster.scheduler_address}", flush=True)
    signal.pause()
