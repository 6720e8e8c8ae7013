"""Material in front of the calorimeters: photons convert, electrons radiate, hadrons interact.

Numbers are chosen where no source is cited. Photons that electrons radiate do not convert again, and secondaries of a
hadron do not interact again.
"""

from dataclasses import replace

import numpy as np

from e2evit.data.helix import momentum_at, propagate

from .batch import SPECIES, EventBatch
from .geometry import Geometry
from .streams import Random, draw

__all__ = [
    "SECONDARY_RADIUS",
    "cross_material",
    "crossed",
    "interaction_lengths",
    "radiation_lengths",
    "traceable",
]

# the tracker from the beam to the ECAL by |eta|, in radiation and in nuclear interaction lengths, from the figures of
# JINST 3 (2008) S08004 section 3.1 (0.4 at 0, 1.8 near 1.4, 1 at 2.5) and JINST 9 (2014) P10009 section 2
BUDGET_ETA = (0.0, 0.5, 0.9, 1.2, 1.45, 1.7, 2.0, 2.5)
RADIATION_LENGTHS = (0.40, 0.47, 0.80, 1.35, 1.80, 1.70, 1.40, 1.00)
INTERACTION_LENGTHS = (0.13, 0.15, 0.23, 0.40, 0.55, 0.50, 0.42, 0.33)
# where the material is: beam pipe, pixels and their services, inner and outer barrel, support tube and screen; radii
# [cm] of JINST 3 (2008) S08004, shares chosen. At larger |eta| what lies outside the pixels moves inwards to the disks
RADII = np.array([3.0, 4.4, 7.3, 10.2, 18.0, 25.5, 33.9, 41.9, 49.8, 55.0, 60.8, 69.2, 78.0, 86.8, 96.5, 108.0, 117.0])
SHARES = np.array([1, 5, 5, 5, 5, 8, 8, 8, 8, 7, 7, 6, 6, 5, 5, 6, 5]) / 100
PIXELS, HALF_LENGTH, THICKNESS = 20.0, 280.0, 1.0  # cm: radius outside the pixels, of the tracker, of a layer
# GeV: photons of less energy are not followed, nor charged secondaries of less pT, which curl up before the next layer
MIN_ENERGY, MIN_PT = 0.02, 0.1
# conversions of a photon of an energy [GeV] in silicon, relative to those at high energies (7/9 per radiation length):
# Hubbell, Gimm and Overbo, J. Phys. Chem. Ref. Data 9 (1980) 1023
PAIR_ENERGY = (0.02, 0.05, 0.2, 1.0, 10.0)
PAIRS = (0.41, 0.59, 0.82, 0.96, 1.0)
# secondaries of a hadron: two, and on average so many times ln(1 + E / GeV) more, up to a largest number; the spread
# of their transverse momentum in each direction [GeV]
MULTIPLICITY, KICK, MOST = 0.8, 0.3, 12
PION_MASS, MUON_CODE = SPECIES[211][1], 13  # GeV; PDG
# a hadron that ends nearer to the beam than this [cm] makes no track, or nearer in proportion where it leaves the
# tracker through an end: tuned to 94 % in |eta| < 0.9 and 85 % up to 2.5, JINST 9 (2014) P10009, abstract
TRACK_RADIUS = 40.0
# and a secondary that is born farther out than this makes none: tuned to d0 in the 20 real jets in tests/data, whose
# tracks above 0.5 GeV lie beyond 1 cm with 7.6 % and beyond 5 cm with 2.3 %
SECONDARY_RADIUS = 30.0

_CROSSED = np.concatenate([[0.0], np.cumsum(SHARES / SHARES.sum())])
# the energy x of one electron over that of the photon has the density 1 - 4/3 x (1 - x): RPP 2022, section 34.4
_SHARE = np.linspace(0, 1, 101)
_SHARE_BELOW = (_SHARE - 2 / 3 * _SHARE**2 + 4 / 9 * _SHARE**3) * 9 / 7


def cross_material(batch: EventBatch, geometry: Geometry, rng: Random) -> EventBatch:
    """The particles of a batch and those that they make in the material; `until` says where the former end."""
    if not geometry.effects & {"nuclear", "conversions", "bremsstrahlung"}:
        return batch
    primary = replace(batch, momentum=batch.momentum.copy(), until=batch.until.copy())
    parts = [primary]
    if "nuclear" in geometry.effects:
        parts += [_interact(primary, rng)]
    if "conversions" in geometry.effects:
        parts += [_convert(part, rng) for part in parts]
    if "bremsstrahlung" in geometry.effects:
        parts += [_radiate(part, rng) for part in parts]
    return _joined(parts)


