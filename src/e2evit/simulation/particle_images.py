"""Images made from kept particles: a new response of the detector, noise and pile-up whenever they are asked for."""

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from e2evit import __version__
from e2evit.data import assign_splits, find_schema
from e2evit.data.columns import IMAGE_COLUMNS, PARTICLE_COLUMNS
from e2evit.data.grid import SEED_ROWS, seed_towers
from e2evit.data.parquet import open_parquet
from e2evit.data.resolve import find_files
from e2evit.data.splits import SPLIT_FRACTIONS

from .detector import VERSION, detect
from .effects import EFFECTS, effects_without
from .geometry import GEOMETRIES
from .hcal import tower_energy
from .images import jet_windows, render
from .kept import read_particles
from .overlay import Overlay, PileUp
from .particle_flow import candidate_columns, find_candidates
from .particle_rows import COLUMNS, checked, nothing, table_of
from .pileup import MinimumBiasPool
from .pool_cache import cached_pool
from .settings import mean_range
from .streams import EventStreams, draw

__all__ = ["ParticleImages", "response_settings"]

_AT_ONCE = 32  # jets: their pixels fit into the processor's cache
_FIXED, _FRESH = 0, 1  # first in the seeds of fixed responses, and of those of an epoch


class ParticleImages:
    """Rows of particles to rows of images.

    ```python
    jets = load_e2e("particles", "data/particles", split="train")
    images = ParticleImages.of("data/particles", pileup=(0, 60))
    jets.with_transform(images)[0]["pixel_index"]  # always the same
    images.set_epoch(1)
    jets.with_transform(images)[0]["pixel_index"]  # another response to the same particles, the one of epoch 1
    ```

    Batches such as `jets[:256]` are several times faster than single rows.

    The random numbers of a jet depend on the seed, the epoch, the event and the jet's axis: not on the other jets of
    the batch, nor on the worker. The seed tower is the hottest one near the axis whose window lies on the grid.

    Adds `pixel_index`, `pixel_value`, `ieta`, `iphi` and `num_pileup`, in place of those that are there, and with
    `candidates` the columns `candidate_...` and `reco_...`; drops `particle_...`.

    Attributes:
        columns: Those it reads.

    Args:
        geometry: `run1` or `run3`.
        pool: Pile-up; not needed if there is none.
        pileup: Mean number of collisions besides the hard one; or a range, from which each jet draws its mean.
        seed: Of the responses.
        epoch: Of the responses; None for fixed ones.
        without: Effects of the detector that are left out, see [`EFFECTS`].
        candidates: Add the particle-flow-like candidates of the same response, and observables made of them; needs
            FastJet.
        split: `train`, `validation` or `test`: whose part of the pool is used. By default each event's own in the
            default division of a data set; with folds, another salt or splits of your own, say it, or splits share
            collisions.

    Raises:
        ValueError: for an unknown geometry, split or effect, a negative seed, or a pool of another detector.
    """

    columns = COLUMNS

    def __init__(
        self,
        geometry: str,
        pool: MinimumBiasPool | None = None,
        pileup: float | Sequence[float] = 0.0,
        seed: int = 0,
        epoch: int | None = None,
        without: Sequence[str] = (),
        candidates: bool = False,
        split: str | None = None,
    ):
        if geometry not in GEOMETRIES:
            raise ValueError(f"Unknown geometry {geometry!r}; known ones: {', '.join(GEOMETRIES)}.")
        if split is not None and split not in SPLIT_FRACTIONS:
            raise ValueError(f"`split` is one of {', '.join(SPLIT_FRACTIONS)}, got {split!r}.")
        effects_without(without)
        self.geometry, self.pool, self.seed = geometry, pool, _number("seed", seed)
        # equal detectors have equal images, which the cache makes once
        self.without = ("all",) if "all" in without else tuple(name for name in EFFECTS if name in without)
        self.pileup, self.candidates, self.split = mean_range(pileup), candidates, split
        self.set_epoch(epoch)
        if self.pileup[1] and pool is None:
            raise ValueError("Pile-up needs a pool: `ParticleImages.of` finds or makes it.")
        layers = len(GEOMETRIES[geometry].layers)
        if pool is not None and pool.num_layers != layers:
            raise ValueError(
                f"The pool is of a detector with {pool.num_layers} silicon layers; {geometry} has {layers}: use a "
                "pool of the same geometry."
            )

    @classmethod
    def of(
        cls,
        data_dir: str | Path,
        pileup: float | Sequence[float] | None = None,
        seed: int = 0,
        cache_dir: str | Path | None = None,
        num_proc: int = 0,
        without: Sequence[str] | None = None,
        candidates: bool = False,
        split: str | None = None,
    ) -> "ParticleImages":
        """For the particles in a folder, with the detector and the beams they were simulated for.

        Args:
            pileup: By default the mean of their simulation.
            cache_dir: Where the pool of minimum-bias collisions is, or will be; by default the cache of `datasets`.
            num_proc: Processes that make it; 0: this one.
            without: Effects of the detector that are left out; by default those that their simulation left out.
            candidates: Add the candidates of each response.
            split: Whose part of the pool is used.

        Raises:
            ValueError: if the folder does not hold particles, or for an impossible number of collisions.
            ImportError: if the pool has to be made, and the `sim` extra is not installed.
        """
        settings = _settings(data_dir, pileup, without)
        geometry, mean, without = settings["geometry"], mean_range(settings["pileup"]), settings["without"]
        options = {"without": without, "candidates": candidates, "split": split}
        images = cls(geometry, None, 0.0, seed, **options)  # checks before a pool is made
        if mean[1]:
            pool = cached_pool(settings["energy"], geometry, without, tuple(settings["pythia"]), cache_dir, num_proc)
            images = cls(geometry, pool, mean, seed, **options)
        return images

    def with_seed(self, seed: int, epoch: int | None, split: str | None = None) -> "ParticleImages":
        """The same detector with another seed and epoch, and with a `split` for that split's part of the pool."""
        split = split or self.split
        return type(self)(self.geometry, self.pool, self.pileup, seed, epoch, self.without, self.candidates, split)

    @property
    def description(self) -> dict:
        """What the numbers depend on, besides the particles."""
        pool = None if self.pool is None else str(self.pool.folder)
        versions = {"e2evit": __version__, "detector": VERSION, "numpy": np.__version__}
        return versions | {
            "geometry": self.geometry,
            "without": list(self.without),
            "candidates": self.candidates,
            "pileup": self.pileup,
            "seed": self.seed,
            "pool": pool,
        }

    def set_epoch(self, epoch: int | None) -> None:
        """Change to the responses of an epoch, or with None to the fixed ones.

        Persistent workers of a `DataLoader` keep the epoch with which they started.
        """
        self.epoch = None if epoch is None else _number("epoch", epoch)

    def __call__(self, rows: pa.Table | Mapping) -> pa.Table | dict:
        """An Arrow table, or the columns of a batch as `with_transform` hands them over; returns the same kind.

        Raises:
            ValueError: for a row that no image can be made of, or a column that is missing or of another type.
        """
        if not isinstance(rows, pa.Table):
            return self(table_of(rows)).to_pydict()
        rows = checked(rows)
        if not rows.num_rows:  # the columns of a jet without particles
            return self._make(nothing(rows.schema)).slice(0, 0)
        starts = range(0, rows.num_rows, _AT_ONCE)
        return pa.concat_tables([self._make(rows.slice(start, _AT_ONCE)) for start in starts])

    def _make(self, rows: pa.Table) -> pa.Table:
        number, detector = rows.num_rows, GEOMETRIES[self.geometry].without(self.without)
        eta, phi = (rows[name].to_numpy().astype(float) for name in ("eta", "phi"))
        event_ids, each = rows["event_id"].to_pylist(), np.arange(number)
        start = (_FIXED, self.seed) if self.epoch is None else (_FRESH, self.seed, self.epoch)
        rng = EventStreams([np.random.default_rng([*start, *_key(*jet)]) for jet in zip(event_ids, eta, phi)])
        response, pileup = detect(read_particles(rows), detector, rng), None
        low, high = self.pileup
        if high:
            mean = low if low == high else low + (high - low) * draw(rng, "random", each)
            splits = assign_splits(event_ids) if self.split is None else [self.split] * number
            pileup = PileUp(self.pool, splits, mean)
        overlay = Overlay(response, detector, rng, pileup)
        towers = tower_energy(number, overlay.hcal, detector, rng)
        ieta, iphi = seed_towers(towers, each, eta, phi, SEED_ROWS)
        frames = jet_windows(each, ieta, iphi)
        response = overlay.within(frames)
        image = render(frames, response, towers, detector, rng)
        places = {"ieta": ieta, "iphi": iphi, "num_pileup": overlay.number}
        made = dict(zip(IMAGE_COLUMNS, image)) | {name: v.astype(np.int32) for name, v in places.items()}
        if self.candidates:
            from .observables import candidate_observables  # needs FastJet

            found = find_candidates(frames, eta, phi, image, response, towers, detector, rng)
            made |= candidate_columns(found, number) | candidate_observables(found, number)
        kept = [name for name in rows.column_names if name not in (*PARTICLE_COLUMNS, *made)]
        return pa.table(made | {name: rows[name] for name in kept})


