"""Events that cannot give a wanted jet, found out before Pythia has spent its time on them."""

import math
from collections.abc import Callable

import numpy as np
import pythia8mc

from e2evit.data.grid import JET_MAX_ETA, JET_RADIUS

__all__ = ["IMPOSSIBLE", "BarrenError", "Candidates", "EarlyVeto"]

# An event that has evolved down to this pT [GeV] has cost 0.2 of its 6 ms; multiparton interactions and hadrons, which
# take the rest, move its jets little.
SCALE = 20.0
# How far jets still move: up in pT [GeV], in eta, and a decay product from the axis. They may lose any share of their
# pT, to neutrinos and out of the cone. Fewer than one in ten thousand of the wanted jets are beyond.
PT_MARGIN, ETA_MARGIN, RADIUS_MARGIN = 60.0, 0.15, 0.2
BARREN_EVENTS = 20_000  # after so many events without a candidate, the request cannot be met
_IN_DECAYS = 5  # position of the second call, when all other particles have evolved


IMPOSSIBLE = "perhaps the energy is too low for the pT or the mass, or the mass too low for the decay"


class BarrenError(RuntimeError):
    """All of so many events were refused."""


class EarlyVeto(pythia8mc.UserHooks):
    """Refuses events without a candidate for a jet and, with a `probability`, some of the others.

    A candidate is an anti-kt R = 0.8 jet of the partons above the scale, close to the wanted range; with a heavy
    particle in it, whose decay products are close to the axis if the whole decay is wanted.

    Args:
        heavy: PDG code of the heavy particle, 0 without one.
        pt: Range of the wanted jets [GeV].
        merged: Whether only jets are wanted that contain the whole decay.
        probability: Of keeping an event whose candidates have pT [GeV], eta and mass of the heavy particle [GeV],
            arrays `(n,)`.

    Attributes:
        kept: Probability with which the latest event was kept.
        tried: Number of events that were looked at.

    Raises:
        BarrenError: out of Pythia, which itself tries until an event is kept.
    """

    def __init__(
        self, heavy: int, pt: tuple[float, float], merged: bool, probability: Callable[..., float] | None = None
    ):
        super().__init__()
        self._heavy, self._merged, self._probability, self.kept = heavy, merged, probability, 1.0
        # the axis follows what is in the jet, which may be a part of the decay
        self._max_eta = JET_MAX_ETA + (ETA_MARGIN if merged or not heavy else JET_RADIUS)
        # of all final particles; its own clustering, because FJcore prints a banner
        self._jets = pythia8mc.SlowJet(-1, JET_RADIUS, pt[0] - PT_MARGIN, 25.0, 1, 2, None, False)
        self._pythia: pythia8mc.Pythia | None = None
        self._handed_over: list[float] = []
        self._refused, self.tried = 0, 0  # in a row, in all

    def join(self, pythia: pythia8mc.Pythia) -> None:
        """Become a part of `pythia`, which does not own it: keep both."""
        pythia.addUserHooksPtr(self)
        self._pythia = pythia

    def canVetoPT(self) -> bool:
        return True

    def scaleVetoPT(self) -> float:
        return SCALE

    def doVetoPT(self, position: int, event: pythia8mc.Event) -> bool:
        return position != _IN_DECAYS and self._refuses(self._candidates(event))

    def onEndEvent(self, _status) -> None:
        self._handed_over.append(self.kept)

    def handed_over(self) -> np.ndarray:
        """Probability with which each event was kept since the latest call."""
        kept, self._handed_over = np.array(self._handed_over), []
        return kept

    def _refuses(self, candidates: list[tuple[float, float, float]]) -> bool:
        if candidates and self._probability:
            self.kept = float(self._probability(*np.array(candidates).T))
            refused = self._pythia.rndm.flat() > self.kept
        else:
            refused = not candidates
        self._refused, self.tried = self._refused + 1 if refused else 0, self.tried + 1
        if self._refused >= BARREN_EVENTS:
            raise BarrenError(f"No event of {self._refused} has a candidate for a jet.")
        return refused

    def _candidates(self, event) -> list[tuple[float, float, float]]:
        """pT [GeV], eta and mass of the heavy particle [GeV], NaN without one, of each candidate."""
        self._jets.analyze(event)
        jets = [self._jets.p(jet) for jet in range(self._jets.sizeJet())]
        jets = [jet for jet in jets if abs(jet.eta()) < self._max_eta]
        if not self._heavy:
            return [(jet.pT(), jet.eta(), math.nan) for jet in jets]
        return [
            (jet.pT(), jet.eta(), momentum.mCalc())
            for momentum, daughters in (self._decays(event) if jets else ())
            for jet in jets
            if all(_distance(jet, one) < JET_RADIUS + RADIUS_MARGIN for one in (momentum, *(daughters * self._merged)))
        ]

    def _decays(self, event):
        """Momentum of each heavy particle, and those of its decay products, which join the event at its end."""
        before = [particle for particle in self._pythia.process if particle.idAbs() == self._heavy]
        for particle in event:
            if particle.idAbs() == self._heavy and particle.isFinal():
                source = min(before, key=lambda one: (one.id() != particle.id(), abs(one.m() - particle.m())))
                recoil = pythia8mc.RotBstMatrix()
                recoil.bst(source.p(), particle.p())
                products = (self._pythia.process[index] for index in source.daughterListRecursive())
                momenta = [product.p() for product in products if product.isFinal()]
                for momentum in momenta:
                    momentum.rotbst(recoil)
                yield particle.p(), momenta


class Candidates(EarlyVeto):
    """Refuses every event, and keeps its candidates: thousands in a second.

    Attributes:
        seen: pT [GeV], eta and mass [GeV] of each candidate.
    """

    def __init__(self, heavy: int, pt: tuple[float, float], merged: bool):
        super().__init__(heavy, pt, merged)
        self.seen: list[tuple[float, float, float]] = []

    def _refuses(self, candidates) -> bool:
        self.seen += candidates
        return True


def _distance(one: pythia8mc.Vec4, other: pythia8mc.Vec4) -> float:
    """ΔR between two directions."""
    turn = (one.phi() - other.phi() + math.pi) % (2 * math.pi) - math.pi
    return math.hypot(one.eta() - other.eta(), turn)
