"""Production in shards: each a function of process, seed and settings, written whole or not at all."""

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from e2evit.data.schema import find_schema, row_features
from e2evit.data.sparse import COLUMN_ENCODINGS

__all__ = ["SimulationSettings", "make_shard", "simulate"]

SETTINGS_FILE = "simulation.json"
SHARD_SIZE = 500
PARTON_MARGIN = 50.0  # GeV below the jets' range, so that its edge is filled by migration


@dataclass(frozen=True)
class SimulationSettings:
    """What a shard depends on beside its process and number.

    Args:
        seed: Any non-negative integer; another seed makes other events.
        energy: Centre-of-mass energy [GeV].
        min_pt, max_pt: Range of the jets' pT [GeV].
        shard_size: Jets in a shard.
    """

    seed: int = 0
    energy: float = 8000.0
    min_pt: float = 400.0
    max_pt: float = 1000.0
    shard_size: int = SHARD_SIZE


def make_shard(process: str, shard: int, num_jets: int, settings: SimulationSettings) -> pa.Table:
    """Rows of one shard, the same whenever and wherever it is made with the same versions.

    Raises:
        RuntimeError: if 20 000 events in a row give no jet in the range.
    """
    # here, not at the top: without the `sim` extra everything but the generation itself must still import
    from .detector import detect
    from .events import generate
    from .images import SEED_ROWS, crop_windows, find_jets, seed_towers

    schema = find_schema("simulated")
    sequence = np.random.SeedSequence([settings.seed, crc32(process.encode()), shard])
    pythia_seed = 1 + int(sequence.generate_state(1)[0]) % 900_000_000
    rng = np.random.default_rng(sequence.spawn(1)[0])
    tables, made, events, barren = [], 0, 0, 0
    for batch in generate(process, pythia_seed, settings.energy, settings.min_pt - PARTON_MARGIN):
        jets = find_jets(batch, settings.min_pt, settings.max_pt)
        layers = detect(batch, rng)
        ieta, iphi = seed_towers(layers["hcal"], jets, batch.num_events)
        keep = (ieta >= SEED_ROWS[0]) & (ieta <= SEED_ROWS[1])
        jets, ieta, iphi = jets.select(keep), ieta[keep], iphi[keep]
        index, value = crop_windows(layers, schema.channel_names, jets.event, ieta, iphi, batch.num_events)
        labels = np.full(len(ieta), schema.label_names.index(process))
        columns = {
            "pixel_index": index,
            "pixel_value": value,
            "labels": labels,
            "mass_labels": pa.array(jets.heavy_mass.astype(np.float32), from_pandas=True),
            "jet_mass": jets.mass.astype(np.float32),
            "pt": jets.pt.astype(np.float32),
            "ieta": ieta.astype(np.int32),
            "iphi": iphi.astype(np.int32),
            "event_id": [f"{process}-{settings.seed}-{shard}-{events + event}" for event in jets.event],
        }
        tables.append(pa.table(columns))
        made, events = made + len(ieta), events + batch.num_events
        barren = 0 if len(ieta) else barren + batch.num_events
        if barren >= 20_000:
            raise RuntimeError(
                f"No {process} jet with pT in {settings.min_pt:g}-{settings.max_pt:g} GeV among {barren} events at "
                f"{settings.energy:g} GeV: widen the pT range or raise the energy."
            )
        if made >= num_jets:
            return pa.concat_tables(tables).slice(0, num_jets).cast(row_features(schema).arrow_schema)


def _write_shard(path: Path, process: str, shard: int, num_jets: int, settings: SimulationSettings) -> int:
    table = make_shard(process, shard, num_jets, settings)
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    pq.write_table(table, temporary, **COLUMN_ENCODINGS)
    temporary.rename(path)
    return table.num_rows


def simulate(
    output_dir: str | Path,
    processes: tuple[str, ...] | list[str],
    num_jets: int,
    settings: SimulationSettings | None = None,
    num_proc: int = 1,
) -> Path:
    """Write `num_jets` jets of each process into `output_dir`; shards that are already there are kept.

    Args:
        output_dir: Folder of the data set; it may be one that an interrupted call with the same settings left.
        processes: Names in `e2evit.simulation.events.PROCESSES`.
        num_jets: Jets of each process.
        settings: See [`SimulationSettings`].
        num_proc: Worker processes.

    Returns:
        The folder, which `load_e2e("simulated", data_dir=...)` and `datasets.load_dataset(...)` read.

    Raises:
        ImportError: without the `sim` extra.
        ValueError: for an unknown process, a bad range, or a folder made with other settings.
    """
    try:
        from .events import PROCESSES
    except ImportError as error:
        raise ImportError(f"{error}. The simulation needs Pythia 8 and FastJet: pip install 'e2evit[sim]'.") from error
    settings = settings or SimulationSettings()
    unknown = [process for process in processes if process not in PROCESSES]
    if unknown or not processes:
        raise ValueError(f"Unknown process {', '.join(unknown)}; known ones: {', '.join(PROCESSES)}.")
    if num_jets < 1 or num_proc < 1 or settings.seed < 0:
        raise ValueError(f"Need num_jets, num_proc > 0 and seed >= 0, got {num_jets}, {num_proc}, {settings.seed}.")
    if not PARTON_MARGIN < settings.min_pt < settings.max_pt < settings.energy / 2:
        raise ValueError(
            f"Need {PARTON_MARGIN:g} < min_pt < max_pt < energy / 2 [GeV], "
            f"got {settings.min_pt:g}, {settings.max_pt:g} and {settings.energy:g} / 2."
        )
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    _claim(output_dir, settings)

    jobs = []
    for process in processes:
        for shard, start in enumerate(range(0, num_jets, settings.shard_size)):
            size = min(settings.shard_size, num_jets - start)
            path = output_dir / f"{process}-{shard:05d}-{size}.parquet"
            jobs.append((path, process, shard, size, settings))
    missing = [job for job in jobs if not job[0].exists()]
    total = len(processes) * num_jets
    found = total - sum(size for _, _, _, size, _ in missing)
    start = time.perf_counter()
    progress = tqdm(desc="Simulating", unit="jet", total=total, initial=found, smoothing=0, disable=None)
    # spawned, not forked: Pythia and the threads of numpy's libraries do not survive a fork
    with progress, ProcessPoolExecutor(num_proc, mp_context=get_context("spawn")) as pool:
        made = 0
        for future in as_completed([pool.submit(_write_shard, *job) for job in missing]):
            made += future.result()
            progress.update(future.result())
            if progress.disable:  # no terminal: plain lines
                rate = made / (time.perf_counter() - start)
                left = (total - found - made) / rate
                print(f"Simulated {found + made}/{total} jets, {rate:.0f} jets/s, {left:.0f} s left", flush=True)
    return output_dir


def _claim(output_dir: Path, settings: SimulationSettings) -> None:
    """Record the settings, or compare them with those of the files that are there."""
    record = asdict(settings) | {name: version(name) for name in ("pythia8mc", "fastjet", "numpy", "e2evit")}
    path = output_dir / SETTINGS_FILE
    if path.exists():
        found = json.loads(path.read_text())
        differing = [key for key in record if found.get(key) != record[key]]
        if differing:
            changes = ", ".join(f"{key}: {found.get(key)} there, {record[key]} now" for key in differing)
            raise ValueError(f"{output_dir} was simulated with other settings ({changes}); choose another folder.")
    else:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=2) + "\n")
        temporary.rename(path)