def response_settings(
    data_dir: str | Path, pileup: float | Sequence[float] | None = None, without: Sequence[str] | None = None
) -> tuple[tuple[float, float], list[str]]:
    """Smallest and largest mean pile-up, and the effects that are left out, where None stands for what the particles
    in a folder were simulated with."""
    settings = _settings(data_dir, pileup, without)
    return mean_range(settings["pileup"]), list(settings["without"])


def _key(event_id: str, eta: float, phi: float) -> tuple[int, int]:
    """Numbers of a jet: two of one event differ in their axes."""
    axis = np.array([eta, phi], np.float32).tobytes()
    digest = blake2b(event_id.encode() + axis, digest_size=8).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")


def _number(name: str, value: int) -> int:
    if not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"`{name}` is a whole number from 0 on, got {value!r}.")
    return int(value)


def _settings(data_dir: str | Path, pileup, without) -> dict:
    """The settings with which the particles in a folder were made, the same for all files unless they are given."""
    given = {name: value for name, value in (("pileup", pileup), ("without", without)) if value is not None}
    needed = [name for name in _DETERMINING if name not in given]
    found: dict[str, tuple[object, str]] = {}
    for path in find_files(find_schema("particles", data_dir), data_dir):
        text = (open_parquet(path).schema_arrow.metadata or {}).get(b"e2evit", b"{}")
        try:
            settings = {"without": []} | json.loads(text)["simulation"]
            for name in needed:
                if not _DETERMINING[name](settings[name]):
                    raise ValueError(f"{name} {settings[name]!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} does not say with which settings its particles were simulated ({error})."
            ) from None
        for name in needed:
            value, first = found.setdefault(name, (settings[name], path))
            if value != settings[name]:
                raise ValueError(
                    f"{path} was simulated with {name} {settings[name]}, but {first} with {value}: keep them in "
                    "different folders."
                )
    return {name: value for name, (value, _) in found.items()} | given


# settings of a simulation that images depend on, and what they must be
_DETERMINING: dict[str, Callable[[Any], bool]] = {
    "geometry": lambda value: value in GEOMETRIES,
    "energy": lambda value: 0 < value < float("inf"),
    "without": lambda value: effects_without(value) is not None,
    "pythia": lambda value: all(isinstance(setting, str) for setting in value),
    "pileup": lambda value: bool(mean_range(value)),
}
