"""A one-screen report on an unknown file."""

from collections.abc import Collection
from pathlib import Path

from .draft import draft_schema
from .files import find_mismatch
from .formats import FileError, file_format, open_data_file
from .resolve import find_schema
from .root import describe_trees
from .schema import SCHEMAS, DatasetSchema, read_schema
from .survey import Survey, survey_file

__all__ = ["draft_schema", "inspect_file"]


def inspect_file(
    path: str | Path, name: str | None = None, schema: str | Path | None = None
) -> tuple[list[str], Survey | None, DatasetSchema | None]:
    """What a file holds and which schemas it fits, with statistics by the schema that uses most of it.

    Args:
        path: HDF5, Parquet, npz or ROOT file.
        name: Read it as this data set.
        schema: YAML file of a custom data set to try as well.

    Returns:
        The lines of the report, the statistics (None for particles) and their schema (both None if no schema fits).

    Raises:
        ImportError: for a ROOT file without uproot.
        ValueError: for a file of another kind, or a damaged one.
    """
    path = Path(path)
    kind = file_format(path)
    lines = [f"{path}: {kind}, {path.stat().st_size / 1e6:.1f} MB"]
    if kind == "root":
        keys = describe_trees(str(path), lines)
    else:
        keys = open_data_file(str(path), kind).facts
        lines += [f"  {key:<20}{shape!s:<28}{dtype}" for key, (shape, dtype) in keys.items()]
    advice = f"Draft a schema for it: e2evit inspect {path} --schema_out my.yaml"
    fitting, reasons = [], {}
    for candidate in _candidates(path, name, schema):
        if candidate.format != kind and not (candidate.format in ("rows", "colliderml") and kind == "parquet"):
            mismatch = f"its files are {candidate.format}"
        else:
            mismatch = _mismatch(str(path), candidate)
        if mismatch is None:
            fitting.append(candidate)
        else:
            reasons.setdefault(mismatch, {}).setdefault(candidate.name, []).append(candidate.variant)
    if not fitting:
        return [*lines, "No schema fits:", *_lines(reasons), advice], None, None
    chosen = max(fitting, key=lambda candidate: _used(candidate, keys))
    names = [_title(fit.name, fit.variant) for fit in fitting]
    lines.append(f"fits: {', '.join(names)}; read as {chosen.name}: {chosen.description}")
    if kind == "root":  # for which there are many that differ in few branches
        fits = {candidate.name for candidate in fitting}
        others = {variants[0].name for variants in SCHEMAS.values() if variants[0].format == kind} - fits
        unfit = {why: {n: v for n, v in names.items() if n in others} for why, names in reasons.items()}
        if told := _lines(unfit):
            lines += ["does not fit:", *told]
    if chosen.particles:
        return lines, None, chosen
    survey = survey_file(str(path), chosen)
    return [*lines, *survey.lines(chosen)], survey, chosen


def _mismatch(path: str, schema: DatasetSchema) -> str | None:
    try:
        return find_mismatch(path, schema)
    except FileError as error:
        if schema.format not in ("root", "colliderml"):
            raise
        return str(error).removeprefix(path).lstrip(": ").rstrip(".")  # of one tree or table; there can be others


def _lines(reasons: dict[str, dict[str, list[str]]]) -> list[str]:
    """Why schemas do not fit, by name and variants: a line for each reason."""
    titles = {why: [_title(name, *variants) for name, variants in names.items()] for why, names in reasons.items()}
    return [f"  {', '.join(of_reason)}: {why}" for why, of_reason in titles.items() if of_reason]


def _title(name: str, *variants: str) -> str:
    shown = "" if len(variants) == len(SCHEMAS.get(name, ())) > 1 else ", ".join(filter(None, variants))
    return f"{name} ({shown})" if shown else name


def _used(schema: DatasetSchema, keys: Collection[str]) -> int:
    """How many arrays of a file a schema reads."""
    return len(schema.branches) + len([source for source in schema.sources.values() if source.find(keys)])


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
