"""The particles that a jet's window can see, as columns of a row and back.

Which ones those are does not depend on the response of the detector: wherever it puts the vertex and the seed tower,
the particles of the window are among them.
"""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from e2evit.data.columns import PARTICLE_COLUMNS
from e2evit.data.grid import COLUMNS, SEED_SEARCH, TOWER, WINDOW, position_in_grid
from e2evit.data.helix import FIELD_TESLA, direction, propagate
from e2evit.data.sparse import list_array

from .batch import SPECIES, EventBatch
from .cells import join
from .detector import BEAM_SPOT_LENGTH, ECAL_HALF_LENGTH, ECAL_RADIUS
from .geometry import Geometry
from .showers import MAX_TURN

if TYPE_CHECKING:
    from .jets import Jets  # needs FastJet

__all__ = [
    "ANGLE",
    "LENGTH",
    "PT_DIGITS",
    "REACH",
    "axis_crystal",
    "keep_particles",
    "read_particles",
    "rounded",
    "rounded_digits",
    "rounded_steps",
]

# crystals from the middle of the tower on the axis to the far edge of the last tower that the window depends on: the
# seed, half a window, a shower one tower wide, and in the endcaps the other half of a ten-degree tower
REACH = (SEED_SEARCH + WINDOW // TOWER // 2 + 2) * TOWER + TOWER // 2 + 1
# rows and columns from there to the farthest particle: clusters of its shower lie within a tower of where it turns to
PARTICLE_REACH = REACH + TOWER, REACH + TOWER + MAX_TURN
FARTHEST_VERTEX, STEPS = 5 * BEAM_SPOT_LENGTH, 9  # cm along the beam, and places at which a particle is tried

_CODES = np.array(list(SPECIES))
# steps far below the detector's resolution, powers of two: the last bits are zero and take little space.
# ANGLE [radians] is 0.007 crystals, LENGTH [cm] 1.2 micrometres; pT has so many binary digits
ANGLE, LENGTH, PT_DIGITS = 2.0**-13, 2.0**-13, 12


def keep_particles(batch: EventBatch, jets: "Jets", geometry: Geometry) -> dict[str, pa.ListArray]:
    """The columns `particle_...`: a list for each jet, of the particles near it.

    Near are those whose path reaches the ECAL or a silicon layer within `PARTICLE_REACH` of the tower on the axis.

    Raises:
        RuntimeError: for a particle that is not in [`SPECIES`], which settings of Pythia may make stable.
    """
    jet, particle = join(jets.event, batch.event)
    near = np.zeros(len(jet), bool)
    row, column = axis_crystal(*jets.eta_phi)
    for rows, columns, anywhere in _places(batch, geometry):
        near_column = _overlaps(columns[:, particle], column[jet], PARTICLE_REACH[1], COLUMNS)
        near_row = _overlaps(rows[:, particle], row[jet], PARTICLE_REACH[0])
        near |= near_row & (near_column | anywhere[particle])
    jet, particle = jet[near], particle[near]
    return _columns(batch, particle, np.bincount(jet, minlength=len(jets.event)))


def axis_crystal(eta, phi) -> tuple[np.ndarray, np.ndarray]:
    """The crystal in the middle of the tower on each jet axis."""
    row, column = (np.floor(x).astype(np.int64) // TOWER * TOWER for x in position_in_grid(eta, phi))
    return row + TOWER // 2, column + TOWER // 2


def rounded(batch: EventBatch) -> EventBatch:
    """The batch as its particles would be read again, were all of them kept."""
    columns = _columns(batch, np.arange(len(batch.event)), np.bincount(batch.event, minlength=batch.num_events))
    return read_particles(pa.table(columns))


def read_particles(rows: pa.Table) -> EventBatch:
    """The particles of rows; each row is an event of its own."""
    lists = {name: rows[name].combine_chunks() for name in PARTICLE_COLUMNS}
    event = np.repeat(np.arange(rows.num_rows), np.diff(lists["particle_id"].offsets.to_numpy()))
    values = {
        name.removeprefix("particle_"): column.flatten().to_numpy(zero_copy_only=False)
        for name, column in lists.items()
    }
    pt, eta, phi, x, y, z = (values[name].astype(float) for name in ("pt", "eta", "phi", "x", "y", "z"))
    pdg_id, number = values["id"].astype(int), _species(values["id"])
    charge, mass = np.array(list(SPECIES.values())).T
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt], axis=1)
    momentum[:, 3] = np.sqrt((pt * np.cosh(eta)) ** 2 + mass[number] ** 2)
    return EventBatch(
        num_events=rows.num_rows,
        event=event,
        pdg_id=pdg_id,
        charge=charge[number] * np.sign(pdg_id),
        momentum=momentum,
        vertex=np.stack([x, y, z], axis=1),
    )


