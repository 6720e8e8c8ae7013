"""A one-screen report on a file that one knows nothing about."""

from pathlib import Path

from .files import find_mismatch
from .formats import FileError, open_data_file
from .resolve import find_schema
from .schema import SCHEMAS, DatasetSchema, read_schema
from .survey import Survey, survey_file

__all__ = ["inspect_file"]

MAGIC = {b"\x89HDF\r\n\x1a\n": "hdf5", b"PAR1": "parquet", b"PK\x03\x04": "npz"}


def inspect_file(
    path: str | Path, name: str | None = None, schema: str | Path | None = None
) -> tuple[list[str], Survey | None, DatasetSchema | None]:
    """What a file holds and which schemas it fits; statistics by the one that uses most of it.

    Args:
        path: HDF5, Parquet or npz file.
        name: Look at it as this data set.
        schema: YAML file of a custom data set to try too.

    Returns:
        The report's lines, the statistics and their schema, both None if no schema fits.

    Raises:
        ValueError: for a file of no such kind, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    kind = _kind(path)
    file = open_data_file(str(path), kind)
    lines = [f"{path}: {kind}, {path.stat().st_size / 1e6:.1f} MB"]
    for key, (shape, dtype) in file.facts.items():
        lines.append(f"  {key:<20}{shape!s:<28}{dtype}")
    fitting, reasons = [], []
    for candidate in _candidates(path, name, schema):
        title = f"{candidate.name}{f' ({candidate.variant})' if candidate.variant else ''}"
        if candidate.format != kind and not (candidate.format == "rows" and kind == "parquet"):
            reasons.append(f"  {title}: is {candidate.format}")
        elif (mismatch := find_mismatch(str(path), candidate)) is not None:
            reasons.append(f"  {title}: {mismatch}")
        else:
            fitting.append(candidate)
    if not fitting:
        return [*lines, "No schema fits:", *reasons], None, None
    chosen = max(fitting, key=lambda candidate: len([s for s in candidate.sources.values() if s.find(file.facts)]))
    names = [f"{found.name}{f' ({found.variant})' if found.variant else ''}" for found in fitting]
    lines.append(f"fits: {', '.join(names)}; read as {chosen.name}: {chosen.description}")
    survey = survey_file(str(path), chosen)
    return [*lines, *survey.lines(chosen)], survey, chosen


def _candidates(path: Path, name: str | None, schema: str | Path | None) -> list[DatasetSchema]:
    known = [variant for variants in SCHEMAS.values() for variant in variants if variant.format != "rows"]
    found = [*read_schema(schema)] if schema is not None else []
    for rows in (*SCHEMAS, "custom"):  # rows say themselves which data set they are
        try:
            described = find_schema(rows, path)
        except (ValueError, FileNotFoundError):
            continue
        if described.format == "rows":
            found.append(described)
    candidates = [*found, *known]
    return [candidate for candidate in candidates if name in (None, candidate.name)]


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(64)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    if b"<html" in head.lower() or b"<!doctype" in head.lower():
        raise FileError(
            f"{path} is a web page: the link that it was downloaded from has expired, or asks for a login."
        )
    raise FileError(f"{path} is neither HDF5, Parquet nor npz (it begins with {head[:8]!r}).")
