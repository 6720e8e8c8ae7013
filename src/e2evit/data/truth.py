"""Generated particles of an event, as ColliderML lists them: what reaches the detector, and what jets come from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .grid import JET_RADIUS
from .momenta import distances
from .open_detector import CLASSES

__all__ = ["Heavy", "describe_jets", "find_heavy", "is_stable", "momentum_of"]

# what can reach a detector, neutrinos excepted
STABLE = (11, 13, 22, 130, 211, 310, 321, 2112, 2212, 3112, 3122, 3222, 3312, 3322, 3334)
HARD = 1  # in `vertex_primary`
QUARKS_AND_GLUONS = (1, 2, 3, 4, 5, 21)
NUM_PRODUCTS = {6: 3, 23: 2, 24: 2, 25: 2}  # at least, once W and Z have decayed


@dataclass(frozen=True)
class Heavy:
    """A top quark, W, Z or Higgs boson of the hard process.

    Args:
        code: Its PDG code.
        momentum: `(4,)` px, py, pz, E [GeV].
        mass: In GeV.
        products: `(n, 4)` momenta of what it decays to, W and Z bosons followed.
        is_hadronic: Whether the table has all of them, and all are quarks and gluons.
    """

    code: int
    momentum: np.ndarray
    mass: float
    products: np.ndarray
    is_hadronic: bool


def momentum_of(particles: Mapping[str, np.ndarray]) -> np.ndarray:
    """`(n, 4)` px, py, pz, E [GeV]."""
    return np.stack([particles[name] for name in ("px", "py", "pz", "energy")], axis=1)


def is_stable(particles: Mapping[str, np.ndarray]) -> np.ndarray:
    """Whether each particle left the generator undecayed and is not a neutrino, `(n,)`; of all collisions.

    The PDG code is checked as well: the table lists decayed particles without always linking their daughters.
    """
    parents = _parents(particles)
    decayed = np.zeros(len(parents), bool)
    decayed[parents[particles["primary"] & (parents >= 0)]] = True
    return particles["primary"] & np.isin(np.abs(particles["pdg_id"]), STABLE) & ~decayed


def find_heavy(particles: Mapping[str, np.ndarray]) -> list[Heavy]:
    """The heavy particles of the hard process: the last copy of each, those from decays of others excepted."""
    code, parents, momentum = particles["pdg_id"], _parents(particles), momentum_of(particles)
    hard = particles["primary"] & (particles["vertex_primary"] == HARD)
    candidates = np.flatnonzero(hard & np.isin(np.abs(code), [*NUM_PRODUCTS]))
    if not len(candidates):
        return []
    children: dict[int, list[int]] = {}
    for row in np.flatnonzero(hard & (parents >= 0)).tolist():
        children.setdefault(int(parents[row]), []).append(row)
    found = []
    for row in candidates.tolist():
        ancestors = _ancestors(row, parents)
        of_other = any(abs(code[one]) in NUM_PRODUCTS and code[one] != code[row] for one in ancestors)
        if of_other or any(code[child] == code[row] for child in children.get(row, ())):
            continue
        products = _products(row, code, children)
        kinds = np.abs(code[products])
        is_whole = len(products) >= NUM_PRODUCTS[abs(int(code[row]))]
        is_hadronic = is_whole and bool(np.isin(kinds, QUARKS_AND_GLUONS).all())
        mass = float(particles["mass"][row])
        found.append(Heavy(int(code[row]), momentum[row], mass, momentum[products], is_hadronic))
    return found


def describe_jets(
    jets: np.ndarray, heavy: Sequence[Heavy], expected: Sequence[int] | None, labels: Sequence[str]
) -> dict[str, list]:
    """Columns `labels`, `mass_labels`, `merged` and `parton` of jets `(n, 4)`, None where they cannot be told.

    A jet is assigned to the one heavy particle within ΔR < 0.8 of its axis; it is QCD if no heavy particle or decay
    product is within that cone. It is unlabelled if there are several, if the decay is incomplete or not purely to
    quarks and gluons, or if a product of another decay is inside.

    Args:
        expected: Codes of all heavy particles of the process, None if it is unknown. No jet has a label if one of them
            is not in `heavy`: the table would let its jets pass for QCD.
        labels: Classes in the order of their numbers.
    """
    columns: dict[str, list] = {name: [None] * len(jets) for name in ("labels", "mass_labels", "merged", "parton")}
    complete = expected is not None and not Counter(expected) - Counter(one.code for one in heavy)
    if not complete:
        return columns
    near = [distances(jets, one.momentum[None])[:, 0] < JET_RADIUS for one in heavy]
    holds = [distances(jets, one.products) < JET_RADIUS for one in heavy]
    for jet in range(len(jets)):
        inside = {number for number in range(len(heavy)) if near[number][jet]}
        touching = {number for number in range(len(heavy)) if holds[number][jet].any()}
        if len(inside | touching) > 1 or touching - inside or not all(heavy[number].is_hadronic for number in inside):
            continue
        code = abs(heavy[min(inside)].code) if inside else 0
        if CLASSES[code] not in labels:
            continue
        columns["labels"][jet] = list(labels).index(CLASSES[code])
        for number in inside:
            columns["mass_labels"][jet], columns["parton"][jet] = heavy[number].mass, code
            columns["merged"][jet] = bool(holds[number][jet].all())
    return columns


def _parents(particles: Mapping[str, np.ndarray]) -> np.ndarray:
    """The row of each particle's parent; -1 where there is none, where the table lacks it, or for its own parent."""
    ids, parents = particles["particle_id"], particles["parent_id"]
    order = np.argsort(ids, kind="stable")
    place = np.searchsorted(ids[order], parents).clip(0, max(len(ids) - 1, 0))
    rows = order[place] if len(ids) else place
    return np.where((ids[rows] == parents) & (rows != np.arange(len(ids))), rows, -1)


def _ancestors(row: int, parents: np.ndarray) -> list[int]:
    seen: dict[int, None] = {}
    while (row := int(parents[row])) >= 0 and row not in seen:  # the table has loops
        seen[row] = None
    return [*seen]


def _products(row: int, code: np.ndarray, children: Mapping[int, list[int]]) -> list[int]:
    """What a heavy particle decays to, other heavy particles followed."""
    products, waiting, seen = [], [row], {row}
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child in seen:
                continue
            seen.add(child)
            (waiting if abs(code[child]) in NUM_PRODUCTS else products).append(child)
    return products
