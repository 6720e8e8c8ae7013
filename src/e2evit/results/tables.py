"""Results files to a table."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from e2evit.data import SCHEMAS, DatasetSchema

__all__ = [
    "COMPARED",
    "JetPredictions",
    "comparison_table",
    "insert",
    "interval_cell",
    "markdown_table",
    "p_value_text",
    "read_predictions",
    "read_results",
    "render_readme",
    "render_simulation",
    "results_table",
    "seed_groups",
]

COLUMNS = (
    ("mean AUC of classes", "roc_auc_macro", ".4f"),
    ("ROC AUC (95 %)", "roc_auc", ".3f"),
    ("rejection at 50 %", "rejection_at_50", ".1f"),
    ("mass MAE [GeV]", "mae_gev", ".1f"),
    ("rel. mass resolution", "relative_resolution", ".3f"),
    ("slope", "slope", ".2f"),
)


# what models are compared by
COMPARED = {
    "roc_auc_macro": "mean AUC of classes",
    "accuracy": "accuracy",
    "relative_resolution": "rel. mass resolution",
}


def read_results(paths: Sequence[str | Path]) -> dict[str, dict]:
    """Records by the name of their file.

    Raises:
        ValueError: if they were not measured on the same jets with the same target.
    """
    records = {Path(path).stem: json.loads(Path(path).read_text()) for path in paths}

    def measured_on(record):
        return {key: record[key] for key in ("dataset", "split", "mass_column")} | record["data"][record["split"]]

    first, *others = records
    for name in others:
        if measured_on(records[name]) != measured_on(records[first]):
            raise ValueError(
                f"{first} and {name} were not measured on the same jets: "
                f"{measured_on(records[first])} against {measured_on(records[name])}."
            )
    return records


def seed_groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Names that differ in their `_seedN` ending alone, by what they share."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"_seed\d+$", "", name), []).append(name)
    return groups


@dataclass
class JetPredictions:
    """Per-jet predictions of some models on the same jets.

    Attributes:
        labels: -100 where unknown; class 0 is the background, all others are signal.
        masses: In GeV, NaN where unknown.
        jet_masses: Masses of the jets themselves [GeV], which a cut on the score could sculpt.
        pts: Of the jets [GeV], NaN where unknown.
        scores, mass_preds: By model; masses in GeV.
        probabilities: By model, of all classes `(n, num_classes)`, where it has them.
    """

    labels: np.ndarray
    masses: np.ndarray
    jet_masses: np.ndarray
    pts: np.ndarray
    scores: dict[str, np.ndarray]
    mass_preds: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray] = field(default_factory=dict)


def read_predictions(paths: Sequence[str | Path]) -> JetPredictions:
    """Per-jet predictions that lie beside results, by the name of the file; `image mass` added where there is one."""
    tables = {Path(path).stem: pq.read_table(Path(path).with_suffix(".parquet")) for path in paths}
    first = next(iter(tables.values()))
    columns = {name: (table, "model") for name, table in tables.items()}
    if "image mass mass" in first.column_names:
        columns["image mass"] = (first, "image mass")
    scores, masses = (
        {name: table[f"{column} {kind}"].to_numpy() for name, (table, column) in columns.items()}
        for kind in ("score", "mass")
    )
    jet_masses = first["jet_mass" if "jet_mass" in first.column_names else "mass_labels"].to_numpy()
    probabilities = {}
    for name, table in tables.items():
        of_classes = [column for column in table.column_names if column.startswith("model p_")]
        if of_classes:
            probabilities[name] = np.stack([table[column].to_numpy() for column in of_classes], axis=1)
    pts = first["pt"].to_numpy() if "pt" in first.column_names else np.full(len(first), np.nan)
    targets = first["labels"].to_numpy(), first["mass_labels"].to_numpy(), jet_masses, pts
    return JetPredictions(*targets, scores, masses, probabilities)


def results_table(records: dict[str, dict]) -> str:
    """One Markdown table: each model, then the baselines, which are the same jets' in every record."""
    rows = {name: record["metrics"]["model"] for name, record in records.items()}
    baselines = next(iter(records.values()))["metrics"]
    return _markdown([(name, metrics) for name, metrics in [*rows.items(), *baselines.items()] if name != "model"])


