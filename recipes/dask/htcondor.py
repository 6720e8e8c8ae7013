"""Dask workers as HTCondor jobs (at CERN, say) for `e2evit simulate --scheduler` (needs the `cluster` extra).

Start it on a submit node inside tmux and leave it running; it prints the address. Jobs that end early are replaced.

    python recipes/dask/htcondor.py --jobs 40
    e2evit simulate --scheduler tcp://... --output_dir /shared/jets --processes qcd top --num_jets 500000
"""

import argparse
import signal

from dask_jobqueue import HTCondorCluster

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--jobs", type=int, default=10, help="number of jobs, one worker each")
parser.add_argument("--flavour", default="workday", help="CERN's name for a time limit")
parser.add_argument("--print_job", action="store_true", help="only print the job script")
arguments = parser.parse_args()

# a worker needs one core and less than 1 GiB; a shard of 2 000 jets takes about 20 seconds
cluster = HTCondorCluster(
    cores=1,
    processes=1,
    memory="4GB",
    disk="2GB",
    job_extra_directives={"+JobFlavour": f'"{arguments.flavour}"', "getenv": "True"},
)
if arguments.print_job:
    print(cluster.job_script())
else:
    cluster.adapt(minimum_jobs=1, maximum_jobs=arguments.jobs)
    print(f"--scheduler {cluster.scheduler_address}", flush=True)
    signal.pause()
