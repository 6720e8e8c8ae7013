"""One shard, from events to rows: determined by process, number, settings and versions."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from zlib import crc32

import numpy as np
import pyarrow as pa

from e2evit.data import DatasetSchema, find_schema, row_features
from e2evit.data.builder import ROW_FORMAT_VERSION
from e2evit.data.columns import IMAGE_COLUMNS
from e2evit.data.grid import COLUMNS, JET_MAX_ETA, ROWS, SEED_ROWS, seed_towers
from e2evit.data.splits import assign_splits

from . import early_veto
from .detector import VERSION, detect
from .event_jets import event_jet_columns
from .events import candidates, generate, try_out
from .hcal import tower_energy
from .images import jet_windows, render, whole_detector
from .jets import Jets, all_jets, find_jets
from .kept import keep_particles
from .observables import as_columns, candidate_observables, jet_observables
from .overlay import Overlay, PileUp
from .particle_flow import candidate_columns, find_candidates
from .pileup import MinimumBiasPool
from .processes import PROCESSES
from .settings import SimulationSettings
from .spectra import Acceptance

__all__ = [
    "arrow_schema",
    "make_acceptance",
    "make_pool",
    "make_shard",
    "needs_pool",
    "output_schema",
    "try_processes",
    "versions",
]

PILOT_CANDIDATES, PILOT_JETS = 20_000, 4000
BARREN_EVENTS = 5000  # after so many events without a jet, the request cannot be met
_POOL, _PILOT = 1_000_000_001, 1_000_000_002  # take the place of a shard's number in the seed


def output_schema(settings: SimulationSettings) -> DatasetSchema:
    """Schema of the rows."""
    return replace(
        find_schema("particles" if settings.keep == "particles" else "simulated"),
        channel_names=settings.detector.channel_names,
        lists=("candidates",) * settings.candidates + ("jets",) * settings.whole_detector,
        **({"image_size": (ROWS, COLUMNS)} if settings.whole_detector else {}),
    )


def arrow_schema(process: str, settings: SimulationSettings) -> pa.Schema:
    """Schema of a process's shards, with the settings and versions that made them as metadata."""
    schema = output_schema(settings)
    names = dict.fromkeys(["qcd", process] if settings.whole_detector else [process])  # jets of any event may be QCD's
    description = schema.description_of_rows(list(names)) | {"simulation": asdict(settings) | versions()}
    target = row_features(schema).arrow_schema
    return target.with_metadata(target.metadata | {b"e2evit": json.dumps(description).encode()})


def versions() -> dict[str, str | int]:
    """Versions of everything the numbers in a shard depend on, and of the columns of rows."""
    packages = ("e2evit", "pythia8mc", "fastjet", "numpy", "scikit-learn")
    return {name: version(name) for name in packages} | {"rows": ROW_FORMAT_VERSION, "detector": VERSION}


def needs_pool(settings: SimulationSettings) -> bool:
    """Whether rows include pile-up; kept particles get it when their image is made."""
    return bool(settings.pileup) and settings.keep == "images"


def try_processes(processes: Sequence[str], settings: SimulationSettings) -> None:
    """Raise a RuntimeError for settings with which Pythia makes no event of one of the processes."""
    for process in processes:
        pt = settings.min_pt, settings.max_pt
        mass = settings.mass_range if PROCESSES[process].gun else None
        try_out(PROCESSES[process], settings.energy, pt, mass, settings.pythia)


def make_pool(settings: SimulationSettings) -> MinimumBiasPool:
    """The minimum-bias collisions of a production."""
    seed = _seeds(settings, "minimum bias", _POOL)[0]
    return MinimumBiasPool.simulate(settings.pool_size, seed, settings.energy, settings.detector, settings.pythia)


def make_acceptance(process: str, settings: SimulationSettings) -> Acceptance:
    """The fraction of a process's jets `match_pt` and `match_mass` keep, from the spectrum of a pilot run."""
    seed, rng = _seeds(settings, process, _PILOT)
    gun, pt_range = PROCESSES[process].gun, (settings.min_pt, settings.max_pt)
    mass_range = (settings.mass_range or gun.mass) if gun and settings.match_mass else None
    early = None
    if mass_range:  # pT alone is flatter without: the edges of what is refused early show in the jets
        pt, eta, mass = _pilot_candidates(process, seed, settings)
        early = Acceptance.fit(pt, eta, pt_range, rng, mass, mass_range)
    pilot, made = [], 0
    for _, jets in _events_with_jets(process, seed, settings, early and early.mean_probability):
        pilot.append((jets.pt, jets.eta_phi[0], jets.heavy_mass))
        made += len(jets.pt)
        if made >= PILOT_JETS:
            break
    pt, eta, mass = map(np.concatenate, zip(*pilot))
    return Acceptance.fit(pt, eta, pt_range, rng, mass, mass_range, early)


