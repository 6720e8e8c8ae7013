"""Tables of docs/simulation.md, from `studies/validate_simulation.py`, `studies/detector_effects.py`,
`studies/jet_columns.py`, `benchmarks/simulation.py` and `benchmarks/particle_images.py`."""

import json
from pathlib import Path

from e2evit.data import helix
from e2evit.results.record import interval
from e2evit.results.tables import interval_cell, markdown_table
from e2evit.simulation import calorimeters, detector, ecal, hcal, silicon, tracker, vertices
from e2evit.simulation.effects import EFFECTS
from e2evit.simulation.geometry import GEOMETRIES, Geometry

__all__ = ["TABLES"]


def _validation(results: Path) -> dict:
    return json.loads((results / "simulation_validation.json").read_text(encoding="utf-8"))


def occupancy(results: Path) -> str:
    """Medians of occupied pixels by channel, simulated and real."""
    measured = _validation(results)
    simulated, real = measured["occupancy"], measured["real_occupancy"]
    rows = [
        [
            f"`{channel}`",
            *(f"{counts[channel]['median']:.0f}" for counts in simulated.values()),
            f"{real['image'][channel]:.0f}",
            f"{real['jets'][channel]:.0f}",
        ]
        for channel in real["image"]
    ]
    return markdown_table(["channel", *simulated, "one real image", "20 real jets, our detector"], rows)


def masses(results: Path) -> str:
    """Jet and image masses by class."""
    measured = _validation(results)
    rows = [
        [name, f"{measured['number'][name]}", *(_spread(mass[kind]) for kind in ("jet", "image"))]
        for name, mass in measured["masses"].items()
    ]
    return markdown_table(["class", "jets", "particle-level [GeV]", "image [GeV]"], rows)


def _spread(values: dict[str, float]) -> str:
    return f"{values['median']:.0f} ({values['p16']:.0f}–{values['p84']:.0f})"


def response(results: Path) -> str:
    """Response and resolution of the calorimeters in bins of pT."""
    rows = [
        [
            f"{row['low']:.0f}–{row['high']:.0f}",
            *(interval_cell(interval(row, key), ".3f") for key in ("response", "resolution")),
        ]
        for row in _validation(results)["response"]
    ]
    return markdown_table(["jet pT [GeV]", "median response", "relative resolution"], rows)


def tagging(results: Path) -> str:
    """AUC of boosted trees by task and set of variables."""
    tasks = _validation(results)["tagging"]
    titles = list(next(iter(tasks.values())))
    rows = [
        [task, *(f"{values[title]['auc']:.4f} ± {values[title]['error']:.4f}" for title in titles)]
        for task, values in tasks.items()
    ]
    return markdown_table(["AUC", *titles], rows)


def mass_regression(results: Path) -> str:
    """Masses by boosted trees."""
    rows = [
        [name, f"{v['number']}", f"{v['constant']:.1f}", f"{v['mae']:.1f}", f"{v['resolution']:.3f}"]
        for name, v in _validation(results)["mass"].items()
    ]
    heads = ["sample", "jets", "MAE of predicting the mean [GeV]", "MAE [GeV]", "relative resolution"]
    return markdown_table(heads, rows)


def speed(results: Path) -> str:
    """Milliseconds of each stage."""
    stages = ["pythia", "jets", "detector", "pile-up", "image", "rest"]
    measured = json.loads((results / "simulation_speed.json").read_text(encoding="utf-8"))
    rows = [
        [
            row["process"],
            f"{row['pileup']:.0f}",
            f"`{row['options']}`" if row["options"] else "",
            *(f"{row.get(stage, 0.0):.2f}" for stage in stages),
            f"{row['jets_per_second']:.0f}",
        ]
        for row in measured["rows"]
    ]
    heads = ["process", "pile-up", "options", *(f"{stage} [ms]" for stage in stages), "jets/s and core"]
    return markdown_table(heads, rows)


def particles(results: Path) -> str:
    """Rate at which kept particles become images, and their size."""
    measured = json.loads((results / "simulation_particles.json").read_text(encoding="utf-8"))
    rates: dict[str, dict[str, float]] = {}
    for row in measured["rows"]:
        rates.setdefault(row["process"], {})[row["pileup"]] = row["jets_per_second"]
    heads = [f"pile-up {pileup.replace('-', '–')} [jets/s]" for pileup in next(iter(rates.values()))]
    rows = [
        [process, f"{measured['bytes_per_jet'][process] / 1000:.1f}", *(f"{rate:.0f}" for rate in by_pileup.values())]
        for process, by_pileup in rates.items()
    ]
    return markdown_table(["process", "kB per jet", *heads], rows)


