"""A `datasets` builder for E2E images, and `load_e2e`, which prepares, caches and splits with it.

`datasets` no longer runs loading scripts (`load_dataset("script.py")`), so the builder class is used directly.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from hashlib import blake2b
from pathlib import Path
from typing import cast

import datasets
import numpy as np
import pyarrow as pa
from datasets.exceptions import DatasetGenerationError

from .files import Piece, list_pieces, read_rows
from .resolve import find_files, find_schema, stamp_files
from .schema import SCHEMAS, DatasetSchema, parse_schema, row_features
from .splits import SPLIT_FRACTIONS, SplitRule
from .storage import absolute, relative_name
from .survey import survey_folder

__all__ = ["E2EImages", "E2EImagesConfig", "describe_schema", "list_parts", "load_e2e"]

ROW_FORMAT_VERSION = "3.1.0"  # part of the cache's name: raise it when the format of rows changes
PIECE_ROWS = 1000
PIECES_AT_ONCE = 8  # mixed by a shuffled stream: some 100 MB


@dataclass
class E2EImagesConfig(datasets.BuilderConfig):
    """One data set of the schema in one folder.

    Args:
        schema: The entry as JSON; by default the one that fits the name and the files.
        fingerprint: Hash of the files' names, sizes and times; part of the cache's name, so that changed files are
            read again.
        split, salt, fold, num_folds, test_fold: Yield only this split (streaming); by default all rows.
        shuffle_seed: Yield rows in the random order of this seed (streaming).
    """

    schema: str | None = None
    fingerprint: str = ""
    split: str | None = None
    salt: str = SplitRule.salt
    fold: int | None = None
    num_folds: int = SplitRule.num_folds
    test_fold: int | None = None
    shuffle_seed: Sequence[int] | None = None


class E2EImages(datasets.ArrowBasedBuilder):
    """Sparse rows of any data set, in one split called `full` or in the data set's own splits."""

    config: E2EImagesConfig
    BUILDER_CONFIG_CLASS = E2EImagesConfig
    BUILDER_CONFIGS = [E2EImagesConfig(name=name, version=ROW_FORMAT_VERSION) for name in (*SCHEMAS, "custom")]

    def _schema(self) -> DatasetSchema:
        if self.config.schema is None:
            return find_schema(self.config.name, self.config.data_dir)
        return parse_schema(self.config.name, json.loads(self.config.schema), "schema")[0]

    def _info(self):
        schema = self._schema()
        return datasets.DatasetInfo(
            description=describe_schema(schema),
            features=row_features(schema),
            homepage=schema.source,
            license=schema.licence,
        )

    def _split_generators(self, dl_manager):
        schema, config = self._schema(), self.config
        parts = list_parts(schema, config.data_dir, PIECE_ROWS)
        if config.split is None:
            return [
                datasets.SplitGenerator(name=part, gen_kwargs={"blocks": [[piece] for piece in pieces]})
                for part, pieces in parts.items()
            ]
        # the data set's own split is all that has to be read, unless folds mix train and validation
        mixed = config.split not in parts or (config.fold is not None and config.split != "test")
        blocks = [
            [(part, piece)] for part, pieces in parts.items() if mixed or part == config.split for piece in pieces
        ]
        if config.shuffle_seed is not None:
            order = np.random.default_rng(config.shuffle_seed).permutation(len(blocks))
            pieces = [blocks[number][0] for number in order]
            blocks = [pieces[i : i + PIECES_AT_ONCE] for i in range(0, len(pieces), PIECES_AT_ONCE)]
        numbered = list(enumerate(blocks))
        return [datasets.SplitGenerator(name=config.split, gen_kwargs={"blocks": numbered})]

    def _generate_tables(self, blocks):
        schema, config = self._schema(), self.config
        for number, block in enumerate(blocks):
            tables = read_rows(block[0], schema) if config.split is None else self._selected(schema, *block)
            for part, table in enumerate(tables):
                yield datasets.builder.Key(number, part), table

    def _selected(self, schema: DatasetSchema, number: int, block) -> Iterator[pa.Table]:
        """The rows of a block that are in the split, shuffled within the block if `shuffle_seed` is set."""
        config, tables = self.config, []
        rule = SplitRule(config.salt, config.fold, config.num_folds, config.test_fold)
        for part, piece in block:
            for table in read_rows(piece, schema):
                splits = rule.assign_rows(table, schema, part)
                if (chosen := table.filter(pa.array(splits == config.split))).num_rows:
                    tables.append(chosen)
                    if config.shuffle_seed is None:
                        yield tables.pop()
        if tables and config.shuffle_seed is not None:
            mixed = pa.concat_tables(tables)
            order = np.random.default_rng([*config.shuffle_seed, number]).permutation(mixed.num_rows)
            yield mixed.take(pa.array(order)).combine_chunks()