def radiation_lengths(eta) -> np.ndarray:
    """Radiation lengths of the tracker in a direction."""
    return np.interp(np.abs(eta), BUDGET_ETA, RADIATION_LENGTHS)


def interaction_lengths(eta) -> np.ndarray:
    """Nuclear interaction lengths of the tracker in a direction."""
    return np.interp(np.abs(eta), BUDGET_ETA, INTERACTION_LENGTHS)


def traceable(until, eta) -> np.ndarray:
    """Whether particles that end at a radius [cm] make a track before."""
    leaves = HALF_LENGTH / np.maximum(np.sinh(np.abs(eta)), 1e-9)
    return until > TRACK_RADIUS * np.minimum(leaves / RADII[-1], 1.0)


def crossed(radius) -> np.ndarray:
    """Share of the material within a radius [cm]."""
    return np.interp(radius, RADII + THICKNESS / 2, _CROSSED[1:], left=0.0)


def _radius(share, eta) -> np.ndarray:
    """Radius [cm] within which there is a share of the material."""
    layer = np.searchsorted(_CROSSED, share, side="right").clip(1, len(RADII)) - 1
    within = (share - _CROSSED[layer]) / (_CROSSED[layer + 1] - _CROSSED[layer]) - 0.5
    radius = RADII[layer] + within * THICKNESS
    farthest = np.minimum(HALF_LENGTH / np.maximum(np.sinh(np.abs(eta)), 1e-9), RADII[-1])
    outside = (radius - PIXELS) * (farthest - PIXELS).clip(0) / (RADII[-1] - PIXELS) + PIXELS
    return np.where(radius < PIXELS, radius, outside)


def _convert(batch: EventBatch, rng: Random) -> EventBatch:
    """The pairs that photons become, in their direction."""
    photon = np.flatnonzero((batch.pdg_id == 22) & (batch.momentum[:, 3] > MIN_ENERGY))
    eta = _eta(batch.momentum[photon])
    pairs = 7 / 9 * np.interp(np.log(batch.momentum[photon, 3]), np.log(PAIR_ENERGY), PAIRS)
    depth = draw(rng, "exponential", batch.event[photon], 1.0) / (pairs * radiation_lengths(eta))
    photon, point, momentum = _reached(batch, photon, _before(batch.vertex[photon]) + depth, eta)
    batch.until[photon] = np.hypot(point[:, 0], point[:, 1])
    first = np.interp(draw(rng, "random", batch.event[photon]), _SHARE_BELOW, _SHARE)
    shares = np.stack([first, 1 - first], axis=1).reshape(-1, 1)
    code = np.tile([11, -11], len(photon))
    parent = np.repeat(np.arange(len(photon)), 2)
    return _secondaries(batch, batch.event[photon][parent], code, momentum[parent] * shares, point[parent])


def _radiate(batch: EventBatch, rng: Random) -> EventBatch:
    """The photons that electrons radiate, one each; the loss follows Bethe and Heitler.

    An electron has its final momentum from the beginning, and the photon the direction it would have had there.
    """
    electron = np.flatnonzero(np.abs(batch.pdg_id) == 11)
    event, eta, before = batch.event[electron], _eta(batch.momentum[electron]), _before(batch.vertex[electron])
    ahead = (radiation_lengths(eta) * (1 - before)).clip(1e-3)
    lost = 1 - np.exp(-draw(rng, "gamma", event, ahead / np.log(2)))
    share = before + (1 - before) * draw(rng, "random", event)
    share[lost * batch.momentum[electron, 3] < MIN_ENERGY] = 1.0
    radiating, point, momentum = _reached(batch, electron, share, eta)
    lost = lost[np.searchsorted(electron, radiating)][:, None]
    batch.momentum[radiating] *= 1 - lost
    return _secondaries(batch, batch.event[radiating], np.full(len(radiating), 22), momentum * lost, point)


