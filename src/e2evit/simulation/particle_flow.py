"""Particle-flow-like candidates of a jet: its tracks, and what the calorimeters saw beyond the energy of the tracks.

As in CMS (JINST 12 (2017) P10003), with fewer steps: cells are clustered around local maxima, tracks are linked to the
clusters that they hit, and energy in excess of the tracks' becomes photons and neutral hadrons. Everything comes from
the response that the image shows: the same cells above threshold, the same tracks.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from e2evit.data.columns import LISTS
from e2evit.data.grid import COLUMNS, ENDCAP_FACTOR, ENDCAP_ROWS, ETA_EDGES, JET_RADIUS, ROWS, TOWER, WINDOW
from e2evit.data.sparse import list_array

from .batch import SPECIES
from .calorimeters import (
    E_OVER_H,
    EM_FRACTION,
    HCAL_CONSTANT,
    HCAL_STOCHASTIC,
    MINIMUM_ECAL,
    MINIMUM_HCAL,
    slant,
)
from .cells import Frames, structured
from .channels import COARSE
from .detector import ECAL_HALF_LENGTH, ECAL_RADIUS, Response
from .geometry import Geometry
from .hcal import TOWER_ROWS
from .kept import ANGLE, LENGTH, PT_DIGITS, rounded_digits, rounded_steps
from .streams import Random, draw
from .tracker import VERTEX_D0_ERROR, VERTEX_DZ_ERROR

__all__ = ["CANDIDATE", "MAX_CANDIDATES", "candidate_columns", "find_candidates"]

MAX_CANDIDATES = 128
# smallest energy of the highest cell of a cluster in barrel and endcaps [GeV]: table 2 of the paper
ECAL_SEEDS, HCAL_SEEDS = (0.23, 0.60), (0.8, 1.1)
HCAL_ENDCAP_ROWS = TOWER_ROWS // 2 - 16  # of towers; |ieta| > 16
EXCESS = 1.0  # standard deviations of the tracks' calorimeter energy beyond which the rest is another particle
ELECTRON_EFFICIENCY, MUON_EFFICIENCY = 0.80, 0.95  # within jets, estimates; the others stay charged hadrons
CHARGED_HADRON, ELECTRON, MUON, PHOTON, NEUTRAL_HADRON = 211, 11, 13, 22, 130
_MASS = {code: SPECIES[code][1] for code in (CHARGED_HADRON, ELECTRON, MUON)}  # GeV
_NEGATIVE = [code for code, (charge, _) in SPECIES.items() if charge < 0]
# what is stored: binary digits, or steps in radians and cm
_DIGITS = {"pt": PT_DIGITS, "energy": PT_DIGITS, "d0_error": 8, "dz_error": 8}
_STEPS = {"eta": ANGLE, "phi": ANGLE, "d0": LENGTH, "dz": LENGTH}

CANDIDATE = np.dtype(
    [("jet", "i4"), *((name.removeprefix("candidate_"), kind) for name, kind in LISTS["candidates"].items())]
)


@dataclass
class _Clusters:
    """Clusters of cells in the windows of jets.

    Args:
        frame, energy: Of each cluster; energies in GeV.
        row, column: Its energy-weighted place on the grid of crystals.
        owner: Number of the cluster of each cell of the windows, -1 if there is none; flat, with a border.
        side: Cells along a window, with the border.
    """

    frame: np.ndarray
    energy: np.ndarray
    row: np.ndarray
    column: np.ndarray
    owner: np.ndarray
    side: int

    def __len__(self) -> int:
        return len(self.frame)

    def at(self, frame, row, column) -> np.ndarray:
        """The cluster at a cell of a window, or the one beside it with most energy; -1 if there is none."""
        place = (frame * self.side + row + 1) * self.side + column + 1
        around = self.owner[place[:, None] + _steps(self.side, diagonal=True)]
        energy = np.append(self.energy, -1.0)[around]
        best = around[np.arange(len(around)), energy.argmax(axis=1)]
        return np.where(around[:, 0] >= 0, around[:, 0], best)


def find_candidates(
    frames: Frames,
    eta,
    phi,
    image: tuple[pa.ListArray, pa.ListArray],
    response: Response,
    towers: np.ndarray,
    geometry: Geometry,
    rng: Random,
) -> np.ndarray:
    """The 128 hardest candidates within ΔR < 0.8 of each jet axis as `CANDIDATE`, jet by jet and hardest first.

    Energies and momenta are in GeV, `phi` in radians.

    Args:
        frames: Windows around the jets.
        eta, phi: Axes.
        image: What [`render`] returned for these windows.
        response: With pile-up.
        towers: Energy of the HCAL towers `(num_events, 56, 72)` [GeV].
    """
    ecal, hcal = _ecal_clusters(frames, image, geometry), _hcal_clusters(frames, towers)
    jet, row, column, hit = frames.locate(
        response.tracks["event"], response.tracks["row"], response.tracks["column"], COLUMNS
    )
    charged = _charged(response, rng)[hit]
    charged["jet"] = jet
    in_ecal, in_hcal = ecal.at(jet, row, column), hcal.at(jet, row // TOWER, column // TOWER)
    photon, hadron = _excess(ecal, hcal, charged, in_ecal, in_hcal)
    alone = np.setdiff1d(np.arange(len(ecal)), in_ecal)
    photon[alone] = ecal.energy[alone]
    photons = _neutral(frames, response, ecal, photon, PHOTON, _pileup_share(frames, ecal, response.ecal, 1))
    hadrons = _neutral(
        frames, response, hcal, hadron, NEUTRAL_HADRON, _pileup_share(frames, hcal, response.hcal, TOWER)
    )
    found = np.concatenate([charged, photons, hadrons])
    across = np.mod(found["phi"] - phi[found["jet"]] + np.pi, 2 * np.pi) - np.pi
    found = found[np.hypot(found["eta"] - eta[found["jet"]], across) < JET_RADIUS]
    found = found[np.lexsort((-found["pt"], found["jet"]))]
    first = np.searchsorted(found["jet"], found["jet"])
    return found[np.arange(len(found)) - first < MAX_CANDIDATES]


def candidate_columns(candidates: np.ndarray, number: int) -> dict[str, pa.ListArray]:
    """Columns of `number` rows; momenta lose a ten-thousandth of themselves, directions and lengths what no detector
    resolves."""
    counts, columns = np.bincount(candidates["jet"], minlength=number), {}
    for name, kind in LISTS["candidates"].items():
        values = candidates[short := name.removeprefix("candidate_")]
        if short in _DIGITS:
            values = rounded_digits(values, _DIGITS[short])
        elif short in _STEPS:
            values = rounded_steps(values, _STEPS[short])
        columns[name] = list_array(values.astype(kind), counts)
    return columns


def _charged(response: Response, rng: Random) -> np.ndarray:
    """Candidates of all tracks."""
    tracks = response.tracks
    code, lepton = np.abs(tracks["pdg_id"]), np.flatnonzero(np.isin(tracks["pdg_id"], (-13, -11, 11, 13)))
    found = draw(rng, "random", tracks["event"][lepton])
    missed = lepton[found > np.where(code[lepton] == ELECTRON, ELECTRON_EFFICIENCY, MUON_EFFICIENCY)]
    is_lepton = np.zeros(len(tracks), bool)
    is_lepton[lepton] = True
    is_lepton[missed] = False
    charge = np.where(tracks["pdg_id"] < 0, -1, 1) * np.where(np.isin(code, _NEGATIVE), -1, 1)
    code = np.where(is_lepton, code, CHARGED_HADRON)
    mass = np.select([code == particle for particle in _MASS], list(_MASS.values()))
    return structured(
        CANDIDATE,
        jet=tracks["event"],
        id=code * charge * np.where(is_lepton, -1, 1),
        charge=charge,
        pt=tracks["pt"],
        energy=np.hypot(tracks["pt"] * np.cosh(tracks["eta"]), mass),
        eta=tracks["eta"],
        phi=np.mod(tracks["phi"] + np.pi, 2 * np.pi) - np.pi,
        d0=tracks["d0"],
        dz=tracks["dz"] - response.vertex_z[tracks["event"]],
        d0_error=np.hypot(tracks["d0_error"], VERTEX_D0_ERROR),
        dz_error=np.hypot(tracks["dz_error"], VERTEX_DZ_ERROR),
        is_pileup=tracks["pileup"],
    )


def _excess(ecal: _Clusters, hcal: _Clusters, charged: np.ndarray, in_ecal, in_hcal) -> tuple[np.ndarray, np.ndarray]:
    """Energy [GeV] of the photon at each ECAL cluster with tracks, and of the neutral hadron at each HCAL cluster.

    Clusters that share tracks are compared with them together: with the HCAL cluster, or where there is none with the
    ECAL cluster.
    """
    momentum, code = charged["pt"] * np.cosh(charged["eta"]), np.abs(charged["id"])
    # an ECAL cluster belongs with its hardest track
    order = np.lexsort((momentum, in_ecal))
    last = order[np.append(np.diff(in_ecal[order]) != 0, True)] if len(order) else order
    last = last[in_ecal[last] >= 0]
    linked = np.full(len(ecal), -1)
    linked[in_ecal[last]] = np.where(in_hcal[last] >= 0, in_hcal[last], len(hcal) + in_ecal[last])
    block = np.where(in_hcal >= 0, in_hcal, np.where(in_ecal >= 0, len(hcal) + in_ecal, -1))
    blocks = len(hcal) + len(ecal)

    def total(of, values):
        return np.bincount(of[of >= 0], values[of >= 0], minlength=blocks)

    tracks = total(block, np.where(code == CHARGED_HADRON, momentum, 0.0))
    electrons, muons = total(block, np.where(code == ELECTRON, momentum, 0.0)), total(block, 1.0 * (code == MUON))
    electromagnetic = np.maximum(total(linked, ecal.energy) - electrons - MINIMUM_ECAL * muons, 0.0)
    paths = total(block, np.where(code == MUON, slant(charged["eta"]), 0.0))
    hadronic = np.maximum(np.append(hcal.energy, np.zeros(len(ecal))) - MINIMUM_HCAL * paths, 0.0)
    # the calorimeters show less of a hadron's energy than of a photon's
    seen = np.maximum(np.maximum(tracks, electromagnetic + hadronic), 1.0)
    response = (1 + (E_OVER_H - 1) * np.clip(EM_FRACTION * np.log(seen), 0, 1)) / E_OVER_H
    excess = (electromagnetic + hadronic) / response - tracks
    excess[excess < EXCESS * np.hypot(HCAL_STOCHASTIC * np.sqrt(tracks), HCAL_CONSTANT * tracks)] = 0.0
    photon = np.minimum(excess, electromagnetic)
    share = np.divide(photon, total(linked, ecal.energy), out=np.zeros(blocks), where=photon > 0)
    return np.where(linked >= 0, ecal.energy * share[linked], 0.0), (excess - photon)[: len(hcal)]


def _neutral(frames: Frames, response: Response, clusters: _Clusters, energy, code: int, pileup_share) -> np.ndarray:
    """Candidates without mass that fly from the primary vertex to the clusters with energy."""
    chosen = np.flatnonzero(energy > 0)
    jet, energy = clusters.frame[chosen], energy[chosen]
    eta = np.interp(clusters.row[chosen], np.arange(ROWS + 1), ETA_EDGES)
    phi = np.radians(clusters.column[chosen] - 10.0)  # where the grid begins
    z, slope = ECAL_RADIUS * np.sinh(eta), np.abs(np.sinh(eta)).clip(1e-9)
    radius = np.where(np.abs(z) < ECAL_HALF_LENGTH, ECAL_RADIUS, ECAL_HALF_LENGTH / slope)
    z = np.clip(z, -ECAL_HALF_LENGTH, ECAL_HALF_LENGTH) - response.vertex_z[frames.event[jet]]
    eta = np.arcsinh(z / radius)
    return structured(
        CANDIDATE,
        jet=jet,
        id=code,
        pt=energy / np.cosh(eta),
        energy=energy,
        eta=eta,
        phi=np.mod(phi + np.pi, 2 * np.pi) - np.pi,
        is_pileup=pileup_share[chosen] > 0.5,
    )


def _ecal_clusters(frames: Frames, image: tuple[pa.ListArray, pa.ListArray], geometry: Geometry) -> _Clusters:
    index, value = image
    channel, pixel = np.divmod(index.flatten().to_numpy().astype(np.int64), WINDOW**2)
    is_ecal = channel == geometry.channel_names.index("ecal")
    frame = np.repeat(np.arange(len(frames)), np.diff(index.offsets.to_numpy()))[is_ecal]
    row, column = np.divmod(pixel[is_ecal], WINDOW)
    energy = value.flatten().to_numpy()[is_ecal]
    on_grid = row + frames.row[frame]
    in_endcap = (on_grid < ENDCAP_ROWS) | (on_grid >= ROWS - ENDCAP_ROWS)
    energy = energy * np.where(in_endcap, ENDCAP_FACTOR, 1.0)
    # what endcap crystals measure lies in 2 x 2 equal pixels
    seed = np.where(in_endcap, ECAL_SEEDS[1] / 4, ECAL_SEEDS[0])
    return _clusters(frames, frame, row, column, energy, seed, 1, diagonal=True)


def _hcal_clusters(frames: Frames, towers) -> _Clusters:
    side = np.arange(WINDOW // TOWER)
    rows, columns = frames.row[:, None] // TOWER + side, (frames.column[:, None] // TOWER + side) % towers.shape[2]
    window = towers[frames.event[:, None, None], rows[:, :, None], columns[:, None, :]]
    frame, row, column = np.nonzero(window)
    on_grid = rows[frame, row]
    in_endcap = (on_grid < HCAL_ENDCAP_ROWS) | (on_grid >= TOWER_ROWS - HCAL_ENDCAP_ROWS)
    # each half of a ten-degree tower has half of its energy
    seed = np.where(in_endcap, HCAL_SEEDS[1], HCAL_SEEDS[0]) / np.where(np.isin(on_grid, COARSE), 2, 1)
    return _clusters(frames, frame, row, column, window[frame, row, column], seed, TOWER, diagonal=False)


def _clusters(frames: Frames, frame, row, column, energy, seed, cell: int, diagonal: bool) -> _Clusters:
    """Each cell joins the highest of its neighbours, up to a local maximum; those of at least `seed` make a cluster.

    Args:
        cell: Crystals along the side of a cell.
        diagonal: Whether cells that share a corner are neighbours.
    """
    side = WINDOW // cell + 2
    place = (frame * side + row + 1) * side + column + 1
    order = np.lexsort((place, energy))
    rank = np.zeros(len(frames) * side**2, np.int32)
    rank[place[order]] = np.arange(1, len(order) + 1)
    parent = order[rank[place[:, None] + _steps(side, diagonal)].max(axis=1, initial=1) - 1]
    while (parent[parent] != parent).any():
        parent = parent[parent]
    kept = (energy >= seed)[parent]
    roots, number = np.unique(parent[kept], return_inverse=True)
    total = np.bincount(number, energy[kept], minlength=len(roots))

    def mean(values):
        return np.bincount(number, (values[kept] + 0.5) * energy[kept], minlength=len(roots)) / total

    owner = np.full(len(frames) * side**2, -1, np.int32)
    owner[place[kept]] = number
    first = frame[roots]
    return _Clusters(
        first,
        total,
        mean(row) * cell + frames.row[first],
        mean(column) * cell + frames.column[first],
        owner,
        side,
    )


def _steps(side: int, diagonal: bool) -> np.ndarray:
    """From a cell to itself and its neighbours, in rows of `side` cells."""
    straight = [0, 1, -1, side, -side]
    return np.array([*straight, side + 1, side - 1, -side + 1, -side - 1] if diagonal else straight)


def _pileup_share(frames: Frames, clusters: _Clusters, hits, cell: int) -> np.ndarray:
    """Share of the energy at each cluster that comes from pile-up."""
    frame, row, column, hit = frames.locate(hits["event"], hits["row"] * cell, hits["column"] * cell, COLUMNS)
    cluster = clusters.at(frame, row.astype(int) // cell, column.astype(int) // cell)
    near = cluster >= 0
    cluster, energy, is_pileup = cluster[near], hits["energy"][hit][near], hits["pileup"][hit][near]
    energy = np.abs(energy)  # other crossings take some away
    total = np.bincount(cluster, energy, minlength=len(clusters))
    return np.bincount(cluster, energy * is_pileup, minlength=len(clusters)) / np.maximum(total, 1e-9)
