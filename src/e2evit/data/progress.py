"""What a preparation has finished: a record for each piece of its files, so that the next call resumes it."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .files import Piece
from .jobs import claim, write_whole_text
from .manifest import digest_of, sha256_of
from .resolve import PROGRESS_FOLDER
from .splits import SPLIT_FRACTIONS

__all__ = ["Progress", "damaged_shards", "read_record", "read_settings", "shard_name", "write_record"]

logger = logging.getLogger(__name__)

SETTINGS_FILE, MOVED = "settings.json", "moved"
NEWER = ("source_schema", "shard_megabytes")  # settings that earlier versions did not record
SHOWN = 3  # names of files


def shard_name(split: str, number: int, total: int) -> str:
    """The file of a piece's rows in one split."""
    return f"{split}-{number:05d}-of-{total:05d}.parquet"


def damaged_shards(output_dir: Path, shards: Iterable[dict]) -> list[str]:
    """Names of the shards that are missing or have another hash."""
    paths = {output_dir / "data" / entry["file"]: entry["sha256"] for entry in shards}
    return [path.name for path, digest in paths.items() if not path.is_file() or sha256_of(path) != digest]


def write_record(path: Path, record: dict) -> None:
    """Write a record with its own hash."""
    write_whole_text(path, json.dumps(record | {"sha256": digest_of(record)}, indent=2) + "\n")


def read_record(path: Path) -> dict | None:
    """A record as it was written; None, and a warning, if it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.pop("sha256") != digest_of(record):
            raise ValueError("it has changed")
        return record
    except (AttributeError, KeyError, TypeError, ValueError):
        logger.warning(f"{path} is damaged: its rows are prepared again")
        return None


def read_settings(output_dir: Path) -> dict | None:
    """The settings that an interrupted run left; None if there are none, or if they are damaged."""
    try:
        settings = json.loads((output_dir / PROGRESS_FOLDER / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kinds = {"files": dict, "rows_per_shard": int}
    is_whole = isinstance(settings, dict) and all(isinstance(settings.get(name), kind) for name, kind in kinds.items())
    return settings if is_whole and settings["rows_per_shard"] > 0 else None


@dataclass(frozen=True)
class Progress:
    """The records of a preparation into `output_dir`.

    Args:
        sources: What each piece is made of: file, rows, and a stamp that changes when the file does.
    """

    output_dir: Path
    sources: Sequence[dict]

    @classmethod
    def of(cls, output_dir: Path, pieces: Iterable[tuple[str, Piece]], stamps: Mapping[str, str]) -> "Progress":
        """Of pieces in their order, and the stamps of their files by path."""
        sources = [
            {"file": piece.name, "start": piece.start, "stop": piece.stop, "part": part, "stamp": stamps[piece.path]}
            for part, piece in pieces
        ]
        return cls(output_dir, sources)

    @property
    def folder(self) -> Path:
        return self.output_dir / PROGRESS_FOLDER

    def path(self, number: int) -> Path:
        """The record of a piece."""
        return self.folder / f"{number:05d}.json"

    def claim(self, settings: dict) -> None:
        """Write the settings of a run, or compare them with those of an interrupted one, whose files may have changed.

        Finished shards of unchanged files are kept; those of the others are removed, which the log says.

        Raises:
            ValueError: if the settings or the names of the files differ, or if `output_dir` holds other shards.
        """
        path, earlier = self.folder / SETTINGS_FILE, read_settings(self.output_dir)
        if earlier is not None and earlier["files"].keys() == settings["files"].keys():
            # shards that were finished with `error` have no bad rows
            open_to = ("files", "on_bad_rows") if earlier.get("on_bad_rows") == "error" else ("files",)
            claim(path, settings | {name: earlier[name] for name in open_to}, NEWER)
            self._keep_unchanged()
            changed = {name: settings[name] for name in open_to}
            if earlier != earlier | changed:
                write_whole_text(path, json.dumps(earlier | changed, indent=2) + "\n")
        else:
            claim(path, settings, NEWER)
        self._refuse_strays()

    def _keep_unchanged(self) -> None:
        """Give finished shards the numbers that their rows have now, and remove those of files that have changed."""
        numbers, total = {digest_of(source): number for number, source in enumerate(self.sources)}, len(self.sources)
        moving, changed = {}, set()
        for path in sorted(self.folder.glob("[0-9]*.json")):
            record = read_record(path)
            if record is None:
                path.unlink()
                continue
            shards = {split: self.output_dir / "data" / entry["file"] for split, entry in record["shards"].items()}
            source = record.get("source", {})  # an earlier version did not record it
            number = numbers.get(digest_of(source))
            if number is None:
                changed |= {source["file"]} if source else set()
                for shard in shards.values():
                    shard.unlink(missing_ok=True)
                path.unlink()
            elif any(shard.name != shard_name(split, number, total) for split, shard in shards.items()):
                moving[path] = number, record, shards
        if changed:
            more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            told = f"{', '.join(sorted(changed)[:SHOWN])}{more}"
            logger.warning(f"Changed since the interrupted run: {told}. These rows are prepared again.")
        aside = self.folder / MOVED
        for path, (_, _, shards) in moving.items():  # none may take the name of another
            aside.mkdir(exist_ok=True)
            for shard in shards.values():
                if shard.is_file():
                    shard.rename(aside / shard.name)
            path.unlink()
        for number, record, shards in moving.values():
            for split, shard in shards.items():
                record["shards"][split]["file"] = shard_name(split, number, total)
                if (aside / shard.name).is_file():
                    (aside / shard.name).rename(shard.with_name(shard_name(split, number, total)))
            write_record(self.path(number), record)

    def _refuse_strays(self) -> None:
        """Refuse shards that this preparation would not replace, and readers would add to its rows."""
        folder, total = self.output_dir / "data", len(self.sources)
        names = {shard_name(split, number, total) for split in SPLIT_FRACTIONS for number in range(total)}
        if strays := sorted({path.name for path in folder.glob("*.parquet")} - names):
            raise ValueError(
                f"{folder} holds {', '.join(strays[:5])} of another preparation: remove what is there, or choose "
                "another folder."
            )

    def is_done(self, number: int) -> bool:
        """Whether an earlier run has written a piece, and its shards are still as it wrote them."""
        path = self.path(number)
        if not path.exists() or (record := read_record(path)) is None or record.get("source") != self.sources[number]:
            return False
        damaged = damaged_shards(self.output_dir, record["shards"].values())
        if damaged:
            folder = self.output_dir / "data"
            logger.warning(f"{', '.join(damaged)} in {folder} changed since they were written: made again")
        return not damaged