def describe_schema(schema: DatasetSchema) -> str:
    """A paragraph on the content of the rows, for `DatasetInfo`."""
    channels = ", ".join(f"{name} [{schema.channel(name).unit}]" for name in schema.channel_names)
    lines = [
        schema.description,
        f"Channels: {channels}. {schema.image_size[0]} x {schema.image_size[1]} pixels, {schema.normalisation}.",
        f"Classes: {', '.join(schema.labels) or 'none'}. mass_labels [GeV]: {schema.mass_definition}.",
    ]
    if schema.inferred:
        lines.append(f"Inferred, not verified: {'; '.join(schema.inferred)}.")
    return "\n".join([*lines, *schema.notes])


def list_parts(schema: DatasetSchema, data_dir: str | Path | None, rows: int) -> dict[str, list[Piece]]:
    """The pieces of each of the data set's own splits, or all pieces as `full`.

    Raises:
        ValueError: for a file that does not fit the schema, or belongs to no split.
        FileNotFoundError: if the folder or its files are missing.
    """
    parts: dict[str, list[Piece]] = {}
    for path in find_files(schema, data_dir):
        assert data_dir is not None, "find_files has refused it"
        name = relative_name(path, data_dir)
        part = "full"
        if schema.own_split:
            matching = [split for split, glob in schema.own_split.items() if fnmatch(name, glob)]
            if len(matching) != 1:
                globs = ", ".join(f"{split}: {glob}" for split, glob in schema.own_split.items())
                raise ValueError(
                    f"{path} should be in one of the splits of {schema.name!r} ({globs}), not {matching}."
                )
            (part,) = matching
        parts.setdefault(part, []).extend(list_pieces(path, name, schema, rows))
    if not any(parts.values()):
        raise ValueError(f"Data set {schema.name!r}: the files in {data_dir} hold no rows.")
    return parts