def _pilot_candidates(process: str, seed: int, settings: SimulationSettings) -> np.ndarray:
    """pT [GeV], eta and mass [GeV] `(3, n)` of what looks like a wanted jet before most of the shower."""
    made, pt = PROCESSES[process], (settings.min_pt, settings.max_pt)
    pilot, barren = [], 0
    for seen in candidates(
        made, seed, settings.energy, pt, settings.mass_range, settings.pythia, settings.merged_only
    ):
        seen = [one for one in seen if pt[0] < one[0] < pt[1] and abs(one[1]) < JET_MAX_ETA]
        barren = 0 if seen else barren + 1
        if barren >= BARREN_EVENTS:
            raise _barren(process, barren, settings)
        pilot += seen
        if len(pilot) >= PILOT_CANDIDATES:
            break
    return np.array(pilot).T


def make_shard(
    process: str,
    shard: int,
    num_jets: int,
    settings: SimulationSettings,
    pool: MinimumBiasPool | None = None,
    acceptance: Acceptance | None = None,
) -> pa.Table:
    """Rows of one shard; with the same versions, the same rows on the same kind of processor.

    Args:
        pool: From `make_pool(settings)`; not needed without pile-up.
        acceptance: From `make_acceptance(process, settings)`; not needed without `match_pt`.

    Raises:
        RuntimeError: if no jet passes in 5000 events in a row, or 20 000 with those that are refused early.
    """
    if (needs_pool(settings) and pool is None) or (settings.match_pt and acceptance is None):
        raise ValueError("Pile-up needs a pool (make_pool), match_pt an acceptance (make_acceptance).")
    schema = output_schema(settings)
    seed, rng = _seeds(settings, process, shard)
    tables, made, name = [], 0, f"{process}-{settings.seed}-{shard}"
    of_event = None if acceptance is None else acceptance.of_event
    for batch, jets in _events_with_jets(process, seed, settings, of_event):
        if acceptance is not None:
            jets = _accept(jets, batch.kept[jets.event], acceptance, rng)
        if not len(jets.event):
            continue
        events, jets.event = np.unique(jets.event, return_inverse=True)
        event_ids = np.array([f"{name}-{shower}" for shower in batch.shower[events].tolist()])
        if PROCESSES[process].gun:
            jets.weight = np.ones(len(jets.event))  # flat by construction
        every = None
        if settings.whole_detector:
            every = all_jets(batch, PROCESSES[process].heavy, settings.min_pt)
            every = every.select(np.isin(every.event, events))
            every.event = np.searchsorted(events, every.event)
        tables.append(_rows(process, batch.select(events), jets, every, event_ids, settings, pool, rng))
        made += tables[-1].num_rows
        if made >= num_jets:
            break
    target, rows = arrow_schema(process, settings), pa.concat_tables(tables).slice(0, num_jets)
    for name in set(schema.extra).difference(rows.column_names):  # of candidates
        rows = rows.append_column(name, pa.nulls(num_jets, pa.float32()))
    return rows.select(target.names).cast(target)


def _accept(jets: Jets, kept: np.ndarray, acceptance: Acceptance, rng: np.random.Generator) -> Jets:
    """Jets with the spectrum of `acceptance`; their weights make up for those that are left out.

    Each jet of an event is taken or left by itself: a second one is another row, of the same `event_id`. `kept` is the
    probability with which the early veto kept its event.
    """
    probability = acceptance.given(kept, jets.pt, jets.eta_phi[0], jets.heavy_mass)
    jets.weight = jets.weight / probability
    return jets.select(rng.random(len(probability)) < probability)


