"""Images of real or fully simulated jets from their reconstructed particle-flow candidates."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from e2evit.data.grid import seed_towers

from .batch import EventBatch
from .detector import detect
from .geometry import GEOMETRIES
from .hcal import tower_energy
from .images import jet_windows, render

__all__ = ["candidate_images"]


def candidate_images(jets: np.ndarray, candidates: np.ndarray, geometry: str = "run1", seed: int = 0) -> pa.Table:
    """Images of jets from their candidates: `pixel_index`, `pixel_value`, `ieta` and `iphi`, one row for each jet.

    Candidates take the place of generated particles, so resolutions enter twice; the effects that can be switched off
    are, and no pile-up is added.

    Args:
        jets: Structured array with `eta` and `phi` [radians].
        candidates: Structured array with `jet` (row of `jets`), `pt`, `mass` [GeV], `eta`, `phi`, `charge`, `pdgId`,
            and `d0`, `dz` [cm] with NanoAOD's sign, d0 = dxy; for all candidates within the window of the jet.
        geometry: `run1` or `run3`.
        seed: Seed of the detector's random numbers.
    """
    rng, layout, number = np.random.default_rng(seed), GEOMETRIES[geometry].without(["all"]), len(jets)
    response = detect(_as_events(candidates, number), layout, rng)
    towers = tower_energy(number, response.hcal, layout, rng)
    ieta, iphi = seed_towers(towers, np.arange(number), jets["eta"], jets["phi"])
    index, value = render(jet_windows(np.arange(number), ieta, iphi), response, towers, layout, rng)
    return pa.table({"pixel_index": index, "pixel_value": value, "ieta": ieta, "iphi": iphi})


def _as_events(candidates: Mapping[str, np.ndarray] | np.ndarray, number: int) -> EventBatch:
    candidates = candidates[np.argsort(candidates["jet"], kind="stable")]
    pt, eta, phi, mass = (candidates[name].astype(float) for name in ("pt", "eta", "phi", "mass"))
    charge = candidates["charge"].astype(float)
    momentum = np.stack(
        [pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), np.sqrt((pt * np.cosh(eta)) ** 2 + mass**2)], axis=1
    )
    # the point of closest approach to the beam; neutral candidates have none
    dxy, dz = (np.where(charge != 0, candidates[name], 0.0) for name in ("d0", "dz"))
    return EventBatch(
        num_events=number,
        event=candidates["jet"].astype(int),
        pdg_id=candidates["pdgId"].astype(int),
        charge=charge,
        momentum=momentum,
        vertex=np.stack([-dxy * np.sin(phi), dxy * np.cos(phi), dz], axis=1),
    )
