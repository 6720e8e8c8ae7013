"""The record of a folder of downloads: where its files are from, and their hashes."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from .jobs import write_whole_text

__all__ = ["RECORD_FILE", "Entry", "read_record", "write_record"]

RECORD_FILE = "downloads.json"


@dataclass(frozen=True)
class Entry:
    """What the record says of a file: where it is from, and what `NAME.part` is a part of until it has a `sha256`."""

    url: str
    size: int
    etag: str = ""
    last_modified: str = ""
    sha256: str = ""

    @property
    def validator(self) -> str:
        """What tells a server which version of the file we have a part of; weak tags promise no equal bytes."""
        return self.last_modified if self.etag.startswith("W/") else self.etag or self.last_modified


_RECORD = TypeAdapter(dict[str, Entry])


def read_record(folder: Path) -> dict[str, Entry]:
    """The entries of a folder, by the names of its files; none if it has no record.

    Raises:
        ValueError: if the record is damaged.
    """
    path = folder / RECORD_FILE
    try:
        return _RECORD.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        raise ValueError(
            f"{path} is damaged ({error.errors()[0]['msg']}): remove it. Files are then checked by size and format, "
            "and parts are fetched again."
        ) from None


def write_record(folder: Path, record: dict[str, Entry]) -> None:
    """Replace the record of a folder, whole or not at all."""
    text = _RECORD.dump_json(record, indent=1, exclude_defaults=True).decode()
    write_whole_text(folder / RECORD_FILE, text + "\n")