def comparison_table(spreads: dict[str, dict], paired: dict[str, dict[str, dict]], style: str = "markdown") -> str:
    """Mean ± deviation over the trainings of each model; then of each reference its differences from the others.

    Args:
        paired: What [`compare_models`] found, by reference.
        style: `"markdown"` or `"latex"`.
    """
    rows = []
    for model, entry in spreads.items():
        cells = []
        for value in map(entry.get, COMPARED):
            spread = "" if value is None or value["deviation"] is None else f" ± {value['deviation']:.4f}"
            cells.append("–" if value is None else f"{value['mean']:.4f}{spread}")
        rows.append([model, str(entry["trainings"]), *cells])
    tables = [_styled(["", "trainings", *COMPARED.values()], rows, style)]
    for reference, others in paired.items():
        rows = [
            [f"{reference} − {other}", *map(_difference_cell, map(entry.get, COMPARED))]
            for other, entry in others.items()
        ]
        tables.append(_styled(["paired, same jets", *COMPARED.values()], rows, style))
    return "\n\n".join(tables)


def _difference_cell(found: dict[str, float] | None) -> str:
    if found is None:
        return "–"
    interval = f"{found['low']:+.4f} to {found['high']:+.4f}"
    return f"{found['difference']:+.4f} ({interval}), {p_value_text(found['p_holm'])}"


def p_value_text(p_value: float) -> str:
    """A normal approximation says nothing of how small the smallest are."""
    return "p < 1e-99" if p_value < 1e-99 else f"p = {p_value:.2g}"


def _styled(heads: Sequence[str], rows: Sequence[Sequence[str]], style: str) -> str:
    if style == "markdown":
        return markdown_table(heads, rows)
    marks = {"±": r"$\pm$", "−": r"$-$", "–": "--", "_": r"\_", "%": r"\%"}

    def line(cells):
        return " & ".join("".join(marks.get(letter, letter) for letter in cell) for cell in cells) + r" \\"

    body = "\n".join(line(row) for row in rows)
    return f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}\n{line(heads)}\n\\hline\n{body}\n\\end{{tabular}}"


def render_readme(text: str, results: Path) -> str:
    """`text` with its tables written anew, from the schemas and the records in `results`."""
    text = insert(text, "data sets", markdown_table(["data set", *_SCHEMA_HEADS], _schema_rows(), "---"))

    def read(*names: str) -> list[dict]:
        return [json.loads((results / f"{name}.json").read_text()) for name in names]

    text = insert(text, "model speed", _speed_table(*read("model_speed", "empty_pixels", "freed_memory")))
    text = insert(text, "loading", _loading_table(*read("loading", "feeding")))
    bundled = [results / f"study/{name}_seed0.json" for name in ("linearvit", "xcit", "trees_3", "trees_all")]
    metrics = [(name, record["metrics"]["model"]) for name, record in read_results(bundled).items()]
    text = insert(text, "bundled checkpoint", _markdown(metrics))
    text = insert(text, "export", _export_table(*read("export")))
    rows = []
    for seed in sorted(
        {int(path.stem.split("_")[1].removeprefix("seed")) for path in results.glob("quickstart_*.json")}
    ):
        prefix = f"quickstart_seed{seed}_"
        records = read_results(sorted(results.glob(f"{prefix}*.json")))
        metrics = {name.removeprefix(prefix): record["metrics"]["model"] for name, record in records.items()}
        metrics |= {k: v for k, v in next(iter(records.values()))["metrics"].items() if k != "model"}
        rows += [(f"{name}, seed {seed}", values) for name, values in metrics.items()]
    return insert(text, "quickstart table", _markdown(rows))


_SCHEMA_HEADS = ("files", "image", "classes 0, 1, ...", "`mass_labels` [GeV]", "inferred, not verified")


def _schema_rows() -> list[list[str]]:
    rows = []
    for name, variants in SCHEMAS.items():
        common = set.intersection(*(set(schema.inferred) for schema in variants))
        for number, schema in enumerate(variants):
            title = f"`{name}`" + (f" ({schema.variant})" if schema.variant else "")
            inferred = [statement for statement in schema.inferred if number == 0 or statement not in common]
            rows.append(
                [
                    title,
                    _files(schema),
                    f"{', '.join(schema.channel_names)}; {schema.image_size[0]} x {schema.image_size[1]}; "
                    + schema.normalisation.replace("_", " "),
                    ", ".join(schema.labels) or "–",
                    schema.mass_definition,
                    "; ".join(inferred) or ("as above" if number else "–"),
                ]
            )
    return rows


