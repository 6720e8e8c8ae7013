"""From detector cells to sparse images: AK8 jets, seed towers, 125 x 125 windows."""

from dataclasses import dataclass

import awkward as ak
import fastjet
import numpy as np

from e2evit.data.grid import COLUMNS, ROWS, SEED_ROWS, TOWER, WINDOW, position_in_grid
from e2evit.data.sparse import list_array

from .detector import Hits
from .events import EventBatch

# without this each worker prints FastJet's banner over the progress bar; the README asks for the citation instead
fastjet._swig.ClusterSequence.set_fastjet_banner_stream(None)

__all__ = ["Jets", "crop_windows", "find_jets", "seed_towers"]

JET_RADIUS = 0.8
MAX_ETA = 1.37  # of the jet axis, as CMS's JetFrameProducer has it
CLUSTER_MAX_ETA = 3.0  # particles beyond are outside the grid
SEED_SEARCH = 3  # towers on each side of the axis: 7 x 7


@dataclass
class Jets:
    """Particle-level jets, flat: event, `(n, 4)` momentum [GeV], mass [GeV] of the heavy particle (NaN: none)."""

    event: np.ndarray
    momentum: np.ndarray
    heavy_mass: np.ndarray

    @property
    def pt(self) -> np.ndarray:
        return np.hypot(self.momentum[:, 0], self.momentum[:, 1])

    @property
    def mass(self) -> np.ndarray:
        """Invariant mass of the jet [GeV]."""
        return _mass(self.momentum)

    def select(self, keep) -> "Jets":
        return Jets(self.event[keep], self.momentum[keep], self.heavy_mass[keep])


def _mass(momentum):
    return np.sqrt(np.maximum(momentum[:, 3] ** 2 - (momentum[:, :3] ** 2).sum(axis=1), 0.0))


def _eta_phi(momentum):
    pt = np.maximum(np.hypot(momentum[:, 0], momentum[:, 1]), 1e-9)
    return np.arcsinh(momentum[:, 2] / pt), np.arctan2(momentum[:, 1], momentum[:, 0])


def _distances(momentum, others):
    """ΔR between every pair of rows, `(n, m)`."""
    (eta, phi), (other_eta, other_phi) = _eta_phi(momentum), _eta_phi(others)
    delta_phi = np.mod(phi[:, None] - other_phi + np.pi, 2 * np.pi) - np.pi
    return np.hypot(eta[:, None] - other_eta, delta_phi)


def find_jets(batch: EventBatch, min_pt: float, max_pt: float) -> Jets:
    """The two hardest anti-kt R = 0.8 jets of each event, if they lie in the pT range [GeV] and |eta| < 1.37.

    Events with heavy particles keep only jets that contain one whole: the particle and all quarks it decays to
    within ΔR < 0.8 of the axis, CMS's selection for its boosted-top sample (RHAnalyzer_runEvtSel_jet_dijet_top).
    """
    near = np.abs(_eta_phi(batch.momentum)[0]) < CLUSTER_MAX_ETA
    px, py, pz, energy = batch.momentum[near].T
    particles = ak.zip({"px": px, "py": py, "pz": pz, "E": energy}, with_name="Momentum4D")
    particles = ak.unflatten(particles, np.bincount(batch.event[near], minlength=batch.num_events))
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, JET_RADIUS)
    found = fastjet.ClusterSequence(particles, definition).inclusive_jets(min_pt=min_pt)
    hardest = ak.argsort(found.px**2 + found.py**2, axis=1, ascending=False)[:, :2]
    found = found[hardest]
    event = np.repeat(np.arange(batch.num_events), ak.to_numpy(ak.num(found)))
    momentum = np.stack([ak.to_numpy(ak.flatten(found[axis])) for axis in ("px", "py", "pz", "E")], axis=1)
    jets = Jets(event, momentum, np.full(len(event), np.nan))
    jets = jets.select((jets.pt < max_pt) & (np.abs(_eta_phi(momentum)[0]) < MAX_ETA))
    return _match(jets, batch) if batch.resonance_event.size else jets