def _interact(batch: EventBatch, rng: Random) -> EventBatch:
    """The pions and photons that share the energy of hadrons which meet a nucleus."""
    hadron = np.flatnonzero(~np.isin(np.abs(batch.pdg_id), (11, MUON_CODE, 22)))
    eta = _eta(batch.momentum[hadron])
    depth = draw(rng, "exponential", batch.event[hadron], 1.0) / interaction_lengths(eta)
    hadron, point, momentum = _reached(batch, hadron, _before(batch.vertex[hadron]) + depth, eta)
    batch.until[hadron] = np.hypot(point[:, 0], point[:, 1])

    more = draw(rng, "exponential", batch.event[hadron], MULTIPLICITY * np.log1p(momentum[:, 3]))
    parent = np.repeat(np.arange(len(hadron)), 2 + np.minimum(more, MOST).astype(int))
    event = batch.event[hadron][parent]
    weight = draw(rng, "gamma", event, 1.0)
    energy = momentum[parent, 3] * weight / np.bincount(parent, weight, minlength=len(hadron))[parent]
    # pi+, pi- and pi0 in equal numbers; a pi0 is one photon, not two
    code = np.array([211, -211, 22])[(3 * draw(rng, "random", event)).astype(int)]
    size = np.sqrt(np.maximum(energy**2 - np.where(code == 22, 0.0, PION_MASS) ** 2, 0.0))
    kicks = draw(rng, "normal", np.repeat(event, 2), 0.0, KICK).reshape(-1, 2)
    momentum = np.column_stack([_kicked(momentum[parent], size, kicks), energy])
    return _secondaries(batch, event, code, momentum, point[parent])


def _secondaries(batch: EventBatch, event, pdg_id, momentum, vertex) -> EventBatch:
    """Particles as a batch, without those that are too soft to be followed."""
    charge = np.where(pdg_id == 22, 0.0, np.where(np.abs(pdg_id) == 11, -1.0, 1.0) * np.sign(pdg_id))
    followed = np.hypot(momentum[:, 0], momentum[:, 1]) > np.where(pdg_id == 22, MIN_ENERGY, MIN_PT)
    particles = (values[followed] for values in (event, pdg_id, charge, momentum, vertex))
    return EventBatch(batch.num_events, *particles, secondary=np.ones(followed.sum(), bool))


def _kicked(direction, size, kicks) -> np.ndarray:
    """Vectors of a `size` along directions, apart from two transverse components that are at most as large."""
    along = direction[:, :3] / np.sqrt((direction[:, :3] ** 2).sum(axis=1, keepdims=True)).clip(1e-9)
    transverse = np.hypot(along[:, 0], along[:, 1]).clip(1e-9)
    x, y, z = along.T
    aside = np.stack([-y / transverse, x / transverse, np.zeros_like(x)], axis=1)
    down = np.stack([x * z / transverse, y * z / transverse, -transverse], axis=1)
    length = np.hypot(*kicks.T)
    kicks = kicks * np.minimum(1.0, size / np.maximum(length, 1e-9))[:, None]
    forward = np.sqrt(np.maximum(size**2 - (kicks**2).sum(axis=1), 0.0))
    return along * forward[:, None] + aside * kicks[:, :1] + down * kicks[:, 1:]


def _reached(batch: EventBatch, particle, share, eta):
    """The particles for which a share of the material lies inside the tracker, the points, and the momenta there."""
    inside = share < 1
    particle, radius = particle[inside], _radius(share[inside], eta[inside])
    momentum, charge, vertex = (values[particle] for values in (batch.momentum, batch.charge, batch.vertex))
    point, reached = propagate(momentum, charge, vertex, radius, HALF_LENGTH)
    reached &= np.abs(point[:, 2]) < HALF_LENGTH * (1 - 1e-9)
    there = momentum_at(momentum, charge, vertex, point)
    return particle[reached], point[reached], there[reached]


def _joined(parts: list[EventBatch]) -> EventBatch:
    """The particles of some batches of the same events."""
    event = np.concatenate([part.event for part in parts])
    order = np.argsort(event, kind="stable")
    particles = {
        name: np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("pdg_id", "charge", "momentum", "vertex", "secondary", "until")
    }
    return EventBatch(parts[0].num_events, event[order], **particles)


def _before(vertex) -> np.ndarray:
    return crossed(np.hypot(vertex[:, 0], vertex[:, 1]))


def _eta(momentum) -> np.ndarray:
    return np.arcsinh(momentum[:, 2] / np.hypot(momentum[:, 0], momentum[:, 1]).clip(1e-9))