def baseline(_results: Path) -> str:
    """The detector before its effects, from the constants that simulate it."""
    by_run = {name.replace("run", "run "): geometry for name, geometry in GEOMETRIES.items()}
    intact = tracker.WITHOUT_NUCLEAR / tracker.EFFICIENCY
    rows = [
        ["solenoid", f"{helix.FIELD_TESLA} T"],
        ["beam spot", f"σ_z {detector.BEAM_SPOT_LENGTH:g} cm"],
        ["primary vertex", f"measured to {1e4 * vertices.RESOLUTION:.0f} µm in x, y and z (effect `vertex`)"],
        ["pile-up", "Poisson"],
        *([f"bunch spacing, {run}", f"{geometry.bunch_spacing:g} ns"] for run, geometry in by_run.items()),
        *([f"silicon, {run}", _silicon(geometry)] for run, geometry in by_run.items()),
        ["silicon hits", f"efficiency {100 * silicon.EFFICIENCY:g} %"],
        [
            "tracks",
            f"pT above {tracker.MIN_PT} GeV, abs(η) below {tracker.MAX_ETA}; {100 * tracker.EFFICIENCY:.0f} % found, "
            f"{100 * tracker.SOFT_EFFICIENCY:.0f} % below {tracker.SOFT_PT} GeV; with `nuclear`, "
            f"{100 * tracker.EFFICIENCY * intact:.0f} % and {100 * tracker.SOFT_EFFICIENCY * intact:.0f} % of the "
            "particles that do not interact",
        ],
        ["track pT", f"{100 * tracker.PT_CONSTANT:g} % ⊕ {100 * tracker.PT_SLOPE:.3f} % pT / GeV"],
        *([f"track d0 and dz, {run}", _impact(geometry)] for run, geometry in by_run.items()),
        [
            "ECAL",
            f"front face at {detector.ECAL_RADIUS:g} cm from the beam and {detector.ECAL_HALF_LENGTH:g} cm along it; "
            f"{100 * calorimeters.ECAL_STOCHASTIC:g} % / √(E / GeV) ⊕ {100 * calorimeters.ECAL_CONSTANT:g} %; "
            f"a crystal has {1000 * ecal.NOISE:g} MeV of noise, {1000 * ecal.ENDCAP_NOISE:g} in the endcaps, "
            f"and a threshold of {ecal.CUT:g} times that",
        ],
        [
            "hadrons, in both calorimeters",
            f"{100 * calorimeters.HCAL_STOCHASTIC:.0f} % / √(E / GeV) ⊕ {100 * calorimeters.HCAL_CONSTANT:g} %, "
            f"e/h {calorimeters.E_OVER_H}",
        ],
        [
            "HCAL",
            f"a tower has {1000 * hcal.NOISE:g} MeV of noise and a threshold of {1000 * hcal.THRESHOLD:g} MeV",
        ],
    ]
    return markdown_table(["", "value"], rows, "---")


def _silicon(geometry: Geometry) -> str:
    """Radii of the layers."""
    radii: dict[str, list[str]] = {"pixels": [], "strips": []}
    for layer in geometry.layers.values():
        radii["strips" if layer.strip_length else "pixels"].append(f"{layer.radius:g}")
    return "; ".join(f"{kind} at {', '.join(values)} cm" for kind, values in radii.items() if values)


def _impact(geometry: Geometry) -> str:
    d0, dz = ([f"{1e4 * value:.0f} µm" for value in term] for term in (geometry.d0_resolution, geometry.dz_resolution))
    scattering = "√cosh η / (pT / GeV)"
    return f"{d0[0]} ⊕ {d0[1]} {scattering}; {dz[0]} ⊕ {dz[1]} cosh η {scattering}"


EFFECT_COLUMNS = {
    "trk_pt": "track pixels",
    "ecal": "crystals",
    "hcal": "towers",
    "bpix1": "layer 1",
    "bpix2": "layer 2",
    "bpix3": "layer 3",
    "layers": "layer 3 / 1",
    "beyond 1 cm": "d0 beyond 1 cm [%]",
    "beyond 5 cm": "d0 beyond 5 cm [%]",
    "d0 pull": "d0 beyond 3 σ [%]",
    "dz pull": "dz beyond 3 σ [%]",
}


def _effects(results: Path) -> dict:
    return json.loads((results / "simulation_effects.json").read_text(encoding="utf-8"))


def effect_names(_results: Path) -> str:
    """What can be switched off."""
    return "\n".join(f"* `{name}`: {line}" for name, line in EFFECTS.items())


def effects(results: Path) -> str:
    """Images and tracks with every effect of the detector, without each, without all, and real ones."""
    measured = _effects(results)
    rows = [
        [title, *(_effect_cell(name, row[name]) for name in EFFECT_COLUMNS)]
        for title, row in (measured["rows"] | {"real": measured["real"]}).items()
    ]
    error = measured["rows"]["everything"]["error"]
    told = (
        f"The statistical error of the track pixels in a row is {100 * error:.1f} %; rows share events and seeds,\n"
        "so differences are more precise."
    )
    return f"{markdown_table(['simulated', *EFFECT_COLUMNS.values()], rows)}\n\n{told}"


def _effect_cell(name: str, value: float) -> str:
    if name == "layers":
        return f"{value:.2f}"
    return f"{100 * value:.1f}" if "cm" in name or "pull" in name else f"{value:.1f}"


