"""Which schema, in which version, fits the files of a folder: decided by what they hold, never guessed."""

import json
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from .event_tables import joined_files, other_files
from .files import Piece, find_mismatch
from .formats import FileError, linked_files
from .parquet import open_parquet
from .schema import SCHEMAS, DatasetSchema, parse_schema, read_schema
from .storage import absolute, file_stamp, is_remote, list_files, relative_name

__all__ = [
    "MANIFEST_FILE",
    "PROGRESS_FOLDER",
    "ROWS_PATTERNS",
    "find_files",
    "find_schema",
    "stamp_files",
    "stamps_by_file",
]

MANIFEST_FILE, PROGRESS_FOLDER = "e2evit.json", ".progress"  # of prepared data sets
ROWS_PATTERNS = ("data/*.parquet", "*.parquet")  # of prepared data sets, and of simulated ones


def find_schema(
    name: str, data_dir: str | Path | None = None, schema: str | Path | DatasetSchema | None = None
) -> DatasetSchema:
    """The entry called `name`; with `data_dir`, in the version of the files in that folder.

    Rows describe themselves, so prepared data sets need no schema of their own, and simulated ones of eight or
    thirteen channels, of jets or of the whole detector, of two or of eleven classes are all `"simulated"`; so are the
    particles of jets, whose own name is `"particles"`.

    Args:
        name: One of `SCHEMAS`, or `"custom"`.
        data_dir: Folder, file, or address fsspec opens.
        schema: YAML file of a custom data set.

    Raises:
        ValueError: for an unknown name, listing the known ones; for different data sets in one folder; for files that
            fit no version, saying why not.
        FileNotFoundError: for a missing folder, or one without such files.
    """
    variants = _variants(name, schema)
    if data_dir is None:
        if variants is None:
            raise ValueError("A custom data set needs `schema`, a YAML file.")
        return variants[0]
    if (described := _describe_rows(name, data_dir)) is not None:
        return described
    if variants is None:
        raise ValueError(f"{data_dir} holds no prepared rows; a custom data set needs `schema`, a YAML file.")
    if len(variants) == 1:
        return variants[0]
    reasons: dict[str, list[str]] = {}
    fitting = []
    for variant in variants:
        files = _list(variant, data_dir)
        mismatch = find_mismatch(files[0], variant, _root(files[0], data_dir)) if files else f"no {variant.pattern}"
        mismatch = mismatch or _lacking_split(variant, [relative_name(path, data_dir) for path in files])
        if mismatch is None:
            fitting.append(variant)
        else:
            reasons.setdefault(mismatch, []).append(variant.variant)
    fitting = [variant for variant in fitting if variant.own_split] or fitting
    if len(fitting) > 1:  # background files can fit several versions, of which the signal's fit one
        fitting = _narrow(fitting, data_dir)
    if len(fitting) != 1:
        told = ", ".join(variant.variant for variant in fitting) + " at once; choose one with a schema of your own"
        if not fitting:
            told = "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())
        error = ValueError if any(_list(variant, data_dir) for variant in variants) else FileNotFoundError
        raise error(f"{data_dir} fits no single version of the data set {name!r} ({told}). {_hint(variants[0])}")
    return fitting[0]


def _lacking_split(schema: DatasetSchema, names: list[str]) -> str | None:
    """Why the files do not have a data set's own split, if it has one."""
    lacking = [glob for glob in schema.own_split.values() if not any(fnmatch(name, glob) for name in names)]
    return f"no {', '.join(lacking)}" if lacking else None


def _narrow(fitting: list[DatasetSchema], data_dir: str | Path) -> list[DatasetSchema]:
    """Of versions that fit the first file those that fit the others, too; all, if the files are of different ones."""
    left = fitting
    for path in _list(fitting[0], data_dir):
        if len(left) == 1 or len({variant.pattern for variant in fitting}) > 1:
            break
        left = [variant for variant in left if find_mismatch(path, variant, _root(path, data_dir)) is None]
    return left or fitting


def find_files(schema: DatasetSchema, data_dir: str | Path | None) -> list[str]:
    """The files of a data set.

    Raises:
        FileNotFoundError: if the folder or its files are missing.
        FileError: for a prepared data set that is not complete, or holds other files.
    """
    if data_dir is None:
        raise FileNotFoundError(f"Pass `data_dir`, the folder of the data set {schema.name!r}. {_hint(schema)}")
    files = _list(schema, data_dir)
    if not files:
        raise FileNotFoundError(f"Data set {schema.name!r}: no {schema.pattern} in {data_dir}. {_hint(schema)}")
    if schema.format == "rows" and not is_remote(data_dir):
        _check_complete(Path(absolute(data_dir)), {Path(path).name for path in files})
    return files


