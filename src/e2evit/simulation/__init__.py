"""Pythia 8 events through a parametrised CMS-like detector to E2E images; needs the `sim` extra to run."""

from .particle_images import ParticleImages
from .produce import simulate
from .settings import SimulationSettings

__all__ = ["ParticleImages", "SimulationSettings", "simulate"]
