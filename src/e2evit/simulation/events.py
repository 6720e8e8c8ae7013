"""Pythia 8 events as flat numpy arrays.

Pythia is GPL software and an optional dependency (`pip install e2evit[sim]`); only this package imports it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import awkward as ak
import numpy as np
import pythia8mc

__all__ = ["PROCESSES", "EventBatch", "Process", "generate"]

_NEUTRINOS = (12, 14, 16)
_MM_TO_CM = 0.1


@dataclass(frozen=True)
class Process:
    """A hard process; `resonance` is the PDG code of the particle that makes the jet, 0 if there is none."""

    settings: tuple[str, ...]
    resonance: int = 0


# the power flattens the pT spectrum of the selected jets between 400 and 1 000 GeV; weights are dropped, since
# the classes are compared at equal pT and not at their cross sections
PROCESSES = {
    "qcd": Process(("HardQCD:all = on", "PhaseSpace:bias2SelectionPow = 7.0")),
    "top": Process(
        (
            "Top:gg2ttbar = on",
            "Top:qqbar2ttbar = on",
            "PhaseSpace:bias2SelectionPow = 6.5",
            "24:onMode = off",
            "24:onIfAny = 1 2 3 4 5",
        ),
        resonance=6,
    ),
}

_COMMON = (
    "Print:quiet = on",
    "Random:setSeed = on",
    "PhaseSpace:bias2Selection = on",
    "PhaseSpace:bias2SelectionRef = 350.",
    # K_S, Lambda and the like decay if they do so inside the ECAL
    "ParticleDecays:limitCylinder = on",
    "ParticleDecays:xyMax = 1290.",
    "ParticleDecays:zMax = 3170.",
)


@dataclass
class EventBatch:
    """Particles of some events, flat; the `event` arrays ascend and tell which event an entry belongs to.

    Args:
        num_events: Events in the batch.
        event, pdg_id, charge: Stable particles other than neutrinos.
        momentum: `(n, 4)` px, py, pz, E [GeV].
        vertex: `(n, 3)` production point [cm] relative to the primary vertex.
        resonance_event, resonance_sign, resonance_momentum: Heavy particles after recoil: event, sign of the PDG code,
            `(m, 4)` four-momentum [GeV].
        decay_event, decay_sign, decay_momentum: Quarks that the heavy particles decay to, with the sign of the one
            they come from.
    """

    num_events: int
    event: np.ndarray
    pdg_id: np.ndarray
    charge: np.ndarray
    momentum: np.ndarray
    vertex: np.ndarray
    resonance_event: np.ndarray
    resonance_sign: np.ndarray
    resonance_momentum: np.ndarray
    decay_event: np.ndarray
    decay_sign: np.ndarray
    decay_momentum: np.ndarray


def generate(process: str, seed: int, energy: float, min_pt: float, batch_size: int = 100) -> Iterator[EventBatch]:
    """Endless batches of `process` at `energy` [GeV] in the centre of mass, with partons above `min_pt` [GeV].

    The sequence is a function of the arguments and of Pythia's version.

    Raises:
        ValueError: for a seed that Pythia would not take as it is.
        RuntimeError: if Pythia does not accept a setting or fails to initialise.
    """
    if not 1 <= seed <= 900_000_000:  # Pythia: 0 is the clock, -1 a fixed default, larger ones fail
        raise ValueError(f"Pythia's seeds go from 1 to 900 000 000, got {seed}.")
    pythia = pythia8mc.Pythia("", False)
    settings = (*_COMMON, f"Random:seed = {seed}", f"Beams:eCM = {energy}", f"PhaseSpace:pTHatMin = {min_pt}")
    for setting in (*settings, *PROCESSES[process].settings):
        if not pythia.readString(setting):
            raise RuntimeError(f"Pythia did not accept {setting!r}.")
    if not pythia.init():
        raise RuntimeError(f"Pythia failed to initialise {process!r} at {energy} GeV with pT above {min_pt} GeV.")
    charges: dict[int, float] = {}
    while True:
        record = pythia.nextBatch(batch_size).prt
        if len(record) and record.fields:  # without an accepted event the record has no fields
            yield _flatten(record, PROCESSES[process].resonance, pythia.particleData, charges)


def _flatten(record, resonance: int, particle_data, charges: dict[int, float]) -> EventBatch:
    counts = ak.to_numpy(ak.num(record.id))
    event = np.repeat(np.arange(len(counts)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    pdg_id, status, mother = (ak.to_numpy(ak.flatten(record[name])) for name in ("id", "status", "mother1"))
    p = ak.flatten(record.p)
    momentum = np.stack([ak.to_numpy(p[axis]) for axis in ("px", "py", "pz", "e")], axis=1)
    stable = (status > 0) & ~np.isin(np.abs(pdg_id), _NEUTRINOS)
    production = ak.flatten(record.vProd)[stable]
    vertex = [ak.to_numpy(ak.fill_none(production[axis], 0.0)) * _MM_TO_CM for axis in ("px", "py", "pz")]
    unique, inverse = np.unique(pdg_id[stable], return_inverse=True)
    for code in unique.tolist():
        if code not in charges:
            charges[code] = particle_data.charge(code)

    # status 62 is the copy after the recoil against initial-state radiation, 23 an outgoing quark of its decay
    is_resonance = (np.abs(pdg_id) == resonance) & (status == -62)
    parent_id = pdg_id[first + mother]
    is_decay = (status == -23) & (np.abs(pdg_id) <= 5) & np.isin(np.abs(parent_id), (resonance, 24)) & (resonance > 0)
    return EventBatch(
        num_events=len(counts),
        event=event[stable],
        pdg_id=pdg_id[stable],
        charge=np.array([charges[code] for code in unique.tolist()])[inverse],
        momentum=momentum[stable],
        vertex=np.stack(vertex, axis=1),
        resonance_event=event[is_resonance],
        resonance_sign=np.sign(pdg_id[is_resonance]),
        resonance_momentum=momentum[is_resonance],
        decay_event=event[is_decay],
        decay_sign=np.sign(parent_id[is_decay]),
        decay_momentum=momentum[is_decay],
    )