def _match(jets: Jets, batch: EventBatch) -> Jets:
    same = jets.event[:, None] == batch.resonance_event
    distance = np.where(same, _distances(jets.momentum, batch.resonance_momentum), np.inf)
    nearest = distance.argmin(axis=1)
    jets.heavy_mass = _mass(batch.resonance_momentum)[nearest]
    decays = (jets.event[:, None] == batch.decay_event) & (batch.resonance_sign[nearest][:, None] == batch.decay_sign)
    farthest = np.where(decays, _distances(jets.momentum, batch.decay_momentum), 0.0).max(axis=1)
    return jets.select((distance.min(axis=1) < JET_RADIUS) & (farthest < JET_RADIUS))


def seed_towers(hcal: Hits, jets: Jets, num_events: int) -> tuple[np.ndarray, np.ndarray]:
    """Row (jetSeed_ieta) and column (jetSeed_iphi) of the most energetic tower in the 7 x 7 around each jet axis."""
    rows, columns = ROWS // TOWER, COLUMNS // TOWER
    energy = np.zeros((num_events, rows, columns))
    energy[hcal.event, hcal.row, hcal.column] = hcal.value
    row, column = position_in_grid(*_eta_phi(jets.momentum))
    search = np.arange(-SEED_SEARCH, SEED_SEARCH + 1)
    near_rows = np.clip((row // TOWER).astype(np.int64)[:, None] + search, 0, rows - 1)
    near_columns = ((column // TOWER).astype(np.int64)[:, None] + search) % columns
    window = energy[jets.event[:, None, None], near_rows[:, :, None], near_columns[:, None, :]]
    hottest = window.reshape(len(window), -1).argmax(axis=1)
    index = np.arange(len(window))
    return near_rows[index, hottest // search.size], near_columns[index, hottest % search.size]


def crop_windows(layers: dict[str, Hits], channel_names, event, ieta, iphi, num_events: int):
    """Cut the 125 x 125 windows around seed towers `(ieta, iphi)` of `event`, as sparse columns.

    phi wraps around; towers become 5 x 5 equal pixels of 1/25 of their energy, as in CMS's converter.

    Returns:
        `pixel_index` (uint32, ascending) and `pixel_value` (float32), Arrow lists with one entry per window.

    Raises:
        ValueError: for a seed whose window leaves the grid.
    """
    if len(ieta) and (ieta.min() < SEED_ROWS[0] or ieta.max() > SEED_ROWS[1]):
        raise ValueError(f"Seed rows must lie in {SEED_ROWS} for a whole window, got {ieta.min()}..{ieta.max()}.")
    keys, values = [], []
    for channel, name in enumerate(channel_names):
        cell = TOWER if name == "hcal" else 1  # pixels on a side of a cell
        window, hit = _join(event, layers[name].event, num_events)
        first_row, first_column = ieta - WINDOW // TOWER // 2, iphi - WINDOW // TOWER // 2
        row = layers[name].row[hit] - first_row[window] * TOWER // cell
        column = (layers[name].column[hit] - first_column[window] * TOWER // cell) % (COLUMNS // cell)
        side = WINDOW // cell
        inside = (row >= 0) & (row < side) & (column < side)
        window, row, column, value = window[inside], row[inside], column[inside], layers[name].value[hit][inside]
        within = np.arange(cell)
        row = (row[:, None, None] * cell + within[:, None]) + 0 * within
        column = (column[:, None, None] * cell + within) + 0 * within[:, None]
        key = ((window[:, None, None] * len(channel_names) + channel) * WINDOW + row) * WINDOW + column
        keys.append(key.ravel())
        values.append(np.repeat(value / cell**2, cell**2))
    key, value = np.concatenate(keys), np.concatenate(values).astype(np.float32)
    order = np.argsort(key, kind="stable")
    key, value = key[order], value[order]
    window, index = np.divmod(key, len(channel_names) * WINDOW * WINDOW)
    counts = np.bincount(window, minlength=len(event))
    return list_array(index.astype(np.uint32), counts), list_array(value, counts)


def _join(event, hit_event, num_events: int):
    """Pairs (window, hit) of the same event; `hit_event` ascends."""
    per_event = np.bincount(hit_event, minlength=num_events)
    first = np.cumsum(per_event) - per_event
    counts = per_event[event]
    window = np.repeat(np.arange(len(event)), counts)
    hit = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - first[event], counts)
    return window, hit