def _files(schema: DatasetSchema) -> str:
    if schema.format == "rows":
        return "our Parquet rows"
    keys = []
    for source in schema.sources.values():
        keys += source.stack or [" or ".join(f"`{key}`" for key in source.keys)]
    order = "channels last" if schema.channels_last else "channels first"
    title = {"hdf5": "HDF5", "parquet": "Parquet", "npz": "npz"}[schema.format]
    return f"{title}, {order}: {', '.join(dict.fromkeys(keys))}"


def _loading_table(found: dict, feeding: dict) -> str:
    """Images a second, and the ratios and memory that go with them."""
    slowest = found["images_per_second"]["nested Parquet, to_pylist"]
    rows = [[name, f"{rate:.0f}", f"{rate / slowest:.1f}"] for name, rate in found["images_per_second"].items()]
    table = markdown_table(["64 images to a dense float32 batch", "images/s, one core", "over to_pylist"], rows)
    ratios = feeding["loader_over_model"].values()
    memory = "; ".join(f"{name} {size:.0f} MiB" for name, size in found["peak_memory_mib"].items())
    return (
        f"{table}\n\nMedian ratios within a round: rows {found['rows_over_to_pylist']:.0f} x `to_pylist`; converting "
        f"nested Parquet {found['convert_over_to_pylist']:.1f} x `to_pylist`; contiguous HDF5 through the memory map "
        f"{found['memory_map_gb_per_second']:.1f} GB/s, {found['memory_map_over_readinto']:.0%} of `readinto`.\n"
        f"Peak memory of preparing, all libraries included: {memory}.\n"
        f"Training batches are made {min(ratios):.0f} to {max(ratios):.0f} times as fast as nano models take them, "
        f"both on {feeding['threads']} thread{'s' * (feeding['threads'] > 1)} (`python benchmarks/feeding.py`)."
    )


def _speed_table(found: dict, empty: dict, freed: dict) -> str:
    """Times of the reference in ms and how many times faster ours are, training and inference."""
    columns = {
        "training": ("eager fp32", "compiled fp32", "eager bf16", "compiled bf16"),
        "inference": ("eager fp32", "eager bf16", "compiled bf16"),
    }
    rows = []
    for name, parts in found.items():
        if not isinstance(parts, dict):
            continue
        for use, variants in columns.items():
            speedup, times = parts[use]["speedup"], parts[use]["milliseconds"]
            reference = " / ".join(f"{times[key]:.0f}" for key in times if key.startswith("reference"))
            ours = dict.fromkeys(columns["training"], "–") | {key: f"{speedup[key]:.2f}" for key in variants}
            rows.append([f"{name}, {use}", reference, *ours.values()])
    table = markdown_table(["", "reference [ms]", *columns["training"]], rows)
    gains = []
    for name, entry in empty["models"].items():
        plain, layer = (
            entry["speedup"][f"{kind}, occupied pixels"] for kind in ("without", "with a layer for pixels")
        )
        gains.append(f"of {name} {plain:.2f} times as fast, with a layer for pixels {layer:.2f} times")
    kept = ", ".join(f"of {name} {entry['speedup']['kept']:.2f} times" for name, entry in freed["models"].items())
    return (
        f"{table}\n\n{empty['occupied_pixels']:.0%} of the pixels of a jet hold anything. Leaving the others out of "
        f"the stem makes a training step\n{'; '.join(gains)}\n(the study's models, batch {empty['batch_size']}; "
        "`python benchmarks/empty_pixels.py`).\n\nOn CPUs, trainings have the C library keep what tensors free "
        f"instead of giving it back to the kernel, which makes a step\n{kept} as fast, on {freed['threads']} "
        f"thread{'s' * (freed['threads'] > 1)} (`python benchmarks/freed_memory.py`)."
    )


def _export_table(found: dict) -> str:
    """Size, quality and speed of exported variants."""
    variants = found["variants"]
    cases = list(variants["PyTorch eager"]["speed"])
    rows = []
    for name, entry in variants.items():
        quality = entry["quality"]
        cells = [f"{entry['mebibytes']:.1f}", f"{quality['roc_auc']:.4f}", f"{quality['relative_resolution']:.3f}"]
        for case in cases:
            speed = entry["speed"][case]
            cells.append(f"{speed['milliseconds']:.1f} ({speed['over_pytorch']:.2f})")
        rows.append([name, *cells])
    heads = ["", "MiB", "ROC AUC", "rel. mass resolution", *(f"{case} [ms]" for case in cases)]
    return (
        f"{markdown_table(heads, rows)}\n\n{found['jets']} test jets; in brackets how many times as fast as eager "
        "PyTorch on as many threads\n(`python benchmarks/export.py`). onnxruntime computes in float32 where weights "
        "are bfloat16."
    )


