"""What each effect of the detector does to images: numbers to results/simulation_effects.json.

    python studies/detector_effects.py && python studies/render.py

The same collisions go through the detector with everything simulated, without one effect, and without all.
"""

import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import simulation_checks as checks
from datasets import Dataset
from transformers import HfArgumentParser

from e2evit.cli.errors import one_line_errors
from e2evit.data import find_schema
from e2evit.data.grid import JET_MAX_ETA, JET_RADIUS, SEED_ROWS, WINDOW, seed_towers
from e2evit.results.record import write_record
from e2evit.simulation import SimulationSettings
from e2evit.simulation.cells import join
from e2evit.simulation.detector import Response, detect
from e2evit.simulation.effects import EFFECTS
from e2evit.simulation.events import generate, minimum_bias
from e2evit.simulation.geometry import GEOMETRIES, Geometry
from e2evit.simulation.hcal import tower_energy
from e2evit.simulation.images import jet_windows, render
from e2evit.simulation.jets import Jets, find_jets
from e2evit.simulation.pileup import MinimumBiasPool
from e2evit.simulation.processes import PROCESSES
from e2evit.simulation.shards import versions
from e2evit.simulation.tracker import MAX_ETA, MIN_PT
from e2evit.simulation.vertices import SEPARATION

FAR = (0.3, 1.0, 5.0)  # cm in d0
RINGS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, JET_RADIUS)  # distance from the axis
ETAS = (0.0, 0.4, 0.8, 1.1, JET_MAX_ETA)  # of the axis
MANY = (21.0, 60.0, 200.0)  # collisions, for the primary vertex
# tracks of particles that enter the tracker: without secondaries and fakes; and with fakes
SECONDARIES = ("conversions", "bremsstrahlung", "nuclear")
TRACKERS = {
    "found": (*SECONDARIES, "fakes"),
    "found, no dense cores": (*SECONDARIES, "fakes", "dense_cores"),
    "with fakes": SECONDARIES,
}
NEAR = 0.1  # cm in dz: tracks of the primary vertex
REAL_LAYERS = 85 / 99  # hits in layer 3 over layer 1 of the one real image


@dataclass
class EffectsArguments:
    results: str = field(default="results/simulation_effects.json", metadata={"help": "JSON file to write."})
    process: str = field(default="top", metadata={"help": "Process whose jets are looked at."})
    num_events: int = field(default=1000, metadata={"help": "Events, with one or two jets each."})
    pool_size: int = field(default=2000, metadata={"help": "Collisions to draw pile-up from."})
    real_dir: str = field(default="tests/data", metadata={"help": "Folder with the real samples."})


