"""How much of a particle's energy each calorimeter sees."""

import numpy as np

from e2evit.data.grid import TOWER

from .batch import EventBatch
from .cells import IMPACT, pick, structured
from .showers import shaped_showers
from .streams import Random, draw

__all__ = ["calorimeter_impacts", "slant"]

# JINST 2 (2007) P04004: stochastic term; constant term as achieved in situ, JINST 8 (2013) P09009
ECAL_STOCHASTIC, ECAL_CONSTANT = 0.028, 0.005
# ECAL and HCAL combined, for pions: JINST 3 (2008) S08004 section 5 and EPJ C 60 (2009) 359, also the source of e/h
HCAL_STOCHASTIC, HCAL_CONSTANT, E_OVER_H = 1.10, 0.09, 1.39
# interaction lengths: of the crystals, which point at the beam spot, at every eta; of the HCAL at normal incidence,
# growing with 1 / sin(theta) in the barrel: JINST 3 (2008) S08004 section 5.1
ECAL_LENGTHS, HCAL_LENGTHS, MAX_LENGTHS = 1.1, 5.82, 10.6
TAIL_POWER = 0.13  # longitudinal attenuation of a shower's tail: E^0.13 interaction lengths, RMP 75 (2003) 1243
EM_FRACTION = 0.11  # Wigmans: the electromagnetic part of a hadron shower is 0.11 ln(E / GeV)
MINIMUM_ECAL, MINIMUM_HCAL = 0.3, 2.0  # what a minimum-ionising particle loses at normal incidence [GeV]
EM_WIDTH = 0.105  # crystals: 0.94 of a photon's energy in 3 x 3
HADRON_WIDTH = 0.35  # crystals
TOWER_WIDTH = 0.10  # towers


def calorimeter_impacts(
    batch: EventBatch, row, column, on_grid, rng: Random, arrival=None
) -> tuple[np.ndarray, np.ndarray]:
    """Showers in ECAL (grid of crystals) and HCAL (grid of towers), as `IMPACT`.

    Electrons and photons stop in the ECAL. A hadron starts to shower at a random depth: in the ECAL, where it deposits
    a share, in the HCAL, or not at all; what the remaining depth cannot contain punches through. The response follows
    e/h, smeared with the combined resolution of both calorimeters.

    Args:
        arrival: Points [cm], momenta [GeV] and charges at the face of the ECAL; without, all showers have the same
            profile and lie where the particle crosses the face.
    """
    event, row, column = batch.event[on_grid], row[on_grid], column[on_grid]
    momentum = batch.momentum[on_grid]
    energy, code = momentum[:, 3], np.abs(batch.pdg_id[on_grid])
    path = slant(np.arcsinh(momentum[:, 2] / np.hypot(momentum[:, 0], momentum[:, 1]).clip(1e-9)))
    is_em, is_muon = np.isin(code, (11, 22)), code == 13
    is_hadron = ~is_em & ~is_muon

    em = _smeared(event, energy, np.hypot(ECAL_STOCHASTIC / np.sqrt(energy), ECAL_CONSTANT), is_em, rng)

    em_fraction = np.clip(EM_FRACTION * np.log(np.maximum(energy, 1.0)), 0.0, 1.0)
    response = (1 + (E_OVER_H - 1) * em_fraction) / E_OVER_H
    start = draw(rng, "exponential", event, 1.0)
    behind = ECAL_LENGTHS + HCAL_LENGTHS * path - start
    held = 1 - np.exp(-np.maximum(behind, 0.0) / np.maximum(energy, 1.0) ** TAIL_POWER)
    width = np.hypot(HCAL_STOCHASTIC / np.sqrt(energy), HCAL_CONSTANT)
    seen = _smeared(event, energy * response * held, width, is_hadron, rng)
    early = start < ECAL_LENGTHS
    share = np.where(early, draw(rng, "beta", event, 1.2, 1.8), 0.0)
    ecal_minimum = np.minimum(MINIMUM_ECAL * draw(rng, "gamma", event, 4.0, 0.25), energy)
    hcal_minimum = np.minimum(MINIMUM_HCAL * path * draw(rng, "gamma", event, 4.0, 0.25), energy - ecal_minimum)
    ionises = (batch.charge[on_grid] != 0) & ~is_em
    in_ecal = np.where(early, share * seen, np.where(ionises, np.minimum(ecal_minimum, seen), 0.0))
    in_hcal = np.maximum(seen - in_ecal, 0.0)
    through = is_muon | (is_hadron & (behind < 0))
    in_ecal = np.where(through, np.where(ionises, ecal_minimum, 0.0), in_ecal)
    in_hcal = np.where(through, np.where(ionises, hcal_minimum, 0.0), in_hcal)

    deposit = np.where(is_em, em, in_ecal)
    ecal = structured(
        IMPACT,
        event=event,
        row=row,
        column=column,
        energy=deposit,
        width=np.where(is_em, EM_WIDTH, HADRON_WIDTH),
    )
    hcal = structured(IMPACT, event=event, row=row / TOWER, column=column / TOWER, energy=in_hcal, width=TOWER_WIDTH)
    hcal["energy"][is_em] = 0
    if arrival is not None:
        late, arrival = start - ECAL_LENGTHS, [values[on_grid] for values in arrival]
        ecal, hcal = shaped_showers(ecal, hcal, code, late, path, arrival, rng)
    return pick(ecal, ecal["energy"] > 0.01), pick(hcal, hcal["energy"] > 0.01)


def slant(eta) -> np.ndarray:
    """1 / sin(theta), over which paths through the HCAL grow in its barrel; beyond, they are as long as at its end."""
    return np.minimum(np.cosh(eta), MAX_LENGTHS / HCAL_LENGTHS)


def _smeared(event, energy, relative_width, selected, rng: Random):
    """Energies of the selected particles with a relative spread; a gamma distribution is never negative."""
    smeared = np.zeros_like(energy)
    shape = 1.0 / np.maximum(relative_width[selected], 1e-3) ** 2
    smeared[selected] = energy[selected] * draw(rng, "gamma", event[selected], shape) / shape
    return smeared
