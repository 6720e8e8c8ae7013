"""Files in the layout of ColliderML's release, with events whose images and labels are known by hand."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from e2evit.data import SCHEMAS
from e2evit.data.files import list_pieces, read_rows

DATA_SETS = ("colliderml", "colliderml_8", "colliderml_events", "colliderml_events_8")
FILE = "train-00000-of-00001.parquet"
KINDS = {"particle_id": pa.uint64(), "parent_id": pa.int64(), "pdg_id": pa.int64(), "primary": pa.bool_()}
KINDS |= {"vertex_primary": pa.uint16(), "detector": pa.uint8()}
COLUMNS = {
    "particles": (
        *("particle_id", "pdg_id", "mass", "energy", "charge", "vx", "vy", "vz", "time", "px", "py", "pz"),
        *("perigee_d0", "primary", "vertex_primary", "parent_id"),
    ),
    "calo_hits": ("detector", "total_energy", "x", "y", "z"),
    "tracker_hits": ("detector", "x", "y", "z"),
    "tracks": ("d0", "z0", "phi", "theta", "qop"),
}
SCALES = {9: 38.7, 10: 37.5, 11: 38.7, 12: 46.9, 13: 45.0, 14: 46.9}
VERTEX = (0.0, 0.0, 30.0)  # mm


class Event:
    """The tables of an event, filled one entry at a time; lengths in mm."""

    def __init__(self):
        self.tables = {table: {name: [] for name in names} for table, names in COLUMNS.items()}

    def _add(self, table, **entry):
        for name, values in self.tables[table].items():
            values.append(entry.get(name, 0.0))

    def particle(self, pdg, pt, eta, phi, mass=0.0, parent=-1, primary=True, vertex=1, at=VERTEX) -> int:
        """Returns its id."""
        number = 40 + len(self.tables["particles"]["pdg_id"])
        px, py, pz = pt * math.cos(phi), pt * math.sin(phi), pt * math.sinh(eta)
        self._add(
            "particles",
            particle_id=number,
            pdg_id=pdg,
            mass=mass,
            energy=math.sqrt(px**2 + py**2 + pz**2 + mass**2),
            parent_id=parent,
            primary=primary,
            vertex_primary=vertex,
            perigee_d0=None,
            **dict(zip(("px", "py", "pz"), (px, py, pz))),
            **dict(zip(("vx", "vy", "vz"), at)),
        )
        return number

    def cell(self, code, energy, eta, phi, raw=True, radius=1700.0):
        """A cell of a calibrated energy [GeV], seen from the middle of the detector."""
        energy = energy / SCALES[code] if raw else energy
        place = radius * np.array([math.cos(phi), math.sin(phi), math.sinh(eta)])
        self._add("calo_hits", detector=code, total_energy=energy, **dict(zip("xyz", place)))

    def hit(self, code, radius, eta, phi):
        """A hit that is seen from the primary vertex."""
        place = radius * np.array([math.cos(phi), math.sin(phi), math.sinh(eta)]) + VERTEX
        self._add("tracker_hits", detector=code, **dict(zip("xyz", place)))

    def track(self, charge, pt, eta, phi, d0=0.0, z0=0.0):
        theta = 2 * math.atan(math.exp(-eta))
        self._add("tracks", d0=d0, z0=z0, phi=phi, theta=theta, qop=charge / (pt * math.cosh(eta)))

    def hadron(self, pt, eta, phi, parent=-1, vertex=1):
        """A pion that leaves its energy in a cell of the HCAL."""
        self.particle(211, pt, eta, phi, parent=parent, vertex=vertex)
        self.cell(13, pt * math.cosh(eta), eta, phi)

    def decay(self, code, axis, products, mass, through=None, share=250.0):
        """A heavy particle, and what it decays to, by PDG code, Δη and Δφ from its axis; `share` is the pT of each.

        Quarks become pions; with `through`, all products but the first come from such a particle.
        """
        heavy = self.particle(code, 2 * share, *axis, mass=mass)
        copy = self.particle(code, 2 * share, *axis, mass=mass, parent=heavy)
        between = copy if through is None else self.particle(through, share, *axis, mass=80.0, parent=copy)
        for number, (pdg, eta, phi) in enumerate(products):
            parent = between if number else copy
            place = axis[0] + eta, axis[1] + phi
            product = self.particle(pdg, share, *place, parent=parent)
            if abs(pdg) < 6:
                self.hadron(share, *place, parent=product)


TOP = ((5, 0.1, 0.0), (2, -0.1, 0.1), (-1, 0.0, -0.1))
LEPTONIC = ((-5, 0.1, 0.0), (13, -0.1, 0.1), (-14, 0.0, -0.1))


def ttbar(number: int = 0) -> Event:
    """A hadronic top quark at (0.3, 1.0), a leptonic one opposite to it, and a jet between them."""
    event = Event()
    event.decay(6, (0.3, 1.0), TOP, 173.0, through=24)
    event.decay(-6, (-0.3, 1.0 - math.pi), LEPTONIC, 172.0, through=-24)
    event.hadron(300.0 + number, 0.0, -0.6)
    event.particle(211, 900.0, 1.0, 2.5, primary=False)  # from an interaction with the detector
    event.particle(111, 900.0, 1.0, 2.5)  # decays
    event.track(1, 10.0, 0.4, 1.1, d0=0.2, z0=35.0)
    event.hit(1, 34.0, 0.2, 0.9)
    return event


def write(folder: Path, sample: str, events: dict[int, Event], shard: str = FILE, **options) -> Path:
    """Write the tables of some events, by their number.

    Args:
        options: `joined`: folders `sample_table` rather than `sample/table`; `order`: of the events in each table;
            `lacking`: events that a table lacks; `group`: rows of a row group.
    """
    for table, names in COLUMNS.items():
        order = options.get("order", {}).get(table, [*events])
        order = [number for number in order if number not in options.get("lacking", {}).get(table, ())]
        columns = {"event_id": pa.array(order, pa.uint32())}
        for name in names:
            kind = pa.list_(KINDS.get(name, pa.float32()))
            columns[name] = pa.array([events[number].tables[table][name] for number in order], kind)
        target = folder / (f"{sample}_{table}" if options.get("joined", True) else f"{sample}/{table}")
        target.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), target / shard, row_group_size=options.get("group"))
    return folder


def rows_of(folder, sample="ttbar_pu0", schema=SCHEMAS["colliderml"][0], on_bad_rows=None, shard=FILE):
    """The rows of a sample's file."""
    more = () if on_bad_rows is None else (on_bad_rows,)
    name = f"{sample}_particles/{shard}"
    pieces = list_pieces(str(folder / name), name, schema, 1)
    return [row for piece in pieces for table in read_rows(piece, schema, *more) for row in table.to_pylist()]
