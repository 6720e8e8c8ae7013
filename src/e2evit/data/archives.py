"""Archives of files, `*.tar.gz`: checked, but never unpacked, since only `tar` shows what it writes where."""

import gzip
import zlib
from pathlib import Path

from .formats import FileError

__all__ = ["ARCHIVE", "GZIP", "check_archive"]

ARCHIVE = ".tar.gz"
GZIP = b"\x1f\x8b"  # the first bytes


def check_archive(path: Path) -> None:
    """Read an archive to its end, where its checksum is.

    Raises:
        FileError: if it is damaged.
    """
    try:
        with gzip.open(path) as archive:
            while archive.read(1 << 20):
                pass
    except (EOFError, OSError, zlib.error) as error:
        raise FileError(f"{path} is damaged: {str(error)[:200].rstrip('.')}.") from error
