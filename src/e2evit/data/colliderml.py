"""Events of ColliderML to rows: the whole detector, or windows around jets (docs/colliderml.md).

Jets are clustered from generated particles, and their classes follow from these: the labels of ColliderML's own `jets`
task are random numbers.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from .batches import BadRows
from .columns import IMAGE_COLUMNS
from .detector_images import cell_energies, whole_image
from .entries import check_pixels
from .event_tables import FIRST, TABLES, EventError, EventTable, check_events, read_table, sample_of
from .grid import COLUMNS, ETA_EDGES, JET_MAX_ETA, SEED_ROWS, TOWER, WINDOW, seed_towers
from .helix import direction
from .momenta import eta_phi, mass
from .schema import DatasetSchema
from .sparse import dense_to_sparse
from .truth import HARD, describe_jets, find_heavy, is_stable, momentum_of

__all__ = ["read_events"]

EVENTS_AT_ONCE = 32
MUON = 13
ENOUGH = 20.0  # GeV of particles within the calorimeters, below which their energy says nothing about its scale
# of cells over particles: about 1 for calibrated energies, 1/40 for raw ones; the geometric mean separates them
RESPONSE = 1 / 6.3, 6.3
Particles = Mapping[str, np.ndarray]


def read_events(
    path: str, start: int, stop: int, schema: DatasetSchema, target: pa.Schema
) -> Iterator[tuple[np.ndarray, pa.Table, dict[int, str | None]] | BadRows]:
    """Rows made of the events in the rows `[start, stop)` of a file of particles, with the number of each one's event;
    events that cannot be joined, or contradict the schema, as `BadRows`.

    Raises:
        ImportError: for jets, without FastJet.
        FileError: for files that are damaged, or have events of the same number.
    """
    if schema.one_row == "jet":
        _import_cluster(path)
    check_events(path)
    sample = sample_of(path)
    others = {table: EventTable(path, table) for table in TABLES if table != FIRST}
    made: list[tuple[int, pa.Table]] = []
    for found in read_table(path, FIRST, start, stop):
        if isinstance(found, BadRows):
            yield found
            continue
        row, number, particles = found
        try:
            if isinstance(particles, str):
                raise EventError(particles)
            if number is None:
                raise EventError("`event_id` is null")
            event = {table: other.event(number) for table, other in others.items()}
            columns = _columns(event, particles, sample, schema)
        except EventError as error:
            yield BadRows(path, row, row, f"event {number}: {error}")
            continue
        count = len(columns["pixel_index"])
        columns["event_id"] = [f"{sample}:{number}"] * count
        arrays = [pa.array(columns.get(field.name, [None] * count), field.type) for field in target]
        made.append((row, pa.Table.from_arrays(arrays, schema=target)))
        if len(made) == EVENTS_AT_ONCE:
            yield _joined(made, schema)
            made = []
    if made:
        yield _joined(made, schema)


def _joined(made: list[tuple[int, pa.Table]], schema: DatasetSchema):
    """Rows of several events: the number of each one's event, a table, and problems."""
    numbers = np.repeat([row for row, _ in made], [table.num_rows for _, table in made])
    table = pa.concat_tables([table for _, table in made]).combine_chunks()
    problems: dict[int, str | None] = {}
    index, value = (table[name].combine_chunks() for name in IMAGE_COLUMNS)
    check_pixels(index, value, schema, problems)
    return numbers, table, problems


def _import_cluster(path: str):
    try:
        from .clustering import cluster
    except ImportError as error:
        raise ImportError(f"{error}. The jets of {path} need FastJet: pip install 'e2evit[sim]'.") from error
    return cluster


def _columns(event: Mapping[str, Particles], particles: Particles, sample: str, schema: DatasetSchema) -> dict:
    """The columns of an event's rows."""
    detector = schema.open_detector
    assert detector is not None, "parse_schema has asked for it"
    _check_scale(event["calo_hits"], particles, schema)
    hard = particles["primary"] & (particles["vertex_primary"] == HARD)
    if not hard.any():
        raise EventError(f"no particle is `primary` and of `vertex_primary` {HARD}, the hard collision")
    # the middle one: some come from decays
    vertex = np.array([np.median(particles[axis][hard]) for axis in ("vx", "vy", "vz")])
    image = whole_image(event, vertex, schema.channel_names, detector, schema.resample_endcaps)
    num_pileup = len(np.unique(particles["vertex_primary"][particles["primary"]])) - 1
    if schema.one_row == "event":
        index, value = dense_to_sparse(image[None])
        return {"pixel_index": index, "pixel_value": value, "num_pileup": [num_pileup]}
    jets = _jets(particles, hard, detector.min_jet_pt)
    eta, phi = eta_phi(jets)
    towers = image[schema.channel_names.index("hcal"), ::TOWER, ::TOWER][None] * TOWER**2
    ieta, iphi = seed_towers(towers, np.zeros(len(jets), int), eta, phi, SEED_ROWS)
    index, value = dense_to_sparse(_windows(image, ieta, iphi))
    columns = {"pixel_index": index, "pixel_value": value, "ieta": ieta, "iphi": iphi, "eta": eta, "phi": phi}
    columns |= {"pt": np.hypot(jets[:, 0], jets[:, 1]), "jet_mass": mass(jets)}
    columns["num_pileup"] = [num_pileup] * len(jets)
    if schema.labels:
        expected = detector.processes.get(re.sub(r"_pu\d+$", "", sample))
        columns |= describe_jets(jets, find_heavy(particles), expected, schema.label_names)
    return columns


def _check_scale(cells: Particles, particles: Particles, schema: DatasetSchema) -> None:
    """Compare the energies of cells and particles: a wrong `raw_energy` is a factor of 40."""
    assert schema.open_detector is not None
    covered = ETA_EDGES[-1]
    eta = direction(np.stack([cells[axis] for axis in "xyz"], axis=1))[0]
    measured = cell_energies(cells, schema.open_detector)[np.abs(eta) < covered].sum()
    chosen = is_stable(particles) & (np.abs(particles["pdg_id"]) != MUON)
    momentum = momentum_of(particles)[chosen]
    generated = momentum[np.abs(eta_phi(momentum)[0]) < covered, 3].sum()
    if generated > ENOUGH and not RESPONSE[0] < measured / generated < RESPONSE[1]:
        told = f"cells of {measured:.3g} GeV for particles of {generated:.3g} GeV within |eta| < {covered:g}"
        raw = schema.open_detector.raw_energy
        other = str(not raw).lower()
        raise EventError(f"{told}; if all events are so, set `raw_energy: {other}` in a schema of your own")


def _jets(particles: Particles, hard: np.ndarray, min_pt: float) -> np.ndarray:
    """Momenta of the jets of the hard collision, `(n, 4)`."""
    momentum = momentum_of(particles)[hard & is_stable(particles)]
    momentum = momentum[np.abs(eta_phi(momentum)[0]) < ETA_EDGES[-1]]
    if not len(momentum):
        return momentum
    _, jets, _ = _import_cluster("")(momentum, np.array([len(momentum)]), min_pt)
    return jets[np.abs(eta_phi(jets)[0]) < JET_MAX_ETA]


def _windows(image: np.ndarray, ieta: np.ndarray, iphi: np.ndarray) -> np.ndarray:
    """The 125 x 125 crystals around each seed tower, `(n, channels, 125, 125)`."""
    reach = WINDOW // TOWER // 2
    down, across = ((seed - reach)[:, None] * TOWER + np.arange(WINDOW) for seed in (ieta, iphi))
    return np.moveaxis(image[:, down[:, :, None], across[:, None, :] % COLUMNS], 1, 0)
