"""Which jets have a class to learn and which a mass."""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, DatasetDict

from e2evit.data.schema import DatasetSchema

__all__ = ["select_targets"]


def select_targets(
    dataset: DatasetDict,
    schema: DatasetSchema,
    mass_column: str,
    classes: Sequence[str] | None = None,
    mass_classes: Sequence[str] | None = None,
) -> tuple[DatasetDict, DatasetSchema]:
    """The data set with the labels of jets outside `classes` and the masses of jets outside `mass_classes` taken away.

    All jets stay: one without a label can have a mass to learn, as those of a mass gun, which are no class of their
    own, and the other way round, as those of a W, whose mass is a constant that would teach a network the classes.

    Args:
        mass_column: The column that becomes null.
        classes: Names in the order of their new numbers; all of the schema as they are if not given.
        mass_classes: Names, of `classes` or not; all if not given.

    Returns:
        The data set, and the schema with these classes.

    Raises:
        ValueError: for a name that is not a class of the schema, or one that comes twice.
    """
    if classes is None and mass_classes is None:
        return dataset, schema
    known = schema.label_names
    for field, names in (("classes", classes), ("mass_classes", mass_classes)):
        if unknown := [name for name in names or () if name not in known]:
            raise ValueError(
                f"`{field}` has {', '.join(unknown)}; the classes of {schema.name!r} are {', '.join(known)}."
            )
        if names is not None and (len(set(names)) < len(names) or not names):
            raise ValueError(f"`{field}` is one or more names, each once, got {', '.join(names) or 'none'}.")
    classes = list(known if classes is None else classes)
    schema = replace(schema, labels={name: schema.labels[name] for name in classes})
    features = dataset["train"].features | {"labels": ClassLabel(names=classes)}
    selected = dataset.with_format("arrow").map(
        _select,
        batched=True,
        features=type(dataset["train"].features)(features),
        fn_kwargs={
            "mass_column": mass_column,
            "numbers": [classes.index(name) if name in classes else None for name in known],
            "with_mass": [mass_classes is None or name in mass_classes for name in known],
        },
        desc="Selecting targets",
    )
    return selected.with_format(None), schema


def _select(table: pa.Table, mass_column: str, numbers: list[int | None], with_mass: list[bool]) -> pa.Table:
    labels, masses = table["labels"], table[mass_column]
    columns = {
        "labels": pc.take(pa.array(numbers, pa.int64()), labels),
        # a jet whose class is not known keeps its mass
        mass_column: pc.if_else(pc.fill_null(pc.take(pa.array(with_mass), labels), True), masses, None),
    }
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column.cast(table[name].type))
    return table
