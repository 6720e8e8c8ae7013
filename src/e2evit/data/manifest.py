"""Sizes and SHA-256 of files, so that damage is noticed before anything is read from them."""

import errno
import json
import os
from hashlib import sha256
from pathlib import Path

__all__ = [
    "MANIFEST_FILE",
    "change_of",
    "check_weights",
    "damage",
    "digest_of",
    "sha256_of",
    "sync",
    "weights_hashes",
    "write_manifest",
]

MANIFEST_FILE = "manifest.json"
RUN_INFO_FILE = "run_info.json"


def sha256_of(path: Path, sync: bool = False) -> str:
    """The hexadecimal hash of a file.

    Args:
        sync: Have the disk hold the file before this returns, so that it outlives a loss of power.
    """
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        if sync:
            os.fsync(file.fileno())
    return digest.hexdigest()


def digest_of(record: dict) -> str:
    """The hash of a record, whatever the order of its keys."""
    return sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def sync(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder, so that they outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that cannot
            raise
    finally:
        os.close(descriptor)


def write_manifest(folder: Path) -> None:
    """List all files below `folder` in its manifest."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path, sync=True)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    with (folder / MANIFEST_FILE).open("w", encoding="utf-8") as file:
        file.write(json.dumps(files, indent=1))  # no end of line, whose loss would go unnoticed
        file.flush()
        os.fsync(file.fileno())
    sync(folder)


def damage(folder: Path) -> str | None:
    """What is wrong with the files in a folder's manifest, or None if they are as they were written."""
    try:
        files = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        for name, expected in files.items():
            if change := change_of(folder / name, expected["size"], expected["sha256"]):
                return f"{name} {change}"
    except FileNotFoundError:
        return f"{MANIFEST_FILE} is missing"
    except OSError as error:
        return f"it cannot be read: {error}"
    except (AttributeError, KeyError, TypeError, ValueError):
        return f"{MANIFEST_FILE} cannot be read"
    return None


def change_of(path: Path, size: int, digest: str) -> str | None:
    """How a file differs from one of this size [bytes] and SHA-256, or None."""
    if not path.is_file():
        return "is missing"
    if (held := path.stat().st_size) != size:
        return f"has {held} bytes, not {size}"
    return "has changed (SHA-256)" if sha256_of(path) != digest else None


def weights_hashes(folder: Path) -> dict[str, str]:
    """The hash of each file of weights in a checkpoint, which its record of the run keeps under `sha256`."""
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))}


def check_weights(folder: str | Path) -> None:
    """Check that a checkpoint's weights are those its training wrote. A Hub id, or a folder without hashes, passes.

    Raises:
        ValueError: naming the file that is not.
    """
    folder = Path(folder)
    try:
        written = dict(json.loads((folder / RUN_INFO_FILE).read_text(encoding="utf-8")).get("sha256", {}))
    except (FileNotFoundError, NotADirectoryError):
        return
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / RUN_INFO_FILE} is damaged: {error}.") from error
    for name, digest in written.items():
        path = folder / name
        if path.parent != folder:
            raise ValueError(f"{folder / RUN_INFO_FILE} is damaged: it records a file {name!r} elsewhere.")
        if not path.is_file() or sha256_of(path) != digest:
            raise ValueError(
                f"{path} is {'damaged' if path.is_file() else 'missing'}: it is not the file that training wrote "
                f"(SHA-256 in {RUN_INFO_FILE}). Restore it; if you changed it on purpose, remove `sha256` from "
                f"{RUN_INFO_FILE}."
            )
