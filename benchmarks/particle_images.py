"""How fast kept particles become images on one core, and how much room they take.

taskset -c 0 python benchmarks/particle_images.py --results results/simulation_particles.json
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from e2evit.data.sparse import COLUMN_ENCODINGS
from e2evit.results.record import write_record
from e2evit.simulation import ParticleImages, SimulationSettings
from e2evit.simulation.pool_cache import cached_pool
from e2evit.simulation.shards import make_shard, versions

PILEUP = {"0": 0.0, "21": 21.0, "60": 60.0, "0-60": (0.0, 60.0), "0-200": (0.0, 200.0)}
SINGLE = "21, row by row"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/simulation_particles.json"))
    parser.add_argument("--processes", nargs="+", default=["qcd", "top"])
    parser.add_argument("--num_jets", type=int, default=500, help="jets of a process")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache_dir", default=None, help="where the pile-up pool is, or will be")
    arguments = parser.parse_args()
    settings = SimulationSettings(keep="particles")
    pool = cached_pool(settings.energy, settings.geometry, cache_dir=arguments.cache_dir)
    tables = {process: make_shard(process, 0, arguments.num_jets, settings) for process in arguments.processes}
    rows = []
    for process, table in tables.items():
        few = table.slice(0, 100)
        samples = {name: (mean, [table]) for name, mean in PILEUP.items()}
        samples[SINGLE] = PILEUP["21"], [few.slice(row, 1) for row in range(few.num_rows)]
        for pileup, (mean, batches) in samples.items():
            images, rates = ParticleImages(settings.geometry, pool, mean), []
            for epoch in range(arguments.repeats + 1):
                start, of_epoch = time.process_time(), images.with_seed(0, epoch)
                for batch in batches:
                    of_epoch(batch)
                rates.append(sum(batch.num_rows for batch in batches) / (time.process_time() - start))
            rows.append({"process": process, "pileup": pileup, "jets_per_second": statistics.median(rates[1:])})
            print(rows[-1], flush=True)
    record = {
        "rows": rows,
        "bytes_per_jet": {process: stored_bytes(table) for process, table in tables.items()},
        "pool_size": len(pool),
        "num_jets": arguments.num_jets,
        "repeats": arguments.repeats,
    }
    write_record(arguments.results, record, packages=tuple(versions()))
    print(record["bytes_per_jet"])


def stored_bytes(table: pa.Table) -> float:
    """Bytes per jet in a file like those of `e2evit simulate`."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "jets.parquet")
        pq.write_table(table, path, row_group_size=1000, **COLUMN_ENCODINGS)
        return os.path.getsize(path) / table.num_rows


if __name__ == "__main__":
    main()
