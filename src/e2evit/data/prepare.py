"""Turn any data set into a Parquet repository that plain `datasets.load_dataset(folder)` reads."""

import io
import json
import math
import shutil
from collections.abc import Collection
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
from .progress import Progress, damaged_shards, read_settings, shard_name, write_record
from .resolve import MANIFEST_FILE, ROWS_PATTERNS, find_schema, stamp_files, stamps_by_file
from .schema import DatasetSchema, Source, row_features
from .sparse import COLUMN_ENCODINGS
from .splits import SPLIT_FRACTIONS, SplitRule
from .storage import absolute, file_size, is_remote, relative_name
from .survey import survey_folder
from .texts import read_mapping

__all__ = ["MANIFEST_FILE", "prepare"]

BAD_ROWS_FILE, CARD = "bad_rows.json", "README.md"
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
    if num_proc < 1 or not 0 < shard_megabytes < math.inf:
        raise ValueError(f"Need num_proc and shard_megabytes > 0, got {num_proc} and {shard_megabytes}.")
    rule, source = rule or SplitRule(), find_schema(name, data_dir, schema)
    output_dir = Path(absolute(output_dir))
    if not is_remote(data_dir) and output_dir.exists() and output_dir.samefile(absolute(data_dir)):
        raise ValueError(f"{output_dir} holds the files to read: choose another `output_dir`.")
    rule.check(source.own_split, data_dir)
    warnings = survey_folder(source, data_dir)
    rows = _rows_per_shard(source, data_dir, shard_megabytes)
    earlier = read_settings(output_dir) or {}
    if earlier.get("shard_megabytes") == shard_megabytes:  # else a file that was repaired could move all borders
        rows = earlier["rows_per_shard"]
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
        class_of_files={},
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
    stamps = {path: digest_of(read) for path, read in stamps_by_file(source, data_dir).items()}
    progress = Progress.of(output_dir, pieces, stamps)
    with held(output_dir):
        if (output_dir / MANIFEST_FILE).exists():
            claim(output_dir / MANIFEST_FILE, settings, ["source_schema"])
            _check_finished(output_dir)
            shutil.rmtree(progress.folder, ignore_errors=True)  # left if a run was killed in its very last step
            return output_dir
        for folder in (progress.folder, output_dir / "data"):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
        if (output_dir / CARD).exists() and b"e2evit" not in (output_dir / CARD).read_bytes():
            raise ValueError(f"{output_dir} holds a {CARD} that is not ours: choose a new or an empty `output_dir`.")
        progress.claim(settings | {"shard_megabytes": shard_megabytes})
        plan = (source, output, rule, splits, on_bad_rows)
        jobs = [
            (_write_piece, output_dir, number, progress.sources[number], len(pieces), *piece, *plan)
            for number, piece in enumerate(pieces)
        ]
        missing = [job for job in jobs if not progress.is_done(job[2])]
        unit = "event" if source.holds_events else "row"
        total = sum(piece.stop - piece.start for _, piece in pieces)
        waiting = sum(pieces[job[2]][1].stop - pieces[job[2]][1].start for job in missing)
        if missing:
            with workers(num_proc if num_proc > 1 else 0, scheduler, __name__) as run:
                follow(run(missing), "Preparing", unit, total, total - waiting)
        _finish(progress, record | {"warnings": warnings}, output, unit)
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


def _check_finished(output_dir: Path) -> None:
    """Check that the shards of a finished data set are as they were written.

    Raises:
        FileError: naming those that are not.
    """
    manifest = read_mapping(output_dir / MANIFEST_FILE, "JSON")
    if not isinstance(manifest.get("shards"), dict):
        raise FileError(f"{output_dir / MANIFEST_FILE} is damaged, it has no shards: remove it, and run this again.")
    if damaged := damaged_shards(output_dir, [shard for shards in manifest["shards"].values() for shard in shards]):
        raise FileError(
            f"{output_dir / 'data'}: {', '.join(damaged)} changed since they were written (SHA-256). Restore them, or "
            f"remove {output_dir / MANIFEST_FILE} and run the same command again to make all shards anew."
        )


def _write_piece(
    output_dir: Path,
    number: int,
    made_of: dict,
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
    shards = {split: _Shard(output_dir / "data" / shard_name(split, number, total), target) for split in parts}
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
        "source": made_of,
        "shards": written,
        "rows_without_label": sum(shard.without_label for shard in shards.values()),
        "bad_rows": [{"file": piece.name, "first": b.first, "last": b.last, "reason": b.reason} for b in bad],
    }
    write_record(Progress(output_dir, ()).path(number), record)
    return piece.stop - piece.start


class _Shard:
    """A file written in groups of 1000 rows, so that few are in memory; it gets its name once it is complete."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.path, self.temporary = path, path.with_name(f".{path.name}.tmp")
        self.schema, self.writer, self.waiting, self.rows, self.without_label = schema, None, [], 0, 0

    def add(self, table: pa.Table) -> None:
        self.without_label += table["labels"].null_count
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


def _finish(progress: Progress, record: dict, schema: DatasetSchema, unit: str) -> None:
    """Write the manifest, the list of dropped rows (or of events with such) and the card; then remove the traces of
    progress."""
    output_dir = progress.output_dir
    paths = map(progress.path, range(len(progress.sources)))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
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
    labelled = (
        {"num_rows_without_label": sum(entry["rows_without_label"] for entry in records)} if schema.labels else {}
    )
    manifest = record | labelled | {f"num_bad_{unit}s": number_bad, "shards": shards}
    card = render_card(schema, manifest)
    write_whole_text(output_dir / CARD, card)
    _write_json(output_dir / MANIFEST_FILE, manifest)
    shutil.rmtree(progress.folder)


def _write_json(path: Path, record: dict) -> None:
    write_whole_text(path, json.dumps(record, indent=2) + "\n")