def _rows(
    process: str, batch, jets: Jets, every: Jets | None, event_ids, settings: SimulationSettings, pool, rng
) -> pa.Table:
    """Images, or particles, and labels of the jets whose windows lie on the grid; `every` jet of whole events."""
    detector, classes = settings.detector, list(PROCESSES)
    label, background = classes.index(process), classes.index("qcd")
    response = detect(batch, detector, rng)
    pileup = PileUp(pool, assign_splits(event_ids), settings.pileup) if needs_pool(settings) else None
    overlay = Overlay(response, detector, rng, pileup)
    towers = tower_energy(batch.num_events, overlay.hcal, detector, rng)
    ieta, iphi = seed_towers(towers, jets.event, *jets.eta_phi)
    keep = (ieta >= SEED_ROWS[0]) & (ieta <= SEED_ROWS[1])
    jets, ieta, iphi = jets.select(keep), ieta[keep], iphi[keep]
    number = overlay.number[jets.event].astype(np.int32)
    if settings.keep == "particles":
        kept = keep_particles(batch, jets, detector)
        number = pa.nulls(len(number), pa.int32())
    else:
        if settings.whole_detector:
            frames, response = whole_detector(jets.event), overlay.whole()
        else:
            windows, towers = jet_windows(jets.event, ieta, iphi), towers[jets.event]
            frames, response = windows.alone(), overlay.within(windows)
        image = render(frames, response, towers, detector, rng)
        kept = dict(zip(IMAGE_COLUMNS, image))
        if settings.candidates:
            axes = jets.eta_phi
            found = find_candidates(frames, *axes, image, response, towers, detector, rng)
            kept |= candidate_columns(found, len(frames)) | candidate_observables(found, len(frames))
    if every is not None:
        kept |= event_jet_columns(jets.event, every, (background, label))
    has_heavy = ~np.isnan(jets.heavy_mass)
    return pa.table(
        {
            **kept,
            "labels": np.full(len(jets.event), label),
            "mass_labels": pa.array(jets.heavy_mass.astype(np.float32), from_pandas=True),
            "jet_mass": jets.mass.astype(np.float32),
            "pt": jets.pt.astype(np.float32),
            "eta": jets.eta_phi[0].astype(np.float32),
            "ieta": ieta.astype(np.int32),
            "iphi": iphi.astype(np.int32),
            "merged": pa.array(jets.merged, mask=~has_heavy),
            "parton": pa.array(jets.parton.astype(np.int32), mask=jets.parton == 0),
            "num_pileup": number,
            "event_id": event_ids[jets.event],
            "weight": jets.weight.astype(np.float32),
            "phi": jets.eta_phi[1].astype(np.float32),
            **as_columns(jet_observables(jets.particles)),
        }
    )


def _seeds(settings: SimulationSettings, what: str, number: int):
    """Pythia's seed and NumPy's generator for one task."""
    sequence = np.random.SeedSequence([settings.seed, crc32(what.encode()), number])
    # for Pythia 0 means the clock, -1 a fixed default; seeds above 9e8 fail
    return 1 + int(sequence.generate_state(1)[0]) % 900_000_000, np.random.default_rng(sequence.spawn(1)[0])


def _events_with_jets(process: str, seed: int, settings: SimulationSettings, probability=None):
    """Endless batches of events, with the jets that pass the selection; for `probability` see [`generate`].

    With `whole_detector` only the hardest of each event: were it chosen after others are left out, a second jet would
    stand for an event whose first was.
    """
    made, barren, tried, pt = PROCESSES[process], 0, 0, (settings.min_pt, settings.max_pt)
    events = generate(
        made,
        seed,
        settings.energy,
        pt,
        settings.mass_range,
        settings.pythia,
        merged=settings.merged_only,
        probability=probability,
        hadronizations=settings.hadronizations,
    )
    while True:
        try:
            batch = next(events)
        except early_veto.BarrenError:
            raise _barren(process, early_veto.BARREN_EVENTS, settings) from None
        jets = find_jets(batch, made.heavy, *pt)
        if settings.merged_only and made.heavy:
            jets = jets.select(jets.merged)
        if settings.whole_detector:  # the hardest represents the event
            jets = jets.select(np.unique(jets.event, return_index=True)[1])
        barren, tried = (0, 0) if len(jets.event) else (barren + batch.num_events, tried + batch.tried)
        if barren >= BARREN_EVENTS or tried >= early_veto.BARREN_EVENTS:
            raise _barren(process, barren if barren >= BARREN_EVENTS else tried, settings)
        yield batch, jets


def _barren(process: str, number: int, settings: SimulationSettings) -> RuntimeError:
    return RuntimeError(
        f"No {process} jet with pT in {settings.min_pt:g}-{settings.max_pt:g} GeV among {number} events at "
        f"{settings.energy:g} GeV: widen the pT or mass range, or raise the energy."
    )