def _check_complete(folder: Path, names: set[str]) -> None:
    """Refuse what an interrupted preparation left, and shards of another one; whole splits may be missing."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        if (folder / PROGRESS_FOLDER).is_dir():
            raise FileError(f"{folder} is not complete: run `e2evit prepare` with the same arguments to the end.")
        return
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["shards"]
        listed = [{entry["file"] for entry in entries} for entries in shards.values()]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise FileError(f"{path} is damaged ({error!r}): restore it.") from None
    if strays := sorted(names.difference(*listed)):
        raise FileError(f"{folder} holds {', '.join(strays[:5])}, which {MANIFEST_FILE} does not list: move it away.")
    if lacking := sorted(name for split in listed if split & names for name in split - names):
        raise FileError(f"{folder} lacks {', '.join(lacking[:5])}, which {MANIFEST_FILE} lists: restore it.")


def stamp_files(schema: DatasetSchema, data_dir: str | Path) -> dict[str, str]:
    """Stamps of all files that a data set is read from: its own, and those that they link to or are joined with."""
    stamps = {}
    files = find_files(schema, data_dir)
    for path in files:
        stamps[path] = file_stamp(path)
        stamps |= linked_files(path, schema.format, _root(path, data_dir))
    if schema.format == "colliderml":
        stamps |= {path: file_stamp(path) for path in other_files(files)}
    return stamps


def stamps_by_file(schema: DatasetSchema, data_dir: str | Path) -> dict[str, dict[str, str]]:
    """For each file of a data set, stamps of those that its rows are made of, by their names within the folder."""
    stamps = {}
    for path in find_files(schema, data_dir):
        joined = joined_files(path) if schema.format == "colliderml" else ()
        read = {name: file_stamp(name) for name in (path, *joined)}
        read |= linked_files(path, schema.format, _root(path, data_dir))
        stamps[path] = {relative_name(name, data_dir): stamp for name, stamp in read.items()}
    return stamps


def _list(schema: DatasetSchema, data_dir: str | Path) -> list[str]:
    try:
        return list_files(data_dir, schema.pattern)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"Data set {schema.name!r}: {error} {_hint(schema)}") from None


def _root(path: str, data_dir: str | Path) -> str:
    return Piece(path, relative_name(path, data_dir), 0, 0).root


def _hint(schema: DatasetSchema) -> str:
    names = " or ".join(f"`e2evit download {name}`" for name in schema.downloads)
    return f"Source: {schema.source}{f'; {names}' * bool(names)}."


def _variants(name: str, schema: str | Path | DatasetSchema | None) -> tuple[DatasetSchema, ...] | None:
    if isinstance(schema, DatasetSchema):
        return (schema,)
    if name == "custom":
        return None if schema is None else read_schema(schema)
    if schema is not None:
        raise ValueError(f"`schema` is for the data set 'custom'; {name!r} has its own schema.")
    if name not in SCHEMAS:
        raise ValueError(f"There is no data set {name!r}; known ones: {', '.join(SCHEMAS)}, custom.")
    return SCHEMAS[name]


def _describe_rows(name: str, data_dir: str | Path) -> DatasetSchema | None:
    """The schema of a folder of rows, from what its files say about themselves; None if they are not rows."""
    if name not in (*SCHEMAS, "custom"):
        return None
    for pattern in ROWS_PATTERNS:
        try:
            files = list_files(data_dir, pattern)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"Data set {name!r}: {error}") from None
        described = {}
        for number, path in enumerate(files):
            if (description := _description(path)) is not None:
                described[path] = description
            elif number == 0:
                break  # dense files, whose footers can be large
        if described:
            return replace(_common(name, described), pattern=pattern)
    return None


def _description(path: str) -> dict | None:
    if not path.endswith(".parquet"):
        return None
    text = (open_parquet(path).schema_arrow.metadata or {}).get(b"e2evit")
    if not text:
        return None
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: its description, the key `e2evit` of its metadata, is damaged ({error}).") from error
    for key in ("channel_names", "image_size", "label_names"):
        if not isinstance(description, dict) or not isinstance(description.get(key), list):
            raise FileError(f"{path}: its description, the key `e2evit` of its metadata, has no list of {key}.")
    return description


def _common(name: str, described: dict[str, dict]) -> DatasetSchema:
    first, of_first = next(iter(described.items()))
    for path, description in described.items():
        for key in ("channel_names", "image_size", "schema", "data_set", "lists"):
            if description.get(key) != of_first.get(key):
                raise ValueError(
                    f"{path} has {key} {description.get(key)}, but {first} has {of_first.get(key)}: they are "
                    "different data sets and belong in different folders."
                )
    schema = of_first.get("schema")
    held = str(schema.get("name") if isinstance(schema, dict) else of_first.get("data_set", "simulated"))
    if held != name and (name, held) != ("simulated", "particles"):
        raise ValueError(f"{first} holds the data set {held!r}, not {name!r}.")
    if schema is None:
        if held not in ("simulated", "particles"):  # only the simulation's rows describe themselves without a schema
            raise FileError(f"{first} describes its rows as the data set {held!r}, but without its schema.")
        base = SCHEMAS[held][0]
        present = {label for description in described.values() for label in map(str, description["label_names"])}
        labels = {label: meaning for label, meaning in base.labels.items() if label in present}
        more = {"channel_names": of_first["channel_names"], "image_size": of_first["image_size"], "labels": labels}
        more["lists"] = of_first.get("lists", [])
        schema = base.to_dict() | more
    return parse_schema(held, schema, first)[0]
