"""How fast images are read from each kind of file, as dense float32 batches, and what preparing them costs.

python benchmarks/loading.py --results results/loading.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # images per second and core

import datasets
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from datasets import Array3D, Features

from e2evit import E2EImageProcessor, load_e2e
from e2evit.data import SCHEMAS, find_schema
from e2evit.data.files import list_pieces, read_rows
from e2evit.data.formats import open_data_file
from e2evit.data.sparse import COLUMN_ENCODINGS, table_to_dense
from e2evit.results.record import write_record
from e2evit.training.collate import E2ECollator, RowTables
from e2evit.transforms.augment import Augmentation

ROOT = Path(__file__).parents[1]
BATCH = 64
NESTED_ROWS = 192  # of the public nested layout, which is slow to write and to read


class Sources:
    """The same simulated jets as files of each kind."""

    def __init__(self, jets: Path, folder: Path, number: int):
        self.folder, self.schema = folder, find_schema("simulated", jets)
        names = self.schema.channel_names
        rows = datasets.concatenate_datasets(list(load_e2e("simulated", jets, cache_dir=folder / "cache").values()))
        rows = rows.select(np.resize(np.arange(len(rows)), number)).with_format("arrow")
        table = rows[:].combine_chunks()
        description = self.schema.description_of_rows(self.schema.label_names)
        events = pa.array([f"event {row}" for row in range(number)])
        table = table.set_column(table.column_names.index("event_id"), "event_id", events)
        metadata = table.schema.metadata | {b"e2evit": json.dumps(description).encode()}
        (folder / "rows").mkdir()
        pq.write_table(
            table.replace_schema_metadata(metadata), folder / "rows/a.parquet", row_group_size=1000, **COLUMN_ENCODINGS
        )
        self.images = table_to_dense(table, self.schema.image_shape)
        last = np.moveaxis(self.images, 1, -1)
        with h5py.File(folder / "contiguous.h5", "w") as file:
            file["jet"], file["Y"] = last, np.arange(number) % 2
        with h5py.File(folder / "gzip.h5", "w") as file:
            file.create_dataset("jet", data=last[:NESTED_ROWS], chunks=(32, *last.shape[1:]), compression="gzip")
        with pq.ParquetWriter(folder / "nested.parquet", self._nested(0).schema, compression="snappy") as writer:
            for row in range(NESTED_ROWS):
                writer.write_table(self._nested(row))
        features = Features({"image": Array3D(self.schema.image_shape, "float32")})
        self.dense = datasets.Dataset.from_generator(
            lambda: ({"image": image} for image in self.images), features=features, cache_dir=str(folder / "dense")
        ).with_format("numpy")
        self.train = load_e2e("simulated", folder / "rows", split="train", cache_dir=folder / "cache2")
        # the published files' own schemas with our channels: only layout and keys matter here
        self.hdf5 = replace(SCHEMAS["labelled"][0], channel_names=names, normalisation="physical", pattern="cont*.h5")
        self.parquet = replace(SCHEMAS["top_mass"][0], channel_names=names)

    def _nested(self, row: int) -> pa.Table:
        return pa.table({"X_jet": pa.array([self.images[row].astype(float).tolist()]), "m": [170.0]})

    def readers(self) -> dict[str, tuple[int, Callable[[], object]]]:
        """By name: the number of images, and the function that reads them."""
        rng = np.random.default_rng(0)
        processor = E2EImageProcessor(self.schema.channel_names, channel_scale=[1.0] * len(self.schema.channel_names))
        collators = [E2ECollator(processor, "jet_mass", Augmentation(flips=flips)) for flips in (False, True)]
        tables, shape = RowTables(self.train, collators[0].columns), self.schema.image_shape

        def batches(number, length):
            return [rng.integers(0, length, BATCH).tolist() for _ in range(number)]

        def rows_to_dense():
            for batch in batches(30, len(tables)):
                table_to_dense(tables.__getitems__(batch), shape)

        def collate(collator):
            for batch in batches(30, len(tables)):
                collator(tables.__getitems__(batch))

        def streamed():
            stream = load_e2e(
                "simulated", self.folder / "rows", split="train", streaming=True, shuffle_seed=int(rng.integers(1e9))
            )
            for table in stream.with_format("arrow").iter(BATCH):
                table_to_dense(table, shape)

        def contiguous():
            with h5py.File(self.folder / "contiguous.h5") as file:
                array = file["jet"]
                mapped = np.memmap(self.folder / "contiguous.h5", array.dtype, "r", array.id.get_offset(), array.shape)
            for batch in batches(10, len(mapped)):
                np.ascontiguousarray(np.moveaxis(mapped[batch], -1, 1))

        def nested_to_pylist():
            file = pq.ParquetFile(self.folder / "nested.parquet", page_checksum_verification=True)
            for row in rng.integers(0, NESTED_ROWS, 16).tolist():
                (jet,) = file.read_row_group(row, columns=["X_jet"]).to_pylist()
                np.array(jet["X_jet"], np.float32)

        def gzip_rows():
            with h5py.File(self.folder / "gzip.h5") as file:
                for row in rng.integers(0, NESTED_ROWS, 32).tolist():
                    np.ascontiguousarray(np.moveaxis(file["jet"][row], -1, 0))

        def array3d():
            for batch in batches(4, len(self.dense)):
                np.ascontiguousarray(self.dense[batch]["image"])

        def convert(path, schema):
            for piece in list_pieces(str(path), path.name, schema, 1000):
                for _ in read_rows(piece, schema):
                    pass

        number = len(self.images)
        return {
            "rows": (30 * BATCH, rows_to_dense),
            "rows, network units": (30 * BATCH, lambda: collate(collators[0])),
            "rows, network units, flips": (30 * BATCH, lambda: collate(collators[1])),
            "rows streamed, shuffled": (len(self.train), streamed),
            "contiguous HDF5, memory map": (10 * BATCH, contiguous),
            "nested Parquet, to_pylist": (16, nested_to_pylist),
            "gzip HDF5, h5py": (32, gzip_rows),
            "dense Array3D": (4 * BATCH, array3d),
            "convert nested Parquet": (
                NESTED_ROWS,
                lambda: convert(self.folder / "nested.parquet", self.parquet),
            ),
            "convert contiguous HDF5": (number, lambda: convert(self.folder / "contiguous.h5", self.hdf5)),
        }

    def bandwidth(self) -> tuple[float, float]:
        """Bytes per second from the page cache: the contiguous file in our batches, and with plain `readinto`."""
        path, size = self.folder / "contiguous.h5", self.images.nbytes
        (piece,) = list_pieces(str(path), path.name, self.hdf5, 10**9)
        target = np.empty((BATCH, *np.moveaxis(self.images[:1], 1, -1).shape[1:]), np.float32)
        start = time.perf_counter()
        for batch in open_data_file(str(path), "hdf5").read(piece.start, piece.stop, ["jet"]):
            target[: len(batch["jet"])] = batch["jet"]
        ours = size / (time.perf_counter() - start)
        start, buffer = time.perf_counter(), memoryview(target).cast("B")
        with path.open("rb", buffering=0) as file:
            for _ in range(0, size, len(buffer)):
                file.readinto(buffer)
        return ours, size / (time.perf_counter() - start)


def peak_memory(folder: Path) -> dict[str, float]:
    """Peak MiB of `prepare` on the worst files: 150 327 row groups of one row, and 8 GB of contiguous HDF5."""
    fields = {"description": "memory", "source": "here", "licence": "CC0", "channel_names": ["trk_pt", "ecal"]}
    peaks = {}
    for kind in ("150 327 row groups", "8 GB contiguous HDF5"):
        place = folder / kind.split()[-1]
        place.mkdir()
        if "row groups" in kind:
            row = pa.table({"X_jet": [np.eye(2 * 10).reshape(2, 10, 20).tolist()], "m": [1.0], "pt": [1.0]})
            row = row.append_column("ieta", pa.array([1.0])).append_column("iphi", pa.array([1.0]))
            with pq.ParquetWriter(place / "a.parquet", row.schema, compression="snappy") as writer:
                for _ in range(150_327):
                    writer.write_table(row)
            more = {"format": "parquet", "pattern": "*.parquet", "image_size": [10, 20]}
            columns = {"image": "X_jet", "mass_labels": "m", "pt": "pt", "ieta": "ieta", "iphi": "iphi"}
        else:
            with h5py.File(place / "a.h5", "w") as file:  # a sparse file: holes read as zeros
                file.create_dataset("jet", (64_000, 125, 125, 2), "f4")[-1] = 1.0
            more = {"format": "hdf5", "pattern": "*.h5", "channels_last": True}
            columns = {"image": "jet"}
        (place / "schema.yaml").write_text(yaml.safe_dump(fields | more | {"columns": columns}), encoding="utf-8")
        code = (
            "import sys; from e2evit.data.prepare import prepare; "
            "prepare('custom', sys.argv[1], sys.argv[1] + '/out', schema=sys.argv[1] + '/schema.yaml'); "
            "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(place)], check=True, capture_output=True, encoding="utf-8"
        )
        peaks[kind] = float(done.stdout.splitlines()[-1]) / 1024
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results/loading.json")
    parser.add_argument("--jets", type=Path, default=ROOT / "tests/data/jets", help="folder of simulated rows")
    parser.add_argument("--number", type=int, default=2048, help="jets, repeated if there are fewer")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        sources = Sources(arguments.jets, Path(folder), arguments.number)
        readers = sources.readers()
        rates: dict[str, list[float]] = {name: [] for name in readers}
        bandwidths = []
        for _ in range(arguments.rounds):  # interleaved, so that a busy machine slows all alike
            for name, (number, read) in readers.items():
                start = time.perf_counter()
                read()
                rates[name].append(number / (time.perf_counter() - start))
            bandwidths.append(sources.bandwidth())
            print({name: round(values[-1]) for name, values in rates.items()}, flush=True)
        memory = peak_memory(Path(folder))
    record = {
        "images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        # ratios within a round, then their median
        "rows_over_to_pylist": statistics.median(
            a / b for a, b in zip(rates["rows"], rates["nested Parquet, to_pylist"])
        ),
        "convert_over_to_pylist": statistics.median(
            a / b for a, b in zip(rates["convert nested Parquet"], rates["nested Parquet, to_pylist"])
        ),
        "memory_map_gb_per_second": statistics.median(ours / 1e9 for ours, _ in bandwidths),
        "memory_map_over_readinto": statistics.median(ours / plain for ours, plain in bandwidths),
        "peak_memory_mib": memory,
        "number": arguments.number,
        "rounds": arguments.rounds,
    }
    write_record(arguments.results, record, packages=("h5py", "pyarrow"), threads=1)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
