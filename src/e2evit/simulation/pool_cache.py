"""The pool of minimum-bias collisions that all runs on this machine share: made once, then mapped into memory."""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from zlib import crc32

import datasets
import numpy as np

from e2evit import __version__
from e2evit.data.jobs import cannot_write, follow, remove_leftovers, workers, write_whole
from e2evit.data.locks import held
from e2evit.data.manifest import damage, digest_of, write_manifest
from e2evit.data.storage import absolute

from .cells import IMPACT
from .detector import VERSION
from .geometry import GEOMETRIES
from .pileup import MinimumBiasPool
from .silicon import SILICON
from .tracker import TRACK

__all__ = ["POOL_SIZE", "cached_pool"]

logger = logging.getLogger(__name__)

POOL_SIZE, PART_SIZE = 50_000, 5_000  # collisions; some 3 kB each
SETTINGS_FILE = "settings.json"


def cached_pool(
    energy: float,
    geometry: str,
    without: Sequence[str] = (),
    pythia: tuple[str, ...] = (),
    cache_dir: str | Path | None = None,
    num_proc: int = 0,
) -> MinimumBiasPool:
    """The pool for these settings, from `cache_dir/minimum_bias`; it is made there if it is missing or damaged.

    Args:
        energy: Centre-of-mass energy of the proton beams [GeV].
        geometry: `run1` or `run3`.
        without: Effects of the detector that are left out.
        pythia: Extra settings for Pythia.
        cache_dir: By default the cache of `datasets`.
        num_proc: Processes that make it; 0: this one.

    Raises:
        ImportError: if it has to be made, and the `sim` extra is not installed.
        OSError: if it cannot be written; finished parts stay.
    """
    root = Path(absolute(cache_dir or datasets.config.HF_DATASETS_CACHE)) / "minimum_bias"
    settings = {
        "energy": energy,
        "geometry": geometry,
        "effects": sorted(GEOMETRIES[geometry].without(without).effects),
        "pythia": list(pythia),
        "size": POOL_SIZE,
        "fields": [*TRACK.names, *IMPACT.names, *SILICON.names],
        "e2evit": __version__,
        "detector": VERSION,
    }
    folder = root / digest_of(settings)[:16]
    if folder.exists() and not folder.is_dir():
        raise OSError(f"{folder} is a file where the pile-up pool should be: move it away.")
    if not folder.exists():
        with held(root, folder.name, wait=True):
            if not folder.exists():  # or another process has made it meanwhile
                _make(folder, settings, num_proc)
    elif reason := _damage(folder, folder.stat().st_mtime_ns):
        logger.warning(f"{folder} is damaged ({reason}): it is made again")
        with held(root, folder.name, wait=True):
            if damage(folder):
                _make(folder, settings, num_proc)
    return MinimumBiasPool.open(folder)


@lru_cache(8)
def _damage(folder: Path, _modified: int) -> str | None:
    """What is wrong with a pool; looked at once by each process."""
    return damage(folder)


def _make(folder: Path, settings: dict, num_proc: int) -> None:
    try:
        from . import events  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{error}. The pile-up pool has to be simulated: pip install 'e2evit[sim]', or copy {folder} from a "
            "machine that has it."
        ) from error
    parts = folder.with_name(f"{folder.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parts)
    sizes = {
        parts / f"{number:05d}.npz": min(PART_SIZE, settings["size"] - start)
        for number, start in enumerate(range(0, settings["size"], PART_SIZE))
    }
    missing = [path for path in sizes if not _is_whole(path, sizes[path])]
    logger.info(f"Simulating {settings['size']} minimum-bias collisions for pile-up in {folder}, once")
    with workers(num_proc, None, __name__) as run:
        jobs = [
            (_write_part, path, number, sizes[path], settings) for number, path in enumerate(sizes) if path in missing
        ]
        kept = settings["size"] - sum(sizes[path] for path in missing)
        follow(run(jobs), "Simulating pile-up", "collision", settings["size"], kept)
    incomplete, damaged = (folder.with_name(f"{folder.name}.{what}") for what in ("incomplete", "damaged"))
    try:
        shutil.rmtree(incomplete, ignore_errors=True)
        incomplete.mkdir()
        MinimumBiasPool.write(incomplete, map(MinimumBiasPool.load, sizes))
        (incomplete / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        write_manifest(incomplete)
        shutil.rmtree(damaged, ignore_errors=True)
        if folder.exists():
            folder.rename(damaged)
        incomplete.rename(folder)
        shutil.rmtree(damaged, ignore_errors=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)
    shutil.rmtree(parts)


def _is_whole(path: Path, size: int) -> bool:
    try:
        return len(MinimumBiasPool.load(path)) == size
    except Exception:  # missing or damaged: zipfile, zlib and NumPy each have their own
        return False


def _write_part(path: Path, number: int, size: int, settings: dict) -> int:
    sequence = np.random.SeedSequence([crc32(b"minimum bias"), number])
    seed = 1 + int(sequence.generate_state(1)[0]) % 900_000_000  # Pythia's range
    detector = replace(GEOMETRIES[settings["geometry"]], effects=frozenset(settings["effects"]))
    pool = MinimumBiasPool.simulate(size, seed, settings["energy"], detector, settings["pythia"])
    write_whole(path, pool.save)
    return size
