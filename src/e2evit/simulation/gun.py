"""Pairs of particles flat in mass, pT and pseudorapidity, handed to Pythia as hard processes g g -> X X.

The idea is from MLAnalyzer's Py8PtGun; unlike there, these pairs come with beams, initial-state radiation and
underlying event, as the background does.
"""

import numpy as np
import pythia8mc

from .processes import Gun

__all__ = ["MassGun"]

_MAX_ETA = 1.6  # wider than the jets' 1.37: radiation shifts the pair
_DRAWS = 20_000  # after which the beams are taken for too weak
_GLUON, _INCOMING, _OUTGOING = 21, -1, 1


class MassGun(pythia8mc.LHAup):
    """Les Houches events of `gun`.

    Args:
        energy: Centre-of-mass energy of the two beams [GeV].
        pt, mass: Ranges [GeV], both flat; each particle of a pair has its own mass.
        seed: Seed of the kinematics; Pythia has its own.
    """

    def __init__(self, gun: Gun, code: int, energy: float, pt, mass, seed: int):
        super().__init__()
        self.gun, self.code, self.energy, self.pt, self.mass = gun, code, energy, pt, mass
        self.rng = np.random.default_rng(seed)

    def setInit(self) -> bool:
        for set_beam in (self.setBeamA, self.setBeamB):
            set_beam(2212, self.energy / 2)
        self.setStrategy(3)  # events have weight one
        self.addProcess(1, 1.0, 0.0, 1.0)
        return True

    def setEvent(self, process: int = 0) -> bool:
        momentum = self._kinematics()
        plus, minus = momentum[:, 3].sum() + momentum[:, 2].sum(), momentum[:, 3].sum() - momentum[:, 2].sum()
        # the scale at which showers start is the pair's pT, as it is for the 2 -> 2 processes
        self.setProcess(1, 1.0, float(np.hypot(*momentum[0, :2])), 0.0078, 0.11)
        for sign, twice in ((1, plus), (-1, minus)):
            colours = (101, 102) if sign > 0 else (102, 103 if self.gun.coloured else 101)
            self.addParticle(_GLUON, _INCOMING, 0, 0, *colours, 0.0, 0.0, sign * twice / 2, twice / 2, 0.0)
        colours = ((101, 0), (0, 103)) if self.gun.coloured else ((0, 0), (0, 0))
        codes = (self.code, -self.code if self.gun.coloured else self.code)
        for code, colour, particle in zip(codes, colours, momentum.tolist()):
            self.addParticle(code, _OUTGOING, 1, 2, *colour, *particle)
        return True

    def _kinematics(self) -> np.ndarray:
        """px, py, pz, E, m [GeV] of both particles, drawn again if the beams lack the energy."""
        for _ in range(_DRAWS):
            mass, eta = self.rng.uniform(*self.mass, 2), self.rng.uniform(-_MAX_ETA, _MAX_ETA, 2)
            pt, phi = self.rng.uniform(*self.pt), self.rng.uniform(-np.pi, np.pi)
            px, py = np.array([1, -1]) * pt * np.cos(phi), np.array([1, -1]) * pt * np.sin(phi)
            pz = pt * np.sinh(eta)
            energy = np.sqrt(pt**2 + pz**2 + mass**2)
            if energy.sum() + abs(pz.sum()) < self.energy:
                return np.stack([px, py, pz, energy, mass], axis=1)
        raise RuntimeError(
            f"Beams of {self.energy:g} GeV make no pair with masses of {self.mass[0]:g}-{self.mass[1]:g} GeV and pT "
            f"of {self.pt[0]:g}-{self.pt[1]:g} GeV."
        )
