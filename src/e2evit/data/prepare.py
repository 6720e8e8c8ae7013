"""Turn any data set into a Parquet repository that plain `datasets.load_dataset(folder)` reads."""

import io
import json
import logging
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .batches import number_of_rows
from .builder import list_parts
from .card import render_card
from .files import Piece, read_rows
from .formats import BadRows, FileError
from .jobs import cannot_write, claim, follow, remove_leftovers, workers, write_whole_text
from .locks import held
from .manifest import digest_of, sha256_of, sync
from .resolve import MANIFEST_FILE, PROGRESS_FOLDER, ROWS_PATTERNS, find_schema, stamp_files
from .schema import DatasetSchema, Source, row_features
from .sparse import COLUMN_ENCODINGS
from .splits import SPLIT_FRACTIONS, SplitRule
from .storage import absolute, file_size, relative_name
from .survey import survey_folder

__all__ = ["MANIFEST_FILE", "damaged_shards", "prepare"]

logger = logging.getLogger(__name__)

BAD_ROWS_FILE = "bad_rows.json"
GROUP_ROWS = 1000
SAMPLE_ROWS = 256


def prepare(
    name: str,
    data_dir: str | Path,
    output_dir: str | Path,
    *,
    schema: str | Path | DatasetSchema | None = None,
    rule: SplitRule | None = None,
    splits: Collection[str] = tuple(SPLIT_FRACTIONS),
    shard_megabytes: float = 200.0,
    on_bad_rows: str = "error",
    num_proc: int = 1,
    scheduler: str | None = None,
) -> Path:
    """Write the rows of a data set into `output_dir/data/SPLIT-00000-of-00010.parquet` and so on, with a card.

    Row groups of 1000 jets, zstd, sorted pixel indices as deltas, a checksum on each page. Repeating an interrupted
    call resumes it: finished shards are kept, and the result is the same to the byte.

    Args:
        name, data_dir, schema: As for [`load_e2e`].
        rule: How rows are divided into splits.
        splits: Those to write.
        shard_megabytes: Size of the largest split's shards.
        on_bad_rows: `"error"`, or `"skip"` to drop them and list them in `bad_rows.json`.
        num_proc: Local worker processes.
        scheduler: Address of a Dask scheduler whose workers do the work instead.

    Returns:
        `output_dir`, which `load_e2e(name, data_dir=...)` and `datasets.load_dataset(...)` read.

    Raises:
        ValueError: for files that do not fit the schema, rows that do not fit it (with `"error"`), or a folder
            prepared from other files or with other settings.
        FileNotFoundError: if the folder or its files are missing.
        InUse: if another process writes to `output_dir`.
        OSError: if a file cannot be written; finished shards stay.
        RuntimeError: if a worker dies; finished shards stay.
    """
    if on_bad_rows not in ("error", "skip"):
        raise ValueError(f"`on_bad_rows` is 'error' or 'skip', got {on_bad_rows!r}.")
    if num_proc < 1 or shard_megabytes <= 0:
        raise ValueError(f"Need num_proc and shard_megabytes > 0, got {num_proc} and {shard_megabytes}.")
    rule, source = rule or SplitRule(), find_schema(name, data_dir, schema)
    output_dir = Path(absolute(output_dir))
    if str(output_dir) == absolute(data_dir):
        raise ValueError(f"{output_dir} holds the files to read: choose another `output_dir`.")
    rule.check(source.own_split, data_dir)
    warnings = survey_folder(source, data_dir)
    rows = _rows_per_shard(source, data_dir, shard_megabytes)
    parts = list_parts(source, data_dir, rows)
    pieces = [(part, piece) for part in parts for piece in parts[part]]
    output = replace(
        source,
        format="rows",
        pattern=ROWS_PATTERNS[0],
        channels_last=False,
        columns={},
        optional=(),
        bad_rows={},
        own_split={split: f"data/{split}-*" for split in SPLIT_FRACTIONS},
        extra={extra: Source((extra,)) for extra in source.extra},
        present=(),
        absent=(),
        tree=DatasetSchema.tree,
        branches={},
        one_row="jet",
        resample_endcaps=False,
        open_detector=None,
    )
    record = {
        "schema": output.to_dict(),
        "source_schema": digest_of(source.to_dict()),  # with what its rows no longer tell: branches, keys, options
        # earlier versions knew no `test_fold`
        "split": {name: value for name, value in asdict(rule).items() if name != "test_fold" or value is not None},
        "on_bad_rows": on_bad_rows,
        "rows_per_shard": rows,
        "files": {relative_name(path, data_dir): file_size(path) for path in stamp_files(source, data_dir)},
    }
    if len(splits) < len(SPLIT_FRACTIONS):
        record["splits"] = list(splits)
    settings = {"splits": None} | record  # so that a folder with other splits is not taken for this one
    progress = output_dir / PROGRESS_FOLDER
    with held(output_dir):
        if (output_dir / MANIFEST_FILE).exists():
            claim(output_dir / MANIFEST_FILE, settings, ["source_schema"])
            _check_finished(output_dir)
            shutil.rmtree(progress, ignore_errors=True)  # left if the run before was killed in its very last step
            return output_dir
        for folder in (progress, output_dir / "data"):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
        _refuse_strays(output_dir / "data", len(pieces))
        claim(progress / "settings.json", settings, ["source_schema"])
        plan = (source, output, rule, splits, on_bad_rows)
        jobs = [(_write_piece, output_dir, number, len(pieces), *piece, *plan) for number, piece in enumerate(pieces)]
        missing = [job for job in jobs if not _is_done(output_dir, job[2])]
        unit = "event" if source.holds_events else "row"
        total = sum(piece.stop - piece.start for _, piece in pieces)
        waiting = sum(job[5].stop - job[5].start for job in missing)
        if missing:
            with workers(num_proc if num_proc > 1 else 0, scheduler, __name__) as run:
                follow(run(missing), "Preparing", unit, total, total - waiting)
        _finish(output_dir, len(pieces), record | {"warnings": warnings}, output, unit)
    return output_dir