def main() -> None:
    (arguments,) = HfArgumentParser(EffectsArguments).parse_args_into_dataclasses()
    settings, schema = SimulationSettings(), find_schema("simulated")
    events = list(jets_of(arguments.process, arguments.num_events, settings))
    collisions = list(itertools.islice(minimum_bias(1, settings.energy), -(-arguments.pool_size // 100) + 1))
    detectors = {"everything": (), **{f"without {name}": (name,) for name in EFFECTS}, "without all": ("all",)}
    rows, full = {}, GEOMETRIES[settings.geometry]
    for title, without in detectors.items():
        geometry = full.without(without)
        pool = MinimumBiasPool.of(collisions, arguments.pool_size, geometry, np.random.default_rng(1))
        rows[title], layers = measure(events, pool, geometry, settings.pileup, schema)
        print(title, {name: round(value, 4) for name, value in rows[title].items()}, flush=True)
        if not without:
            only_once = {"vertices": vertices(events, pool, geometry), "layers": layers}
    rings = {title: tracks_by_distance(events, full.without(without)) for title, without in TRACKERS.items()}
    rings["particles"] = particles_by_distance(events)
    record = {"process": arguments.process, "rows": rows, "edges": RINGS, "rings": rings} | only_once
    record["real"] = real_sample(Path(arguments.real_dir), schema)
    write_record(arguments.results, record, packages=tuple(versions()))


def jets_of(process: str, number: int, settings: SimulationSettings):
    """Batches of events and their jets."""
    heavy, made = PROCESSES[process].heavy, 0
    for batch in generate(PROCESSES[process], 1, settings.energy, (settings.min_pt, settings.max_pt)):
        jets = find_jets(batch, heavy, settings.min_pt, settings.max_pt)
        chosen, jets.event = np.unique(jets.event, return_inverse=True)
        yield batch.select(chosen), jets
        made += len(chosen)
        if made >= number:
            return


def measure(events, pool: MinimumBiasPool, geometry: Geometry, pileup: float, schema) -> tuple[dict, list]:
    """Means of occupied pixels, far tracks and time per jet; pixels of the third layer over the first by eta."""
    images, windows, number, start = [], [], 0, time.process_time()
    for seed, (batch, jets) in enumerate(events):
        # numbers of their own for each step: if one draws more, the others draw the same
        first, second, third = (np.random.default_rng([seed, step]) for step in range(3))
        splits = ["train"] * batch.num_events
        response, _ = pool.overlay(detect(batch, geometry, first), splits, pileup, geometry, second)
        towers = tower_energy(batch.num_events, response.hcal, geometry, third)
        ieta, iphi = seed_towers(towers, jets.event, *jets.eta_phi, SEED_ROWS)
        index, value = render(jet_windows(jets.event, ieta, iphi), response, towers, geometry, third)
        images.append(pa.table({"pixel_index": index, "pixel_value": value}))
        windows.append((response, jets))
        number += len(jets.event)
    spent = time.process_time() - start
    tracks = np.concatenate([tracks_around(*window)[0] for window in windows])
    counts = checks.occupancy(Dataset(pa.concat_tables(images)), schema)
    eta = np.abs(np.concatenate([jets.eta_phi[0] for _, jets in events]))
    row = occupancy(counts) | shapes(tracks) | {"milliseconds": 1e3 * spent / number}
    return row, layers_by_eta(counts["bpix3"] / np.maximum(counts["bpix1"], 1), eta)


def tracks_by_distance(events, geometry: Geometry) -> list[float]:
    """Tracks of the hard collision, per jet, by their distance from the axis."""
    distances = [
        tracks_around(detect(batch, geometry, np.random.default_rng([seed, 0])), jets)[1]
        for seed, (batch, jets) in enumerate(events)
    ]
    return (np.histogram(np.concatenate(distances), RINGS)[0] / sum(len(jets.event) for _, jets in events)).tolist()


def tracks_around(response: Response, jets: Jets) -> tuple[np.ndarray, np.ndarray]:
    """Tracks in the windows around the axes of jets, with dz from the vertex, and their distance from the axis."""
    jet, track = join(jets.event, response.tracks["event"])
    tracks, (eta, phi) = response.tracks[track], jets.eta_phi
    tracks["dz"] -= response.vertex_z[tracks["event"]]
    distance, inside = apart(tracks["eta"] - eta[jet], tracks["phi"] - phi[jet])
    return tracks[inside], distance[inside]


def particles_by_distance(events) -> list[float]:
    """Charged particles that could make a track, per jet, by their distance from the axis."""
    distances = []
    for batch, jets in events:
        pt = np.hypot(*batch.momentum[:, :2].T)
        eta, phi = np.arcsinh(batch.momentum[:, 2] / pt), np.arctan2(batch.momentum[:, 1], batch.momentum[:, 0])
        able = (batch.charge != 0) & (pt > MIN_PT) & (np.abs(eta) < MAX_ETA)
        jet, particle = join(jets.event, batch.event[able])
        distance, inside = apart(
            eta[able][particle] - jets.eta_phi[0][jet], phi[able][particle] - jets.eta_phi[1][jet]
        )
        distances.append(distance[inside])
    return (np.histogram(np.concatenate(distances), RINGS)[0] / sum(len(jets.event) for _, jets in events)).tolist()


def apart(eta, phi) -> tuple[np.ndarray, np.ndarray]:
    """Distance, and whether a window centred on one end has the other in it."""
    phi = (phi + np.pi) % (2 * np.pi) - np.pi
    return np.hypot(eta, phi), np.maximum(np.abs(eta), np.abs(phi)) < np.radians(WINDOW / 2)


def occupancy(counts: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean of each channel; of the third pixel layer over the first, and the share of jets below the real one."""
    ratio = counts["bpix3"] / np.maximum(counts["bpix1"], 1)
    return {name: float(values.mean()) for name, values in counts.items()} | {
        "layers": float(counts["bpix3"].mean() / counts["bpix1"].mean()),
        "layers below": float((ratio <= REAL_LAYERS).mean()),
        "error": float(counts["trk_pt"].std() / counts["trk_pt"].mean() / len(ratio) ** 0.5),
    }


def layers_by_eta(ratio: np.ndarray, eta: np.ndarray) -> list[dict[str, float]]:
    """Median ratio, and the share of jets below that of the real image, by the eta of the axis."""
    inside = {(low, high): ratio[(eta >= low) & (eta < high)] for low, high in itertools.pairwise(ETAS)}
    return [
        {"low": low, "high": high, "ratio": float(np.median(own)), "below": float((own <= REAL_LAYERS).mean())}
        for (low, high), own in inside.items()
    ]


def shapes(tracks) -> dict[str, float]:
    """Shares of far tracks, and of those from the vertex that are more than three of their uncertainties away."""
    d0, prompt = np.abs(tracks["d0"]), np.abs(tracks["dz"]) < NEAR
    return {f"beyond {far:g} cm": float((d0 > far).mean()) for far in FAR} | {
        f"{name} pull": float((np.abs(tracks[name]) > 3 * tracks[f"{name}_error"])[prompt].mean())
        for name in ("d0", "dz")
    }


def vertices(events, collisions: MinimumBiasPool, geometry: Geometry) -> list[dict[str, float]]:
    """How often the vertex is merged with another, or that of another collision."""
    rows = []
    for pileup in MANY:
        shifts, rng = [], np.random.default_rng(0)
        for batch, _ in events:
            response = detect(batch, geometry, rng)
            seen, _ = collisions.overlay(response, ["train"] * batch.num_events, pileup, geometry, rng)
            shifts.append(np.abs(seen.vertex_z - response.vertex_z))
        shift = np.concatenate(shifts)
        merged, wrong = float(((shift > 0) & (shift < SEPARATION)).mean()), float((shift > SEPARATION).mean())
        rows.append({"pileup": pileup, "events": len(shift), "merged": merged, "wrong": wrong})
    return rows


def real_sample(folder: Path, schema) -> dict[str, float]:
    """The same of the one real image and of the candidates of 20 real jets."""
    image = checks.real_occupancy(folder, schema)["image"]
    candidates = np.load(folder / "pfnano/pfnano_ak8_window_pfcands.npz")["cands"]
    candidates = candidates[(candidates["charge"] != 0) & (candidates["pt"] > MIN_PT)]
    tracks = {name: candidates[name] for name in ("d0", "dz")} | {
        f"{name}_error": candidates[f"{name}Err"] for name in ("d0", "dz")
    }
    return image | {"layers": image["bpix3"] / image["bpix1"]} | shapes(tracks)


if __name__ == "__main__":
    with one_line_errors("detector_effects.py"):
        main()
