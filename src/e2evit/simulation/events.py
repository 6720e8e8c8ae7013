"""Pythia 8 events as flat numpy arrays.

Pythia is GPL software and an optional dependency (`pip install e2evit[sim]`); only this package imports it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import awkward as ak
import numpy as np
import pythia8mc

from .batch import EventBatch
from .early_veto import IMPOSSIBLE, Candidates, EarlyVeto
from .gun import MassGun
from .processes import Process
from .rehadronization import Rehadronization

__all__ = ["candidates", "generate", "minimum_bias", "try_out"]

_NEUTRINOS = (12, 14, 16)
_MM_TO_CM = 0.1
# pT-hat from and to these multiples of the ends of the jets' range, so that migration fills its edges: in the spectrum
# of a collider a third of the QCD jets of 400 to 450 GeV come from partons below 350 GeV, 3 % from below 250 GeV
_PARTON_MARGIN = 0.625, 1.05
_GUN_MARGIN = 100.0, 150.0  # radiation moves the gun's particles by 55 to 100 GeV (RMS)
_TRIES = 20
_MAX_ETA = 3.6  # particles beyond it miss the grid, which ends at 3, from any vertex

_COMMON = (
    "Print:quiet = on",
    "Random:setSeed = on",
    # K_S, Lambda and the like decay if that happens inside the ECAL
    "ParticleDecays:limitCylinder = on",
    "ParticleDecays:xyMax = 1290.",
    "ParticleDecays:zMax = 3170.",
)


def generate(
    process: Process,
    seed: int,
    energy: float,
    pt: tuple[float, float],
    mass: tuple[float, float] | None = None,
    extra: Sequence[str] = (),
    batch_size: int = 50,
    merged: bool = False,
    probability: Callable[..., float] | None = None,
    hadronizations: int = 1,
) -> Iterator[EventBatch]:
    """Endless batches of `process`, determined by the arguments and Pythia's version.

    Args:
        seed: 1 to 900 000 000, Pythia's range.
        energy: Centre-of-mass energy of the proton beams [GeV].
        pt: Range of the wanted jets [GeV]; partons are generated beyond it.
        mass: Range of a gun's masses [GeV] instead of its own.
        extra: Extra settings for Pythia, e.g. `"Tune:pp = 18"`.
        merged: Whether only jets are wanted that contain the whole decay of a heavy particle.
        probability: Of keeping an event, see [`EarlyVeto`]; weights make up for those that are left out.
        batch_size: Events at a time; their arrays fit into the processor's cache.
        hadronizations: Events made of each parton shower; they have one `shower`.

    Raises:
        RuntimeError: if Pythia does not accept a setting or fails to initialise.
    """
    veto = EarlyVeto(process.heavy, pt, merged, probability)
    extra = (*extra, "HadronLevel:all = off") if hadronizations > 1 else extra
    pythia, gun = _of_process(process, seed, energy, pt, mass, extra, veto)
    source = Rehadronization(pythia, veto, hadronizations, process.settings) if hadronizations > 1 else pythia
    return _batches(pythia, process.heavy, batch_size, veto, source, gun)


def candidates(
    process: Process,
    seed: int,
    energy: float,
    pt: tuple[float, float],
    mass: tuple[float, float] | None = None,
    extra: Sequence[str] = (),
    merged: bool = False,
) -> Iterator[list[tuple[float, float, float]]]:
    """Endless lists of the pT [GeV], eta and mass [GeV] of what [`EarlyVeto`] takes for a jet, event by event.

    For the arguments see [`generate`]. Events end before most of their shower.
    """
    hook = Candidates(process.heavy, pt, merged)
    pythia, _gun = _of_process(process, seed, energy, pt, mass, (*extra, "Check:abortIfVeto = on"), hook)
    while True:
        pythia.next()
        yield hook.seen
        hook.seen = []


def minimum_bias(seed: int, energy: float, extra: Sequence[str] = (), batch_size: int = 100) -> Iterator[EventBatch]:
    """Endless batches of inelastic collisions at `energy` [GeV], for pile-up."""
    return _batches(_pythia(("SoftQCD:inelastic = on", f"Beams:eCM = {energy}", *extra), seed), 0, batch_size)


def try_out(
    process: Process,
    energy: float,
    pt: tuple[float, float],
    mass: tuple[float, float] | None = None,
    extra: Sequence[str] = (),
) -> None:
    """Make an event without showers, which takes half a second; for the arguments see [`generate`].

    Raises:
        RuntimeError: if Pythia does not accept a setting, fails to initialise, or makes no event.
    """
    pythia, _gun = _of_process(process, 1, energy, pt, mass, (*extra, "PartonLevel:all = off"))
    if not any(pythia.next() for _ in range(_TRIES)):
        raise RuntimeError(f"Pythia made no event of {process.title} in {_TRIES} tries: {IMPOSSIBLE}.")


def _of_process(process: Process, seed: int, energy: float, pt, mass, extra, hook: EarlyVeto | None = None):
    """Pythia, and the gun and hook that it does not own."""
    if process.gun:
        margin = (max(pt[0] - _GUN_MARGIN[0], 1.0), pt[1] + _GUN_MARGIN[1])
        gun = MassGun(process.gun, process.heavy, energy, margin, mass or process.gun.mass, seed)
        return _pythia(("Beams:frameType = 5", *process.settings, *extra), seed, gun, hook), gun
    settings = (
        f"Beams:eCM = {energy}",
        f"PhaseSpace:pTHatMin = {_PARTON_MARGIN[0] * pt[0]}",
        f"PhaseSpace:pTHatMax = {_PARTON_MARGIN[1] * pt[1]}",
        "PhaseSpace:bias2Selection = on",
        f"PhaseSpace:bias2SelectionPow = {process.bias}",
        f"PhaseSpace:bias2SelectionRef = {pt[0]}",
    )
    return _pythia((*settings, *process.settings, *extra), seed, None, hook), None


def _pythia(
    settings: Sequence[str], seed: int, gun: MassGun | None = None, hook: EarlyVeto | None = None
) -> pythia8mc.Pythia:
    pythia = pythia8mc.Pythia("", False)
    for setting in (*_COMMON, f"Random:seed = {seed}", *settings):
        if not pythia.readString(setting, False):
            raise RuntimeError(f"Pythia did not accept {setting!r}.")
    if gun is not None:
        pythia.setLHAupPtr(gun)
    if hook is not None:
        hook.join(pythia)
    if not pythia.init():
        raise RuntimeError(f"Pythia failed to initialise with {'; '.join(settings)}: {IMPOSSIBLE}.")
    return pythia


def _batches(
    pythia: pythia8mc.Pythia,
    heavy: int,
    batch_size: int,
    veto: EarlyVeto | None = None,
    source: pythia8mc.Pythia | Rehadronization | None = None,
    _gun: MassGun | None = None,
) -> Iterator[EventBatch]:
    # `veto` and `_gun` live as long as Pythia, which does not own them
    charges: dict[int, float] = {}
    source, showers, tried = source or pythia, 0, 0
    while True:
        record = source.nextBatch(batch_size, "none")
        # a record without any accepted event has no fields
        if "prt" not in record.fields:
            raise RuntimeError(f"Pythia made no event in {batch_size} tries: {IMPOSSIBLE}.")
        made = np.flatnonzero(~ak.to_numpy(ak.is_none(record.prt)))
        record = ak.drop_none(record, axis=0)
        batch = _flatten(record.prt, heavy, pythia.particleData, charges)
        if isinstance(source, Rehadronization):
            weight, kept, shower = (values[made] for values in source.handed_over())
        else:
            weight = ak.to_numpy(record.info.weights[:, 0])
            kept = np.ones(len(made)) if veto is None else veto.handed_over()[made]
            shower = showers + np.arange(len(made))
            showers += len(made)
        before, tried = tried, 0 if veto is None else veto.tried
        yield replace(batch, weight=weight / kept, kept=kept, shower=shower, tried=tried - before)


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