def _rows_per_shard(schema: DatasetSchema, data_dir, megabytes: float) -> int:
    """Rows per shard of the wanted size, estimated from the first rows that fit; or events."""
    kept: list[pa.Table] = []
    bad: list[BadRows] = []
    for pieces in list_parts(schema, data_dir, SAMPLE_ROWS).values():
        for table in (table for piece in pieces for table in read_rows(piece, schema, bad.append)):
            kept.append(table)
            if sum(map(len, kept)) >= SAMPLE_ROWS:
                break
        if kept:
            break
    if not kept:
        example = f": {bad[0]}" if bad else ""
        raise FileError(f"{data_dir}: no row fits the data set {schema.name!r}{example}.")
    buffer = io.BytesIO()
    table = pa.concat_tables(kept)
    pq.write_table(table, buffer, **COLUMN_ENCODINGS)
    largest = 1.0 if schema.own_split else SPLIT_FRACTIONS["train"]
    number = len(table["event_id"].unique()) if schema.holds_events else table.num_rows
    rows = megabytes * 1e6 / (buffer.tell() / number * largest)
    return max(GROUP_ROWS, round(rows / GROUP_ROWS) * GROUP_ROWS)


def _refuse_strays(folder: Path, total: int) -> None:
    """Refuse a folder with shards that this preparation would not replace, and readers would add to its rows."""
    names = {f"{split}-{number:05d}-of-{total:05d}.parquet" for split in SPLIT_FRACTIONS for number in range(total)}
    if strays := sorted({path.name for path in folder.glob("*.parquet")} - names):
        raise ValueError(
            f"{folder} holds {', '.join(strays[:5])} of another preparation: remove what is there, or choose another "
            "folder."
        )


def _record_path(output_dir: Path, number: int) -> Path:
    return output_dir / PROGRESS_FOLDER / f"{number:05d}.json"


def _is_done(output_dir: Path, number: int) -> bool:
    """Whether an earlier run has written a piece, and its shards are still as it wrote them."""
    path = _record_path(output_dir, number)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.pop("sha256") != digest_of(record):
            raise ValueError("it has changed")
        damaged = damaged_shards(output_dir, record["shards"].values())
    except FileNotFoundError:
        return False
    except (AttributeError, KeyError, TypeError, ValueError):
        logger.warning(f"{path} is damaged: its rows are prepared again")
        return False
    if damaged:
        logger.warning(f"{', '.join(damaged)} in {output_dir / 'data'} changed since they were written: made again")
    return not damaged


def _check_finished(output_dir: Path) -> None:
    """Check that the shards of a finished data set are as they were written.

    Raises:
        FileError: naming those that are not.
    """
    manifest = json.loads((output_dir / MANIFEST_FILE).read_text(encoding="utf-8"))
    if damaged := damaged_shards(output_dir, [shard for shards in manifest["shards"].values() for shard in shards]):
        raise FileError(
            f"{output_dir / 'data'}: {', '.join(damaged)} changed since they were written (SHA-256). Restore them, or "
            f"remove {output_dir / MANIFEST_FILE} and run the same command again to make all shards anew."
        )


def damaged_shards(output_dir: Path, shards: Iterable[dict]) -> list[str]:
    """Names of the shards that are missing or have another hash."""
    paths = {output_dir / "data" / entry["file"]: entry["sha256"] for entry in shards}
    return [path.name for path, digest in paths.items() if not path.is_file() or sha256_of(path) != digest]