def load_e2e(
    name: str,
    data_dir: str | Path,
    split: str | None = None,
    *,
    schema: str | Path | DatasetSchema | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    salt: str = SplitRule.salt,
    fold: int | None = None,
    num_folds: int = SplitRule.num_folds,
    test_fold: int | None = None,
    shuffle_seed: int | Sequence[int] | None = None,
    cache_dir: str | Path | None = None,
) -> datasets.DatasetDict | datasets.Dataset | datasets.IterableDatasetDict | datasets.IterableDataset:
    """Rows of a data set, split by event into train (70 %), validation (10 %) and test (20 %), or by its own splits.

    Args:
        name: An entry of the schema, or `"custom"`.
        data_dir: Folder of its files, public ones or prepared rows, or an address (`hf://datasets/...`).
        split: One split instead of all.
        schema: YAML file (or [`DatasetSchema`]) of a custom data set.
        streaming: Read rows on demand instead of preparing a cache. `state_dict` and `load_state_dict` of the result
            resume at the very next row, `split_dataset_by_node` divides it among nodes.
        num_proc: Processes that prepare the cache.
        salt: Another salt gives another division into splits.
        fold, num_folds: Validation is this fold of all rows outside test, train the other folds.
        test_fold: Test is this fold of all rows; see [`SplitRule`].
        shuffle_seed: Streaming only: read pieces of 1000 rows in random order and mix eight at a time. The order
            depends on this seed alone: pass `(seed, epoch)` for a new one in each epoch. Each row comes exactly once,
            and a stream resumes exactly; `IterableDataset.shuffle` loses the rows in its buffer on resuming.
        cache_dir: Folder of the prepared Arrow files; by default the cache of `datasets`.

    Returns:
        `DatasetDict`, or `Dataset` with `split`; their iterable counterparts with `streaming`. Columns as in
        [`row_features`].

    Raises:
        ValueError: for an unknown name or split, or a file that does not fit the schema; the message says where.
        FileNotFoundError: if the folder or its files are missing.
    """
    if split is not None and split not in SPLIT_FRACTIONS:
        raise ValueError(f"Unknown split {split!r}; known splits: {', '.join(SPLIT_FRACTIONS)}.")
    if shuffle_seed is not None and not streaming:
        raise ValueError("`shuffle_seed` needs `streaming=True`; shuffle a `Dataset` with its `shuffle(seed=...)`.")
    rule = SplitRule(salt, fold, num_folds, test_fold)
    resolved = find_schema(name, data_dir, schema)
    if resolved.particles and name != resolved.name:
        raise ValueError(
            f"{data_dir} holds particles, not images: load them with `load_e2e({resolved.name!r}, ...)`, and make "
            "images with `e2evit.simulation.ParticleImages`."
        )
    rule.check(resolved.own_split, data_dir)
    stamp = "".join(f"{path}:{stamp};" for path, stamp in stamp_files(resolved, data_dir).items())
    common = {
        "config_name": resolved.name if resolved.name in SCHEMAS else "custom",
        "data_dir": absolute(data_dir),
        "schema": json.dumps(resolved.to_dict()),
        "fingerprint": blake2b(stamp.encode(), digest_size=8).hexdigest(),
        "cache_dir": None if cache_dir is None else absolute(cache_dir),
    }
    wanted = list(SPLIT_FRACTIONS) if split is None else [split]
    if streaming:
        survey_folder(resolved, data_dir)
        if shuffle_seed is not None:
            shuffle_seed = list(np.atleast_1d(shuffle_seed).tolist())
        streams: dict[str | datasets.NamedSplit, datasets.IterableDataset] = {
            part: cast(
                datasets.IterableDataset,
                E2EImages(**common, split=part, **asdict(rule), shuffle_seed=shuffle_seed).as_streaming_dataset(
                    split=part
                ),
            )
            for part in wanted
        }
        return datasets.IterableDatasetDict(streams) if split is None else streams[split]
    builder = E2EImages(**common)
    if not Path(builder.cache_dir).exists():
        survey_folder(resolved, data_dir)
    try:
        builder.download_and_prepare(num_proc=num_proc)
    except DatasetGenerationError as error:
        # the reader's own message says what is wrong, the wrapper only that something is
        raise (error.__cause__ or error) from None
    # A builder that has just prepared its files holds more info than one that finds them prepared. The info enters the
    # fingerprints of rows: later processes would not find what this one caches.
    builder = E2EImages(**common)
    selected: dict[str, list[datasets.Dataset]] = {part: [] for part in wanted}
    parts = [part for part, info in (builder.info.splits or {}).items() if info.num_examples]
    if not parts:
        raise ValueError(f"Data set {resolved.name!r}: the files in {data_dir} hold no rows.")
    for part in parts:
        rows = cast(datasets.Dataset, builder.as_dataset(split=part))
        splits = rule.assign_rows(rows.data.table, resolved, part)
        for name_of_split, chosen in selected.items():
            if (numbers := np.flatnonzero(splits == name_of_split)).size or part == "full":
                chosen.append(rows.select(numbers))
    divided: dict[str | datasets.NamedSplit, datasets.Dataset] = {
        part: datasets.concatenate_datasets(chosen) if chosen else rows.select([]) for part, chosen in selected.items()
    }
    return datasets.DatasetDict(divided) if split is None else divided[split]