def render_simulation(text: str, results: Path) -> str:
    """`text` (docs/simulation.md) with its tables written anew from `results`."""
    found = json.loads((results / "simulation_validation.json").read_text())
    speed = json.loads((results / "simulation_speed.json").read_text())
    simulated, real, first = found["occupancy"], found["real_occupancy"], next(iter(found["number"]))
    rows = [
        [
            f"`{channel}`",
            *(f"{simulated[name][channel]['median']:.0f}" for name in simulated),
            f"{real['image'][channel]:.0f}",
            f"{real['jets'][channel]:.0f}",
        ]
        for channel in simulated[first]
    ]
    text = insert(
        text,
        "occupancy",
        markdown_table(["channel", *simulated, "one real image", "20 real jets, our detector"], rows),
    )
    rows = [
        [name, f"{found['number'][name]}", *(_spread(mass[kind]) for kind in ("jet", "image"))]
        for name, mass in found["masses"].items()
    ]
    text = insert(text, "masses", markdown_table(["class", "jets", "particle-level [GeV]", "image [GeV]"], rows))
    rows = [
        [f"{row['low']:.0f}–{row['high']:.0f}", f"{row['response']:.3f}", f"{row['resolution']:.3f}"]
        for row in found["response"]
    ]
    text = insert(text, "response", markdown_table(["jet pT [GeV]", "median response", "relative resolution"], rows))
    titles = list(next(iter(found["tagging"].values())))
    rows = [
        [task, *(f"{values[title]['auc']:.3f} ± {values[title]['error']:.3f}" for title in titles)]
        for task, values in found["tagging"].items()
    ]
    text = insert(text, "tagging", markdown_table(["AUC", *titles], rows))
    rows = [
        [name, f"{v['number']}", f"{v['constant']:.1f}", f"{v['mae']:.1f}", f"{v['resolution']:.3f}"]
        for name, v in found["mass"].items()
    ]
    heads = ["sample", "jets", "MAE of the mean [GeV]", "MAE [GeV]", "relative resolution"]
    text = insert(text, "mass regression", markdown_table(heads, rows))
    stages = ["pythia", "jets", "detector", "pile-up", "image", "rest"]
    rows = [
        [
            row["process"],
            f"{row['pileup']:.0f}",
            *(f"{row.get(stage, 0.0):.2f}" for stage in stages),
            f"{row['jets_per_second']:.0f}",
        ]
        for row in speed["rows"]
    ]
    heads = ["process", "pile-up", *(f"{stage} [ms]" for stage in stages), "jets/s and core"]
    return insert(text, "speed", markdown_table(heads, rows))


def _spread(values: dict[str, float]) -> str:
    return f"{values['median']:.0f} ({values['p16']:.0f}–{values['p84']:.0f})"


def insert(text: str, name: str, body: str) -> str:
    """`text` with what lies between the markers called `name` replaced."""
    start, end = f"<!-- {name}: rendered by studies/render.py -->", f"<!-- end of {name} -->"
    before, rest = text.split(start)
    return f"{before}{start}\n{body}\n{end}{rest.split(end)[1]}"


def _markdown(rows: Sequence[tuple[str, dict[str, float]]]) -> str:
    columns = [column for column in COLUMNS if any(column[1] in metrics for _, metrics in rows)]
    cells = [[name, *(interval_cell(metrics, key, form) for _, key, form in columns)] for name, metrics in rows]
    return markdown_table(["", *(title for title, _, _ in columns)], cells)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], alignment: str = "---:") -> str:
    """A Markdown table with columns of equal width, the first one aligned to the left."""
    lines = [list(heads), ["---", *[alignment] * (len(heads) - 1)], *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(line, widths)) + " |" for line in lines)


def interval_cell(metrics: dict[str, float], key: str, form: str) -> str:
    """A metric and its interval, a dash where it is not defined."""
    if key not in metrics:
        return "–"
    # adding zero after rounding takes the sign from -0.00
    value, low, high = (round(metrics[name], 6) + 0.0 for name in (key, f"{key}_low", f"{key}_high"))
    return f"{value:{form}} ({low:{form}}–{high:{form}})"
