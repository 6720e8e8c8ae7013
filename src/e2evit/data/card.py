"""The card of a prepared data set."""

from importlib.resources import files

import jinja2

from .schema import DatasetSchema, row_features

__all__ = ["render_card", "size_category"]


def render_card(schema: DatasetSchema, manifest: dict) -> str:
    """Markdown with YAML front matter.

    Args:
        schema: Schema of the rows.
        manifest: Record of files, splits and shards, from `prepare`.
    """
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    rows = {split: sum(shard["rows"] for shard in shards) for split, shards in manifest["shards"].items()}
    return environment.from_string(files("e2evit.data").joinpath("CARD.md").read_text(encoding="utf-8")).render(
        schema=schema,
        manifest=manifest,
        channels={name: schema.channel(name) for name in schema.channel_names},
        columns=list(row_features(schema)),
        rows=rows,
        size_category=size_category(sum(rows.values())),
    )


def size_category(number: int) -> str:
    """The Hub's name for a number of rows."""
    bounds = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
    return next((name for bound, name in bounds.items() if number < bound), "10M<n<100M")