def _write_piece(
    output_dir: Path,
    number: int,
    total: int,
    part: str,
    piece: Piece,
    schema: DatasetSchema,
    output: DatasetSchema,
    rule: SplitRule,
    parts: Collection[str],
    on_bad_rows: str,
) -> int:
    """One shard of each split, then the record that marks them complete."""
    bad: list[BadRows] = []
    rows = read_rows(piece, schema, bad.append) if on_bad_rows == "skip" else read_rows(piece, schema)
    target = row_features(output).arrow_schema
    description = json.dumps(output.description_of_rows(output.label_names) | {"schema": output.to_dict()})
    target = target.with_metadata((target.metadata or {}) | {b"e2evit": description.encode()})
    shards = {split: _Shard(output_dir / "data", split, number, total, target) for split in parts}
    try:
        for table in rows:
            splits = rule.assign_rows(table, schema, part)
            for split, shard in shards.items():
                shard.add(table.filter(pa.array(splits == split)))
        written = {split: entry for split, shard in shards.items() if (entry := shard.finish())}
    finally:
        for shard in shards.values():
            shard.discard()
    record = {
        "shards": written,
        "bad_rows": [{"file": piece.name, "first": b.first, "last": b.last, "reason": b.reason} for b in bad],
    }
    path = _record_path(output_dir, number)
    write_whole_text(path, json.dumps(record | {"sha256": digest_of(record)}, indent=2) + "\n")
    return piece.stop - piece.start


class _Shard:
    """A file written in groups of 1000 rows, so that few are in memory; it gets its name once it is complete."""

    def __init__(self, folder: Path, split: str, number: int, total: int, schema: pa.Schema):
        self.path = folder / f"{split}-{number:05d}-of-{total:05d}.parquet"
        self.temporary = folder / f".{self.path.name}.tmp"
        self.schema, self.writer, self.waiting, self.rows = schema, None, [], 0

    def add(self, table: pa.Table) -> None:
        if table.num_rows:
            self.waiting.append(table)
        while sum(map(len, self.waiting)) >= GROUP_ROWS:
            self._write(GROUP_ROWS)

    def _write(self, number: int) -> None:
        table = pa.concat_tables(self.waiting)
        try:
            if self.writer is None:
                self.writer = pq.ParquetWriter(self.temporary, self.schema, **COLUMN_ENCODINGS)
            self.writer.write_table(table.slice(0, number).cast(self.schema), row_group_size=GROUP_ROWS)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.rows += min(number, table.num_rows)
        self.waiting = [table.slice(number)] if table.num_rows > number else []

    def finish(self) -> dict | None:
        """Its entry in the manifest, or None for a shard without rows."""
        if self.waiting:
            self._write(GROUP_ROWS)
        if self.writer is None:
            self.path.unlink(missing_ok=True)  # of an earlier preparation
            return None
        try:
            self.writer.close()
            digest = sha256_of(self.temporary, sync=True)
            self.temporary.replace(self.path)
            sync(self.path.parent)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return {"file": self.path.name, "rows": self.rows, "sha256": digest}

    def discard(self) -> None:
        with suppress(OSError):  # a full disk, which has been reported
            if self.writer is not None:
                self.writer.close()
        self.temporary.unlink(missing_ok=True)


def _finish(output_dir: Path, total: int, record: dict, schema: DatasetSchema, unit: str) -> None:
    """Write the manifest, the list of dropped rows (or of events with such) and the card; then remove the traces of
    progress."""
    records = [json.loads(_record_path(output_dir, number).read_text(encoding="utf-8")) for number in range(total)]
    shards: dict[str, list[dict]] = {}
    for split in SPLIT_FRACTIONS:
        if entries := [entry["shards"][split] for entry in records if split in entry["shards"]]:
            shards[split] = entries
    bad = [rows for entry in records for rows in entry["bad_rows"]]
    number_bad = number_of_rows((rows["file"], rows["first"], rows["last"]) for rows in bad)
    if not shards and not bad:
        raise FileError(f"No {unit} is in the split {', '.join(record['splits'])}: there is nothing to write.")
    if not shards:
        raise FileError(f"None of the {number_bad} {unit}s fits the data set {schema.name!r}, e.g. {bad[0]}")
    if bad:
        _write_json(output_dir / BAD_ROWS_FILE, {"number": number_bad, f"{unit}s": bad})
    manifest = record | {f"num_bad_{unit}s": number_bad, "shards": shards}
    card = render_card(schema, manifest)
    write_whole_text(output_dir / "README.md", card)
    _write_json(output_dir / MANIFEST_FILE, manifest)
    shutil.rmtree(output_dir / PROGRESS_FOLDER)


def _write_json(path: Path, record: dict) -> None:
    write_whole_text(path, json.dumps(record, indent=2) + "\n")