def rounded_digits(values: np.ndarray, digits: int) -> np.ndarray:
    """Numbers with so many binary digits."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(np.ldexp(mantissa, digits)), exponent - digits)


def rounded_steps(values: np.ndarray, step: float) -> np.ndarray:
    """Multiples of a step, without -0.0."""
    return np.round(values / step) * step + 0.0


def _columns(batch: EventBatch, particle: np.ndarray, counts: np.ndarray) -> dict[str, pa.ListArray]:
    px, py, pz, _ = batch.momentum[particle].T
    pt = np.hypot(px, py)
    values = {
        "particle_id": batch.pdg_id[particle],
        "particle_pt": rounded_digits(pt, PT_DIGITS),
        "particle_eta": rounded_steps(np.arcsinh(pz / np.maximum(pt, 1e-9)), ANGLE),
        "particle_phi": rounded_steps(np.arctan2(py, px), ANGLE),
    }
    vertex = rounded_steps(batch.vertex[particle], LENGTH)
    values |= {f"particle_{axis}": vertex[:, number] for number, axis in enumerate("xyz")}
    _species(values["particle_id"])
    return {name: list_array(values[name].astype(kind), counts) for name, kind in PARTICLE_COLUMNS.items()}


def _species(pdg_id: np.ndarray) -> np.ndarray:
    """Number of each particle in the table."""
    number = np.searchsorted(_CODES, np.abs(pdg_id)).clip(0, len(_CODES) - 1)
    for unknown in np.asarray(pdg_id)[_CODES[number] != np.abs(pdg_id)][:1]:
        raise RuntimeError(f"No charge and mass are known for stable particles with the PDG code {unknown}.")
    return number


def _places(batch: EventBatch, geometry: Geometry):
    """Rows and columns `(2, n)` between which particles reach the ECAL or a silicon layer, NaN if they do not, and
    whether their columns are unknown."""
    yield from _ecal_places(batch)
    charged = batch.charge != 0
    for layer in geometry.layers.values():
        far = layer.half_length + FARTHEST_VERTEX
        point, reaches = propagate(
            batch.momentum[charged], batch.charge[charged], batch.vertex[charged], layer.radius, far
        )
        reaches &= np.abs(point[:, 2]) < far * (1 - 1e-9)
        places = []
        # a strip hit lies at the middle of its module, and the vertex it is seen from may be that of another collision
        for sign in (-1, 1):
            shifted = point + np.array([0, 0, sign * (layer.strip_length / 2 + 2 * FARTHEST_VERTEX)])
            eta = np.arcsinh(shifted[:, 2] / layer.radius)
            places.append(position_in_grid(eta, np.arctan2(point[:, 1], point[:, 0])))
        both = np.full((2, 2, len(charged)), np.nan)
        both[:, :, charged] = np.where(reaches, np.array(places), np.nan).transpose(1, 0, 2)
        yield *both, np.zeros(len(charged), bool)


def _ecal_places(batch: EventBatch):
    before = None
    # a particle that spirals to an end plane may turn too far between two places to say where it was in between
    length = 2 * FARTHEST_VERTEX / (STEPS - 1) / np.maximum(np.abs(batch.momentum[:, 2]), 1e-9)
    turns = 0.003 * FIELD_TESLA * np.abs(batch.charge) * length > np.pi / 4
    for vertex_z in np.linspace(-FARTHEST_VERTEX, FARTHEST_VERTEX, STEPS):
        start = batch.vertex + np.array([0, 0, vertex_z])
        point, reaches = propagate(batch.momentum, batch.charge, start, ECAL_RADIUS, ECAL_HALF_LENGTH)
        row, column = position_in_grid(*direction(point))
        place = np.where(reaches, np.stack([row, column]), np.nan)
        if before is not None:
            rows, columns = np.stack([before, place], axis=1)
            yield rows, columns, turns & (np.hypot(point[:, 0], point[:, 1]) < 0.999 * ECAL_RADIUS)
        before = place


def _overlaps(span: np.ndarray, centre: np.ndarray, reach: int, period: float | None = None) -> np.ndarray:
    """Whether spans `(2, n)` of rows or columns come within `reach` of `centre`; a NaN end counts as the other."""
    first, last = np.where(np.isnan(span), span[::-1], span) - centre
    if period is not None:  # the shorter way around
        step = (last - first + period / 2) % period - period / 2
        first = (first + period / 2) % period - period / 2
        last = first + step
    return (np.minimum(first, last) <= reach) & (np.maximum(first, last) >= -reach)
