"""A draft schema of a file nobody has described yet: what the file shows is filled in, the rest is marked CHECK."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from .columns import CHANNELS, ROW_COLUMNS
from .draft_columns import MAX_CLASSES, classes_of, column_names, numbered, yaml_line
from .draft_ntuple import draft_ntuple
from .files import decode
from .formats import DataFile, FileError, file_format, holds_text, open_data_file
from .schema import DatasetSchema, parse_schema
from .survey import share_scaled_to_255, survey_file

__all__ = ["draft_schema"]


def draft_schema(path: str | Path) -> str:
    """YAML text that [`read_schema`] accepts and [`load_e2e`] reads the file with.

    Arrays are matched with columns of rows by the names the public data sets use. Channels get numbers for names and
    arbitrary units: only the user knows them.

    Raises:
        ImportError: for a ROOT file without uproot.
        ValueError: if the file cannot be read, holds prepared rows, or has no array that could be images.
    """
    path = Path(path)
    kind = file_format(path)
    if kind == "root":
        return draft_ntuple(path)
    file = open_data_file(str(path), kind)
    if "pixel_index" in file.facts:
        raise FileError(f"{path} holds prepared rows, which need no schema; load its folder with `load_e2e`.")
    images, channels_last, order = _find_images(path, file)
    number, *shape = file.facts[images[0]][0]
    shape = [len(images), *shape] if len(shape) == 2 else [shape[-1], *shape[:-1]] if channels_last else shape
    names = [f"channel_{i + 1}" for i in range(shape[0])]
    keys = _match_columns(file, number, images)
    labels, labels_source, why_no_labels = _find_labels(file, keys.pop("labels", None))
    columns = {"image": {"stack": images} if len(images) > 1 else images[0]}
    columns |= {"labels": labels_source} if labels else {}
    columns |= keys
    masses = _range(file, keys.get("mass_labels"))
    entry = {
        "description": f"Images of {path.name}",
        "source": "unknown",
        "licence": "unknown",
        "format": kind,
        "pattern": f"*{path.suffix}" if path.suffix else path.name,
        "channel_names": names,
        "new_channels": {name: {"unit": "a.u.", "title": f"Channel {i + 1}"} for i, name in enumerate(names)},
        "normalisation": "scaled",
        "image_size": shape[1:],
        "channels_last": channels_last,
        "columns": columns,
        "labels": labels,
        "mass_definition": "unknown" if "mass_labels" in keys else "none",
        "mass_range": [min(masses + DatasetSchema.mass_range), max(masses + DatasetSchema.mass_range)],
    }
    survey = survey_file(str(path), parse_schema("custom", entry, str(path))[0])
    for name, values in survey.values.items():
        if (values < 0).any():
            entry["new_channels"][name]["signed"] = True
    if share_scaled_to_255(survey) > 0.5:
        entry["normalisation"] = "max_scaled_255"
    unused = [key for key in file.facts if key not in {*images, *keys.values(), _key_of(labels_source)}]
    extra = {key.rsplit("/", 1)[-1]: key for key in unused if _is_scalar(file, key, number)}
    text = "\n".join(_lines(path, entry, order, why_no_labels, extra, masses)) + "\n"
    parse_schema("custom", yaml.safe_load(text), f"the draft for {path}")
    return text


def _lines(path: Path, entry: dict, order: str, why_no_labels: str, extra: dict, masses: tuple) -> Iterator[str]:
    """The entry as YAML, with comments."""

    def line(key: str, comment: str = "") -> str:
        return yaml_line(key, entry[key], comment)

    yield f"# Drafted from {path.name}. Check each line marked CHECK, then look at the statistics it gives:"
    yield f"#   e2evit inspect {path.name} --schema THIS_FILE"
    yield line("description", "CHECK: one sentence for the data set's card")
    yield line("source", "CHECK: where the files come from")
    yield line("licence", "CHECK")
    yield line("format")
    yield line("pattern", "glob of the files in the folder")
    yield f"# CHECK: name the channels in the file's order; known names: {', '.join(CHANNELS)}"
    yield line("channel_names")
    yield "# CHECK: unit and title of each name that is not a known one; `signed` if its values may be negative"
    yield "new_channels:"
    yield from (f"  {name}: {json.dumps(about)}" for name, about in entry["new_channels"].items())
    yield "# CHECK: physical (values in the channels' units), max_scaled_255 (each image and channel scaled to 0-255)"
    yield "# or scaled (any other scale)"
    yield line("normalisation")
    yield line("image_size", "height (eta) and width (phi) in pixels")
    yield line("channels_last", order)
    yield f"# CHECK: our columns and where they lie in the file; others: {', '.join(ROW_COLUMNS)}"
    yield "columns:"
    yield from (f"  {name}: {json.dumps(key, ensure_ascii=False)}" for name, key in entry["columns"].items())
    if "event_id" not in entry["columns"]:
        yield "  # event_id: KEY  # rows of one event share a split; without it each row counts as an event of its own"
    if why_no_labels:
        yield f"# no labels: {why_no_labels}"
    if entry["labels"]:
        yield "# CHECK: name and meaning of the classes, in the order of their numbers"
        yield "labels:"
        yield from (f"  {json.dumps(name, ensure_ascii=False)}: {about}" for name, about in entry["labels"].items())
    if "mass_labels" in entry["columns"]:
        held = f"the file has {masses[0]:.4g} to {masses[1]:.4g}, in GeV?" if masses else "no row has one"
        yield line("mass_definition", f"CHECK: which mass; {held}")
        yield line("mass_range", "GeV; rows outside are refused")
    if extra:
        yield f"# extra: {json.dumps(extra, ensure_ascii=False)}  # CHECK: further numbers to keep with each row"
    yield '# own_split: {"train": "*train*", "test": "*test*"}  # CHECK: only if the files are split already'


def _find_images(path: Path, file: DataFile) -> tuple[list[str], bool, str]:
    """Keys of the images (several: one array for each channel), whether channels come last, and how that was seen."""
    numeric = {key: shape for key, (shape, dtype) in file.facts.items() if dtype.kind in "fiub" and shape and shape[0]}
    for rank in (4, 3):
        sizes = {key: int(np.prod(shape[1:])) for key, shape in numeric.items() if len(shape) == rank}
        sizes = {key: size for key, size in sizes.items() if size > 1}
        if not sizes:
            continue
        largest = max(sizes, key=lambda key: sizes[key])
        shape = numeric[largest]
        if rank == 3:
            alike = [key for key in sizes if numeric[key] == shape]
            return alike, False, "CHECK: each array was taken for one channel (rows, eta, phi)"
        first, last = shape[1], shape[3]
        order = "rows, eta, phi, channels" if last < first else "rows, channels, eta, phi"
        certain = min(first, last) < shape[2] and first != last
        return [largest], last < first, f"{'' if certain else 'CHECK: '}{largest} has shape {shape}: {order}"
    held = "; ".join(f"{key} {shape}" for key, (shape, _) in file.facts.items()) or "nothing"
    raise FileError(
        f"{path}: no array of images, (rows, channels, eta, phi), (rows, eta, phi, channels) or (rows, eta, phi); "
        f"it holds {held}. Flat images need a schema written by hand, with `image_size` and `channel_names`."
    )


def _match_columns(file: DataFile, number: int, images: list[str]) -> dict[str, str]:
    """Our columns and the keys of the file whose names stand for them."""
    names = column_names()
    matched: dict[str, str] = {}
    for key, (shape, dtype) in file.facts.items():
        if key in images or not shape or shape[0] != number:
            continue
        for name, known in names.items():
            fits = _is_scalar(file, key, number) or (name == "labels" and len(shape) == 2)
            text_fits = name in ("labels", "event_id") or not holds_text(dtype)
            if fits and text_fits and name not in matched and key.rsplit("/", 1)[-1].lower() in known:
                matched[name] = key
                break
        else:
            if holds_text(dtype) and "labels" not in matched and len(_distinct(file, key)) <= MAX_CLASSES:
                matched["labels"] = key
    return matched


def _is_scalar(file: DataFile, key: str, number: int) -> bool:
    shape, dtype = file.facts[key]
    usable = dtype.kind in "fiub" or holds_text(dtype)
    return usable and len(shape) > 0 and shape[0] == number and all(side == 1 for side in shape[1:])


def _find_labels(file: DataFile, key: str | None) -> tuple[dict[str, str], str | dict, str]:
    """Classes with their meaning, the entry in `columns`, and the reason where a column cannot be labels."""
    if key is None:
        return {}, "", ""
    shape, dtype = file.facts[key]
    if holds_text(dtype):
        return dict.fromkeys(_distinct(file, key), "unknown"), key, ""
    if len(shape) == 2 and shape[1] > 1:
        values = np.concatenate(list(_read(file, key)))
        if not np.isin(values, (0, 1)).all() or (values.sum(axis=1) != 1).any():
            return {}, key, f"`{key}` has {shape[1]} columns, but its rows do not hold a single 1 and zeros"
        return numbered(shape[1]), {"keys": key, "one_hot": list(range(shape[1]))}, ""
    labels, why = classes_of(np.concatenate(list(_read(file, key))), key)
    return labels, key, why


def _key_of(source: str | dict) -> str:
    return source["keys"] if isinstance(source, dict) else source


def _range(file: DataFile, key: str | None) -> tuple[float, ...]:
    """Smallest and largest finite value of a column, if it has any."""
    if key is None:
        return ()
    values = np.concatenate(list(_read(file, key))).astype(np.float64)
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else ()


def _distinct(file: DataFile, key: str) -> list[str]:
    """What a column of text holds, sorted; cut short where it cannot be classes."""
    names: set[str] = set()
    for values in _read(file, key):
        names.update(text for text in map(decode, values.reshape(-1).tolist()) if text is not None)
        if len(names) > MAX_CLASSES:
            break
    return sorted(names)


def _read(file: DataFile, key: str) -> Iterator[np.ndarray]:
    """All readable rows of one array, piece by piece."""
    for batch in file.read(0, file.num_rows(key), [key]):
        if isinstance(batch, dict):
            yield batch[key]
