"""Particle-level jets and the particles they come from."""

from dataclasses import dataclass, fields, replace

import awkward as ak
import numpy as np

from e2evit.data.clustering import cluster
from e2evit.data.grid import JET_MAX_ETA, JET_RADIUS
from e2evit.data.momenta import distances, eta_phi, mass

from .batch import EventBatch

__all__ = ["Jets", "all_jets", "find_jets"]

_CLUSTER_MAX_ETA = 3.0  # particles beyond are outside the grid


@dataclass
class Jets:
    """Jets of a batch, flat.

    Args:
        event: Event of each jet, ascending.
        momentum: `(n, 4)` px, py, pz, E [GeV].
        heavy_mass: Generator mass [GeV] of the heavy particle in the jet, NaN without one.
        merged: Whether the jet contains all decay products of the heavy particle; false without one.
        parton: PDG code of the jet's origin: the heavy particle, or the quark or gluon of the hard process nearest to
            the axis; 0 if none is within the jet.
        weight: Turns the jets into those of a collider.
        particles: Of each jet a list of records `px`, `py`, `pz`, `E` [GeV].
    """

    event: np.ndarray
    momentum: np.ndarray
    heavy_mass: np.ndarray
    merged: np.ndarray
    parton: np.ndarray
    weight: np.ndarray
    particles: ak.Array

    @property
    def pt(self) -> np.ndarray:
        """Transverse momentum of the jet [GeV]."""
        return np.hypot(self.momentum[:, 0], self.momentum[:, 1])

    @property
    def mass(self) -> np.ndarray:
        """Invariant mass of the jet [GeV]."""
        return mass(self.momentum)

    @property
    def eta_phi(self) -> tuple[np.ndarray, np.ndarray]:
        """Pseudorapidity and azimuth [radians] of the axis."""
        return eta_phi(self.momentum)

    def select(self, keep) -> "Jets":
        return Jets(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})


def find_jets(batch: EventBatch, heavy: int, min_pt: float, max_pt: float) -> Jets:
    """The two hardest anti-kt R = 0.8 jets of each event, if they lie in the pT range [GeV] and |eta| < 1.37.

    With a `heavy` particle (its PDG code), only jets with one within ΔR < 0.8 of the axis are kept. `merged` is
    CMS's selection for its boosted-top sample (RHAnalyzer_runEvtSel_jet_dijet_top): all quarks within ΔR < 0.8.
    """
    jets = _cluster(batch, min_pt)
    rank = np.arange(len(jets.event)) - np.searchsorted(jets.event, jets.event)
    jets = _match(jets.select((rank < 2) & (jets.pt < max_pt) & (np.abs(jets.eta_phi[0]) < JET_MAX_ETA)), batch, heavy)
    return jets.select(jets.parton == heavy) if heavy else jets


def all_jets(batch: EventBatch, heavy: int, min_pt: float) -> Jets:
    """All anti-kt R = 0.8 jets above `min_pt` [GeV] with |eta| < 1.37, with or without a heavy particle."""
    jets = _cluster(batch, min_pt)
    return _match(jets.select(np.abs(jets.eta_phi[0]) < JET_MAX_ETA), batch, heavy)


def _cluster(batch: EventBatch, min_pt: float) -> Jets:
    """The jets of each event, hardest first, without what they come from."""
    near = np.abs(eta_phi(batch.momentum)[0]) < _CLUSTER_MAX_ETA
    counts = np.bincount(batch.event[near], minlength=batch.num_events)
    event, momentum, constituents = cluster(batch.momentum[near], counts, min_pt)
    nothing = np.zeros(len(event), int)
    weight = np.broadcast_to(batch.weight, batch.num_events)[event]
    unmatched = np.full(len(event), np.nan), nothing.astype(bool), nothing
    return Jets(event, momentum, *unmatched, weight, constituents)


def _match(jets: Jets, batch: EventBatch, heavy: int) -> Jets:
    """The jets with their origin: the heavy particle within, or the parton."""
    if not heavy:
        nearest, distance = _nearest(jets, batch.parton_event, batch.parton_momentum)
        return replace(jets, parton=np.where(distance < JET_RADIUS, batch.parton_id[nearest], 0))
    nearest, distance = _nearest(jets, batch.heavy_event, batch.heavy_momentum)
    inside = distance < JET_RADIUS
    decays = nearest[:, None] == batch.decay_heavy
    farthest = np.where(decays, distances(jets.momentum, batch.decay_momentum), 0.0).max(axis=1, initial=0.0)
    return replace(
        jets,
        heavy_mass=np.where(inside, mass(batch.heavy_momentum)[nearest], np.nan),
        merged=inside & (farthest < JET_RADIUS),
        parton=np.where(inside, heavy, 0),
    )


def _nearest(jets: Jets, event, momentum):
    """Index of the particle of the same event nearest to each jet, and ΔR to it (infinite if there is none)."""
    same = jets.event[:, None] == event
    distance = np.where(same, distances(jets.momentum, momentum), np.inf)
    nearest = distance.argmin(axis=1)
    return nearest, distance[np.arange(len(nearest)), nearest]
