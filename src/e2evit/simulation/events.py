"""Pythia 8 events as flat numpy arrays.

Pythia is GPL software and an optional dependency (`pip install e2evit[sim]`); only this package imports it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import awkward as ak
import numpy as np
import pythia8mc

from .gun import MassGun
from .processes import Process

__all__ = ["EventBatch", "generate", "minimum_bias"]

_NEUTRINOS = (12, 14, 16)
_MM_TO_CM = 0.1
_PARTON_MARGIN = 50.0  # GeV beyond both ends of the jets' range, so that migration fills its edges
_GUN_MARGIN = 100.0, 150.0  # radiation moves the gun's particles by 55 to 100 GeV (RMS)
_MAX_ETA = 3.6  # particles beyond it miss the grid, which ends at 3, from any vertex

_COMMON = (
    "Print:quiet = on",
    "Random:setSeed = on",
    # K_S, Lambda and the like decay if that happens inside the ECAL
    "ParticleDecays:limitCylinder = on",
    "ParticleDecays:xyMax = 1290.",
    "ParticleDecays:zMax = 3170.",
)


@dataclass
class EventBatch:
    """Particles of some events, flat; the `event` arrays ascend and give the event of each entry.

    Args:
        num_events: Events in the batch.
        event, pdg_id, charge: Stable particles within |eta| < 3.6, except neutrinos.
        momentum: `(n, 4)` px, py, pz, E [GeV].
        vertex: `(n, 3)` production point [cm] relative to the primary vertex.
        heavy_event, heavy_momentum: Heavy particles after recoil against initial-state radiation, `(m, 4)` [GeV].
        decay_heavy, decay_momentum: Their decay products (b, q, q' for top): index of the heavy particle, momentum.
        parton_event, parton_id, parton_momentum: Outgoing quarks and gluons of a hard process without heavy particle.
    """

    num_events: int
    event: np.ndarray
    pdg_id: np.ndarray
    charge: np.ndarray
    momentum: np.ndarray
    vertex: np.ndarray
    heavy_event: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    heavy_momentum: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    decay_heavy: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    decay_momentum: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    parton_event: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    parton_id: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    parton_momentum: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))

    def select(self, events: np.ndarray) -> "EventBatch":
        """Some events, ascending and renumbered: their stable particles, without heavy particles and partons."""
        number = np.full(self.num_events, -1)
        number[events] = np.arange(len(events))
        kept = number[self.event] >= 0
        particles = {name: getattr(self, name)[kept] for name in ("pdg_id", "charge", "momentum", "vertex")}
        return EventBatch(len(events), number[self.event[kept]], **particles)


def generate(
    process: Process,
    seed: int,
    energy: float,
    pt: tuple[float, float],
    mass: tuple[float, float] | None = None,
    extra: Sequence[str] = (),
    batch_size: int = 100,
) -> Iterator[EventBatch]:
    """Endless batches of `process`, determined by the arguments and Pythia's version.

    Args:
        seed: 1 to 900 000 000, Pythia's range.
        energy: Centre-of-mass energy of the proton beams [GeV].
        pt: Range of the wanted jets [GeV]; partons are generated a little beyond it.
        mass: Range of a gun's masses [GeV] instead of its own.
        extra: Extra settings for Pythia, e.g. `"Tune:pp = 18"`.

    Raises:
        RuntimeError: if Pythia does not accept a setting or fails to initialise.
    """
    gun = None
    if process.gun:
        margin = (max(pt[0] - _GUN_MARGIN[0], 1.0), pt[1] + _GUN_MARGIN[1])
        gun = MassGun(process.gun, process.heavy, energy, margin, mass or process.gun.mass, seed)
        pythia = _pythia(("Beams:frameType = 5", *process.settings, *extra), seed, gun)
    else:
        settings = (
            f"Beams:eCM = {energy}",
            f"PhaseSpace:pTHatMin = {max(pt[0] - _PARTON_MARGIN, 1.0)}",
            f"PhaseSpace:pTHatMax = {pt[1] + _PARTON_MARGIN}",
            "PhaseSpace:bias2Selection = on",
            f"PhaseSpace:bias2SelectionPow = {process.bias}",
            f"PhaseSpace:bias2SelectionRef = {pt[0]}",
        )
        pythia = _pythia((*settings, *process.settings, *extra), seed)
    return _batches(pythia, process.heavy, batch_size, gun)


def minimum_bias(seed: int, energy: float, extra: Sequence[str] = (), batch_size: int = 100) -> Iterator[EventBatch]:
    """Endless batches of inelastic collisions at `energy` [GeV], for pile-up."""
    return _batches(_pythia(("SoftQCD:inelastic = on", f"Beams:eCM = {energy}", *extra), seed), 0, batch_size)


def _pythia(settings: Sequence[str], seed: int, gun: MassGun | None = None) -> pythia8mc.Pythia:
    pythia = pythia8mc.Pythia("", False)
    for setting in (*_COMMON, f"Random:seed = {seed}", *settings):
        if not pythia.readString(setting):
            raise RuntimeError(f"Pythia did not accept {setting!r}.")
    if gun is not None:
        pythia.setLHAupPtr(gun)
    if not pythia.init():
        raise RuntimeError(f"Pythia failed to initialise with {'; '.join(settings)}. Is the energy high enough?")
    return pythia


def _batches(pythia: pythia8mc.Pythia, heavy: int, batch_size: int, _gun=None) -> Iterator[EventBatch]:
    # `_gun` keeps the gun alive as long as Pythia, which does not own it
    charges: dict[int, float] = {}
    while True:
        record = pythia.nextBatch(batch_size).prt
        # a record without any accepted event has no fields
        if not (len(record) and record.fields):
            raise RuntimeError(f"Pythia generated no event in {batch_size} tries; is the energy high enough?")
        yield _flatten(record, heavy, pythia.particleData, charges)


def _flatten(record, heavy: int, particle_data, charges: dict[int, float]) -> EventBatch:
    counts = ak.to_numpy(ak.num(record.id))
    event = np.repeat(np.arange(len(counts)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    pdg_id, status, mother = (ak.to_numpy(ak.flatten(record[name])) for name in ("id", "status", "mother1"))
    p = ak.flatten(record.p)
    momentum = np.stack([ak.to_numpy(p[axis]) for axis in ("px", "py", "pz", "e")], axis=1)
    stable = np.flatnonzero((status > 0) & ~np.isin(np.abs(pdg_id), _NEUTRINOS))
    pz = momentum[stable, 2]
    stable = stable[np.abs(pz) < np.sinh(_MAX_ETA) * np.hypot(momentum[stable, 0], momentum[stable, 1])]
    production = ak.flatten(record.vProd)[stable]
    vertex = [ak.to_numpy(ak.fill_none(production[axis], 0.0)) * _MM_TO_CM for axis in ("px", "py", "pz")]
    unique, inverse = np.unique(pdg_id[stable], return_inverse=True)
    for code in unique.tolist():
        if code not in charges:
            charges[code] = particle_data.charge(code)

    # status 62 is the copy after all recoils, 23 a daughter of a resonance or an outgoing parton
    is_heavy = (np.abs(pdg_id) == heavy) & (status == -62)
    outgoing = np.flatnonzero(np.abs(status) == 23)
    if heavy and len(counts) and not is_heavy.any():
        raise RuntimeError(
            "Pythia's record has no heavy particle with status 62, from which the mass is read: only the simple "
            "shower is supported, not Vincia or Dire (`PartonShowers:model`)."
        )
    decay, ancestor = _descendants(outgoing, first + mother, is_heavy)
    parton = outgoing if heavy == 0 else outgoing[:0]
    return EventBatch(
        num_events=len(counts),
        event=event[stable],
        pdg_id=pdg_id[stable],
        charge=np.array([charges[code] for code in unique.tolist()])[inverse],
        momentum=momentum[stable],
        vertex=np.stack(vertex, axis=1),
        heavy_event=event[is_heavy],
        heavy_momentum=momentum[is_heavy],
        decay_heavy=(np.cumsum(is_heavy) - 1)[ancestor],
        decay_momentum=momentum[decay],
        parton_event=event[parton],
        parton_id=pdg_id[parton],
        parton_momentum=momentum[parton],
    )


def _descendants(particles, mother, is_ancestor):
    """The `particles` that descend from an ancestor, and its index; `mother` holds indices into the same record."""
    ancestor = mother[particles]
    for _ in range(100):  # copies of a recoiling W between it and the top
        step = ~is_ancestor[ancestor] & (mother[ancestor] < ancestor)
        if not step.any():
            break
        ancestor = np.where(step, mother[ancestor], ancestor)
    belongs = is_ancestor[ancestor]
    return particles[belongs], ancestor[belongs]
