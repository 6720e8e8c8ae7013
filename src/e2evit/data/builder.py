"""The loading script of E2E images: a `datasets` builder, and `load_e2e` that prepares, caches and splits with it.

`datasets` no longer runs scripts (`load_dataset("script.py")`), so the builder class is used directly.
"""

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import datasets
import numpy as np

from .files import read_rows
from .schema import SCHEMAS, find_schema, row_features
from .splits import SPLIT_FRACTIONS, assign_splits

__all__ = ["E2EImages", "E2EImagesConfig", "load_e2e"]

ROW_FORMAT_VERSION = "2.0.0"  # part of the cache's name: raise it when rows change


@dataclass
class E2EImagesConfig(datasets.BuilderConfig):
    """One data set of the schema in one folder.

    Args:
        fingerprint: Hash of names, sizes and times of the files; part of the cache's name, so that changed files are
            read again.
    """

    fingerprint: str = ""


class E2EImages(datasets.ArrowBasedBuilder):
    """Sparse rows of any data set of the schema, in one split called `full`."""

    BUILDER_CONFIG_CLASS = E2EImagesConfig
    BUILDER_CONFIGS = [E2EImagesConfig(name=name, version=ROW_FORMAT_VERSION) for name in SCHEMAS]

    def _info(self):
        schema = find_schema(self.config.name, self.config.data_dir)
        return datasets.DatasetInfo(
            description=schema.description,
            features=row_features(schema),
            homepage=schema.source,
            license=schema.licence,
        )

    def _split_generators(self, dl_manager):
        files = _find_files(self.config.name, self.config.data_dir)
        return [datasets.SplitGenerator(name="full", gen_kwargs={"files": [str(file) for file in files]})]

    def _generate_tables(self, files):
        schema = find_schema(self.config.name, self.config.data_dir)
        for number, file in enumerate(files):
            for part, table in enumerate(read_rows(file, schema)):
                yield datasets.builder.Key(number, part), table


def _find_files(name: str, data_dir: str | Path | None) -> list[Path]:
    schema = find_schema(name)
    if data_dir is None or not Path(data_dir).is_dir():
        raise FileNotFoundError(
            f"Data set {name!r}: {data_dir} is not a folder; pass `data_dir`. Source: {schema.source}."
        )
    files = sorted(path for path in Path(data_dir).glob(schema.pattern) if path.is_file())
    if not files:
        raise FileNotFoundError(f"Data set {name!r}: no {schema.pattern} in {data_dir}. Source: {schema.source}.")
    return files


def load_e2e(
    name: str, data_dir: str | Path, split: str | None = None, cache_dir: str | Path | None = None
) -> datasets.DatasetDict | datasets.Dataset:
    """Rows of a data set, split by event into train (70 %), validation (10 %) and test (20 %).

    Args:
        name: An entry of the schema: `"simulated"`, `"labelled"`, `"top_mass"`.
        data_dir: Folder with its files.
        split: One split instead of all.
        cache_dir: Where the prepared Arrow files go; `datasets`' own cache if not given.

    Returns:
        `DatasetDict`, or `Dataset` with `split`; columns as in [`row_features`].

    Raises:
        ValueError: for an unknown name or split, or a file that does not fit the schema; it says where.
        FileNotFoundError: if the folder or its files are missing.
    """
    if split is not None and split not in SPLIT_FRACTIONS:
        raise ValueError(f"There is no split {split!r}; known ones: {', '.join(SPLIT_FRACTIONS)}.")
    files = _find_files(name, data_dir)
    stamp = "".join(f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns};" for file in files)
    builder = E2EImages(
        config_name=name,
        data_dir=str(Path(data_dir).resolve()),
        fingerprint=blake2b(stamp.encode(), digest_size=8).hexdigest(),
        cache_dir=None if cache_dir is None else str(cache_dir),
    )
    try:
        builder.download_and_prepare()
    except datasets.exceptions.DatasetGenerationError as error:
        # the reader's own message says what is wrong; the wrapper only that something is
        raise (error.__cause__ or error) from None
    full = builder.as_dataset(split="full")
    splits = assign_splits(full["event_id"])
    if split is not None:
        return full.select(np.flatnonzero(splits == split))
    return datasets.DatasetDict({part: full.select(np.flatnonzero(splits == part)) for part in SPLIT_FRACTIONS})
