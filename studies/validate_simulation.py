"""Check simulated jets: numbers to results/simulation_validation.json, figures to docs/simulation/.

python scripts/simulate.py --output_dir data/sm --processes qcd top w z h --num_jets 3500 --match_pt --merged_only
python scripts/simulate.py --output_dir data/gun --processes x_qq x_bb x_top --num_jets 3500
python studies/validate_simulation.py --data_dir data/sm --gun_dir data/gun && python studies/render.py
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import simulation_checks as checks
from datasets import concatenate_datasets
from transformers import HfArgumentParser

from e2evit.baselines.jet_features import jet_features, read_pixels
from e2evit.cli.errors import one_line_errors
from e2evit.data import find_schema, load_e2e
from e2evit.data.grid import JET_RADIUS
from e2evit.data.sparse import sparse_to_dense
from e2evit.metrics.bootstrap import event_numbers
from e2evit.plots import calorimeter_response, distributions, mean_images, save_figure
from e2evit.results.record import write_record

REAL_CHANNELS = {"trk_pt": "track pixels", "ecal": "crystals", "hcal": "HCAL towers", "bpix1": "pixels hit in layer 1"}
PUBLISHED_RESOLUTION = {100.0: 0.10, 1000.0: 0.05}  # of CMS's particle-flow jets, abstract of arXiv 1607.03663


@dataclass
class ValidateArguments:
    data_dir: str = field(metadata={"help": "Simulated classes, among them qcd, with matched spectra."})
    gun_dir: str = field(metadata={"help": "Simulated mass guns."})
    results: str = field(default="results/simulation_validation.json", metadata={"help": "JSON file to write."})
    figures: str = field(default="docs/simulation", metadata={"help": "Folder of the figures."})
    real_dir: str = field(default="tests/data", metadata={"help": "Folder with the real samples."})


def main() -> None:
    (arguments,) = HfArgumentParser(ValidateArguments).parse_args_into_dataclasses()
    figures = Path(arguments.figures)
    jets, guns = (
        concatenate_datasets(list(load_e2e("simulated", folder).values()))  # boosted trees are cross-validated
        for folder in (arguments.data_dir, arguments.gun_dir)
    )
    schema = find_schema("simulated", arguments.data_dir)
    labels, names = np.array(jets["labels"]), schema.label_names
    features, event_ids = jet_features(jets, schema), np.array(jets["event_id"][:])
    by_class = {name: labels == number for number, name in enumerate(names)}
    print(f"{len(jets)} jets of {', '.join(names)}")

    real, counts = checks.real_occupancy(arguments.real_dir, schema), checks.occupancy(jets, schema)
    panels = [
        (
            f"Number of {what}",
            {name: counts[channel][chosen] for name, chosen in by_class.items()},
            np.arange(0, np.percentile(counts[channel], 99.5), np.ceil(np.percentile(counts[channel], 99.5) / 40))
            - 0.5,
            {"one real image": real["image"][channel]},
        )
        for channel, what in REAL_CHANNELS.items()
    ]
    save_figure(distributions(panels), figures / "occupancy")

    means = {}
    for name, chosen in by_class.items():
        rows = jets.select(np.flatnonzero(chosen)[:2000])
        total = np.zeros(schema.image_shape)
        for row in rows:
            total += np.abs(sparse_to_dense(row["pixel_index"], row["pixel_value"], schema.image_shape))
        means[name] = total / len(rows)
    save_figure(mean_images(means, schema), figures / "mean_images")

    jet_mass, edges = np.array(jets["jet_mass"]), np.linspace(0, 250, 51)
    panels = [
        (label, {name: mass[chosen] for name, chosen in by_class.items()}, edges, {})
        for label, mass in (
            ("Particle-level jet mass [GeV]", jet_mass),
            ("Calorimeter image mass [GeV]", features["mass"]),
        )
    ]
    save_figure(distributions(panels), figures / "masses")

    pixels = read_pixels(jets, schema)
    d0, dz = pixels["trk_d0"], pixels["trk_dz"]
    near = np.hypot(d0.phi, d0.eta - np.array(jets["eta"])[d0.jet]) < JET_RADIUS
    panels = [
        (label, {n: column.value[near & by_class[n][column.jet]] for n in names}, bins, {})
        for label, column, bins in (
            ("Track $d_0$ [cm]", d0, np.linspace(-0.5, 0.5, 81)),
            ("Track $d_z$ [cm]", dz, np.linspace(-20, 20, 81)),
        )
    ]
    save_figure(distributions(panels, log=True), figures / "impact_parameters")

    qcd = by_class["qcd"]
    bins = np.linspace(400, 1000, 7)
    events = event_numbers(event_ids[qcd])
    response = checks.response(np.array(jets["pt"])[qcd], features["pt"][qcd], bins, events)
    save_figure(calorimeter_response(response, PUBLISHED_RESOLUTION), figures / "response")

    record = {
        "simulation": json.loads((Path(arguments.data_dir) / "simulation.json").read_text(encoding="utf-8")),
        "number": {name: int(chosen.sum()) for name, chosen in by_class.items()},
        "occupancy": {
            name: {channel: checks.percentiles(values[chosen]) for channel, values in counts.items()}
            for name, chosen in by_class.items()
        },
        "real_occupancy": real,
        "masses": {
            name: {
                "jet": checks.percentiles(jet_mass[chosen]),
                "image": checks.percentiles(features["mass"][chosen]),
            }
            for name, chosen in by_class.items()
        },
        "impact": {
            name: dict(zip(("q01", "q16", "q84", "q99"), np.percentile(column.value[near], [1, 16, 84, 99]).tolist()))
            for name, column in (("d0", d0), ("dz", dz))
        },
        "response": response,
        "published_resolution": PUBLISHED_RESOLUTION,
        "tagging": checks.tagging_study(features, checks.nuisances(jets), labels, names, event_ids),
        "mass": checks.mass_study(guns, find_schema("simulated", arguments.gun_dir)),
    }
    write_record(arguments.results, record)
    print(f"Wrote {arguments.results} and {figures}/*.png")


if __name__ == "__main__":
    with one_line_errors("validate_simulation.py"):
        main()
