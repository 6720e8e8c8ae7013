"""Where the simulation spends its time: milliseconds per jet and stage, jets per second and core, memory.

python benchmarks/simulation.py --results results/simulation_speed.json
"""

import argparse
import resource
import statistics
import time
from collections import defaultdict
from pathlib import Path

from e2evit.results.record import write_record
from e2evit.simulation import SimulationSettings, shards
from e2evit.simulation.shards import make_acceptance, make_pool, make_shard, versions

# beside the default, at the study's pile-up
_MATCHED = {"match_pt": True, "merged_only": True}
VARIANTS = {
    "": {},
    "--hadronizations 4": {"hadronizations": 4},
    "--match_pt --merged_only": _MATCHED,
    "--match_pt --merged_only --hadronizations 4": _MATCHED | {"hadronizations": 4},
}
STAGES = {
    "find_jets": "jets",
    "jet_observables": "jets",
    "detect": "detector",
    "tower_energy": "detector",
    "seed_towers": "image",
    "render": "image",
}


class Stopwatch:
    """CPU time spent in each stage of `make_shard`."""

    def __init__(self):
        self.seconds = defaultdict(float)
        for function, stage in STAGES.items():
            setattr(shards, function, self._timed(getattr(shards, function), stage))
        for method in ("__init__", "_layer", "_affected"):
            setattr(shards.Overlay, method, self._timed(getattr(shards.Overlay, method), "pile-up"))
        generate = shards.generate

        def timed_generate(*arguments, **keywords):
            batches = generate(*arguments, **keywords)
            while True:
                start = time.process_time()
                batch = next(batches)
                self.seconds["pythia"] += time.process_time() - start
                yield batch

        shards.generate = timed_generate

    def _timed(self, function, stage):
        def timed(*arguments, **keywords):
            start = time.process_time()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds[stage] += time.process_time() - start

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/simulation_speed.json"))
    parser.add_argument("--processes", nargs="+", default=["qcd", "top"])
    parser.add_argument("--pileup", nargs="+", type=float, default=[0.0, 21.0, 60.0])
    parser.add_argument("--num_jets", type=int, default=2000, help="jets of a shard")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    stopwatch, pool = Stopwatch(), make_pool(SimulationSettings())
    acceptances = {
        process: make_acceptance(process, SimulationSettings(**_MATCHED)) for process in arguments.processes
    }
    samples = [
        (process, pileup, options)
        for options in VARIANTS
        for pileup in (arguments.pileup if options == "" else [SimulationSettings.pileup])
        for process in arguments.processes
    ]
    runs_by_sample = defaultdict(list)
    for repeat in range(arguments.repeats):  # interleaved, so that a busy machine slows all alike
        for process, pileup, options in samples:
            settings = SimulationSettings(pileup=pileup, **VARIANTS[options])
            stopwatch.seconds.clear()
            start = time.process_time()
            acceptance = acceptances[process] if settings.match_pt else None
            table = make_shard(process, repeat, arguments.num_jets, settings, pool, acceptance)
            seconds = time.process_time() - start
            stages = {name: 1e3 * spent / table.num_rows for name, spent in stopwatch.seconds.items()}
            stages["rest"] = 1e3 * seconds / table.num_rows - sum(stages.values())
            runs_by_sample[process, pileup, options].append({"jets_per_second": table.num_rows / seconds} | stages)
    rows = [
        {"process": process, "pileup": pileup, "options": options}
        | {name: statistics.median(run.get(name, 0.0) for run in runs) for name in sorted(set().union(*runs))}
        for (process, pileup, options), runs in runs_by_sample.items()
    ]
    record = {
        "rows": rows,
        "num_jets": arguments.num_jets,
        "repeats": arguments.repeats,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    write_record(arguments.results, record, packages=tuple(versions()))
    for row in rows:
        print({name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()})
    print(f"Peak memory {record['peak_memory_mib']:.0f} MiB")


if __name__ == "__main__":
    main()
