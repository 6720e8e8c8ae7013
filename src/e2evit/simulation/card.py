"""The data set card of a simulation."""

import json
from importlib.resources import files
from pathlib import Path

import jinja2
import pyarrow.parquet as pq

from e2evit.data import find_schema, row_features
from e2evit.data.card import size_category

from .processes import PROCESSES

__all__ = ["render_card"]


def render_card(folder: Path) -> str:
    """Markdown with YAML front matter, from the settings and the shards in `folder`."""
    settings = json.loads((folder / "simulation.json").read_text(encoding="utf-8"))
    schema = find_schema("simulated", folder)
    shards = sorted(folder.glob(schema.pattern))
    rows: dict[str, int] = {}
    for shard in shards:
        process = shard.name.split("-")[0]
        rows[process] = rows.get(process, 0) + pq.read_metadata(shard).num_rows
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(files(__package__).joinpath("CARD.md").read_text(encoding="utf-8")).render(
        settings=settings,
        schema=schema,
        channels={name: schema.channel(name) for name in schema.channel_names},
        columns=list(row_features(schema)),
        rows=rows,
        titles={name: process.title.replace(r"$\to$", " → ") for name, process in PROCESSES.items()},
        size_category=size_category(sum(rows.values())),
    )
