"""A one-screen report on an unknown file."""

from pathlib import Path

from .draft import draft_schema
from .files import find_mismatch
from .formats import file_format, open_data_file
from .resolve import find_schema
from .schema import SCHEMAS, DatasetSchema, read_schema
from .survey import Survey, survey_file

__all__ = ["draft_schema", "inspect_file"]


def inspect_file(
    path: str | Path, name: str | None = None, schema: str | Path | None = None
) -> tuple[list[str], Survey | None, DatasetSchema | None]:
    """What a file holds and which schemas it fits, with statistics by the schema that uses most of it.

    Args:
        path: HDF5, Parquet or npz file.
        name: Read it as this data set.
        schema: YAML file of a custom data set to try as well.

    Returns:
        The lines of the report, the statistics (None for particles) and their schema (both None if no schema fits).

    Raises:
        ValueError: for a file of another kind, or a damaged one.
    """
    path = Path(path)
    kind = file_format(path)
    file = open_data_file(str(path), kind)
    lines = [f"{path}: {kind}, {path.stat().st_size / 1e6:.1f} MB"]
    for key, (shape, dtype) in file.facts.items():
        lines.append(f"  {key:<20}{shape!s:<28}{dtype}")
    fitting, reasons = [], []
    for candidate in _candidates(path, name, schema):
        title = f"{candidate.name}{f' ({candidate.variant})' if candidate.variant else ''}"
        if candidate.format != kind and not (candidate.format == "rows" and kind == "parquet"):
            reasons.append(f"  {title}: its files are {candidate.format}")
        elif (mismatch := find_mismatch(str(path), candidate)) is not None:
            reasons.append(f"  {title}: {mismatch}")
        else:
            fitting.append(candidate)
    if not fitting:
        advice = f"Draft a schema for it: e2evit inspect {path} --schema_out my.yaml"
        return [*lines, "No schema fits:", *reasons, advice], None, None
    chosen = max(fitting, key=lambda candidate: len([s for s in candidate.sources.values() if s.find(file.facts)]))
    names = [f"{fit.name}{f' ({fit.variant})' if fit.variant else ''}" for fit in fitting]
    lines.append(f"fits: {', '.join(names)}; read as {chosen.name}: {chosen.description}")
    if chosen.particles:
        return lines, None, chosen
    survey = survey_file(str(path), chosen)
    return [*lines, *survey.lines(chosen)], survey, chosen


def _candidates(path: Path, name: str | None, schema: str | Path | None) -> list[DatasetSchema]:
    known = [variant for variants in SCHEMAS.values() for variant in variants if variant.format != "rows"]
    own = [*read_schema(schema)] if schema is not None else []
    for rows in (*SCHEMAS, "custom"):  # rows say which data set they are
        try:
            described = find_schema(rows, path)
        except (ValueError, FileNotFoundError):
            continue
        if described.format == "rows" and described.name == rows:
            own.append(described)
    candidates = [*own, *known]
    return [candidate for candidate in candidates if name in (None, candidate.name)]
