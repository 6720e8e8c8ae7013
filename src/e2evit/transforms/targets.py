"""Which jets have a class to learn and which a mass."""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, DatasetDict, List, Value

from e2evit.data.schema import DatasetSchema

from .event_jets import JET_COLUMNS, KEPT_COLUMNS, contained_jets

__all__ = ["NO_CLASS", "check_mass_column", "columns_with_values", "select_targets"]

NO_CLASS = "none"  # as the only entry of `mass_classes`: no jet has a mass to learn
KEPT = {"process": "labels", "generator_mass": "mass_labels"}  # what becomes of columns that are kept as they were


def select_targets(
    dataset: DatasetDict,
    schema: DatasetSchema,
    mass_column: str,
    classes: Sequence[str] | None = None,
    mass_classes: Sequence[str] | None = None,
    contained_classes: bool = False,
) -> tuple[DatasetDict, DatasetSchema]:
    """The data set without the labels of jets outside `classes` and the masses of jets outside `mass_classes`.

    All jets stay. A jet of a mass gun has a mass to learn and no class of its own; a jet of a W has a class, but its
    mass is a constant, from which the mass head would learn the classes instead of the mass. What is removed is kept
    for measurements: the columns `process`, the class of the schema, and `generator_mass` [GeV], as `mass_labels` was.

    Args:
        mass_column: The column that becomes null outside `mass_classes`.
        classes: Names in the order of their new numbers. Default: those of the schema.
        mass_classes: Names, in `classes` or not, or `["none"]`. Default: all.
        contained_classes: Remove the labels of jets that do not contain all of the decay, too; their masses stay.

    Returns:
        The data set, and the schema with these classes.

    Raises:
        ValueError: for a name that is not a class of the schema, or one that comes twice; with `contained_classes`,
            for rows that do not say what a jet contains.
    """
    if classes is None and mass_classes is None and not contained_classes:
        return dataset, schema
    if contained_classes:
        _check_merged(dataset)
    known = schema.label_names
    for field, names in (("classes", classes), ("mass_classes", mass_classes)):
        allowed = [NO_CLASS] if field == "mass_classes" and names is not None and len(names) == 1 else []
        if unknown := [name for name in names or () if name not in (*known, *allowed)]:
            raise ValueError(
                f"`{field}` has {', '.join(unknown)}; the classes of {schema.name!r} are {', '.join(known)}."
            )
        if names is not None and (len(set(names)) < len(names) or not names):
            raise ValueError(f"`{field}` must be one or more names, each once, got {', '.join(names) or 'none'}.")
    features = dict(dataset["train"].features)
    features |= {name: features[of] for name, of in KEPT.items()}
    if "jets" in schema.lists:
        features |= {KEPT_COLUMNS[name]: features[JET_COLUMNS[of]] for name, of in KEPT.items()}
    if classes is not None:
        schema = replace(schema, labels={name: schema.labels[name] for name in classes})
        features["labels"] = ClassLabel(names=list(classes))
        if "jets" in schema.lists:
            features[JET_COLUMNS["labels"]] = List(features["labels"])
    classes = schema.label_names
    selected = dataset.with_format("arrow").map(
        _select,
        batched=True,
        features=type(dataset["train"].features)(features),
        fn_kwargs={
            "mass_column": mass_column,
            "numbers": [classes.index(name) if name in classes else None for name in known],
            "with_mass": [mass_classes is None or name in mass_classes for name in known],
            # a jet of unknown class keeps its mass, unless none has any
            "unknown_with_mass": mass_classes is None or list(mass_classes) != [NO_CLASS],
            "contained_only": contained_classes,
        },
        desc="Selecting targets",
    )
    return selected.with_format(None), schema


def _check_merged(dataset: DatasetDict) -> None:
    rows = dataset["train"] or next(filter(None, dataset.values()), dataset["train"])  # jets to measure alone
    merged = None if "merged" not in rows.column_names else rows.with_format("arrow")["merged"]
    if merged is None or merged.null_count == len(merged):
        raise ValueError(
            "`contained_classes` needs the column `merged`, whether a jet contains all of the decay, and no training "
            "jet has a value there: set it to false, or use jets of heavy particles from `e2evit simulate`."
        )


def _select(
    table: pa.Table,
    mass_column: str,
    numbers: list[int | None],
    with_mass: list[bool],
    unknown_with_mass: bool,
    contained_only: bool,
) -> pa.Table:
    def of(labels, masses, merged):
        has_mass = pc.fill_null(pc.take(pa.array(with_mass, pa.bool_()), labels), unknown_with_mass)
        numbered = pc.take(pa.array(numbers, pa.int64()), labels)
        if contained_only:  # jets without a heavy particle keep their class
            numbered = pc.if_else(pc.fill_null(merged, True), numbered, None)
        return numbered, pc.if_else(has_mass, masses, None)

    kept = {name: table[of] for name, of in KEPT.items()}
    if JET_COLUMNS["labels"] in table.column_names:  # the jets of events
        kept |= {KEPT_COLUMNS[name]: table[JET_COLUMNS[of]] for name, of in KEPT.items()}
    merged = table["merged"] if contained_only else None
    columns = dict(zip(("labels", mass_column), of(table["labels"], table[mass_column], merged)))
    names = JET_COLUMNS["labels"], JET_COLUMNS.get(mass_column)
    if {*names} <= {*table.column_names}:
        lists = [table[name].combine_chunks() for name in names]
        merged = contained_jets(table) if contained_only else None
        selected = of(*(column.flatten() for column in lists), merged)
        columns |= {
            name: pa.ListArray.from_arrays(_offsets(column), values)
            for name, column, values in zip(names, lists, selected)
        }
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column.cast(table[name].type))
    for name, column in kept.items():
        table = table.append_column(name, column)
    return table


def _offsets(lists: pa.ListArray) -> pa.Array:
    """Where each list begins among their flattened values."""
    return pc.subtract(lists.offsets, lists.offsets[0])


def check_mass_column(dataset: DatasetDict, mass_column: str, setting: str = "mass_column") -> None:
    """Check that the column can hold masses.

    Args:
        setting: Its name among the settings, for the error.

    Raises:
        ValueError: if it does not exist, or does not hold numbers.
    """
    if mass_column not in _numeric(dataset):
        what = "does not hold numbers" if mass_column in dataset["train"].column_names else "is not in the data"
        raise ValueError(
            f"The column {mass_column!r} {what}: choose `{setting}` from "
            f"{', '.join(columns_with_values(dataset)) or 'none'}."
        )


def columns_with_values(dataset: DatasetDict) -> list[str]:
    """Columns of numbers that are not null in all training jets."""
    train = dataset["train"].with_format("arrow")
    return [name for name in _numeric(dataset) if train[name].null_count < len(train)]


def _numeric(dataset: DatasetDict) -> list[str]:
    features = dataset["train"].features
    return [
        name for name, feature in features.items() if isinstance(feature, Value) and feature.dtype.startswith("float")
    ]
