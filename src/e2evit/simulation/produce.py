"""Production of a data set by local processes or a Dask cluster; shards are written whole or not at all."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from e2evit.data.jobs import claim, follow, remove_leftovers, workers, write_whole, write_whole_text
from e2evit.data.locks import held
from e2evit.data.manifest import digest_of
from e2evit.data.storage import absolute

from .processes import PROCESSES
from .settings import SimulationSettings

__all__ = ["simulate"]

logger = logging.getLogger(__name__)

MAX_JETS = 10**9
SETTINGS_FILE, POOL_FILE = "simulation.json", "minimum_bias.npz"


def simulate(
    output_dir: str | Path,
    processes: Sequence[str],
    num_jets: int,
    settings: SimulationSettings | None = None,
    num_proc: int = 1,
    scheduler: str | None = None,
) -> Path:
    """Write `num_jets` jets of each process into `output_dir`, keeping shards that are already there.

    Args:
        output_dir: Folder of the data set, new or left by an interrupted call with the same settings. The workers of a
            cluster must see it under the same path.
        processes: Names in [`PROCESSES`].
        num_jets: Jets, or events with `settings.whole_detector`, of each process.
        settings: See [`SimulationSettings`].
        num_proc: Local worker processes.
        scheduler: Address of a Dask scheduler (`tcp://...`) whose workers do the work instead.

    Returns:
        The folder, which `load_e2e("simulated", data_dir=...)` and `datasets.load_dataset(...)` read.

    Raises:
        ImportError: if the `sim` extra is not installed, or the `cluster` extra for a scheduler.
        ValueError: for an unknown process, a bad range, or a folder made with other settings.
        InUse: if another process writes to `output_dir`.
        RuntimeError: if Pythia fails, if no jet passes, or if a worker dies; finished shards stay.
        OSError: if a file cannot be written, or the scheduler does not answer; finished shards stay.
    """
    settings = settings or SimulationSettings()
    settings.validate(processes)
    if not 0 < num_jets <= MAX_JETS or num_proc < 1:
        raise ValueError(f"Need 0 < num_jets <= {MAX_JETS} and num_proc > 0, got {num_jets} and {num_proc}.")
    try:
        from .card import render_card
        from .shards import needs_pool, try_processes, versions
    except ImportError as error:
        raise ImportError(f"{error}. The simulation needs Pythia 8 and FastJet: pip install 'e2evit[sim]'.") from error
    output_dir = Path(absolute(output_dir))
    if not (output_dir / SETTINGS_FILE).exists():
        try_processes(processes, settings)
    with held(output_dir), workers(num_proc, scheduler, f"{__package__}.shards") as run:
        remove_leftovers(output_dir)
        _refuse_others(output_dir)
        if not (output_dir / SETTINGS_FILE).exists():  # which alone says what pool and spectra were made for
            for path in (output_dir / POOL_FILE, *output_dir.glob(_acceptance_path(output_dir, "*").name)):
                path.unlink(missing_ok=True)
        claim(output_dir / SETTINGS_FILE, asdict(settings) | versions())
        for process in processes:
            if (kept := sum(_held(output_dir, process).values())) > num_jets:
                raise ValueError(
                    f"{output_dir} already holds {kept} {process} jets: ask for at least as many, or "
                    "choose another folder."
                )

        preparations = [(_prepare_pool, output_dir / POOL_FILE, settings)] if needs_pool(settings) else []
        if settings.match_pt:
            preparations += [
                (_prepare_acceptance, _acceptance_path(output_dir, process), process, settings)
                for process in processes
            ]
        preparations = [job for job in preparations if not _is_prepared(job[1])]
        follow(run(preparations), "Preparing pile-up and spectra", "file", len(preparations))

        jobs = [
            (_write_shard, output_dir, process, shard, min(settings.shard_size, num_jets - start), settings)
            for process in processes
            for shard, start in enumerate(range(0, num_jets, settings.shard_size))
        ]
        missing = [job for job in jobs if not _is_intact(*job[1:])]
        kept = len(processes) * num_jets - sum(job[4] for job in missing)
        follow(run(missing), "Simulating", "jet", len(processes) * num_jets, kept)
        write_whole_text(output_dir / "README.md", render_card(output_dir))
    return output_dir


def _shard_path(output_dir: Path, process: str, shard: int, num_jets: int) -> Path:
    return output_dir / f"{process}-{shard:05d}-{num_jets}.parquet"


def _refuse_others(output_dir: Path) -> None:
    """Raise a ValueError for a file that would be taken for a part of the data set."""
    shard = re.compile(rf"({'|'.join(PROCESSES)})-\d{{5,}}-\d+\.parquet", re.ASCII)
    for path in sorted(output_dir.glob("*.parquet")):
        if not path.name.startswith(".") and not shard.fullmatch(path.name):
            raise ValueError(f"{path} is no shard of this simulation, but would be read as one: move it away.")


def _held(output_dir: Path, process: str) -> dict[int, int]:
    """Number of jets by shard; of two files of one shard the longer counts."""
    sizes: dict[int, int] = {}
    for path in output_dir.glob(f"{process}-*.parquet"):
        shard, size = map(int, path.stem.rsplit("-", 2)[1:])
        sizes[shard] = max(size, sizes.get(shard, 0))
    return sizes


def _is_intact(output_dir: Path, process: str, shard: int, num_jets: int, settings: SimulationSettings) -> bool:
    """Whether an earlier call has written a shard, and it still reads as it was written: rows have checksums."""
    import pyarrow.parquet as pq

    from .shards import arrow_schema

    path = _shard_path(output_dir, process, shard, num_jets)
    if not path.exists():
        return False
    try:
        rows = pq.ParquetFile(path, page_checksum_verification=True).read()
        expected = arrow_schema(process, settings)
        damage = "" if rows.num_rows == num_jets else f"{rows.num_rows} rows"
        if not rows.schema.equals(expected) or rows.schema.metadata != expected.metadata:
            damage = "another schema"
    except Exception as error:  # Arrow decodes damaged pages, and each decoder has its own
        damage = str(error) or type(error).__name__
    if damage:
        logger.warning(f"{path} is damaged ({damage}): it is made again")
    return not damage


def _acceptance_path(output_dir: Path, process: str) -> Path:
    return output_dir / f"acceptance_{process}.json"


def _is_prepared(path: Path) -> bool:
    """Whether an earlier call has written the pool or an acceptance, and it still reads as it was written."""
    if not path.exists():
        return False
    try:
        _load_pool(path, path.stat().st_mtime_ns) if path.name == POOL_FILE else _load_acceptance(path)
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        logger.warning(f"{path} is damaged ({error}): it is made again")
        return False
    return True


def _prepare_pool(path: Path, settings: SimulationSettings) -> int:
    from .shards import make_pool

    write_whole(path, make_pool(settings).save)
    return 1


def _prepare_acceptance(path: Path, process: str, settings: SimulationSettings) -> int:
    from .shards import make_acceptance

    record = asdict(make_acceptance(process, settings))
    text = json.dumps(record | {"sha256": digest_of(record)}, indent=2) + "\n"
    write_whole_text(path, text)
    return 1


def _load_acceptance(path: Path):
    from .spectra import Acceptance

    record = json.loads(path.read_text(encoding="utf-8"))
    if record.pop("sha256", None) not in (None, digest_of(record)):  # None: of an earlier version
        raise ValueError("its numbers have changed")
    if record.get("early"):
        record["early"] = Acceptance(**record["early"])
    return Acceptance(**record)


@lru_cache(1)
def _load_pool(path: Path, _modified: int):
    """This worker's pool; `_modified` distinguishes a new file from an old one of the same name."""
    from .pileup import MinimumBiasPool

    return MinimumBiasPool.load(path)


def _write_shard(output_dir: Path, process: str, shard: int, num_jets: int, settings: SimulationSettings) -> int:
    import pyarrow.parquet as pq

    from e2evit.data.sparse import COLUMN_ENCODINGS

    from .shards import make_shard, needs_pool

    pool = acceptance = None
    if needs_pool(settings):
        path = output_dir / POOL_FILE
        pool = _load_pool(path, path.stat().st_mtime_ns)
    if settings.match_pt:
        acceptance = _load_acceptance(_acceptance_path(output_dir, process))
    table = make_shard(process, shard, num_jets, settings, pool, acceptance)
    path = _shard_path(output_dir, process, shard, num_jets)
    write_whole(path, lambda temporary: pq.write_table(table, temporary, row_group_size=1000, **COLUMN_ENCODINGS))
    for shorter in output_dir.glob(f"{process}-{shard:05d}-*.parquet"):  # of a call for fewer jets: the same rows
        if shorter != path:
            shorter.unlink()
    return table.num_rows
