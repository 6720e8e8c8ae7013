"""What drafts of schemas have in common: which columns names stand for, and which classes numbers are."""

import json
from typing import Any

import numpy as np

from .columns import ROW_COLUMNS
from .schema import SCHEMAS

__all__ = ["MAX_CLASSES", "classes_of", "column_names", "numbered", "yaml_line"]

MAX_CLASSES = 100
OTHER_NAMES = {
    "labels": ("label", "target", "class", "truth"),
    "mass_labels": ("mass", "gen_mass"),
    "event_id": ("event", "event_number"),
}


def column_names() -> dict[str, set[str]]:
    """Our columns, with the names that the public data sets, or we ourselves, use for them, in lower case."""
    names = {name: {name, *OTHER_NAMES.get(name, ())} for name in ROW_COLUMNS}
    for schema in (schema for variants in SCHEMAS.values() for schema in variants):
        for name, source in schema.columns.items():
            if name in names and source.column is None and not source.one_hot:
                names[name] |= {key.lower() for key in source.keys}
    return names


def classes_of(values: np.ndarray, key: str) -> tuple[dict[str, str], str]:
    """Classes that numbers stand for, with their meaning, or the reason why they can be none."""
    values = np.unique(values.astype(np.float64))
    values = values[np.isfinite(values)]
    if values.size and np.isin(values, range(MAX_CLASSES)).all():
        return numbered(int(values.max()) + 1), ""
    shown = ", ".join(f"{value:g}" for value in values[:5])
    return {}, f"`{key}` holds {shown}, ..., but classes are text or numbered 0, 1, 2, ..."


def numbered(number: int) -> dict[str, str]:
    """Classes nobody has named."""
    return {f"class_{i}": "unknown" for i in range(number)}


def yaml_line(key: str, value: Any, comment: str = "") -> str:
    """A field of a schema: JSON is YAML in which every string is quoted."""
    return f"{key}: {json.dumps(value, ensure_ascii=False)}{f'  # {comment}' if comment else ''}"
