"""Visitors of the demo: how long they wait, whom it turns away, and what it keeps of their files.

python benchmarks/visitors.py --results results/visitors.json

Each visitor uploads a file, asks for its prediction, and comes back with another until the time is up. Every second
file is good; the others are damaged, or exhaust or mislead the library that reads them. Needs the `space` extra.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import h5py
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from e2evit.results.record import write_record

ROOT = Path(__file__).parents[1]
SHAPE = (8, 125, 125)
PATIENCE = 300  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results/visitors.json")
    parser.add_argument("--visitors", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serve(folder) as (address, server):
        files = make_files(Path(folder))
        predict(address, upload(address, files[0]))  # the first prediction waits for the model; it is not counted
        end = time.monotonic() + arguments.seconds
        with ThreadPoolExecutor(arguments.visitors) as pool:
            futures = [pool.submit(come_back, address, files, n, end) for n in range(arguments.visitors)]
            visits = [visit for future in futures for visit in future.result()]
        kept = stored(Path(folder) / "uploads")
        memory = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
    of_outcome: dict[str, list[float]] = {}
    for name, outcome, seconds in visits:
        of_outcome.setdefault(f"{'good' if 'good' in name else 'bad'} file, {outcome}", []).append(seconds)
    record = {
        "visitors": arguments.visitors,
        "seconds": arguments.seconds,
        "visits": len(visits),
        "outcomes": {name: summary(seconds) for name, seconds in sorted(of_outcome.items())},
        "files_kept": len(kept),
        "peak_memory_mib": int(memory.split("VmHWM:")[1].split()[0]) // 1024,
    }
    write_record(arguments.results, record, ["gradio"])
    print(json.dumps(record, indent=1))


def summary(seconds: list[float]) -> dict:
    return {"visits": len(seconds), "median_seconds": statistics.median(seconds), "longest_seconds": max(seconds)}


@contextlib.contextmanager
def serve(folder: str | Path, patience: float = PATIENCE) -> Iterator[tuple[str, subprocess.Popen]]:
    """Address and process of the demo in a clone; it logs to `folder/log.txt` and keeps files in `folder/uploads`."""
    folder = Path(folder)
    (folder / "uploads").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    settings |= {"GRADIO_TEMP_DIR": str(folder / "uploads")}
    command = [sys.executable, ROOT / "space/app.py"]
    with (folder / "log.txt").open("w+", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=subprocess.STDOUT)
        try:
            address, end = f"http://127.0.0.1:{port}", time.monotonic() + patience
            while True:
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(address, timeout=30)
                    break
                log.seek(0)
                if server.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"The demo does not answer: {log.read()[-3000:]}")
                time.sleep(0.5)
            yield address, server
        finally:
            server.terminate()
            server.wait(30)


def make_files(folder: Path) -> list[Path]:
    """Every second one is good."""
    image = np.zeros(SHAPE, np.float32)
    image[:, 60:65, 60:65] = 1
    np.save(folder / "good.npy", image)
    with h5py.File(folder / "good.h5", "w") as file:
        file.create_dataset("X", data=image[None], compression="gzip")
    (folder / "good.parquet").write_bytes((ROOT / "space/examples.parquet").read_bytes())
    (folder / "bad_short.npy").write_bytes((folder / "good.npy").read_bytes()[:5000])
    with h5py.File(folder / "bad_external.h5", "w") as file:
        file.create_dataset("X", shape=(1, *SHAPE), dtype="u1", external=[("/etc/passwd", 0, 125_000)])
    with h5py.File(folder / "bad_nested.h5", "w") as group:
        for _ in range(3000):
            group = group.create_group("g")
    offsets, number = pa.array([0, 30_000_000], pa.int32()), 30_000_000
    columns = {"pixel_index": np.zeros(number, "u4"), "pixel_value": np.zeros(number, "f4")}
    table = {name: pa.ListArray.from_arrays(offsets, pa.array(zeros)) for name, zeros in columns.items()}
    pq.write_table(pa.table(table), folder / "bad_row.parquet", compression="zstd")
    bad = ["bad_short.npy", "bad_external.h5", "bad_nested.h5", "bad_row.parquet"]
    return [folder / name for pair in zip(cycle(["good.npy", "good.h5", "good.parquet"]), bad) for name in pair]


def come_back(address: str, files: list[Path], first: int, end: float) -> list[tuple[str, str, float]]:
    """Visits until the end: the file, its outcome and the seconds to it."""
    visits = []
    for path in islice(cycle(files), first % len(files), None):
        if time.monotonic() > end:
            return visits
        start = time.monotonic()
        outcome, _ = predict(address, upload(address, path))
        visits.append((path.name, outcome, time.monotonic() - start))


def upload(address: str, path: Path) -> str:
    """Where the demo keeps the file."""
    files = {"files": (path.name, path.read_bytes())}
    return httpx.post(f"{address}/gradio_api/upload", files=files, timeout=PATIENCE).raise_for_status().json()[0]


def predict(address: str, place: str) -> tuple[str, str]:
    """`served`, `refused` or `busy`, and what the demo says."""
    call = f"{address}/gradio_api/call/show_upload"
    data = [{"path": place, "meta": {"_type": "gradio.FileData"}}]
    joined = httpx.post(call, json={"data": data}, timeout=PATIENCE)
    if joined.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return "busy", joined.text
    answer = httpx.get(f"{call}/{joined.raise_for_status().json()['event_id']}", timeout=PATIENCE).text
    if "The demo is busy" in answer:
        return "busy", answer
    return ("served" if "event: complete" in answer else "refused"), answer


def stored(folder: Path) -> list[str]:
    """Names of all files below a folder."""
    return [name for _, _, names in os.walk(folder) for name in names]


if __name__ == "__main__":
    main()
