"""Simulated events as ROOT ntuples of RecHitAnalyzer: its tree, branches and units, to be compared branch by branch.

uproot writes no `std::vector`: images are arrays of fixed size, and lists of jets have a counter.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from e2evit.data import SCHEMAS, DatasetSchema, find_schema
from e2evit.data.batches import FileError
from e2evit.data.extras import import_extra
from e2evit.data.grid import ENDCAP_FACTOR, ENDCAP_ROWS, SEED_ROWS, TOWER, seed_towers
from e2evit.data.jobs import follow, remove_leftovers, write_whole
from e2evit.data.parquet import open_parquet
from e2evit.data.root import tree_facts
from e2evit.data.sparse import table_to_dense

from .processes import PROCESSES

__all__ = ["write_ntuples"]

FOLDER, EVENTS_AT_ONCE = "ntuples", 20  # 160 MB of 13 channels with their copies
NO_TRUTH = -99  # jet_truthLabel of a jet without a heavy particle
LISTS = {"jetPt": "jets_pt", "jetM": "jets_mass", "jetEta": "jets_eta", "jetPhi": "jets_phi"}


def write_ntuples(folder: Path) -> Path:
    """Write a ROOT file for each shard of simulated events in `folder`; complete ones no older than it are kept.

    ECAL endcap energies are scaled up so that resampling restores those of the rows. Jets whose window leaves the grid
    are left out, as CMS does.

    Returns:
        The folder of the files, which `load_e2e("ntuple_8", ...)` or, with 13 channels, `"ntuple_resampled"` reads as
        jets, and `"ntuple_events_8"` or `"ntuple_events_resampled"` as events.

    Raises:
        ImportError: if uproot is not installed.
        ValueError: for rows that are not whole events.
        OSError: if a file cannot be written.
    """
    schema, output = find_schema("simulated", folder), folder / FOLDER
    if "jets" not in schema.lists:
        raise ValueError(f"{folder} holds jets, and an ntuple whole events: simulate with `whole_detector`.")
    import_extra("uproot", "An ntuple", "root")
    output.mkdir(exist_ok=True)
    remove_leftovers(output)
    shards = {path: output / f"{path.stem}.root" for path in sorted(folder.glob("*.parquet"))}
    rows = {path: open_parquet(str(path)).metadata.num_rows for path in shards}
    missing = [path for path, target in shards.items() if not _is_complete(target, path, rows[path])]
    total = sum(rows.values())

    def write() -> Iterator[int]:
        for path in missing:
            write_whole(shards[path], lambda temporary, path=path: _write(path, temporary, schema))
            yield rows[path]

    follow(write(), "Writing ntuples", "event", total, total - sum(rows[path] for path in missing))
    return output


def _is_complete(path: Path, shard: Path, events: int) -> bool:
    if not path.is_file() or path.stat().st_mtime < shard.stat().st_mtime:
        return False
    try:
        return tree_facts(str(path), DatasetSchema.tree).num_entries == events
    except FileError:
        return False


def _write(source: Path, target: Path, schema: DatasetSchema) -> None:
    process, shard, _ = source.stem.rsplit("-", 2)
    uproot = import_extra("uproot", "An ntuple", "root")
    with uproot.recreate(target) as file:
        tree = None
        for batch in open_parquet(str(source)).iter_batches(EVENTS_AT_ONCE):
            columns = _columns(pa.Table.from_batches([batch]), schema, process, int(shard))
            if tree is None:
                tree = file.mktree(DatasetSchema.tree, {key: _type(values) for key, values in columns.items()})
            tree.extend(columns)


def _type(values) -> str:
    """How uproot calls the type of a branch."""
    if not isinstance(values, np.ndarray):
        return "var * float32"
    return f"{values.shape[1]} * {values.dtype}" if values.ndim == 2 else str(values.dtype)


def _columns(table: pa.Table, schema: DatasetSchema, process: str, shard: int) -> dict:
    """Some events, by branch."""
    import awkward as ak

    images = table_to_dense(table, schema.image_shape)
    channels = dict(zip(schema.channel_names, np.moveaxis(images, 1, 0)))
    towers = channels["hcal"][:, ::TOWER, ::TOWER] * TOWER**2
    for rows in (slice(ENDCAP_ROWS), slice(-ENDCAP_ROWS, None)):
        channels["ecal"][:, rows] *= ENDCAP_FACTOR
    channels["ecal"][:, [0, -1]] *= 2  # of their block of 2 x 2, the other half lies beyond the detector
    channels["hcal"] = towers
    number = table.num_rows
    ids = [int(event_id.rsplit("-", 1)[1]) for event_id in table["event_id"].to_pylist()]
    run = 1 + list(PROCESSES).index(process)  # or events of different processes would share their ids
    columns: dict[str, Any] = {
        "runId": np.full(number, run, np.uint32),
        "lumiId": np.full(number, shard + 1, np.uint32),
        "eventId": np.array(ids, np.uint64),
    }
    branches = next(variants[0].branches for variants in SCHEMAS.values() if _fits(variants[0], schema))
    columns |= {branches[name]: image.reshape(number, -1) for name, image in channels.items()}

    counts = np.diff(table["jets_pt"].combine_chunks().offsets.to_numpy())
    jets = {name: table[name].combine_chunks().flatten().to_numpy() for name in (*LISTS.values(), "jets_mass_labels")}
    event = np.repeat(np.arange(number), counts)
    ieta, iphi = seed_towers(towers, event, jets["jets_eta"], jets["jets_phi"])
    inside = (ieta >= SEED_ROWS[0]) & (ieta <= SEED_ROWS[1])
    truth = np.where(np.isnan(jets["jets_mass_labels"]), NO_TRUTH, PROCESSES[process].heavy)
    lists = {"jetSeed_ieta": ieta, "jetSeed_iphi": iphi, "jet_truthLabel": truth}
    lists |= {key: jets[name] for key, name in LISTS.items()}
    counts = np.bincount(event[inside], minlength=number)
    return columns | {key: ak.unflatten(values[inside].astype(np.float32), counts) for key, values in lists.items()}


def _fits(entry: DatasetSchema, schema: DatasetSchema) -> bool:
    return entry.format == "root" and entry.channel_names == schema.channel_names
