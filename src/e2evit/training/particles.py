"""Images of particles for a run: fixed ones, made once and cached, and new ones in every epoch."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, List, Value

from e2evit.data import DatasetSchema, find_schema
from e2evit.data.builder import describe_schema
from e2evit.data.columns import IMAGE_COLUMNS, LISTS, PARTICLE_COLUMNS
from e2evit.data.locks import held
from e2evit.data.manifest import digest_of
from e2evit.simulation import ParticleImages
from e2evit.transforms.transverse import transverse_schema, transverse_table

from .arguments import DataArguments

__all__ = ["PreparedImages", "image_schema"]

STATISTICS_ROWS = 2000


def image_schema(schema: DatasetSchema, transverse: bool | None = False) -> DatasetSchema:
    """The schema of the images made of a data set's particles."""
    schema = replace(schema, particles=False)
    return transverse_schema(schema) if transverse else schema


class PreparedImages:
    """Tables of particles to tables of images, with transverse energies if asked.

    Args:
        data: The particles, and their pile-up.
        candidates: Whether rows also get the candidates of the same response, and observables made of them.
    """

    columns = ParticleImages.columns

    def __init__(self, data: DataArguments, transverse: bool | None = False, candidates: bool = False):
        schema = find_schema(data.dataset_name, data.data_dir, data.schema)
        assert data.data_dir is not None, "find_schema has refused it"
        self.images = ParticleImages.of(
            data.data_dir, data.pileup, cache_dir=data.cache_dir, without=data.without, candidates=candidates
        )
        self.plain, self.transverse = image_schema(schema), transverse

    def __call__(self, rows: pa.Table, seed: int = 0, epoch: int | None = None, split: str = "train") -> pa.Table:
        """Images whose random numbers depend on seed, epoch and jet; without an epoch, fixed ones.

        Args:
            split: Of the rows; no collision of pile-up is in two of them.
        """
        images = self.images.with_seed(seed, epoch, split)(rows)
        return transverse_table(images, self.plain) if self.transverse else images

    def fixed(self, rows: Dataset, split: str = "train") -> Dataset:
        """Fixed images of the rows of a split, in their cache."""
        settings = {"rows": rows._fingerprint, "transverse": self.transverse, "images": self.images.description}
        settings["split"] = split
        made_of = IMAGE_COLUMNS | (LISTS["candidates"] if self.images.candidates else {})
        lists = {name: List(Value(kind)) for name, kind in made_of.items()}
        others = {name: feature for name, feature in rows.features.items() if name not in PARTICLE_COLUMNS}
        fingerprint = digest_of(settings)[:16]
        with _made_once(rows, fingerprint):
            made = rows.with_format("arrow").map(
                partial(self, split=split),
                batched=True,
                batch_size=256,
                features=type(rows.features)(lists | others),
                remove_columns=list(PARTICLE_COLUMNS),
                new_fingerprint=fingerprint,
                desc="Images of particles",
            )
        made.info.description = describe_schema(image_schema(self.plain, self.transverse))  # read by pipelines
        return made.with_format(None)

    def sample(self, rows: Dataset) -> Dataset:
        """Fixed images of some rows, evenly spaced, for statistics."""
        return self.fixed(rows.select(np.unique(np.linspace(0, len(rows) - 1, STATISTICS_ROWS).astype(int))))


def _made_once(rows: Dataset, fingerprint: str) -> AbstractContextManager:
    """Wait for another process that makes the same rows, such as a training that was started at the same time."""
    if not rows.cache_files:
        return nullcontext()
    path = Path(rows.cache_files[0]["filename"]).with_name(f"cache-{fingerprint}.arrow")  # as datasets names it
    return nullcontext() if path.exists() else held(path.parent, path.name, wait=True)
