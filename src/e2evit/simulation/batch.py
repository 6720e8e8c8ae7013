"""Generated events as flat numpy arrays."""

from dataclasses import dataclass, field

import numpy as np

__all__ = ["SPECIES", "EventBatch"]

# charge and mass [GeV] of the particles that may reach the detector, as in Pythia; hyperons and K_S if they live long
SPECIES = {
    11: (-1, 0.000511),
    13: (-1, 0.10566),
    22: (0, 0.0),
    130: (0, 0.49761),
    211: (1, 0.13957),
    310: (0, 0.49761),
    321: (1, 0.49368),
    2112: (0, 0.93957),
    2212: (1, 0.93827),
    3112: (-1, 1.19745),
    3122: (0, 1.11568),
    3222: (1, 1.18937),
    3312: (-1, 1.32171),
    3322: (0, 1.31486),
    3334: (-1, 1.67245),
}


@dataclass
class EventBatch:
    """Particles of some events, flat; the `event` arrays ascend and give the event of each entry.

    Args:
        num_events: Events in the batch.
        event, pdg_id, charge: Stable particles within |eta| < 3.6, except neutrinos.
        momentum: `(n, 4)` px, py, pz, E [GeV].
        vertex: `(n, 3)` production point [cm] relative to the primary vertex.
        secondary: `(n,)` whether a particle was born in material.
        until: `(n,)` distance from the beam [cm] at which a particle ends in material; by default nowhere.
        heavy_event, heavy_momentum: Heavy particles after recoil against initial-state radiation, `(m, 4)` [GeV].
        decay_heavy, decay_momentum: Their decay products (b, q, q' for top): index of the heavy particle, momentum.
        parton_event, parton_id, parton_momentum: Outgoing quarks and gluons of a hard process without heavy particle.
        weight: Of each event, or of all: undoes the enhancement of large pT, and what the veto left out.
        kept: Probability with which the veto kept each event.
        tried: Events that the veto has looked at for these.
        shower: Number of the parton shower of each event: hadronised several times, it makes several events.
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
    secondary: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    until: np.ndarray = field(default_factory=lambda: np.zeros(0))
    weight: np.ndarray | float = 1.0
    kept: np.ndarray | float = 1.0
    tried: int = 0
    shower: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    def __post_init__(self):
        if len(self.until) < len(self.event):
            self.until = np.full(len(self.event), np.inf)
        if len(self.secondary) < len(self.event):
            self.secondary = np.zeros(len(self.event), bool)

    def select(self, events: np.ndarray) -> "EventBatch":
        """Some events, ascending and renumbered: their stable particles, without heavy particles and partons."""
        number = np.full(self.num_events, -1)
        number[events] = np.arange(len(events))
        kept = number[self.event] >= 0
        particles = {
            name: getattr(self, name)[kept]
            for name in ("pdg_id", "charge", "momentum", "vertex", "until", "secondary")
        }
        return EventBatch(len(events), number[self.event[kept]], **particles)