def tracks(results: Path) -> str:
    """Efficiency and fakes by the distance from the jet axis."""
    measured = _effects(results)
    rings, edges = measured["rings"], measured["edges"]
    columns = zip(*(rings[name] for name in ("particles", "found, no dense cores", "found", "with fakes")))
    rows = [
        [
            f"{low:g}–{high:g}",
            f"{particles:.2f}",
            f"{before / particles:.3f}",
            f"{found / particles:.3f}",
            f"{100 * (1 - found / everything):.1f}",
        ]
        for low, high, (particles, before, found, everything) in zip(edges[:-1], edges[1:], columns)
    ]
    heads = [
        "ΔR to the axis",
        "charged particles per jet",
        "found, without `dense_cores`",
        "found",
        "fakes, duplicates [%]",
    ]
    return markdown_table(heads, rows)


def layers(results: Path) -> str:
    """Pixels of the third layer over those of the first, by eta."""
    measured = _effects(results)
    rows = [
        [f"{row['low']:g}–{row['high']:g}", f"{row['ratio']:.2f}", f"{100 * row['below']:.0f}"]
        for row in measured["layers"]
    ]
    real = measured["real"]["layers"]
    return markdown_table(["abs(eta) of the jet", "median layer 3 / 1", f"jets below {real:.2f} [%]"], rows)


def vertex(results: Path) -> str:
    """How often the primary vertex is merged or wrong, with binomial errors."""
    rows = [
        [
            f"{row['pileup']:.0f}",
            *(_percentage(row[name], row["events"]) for name in ("merged", "wrong")),
            f"{100 * vertices.WRONG * row['pileup']:.1f}",
        ]
        for row in _effects(results)["vertices"]
    ]
    return markdown_table(["pile-up", "merged [%]", "wrong [%]", "wrong, chosen [%]"], rows)


def _percentage(share: float, number: int) -> str:
    return f"{100 * share:.1f} ± {100 * (share * (1 - share) / number) ** 0.5:.1f}"


def _columns(results: Path) -> dict:
    return json.loads((results / "simulation_columns.json").read_text(encoding="utf-8"))


def jet_masses(results: Path) -> str:
    """Masses of jets against the generated one."""
    rows = [
        [
            f"`{name}`",
            f"{row['response']:.3f}",
            f"{row['resolution']:.3f} ± {row['error']:.3f}",
            f"{100 * row['lost']:.1f}",
        ]
        for name, row in _columns(results)["masses"].items()
    ]
    return markdown_table(["column", "median response", "relative resolution", "below half the mass [%]"], rows)


def observables(results: Path) -> str:
    """AUC of single observables."""
    rows = [[f"`{name}`", *(f"{auc:.3f}" for auc in row.values())] for name, row in _columns(results)["auc"].items()]
    return markdown_table(["AUC", "qcd / top", "qcd / w"], rows)


def candidates(results: Path) -> str:
    """Candidates by type."""
    measured = _columns(results)
    rows = [
        [title, f"{row['number']:.1f}", f"{100 * row['share']:.1f}", f"{100 * row['pileup']:.1f}"]
        for title, row in measured["types"].items()
    ]
    heads = ["QCD jets, pile-up 21", "number per jet", "share of pT [%]", "of that from pile-up [%]"]
    resolution = measured["pt_resolution"] / measured["response"]
    stored = measured["bytes_with"] - measured["bytes_without"], measured["bytes_without"]
    told = (
        f"`reco_pt` is {measured['response']:.3f} of the jet's pT in the median, with a relative resolution of "
        f"{resolution:.3f}.\nCandidates and their observables take {stored[0] / 1000:.1f} kB per jet, all the rest "
        f"{stored[1] / 1000:.1f} kB."
    )
    return f"{markdown_table(heads, rows)}\n\n{told}"


def alike(results: Path) -> str:
    """How alike jets of one parton shower are, and so how many independent ones they are worth."""
    measured = _columns(results)
    times = measured["hadronizations"]
    rows = [
        [f"`{name}`", *(f"{of_process[name]:.2f}" for of_process in measured["alike"].values())]
        + [f"{times / (1 + (times - 1) * of_process[name]):.2f}" for of_process in measured["alike"].values()]
        for name in measured["alike"]["qcd"]
    ]
    processes = [*measured["alike"]]
    heads = [f"{what}, {name}" for what in ("correlation", f"worth of {times} jets") for name in processes]
    return markdown_table(["column", *heads], rows)


TABLES = {
    "alike": alike,
    "baseline": baseline,
    "effect names": effect_names,
    "jet masses": jet_masses,
    "observables": observables,
    "candidates": candidates,
    "effects": effects,
    "tracks": tracks,
    "vertex": vertex,
    "layers": layers,
    "occupancy": occupancy,
    "masses": masses,
    "response": response,
    "tagging": tagging,
    "mass regression": mass_regression,
    "speed": speed,
    "particles": particles,
}
