"""Tables of README and docs: data sets, bundled checkpoints, the quickstart, loading, speed, export, CMSSW."""

import json
from collections.abc import Sequence
from pathlib import Path

from e2evit.data import SCHEMAS, DatasetSchema
from e2evit.hub.cmssw import RUNTIMES
from e2evit.metrics import METRICS
from e2evit.results.predictions import MODEL
from e2evit.results.record import Result, read_results
from e2evit.results.tables import COLUMNS, markdown_table, metrics_table, results_table

__all__ = ["TABLES"]

EXPORTED = ("roc_auc", "relative_resolution")
BUNDLED = ("linearvit", "xcit", "trees_3", "trees_all")  # the study's first trainings


def _read(results: Path, name: str) -> dict:
    return json.loads((results / f"{name}.json").read_text(encoding="utf-8"))


def _threads(measured: dict) -> str:
    number = measured["hardware"]["threads"]
    return f"{number} thread{'s' * (number > 1)}"


def bundled_checkpoint(results: Path) -> str:
    """The bundled checkpoints beside boosted trees."""
    measured = read_results([results / f"study/{name}_seed0.json" for name in BUNDLED])
    return results_table({f"{result.model}, seed {result.seed}": result for result in measured}, baselines=False)


def quickstart(results: Path) -> str:
    """The quickstart's models and baselines, seed by seed."""
    measured = [Result.from_json(path) for path in sorted(results.glob("quickstart_*.json"))]
    rows = []
    for seed in sorted({result.seed for result in measured}):
        of_seed = [result for result in measured if result.seed == seed]
        predictors = {result.model: result.metrics[MODEL] for result in of_seed}
        predictors |= {name: metrics for name, metrics in of_seed[0].metrics.items() if name != MODEL}
        rows += [(f"{name}, seed {seed}", metrics) for name, metrics in predictors.items()]
    return metrics_table(rows, COLUMNS)


SCHEMA_HEADS = ("files", "image", "classes 0, 1, ...", "`mass_labels` [GeV]", "inferred, not verified")


def data_sets(results: Path) -> str:
    """The files we read, from their schemas."""
    rows, told = [], ""
    for name, variants in SCHEMAS.items():
        if variants[0].holds_events:
            *cells, inferred = _row_of_events(name, variants)
            rows.append([*cells, "as above" if inferred == told else inferred])
            told = inferred
            continue
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
    return markdown_table(["data set", *SCHEMA_HEADS], rows, "---")


def _row_of_events(name: str, variants: Sequence[DatasetSchema]) -> list[str]:
    """Files of events; variants of ntuples are the tasks that wrote them."""
    schema = variants[0]
    labels = [", ".join(variant.labels) for variant in variants if variant.labels]
    masses = dict.fromkeys(variant.mass_definition for variant in variants)
    return [
        f"`{name}`",
        _files(schema),
        f"{', '.join(schema.channel_names)}; {schema.image_size[0]} x {schema.image_size[1]}; physical",
        "; ".join(labels) or "–",
        " or ".join(masses),
        "; ".join(schema.inferred),
    ]


def _files(schema: DatasetSchema) -> str:
    if schema.format == "rows":
        return "our Parquet rows"
    if schema.format == "root":
        return f"ROOT, one {schema.one_row} a row ([branches](ntuples.md))"
    if schema.format == "colliderml":
        return f"Parquet, four tables, one {schema.one_row} a row ([tables](colliderml.md))"
    keys = []
    for source in schema.sources.values():
        keys += source.stack or [" or ".join(f"`{key}`" for key in source.keys)]
    order = "channels last" if schema.channels_last else "channels first"
    title = {"hdf5": "HDF5", "parquet": "Parquet", "npz": "npz"}[schema.format]
    return f"{title}, {order}: {', '.join(dict.fromkeys(keys))}"


def loading(results: Path) -> str:
    """Images a second, and the ratios and memory that go with them."""
    measured, feeding = _read(results, "loading"), _read(results, "feeding")
    slowest = measured["images_per_second"]["nested Parquet, to_pylist"]
    rows = [[name, f"{rate:.0f}", f"{rate / slowest:.1f}"] for name, rate in measured["images_per_second"].items()]
    table = markdown_table(["64 images to a dense float32 batch", "images/s, one core", "over to_pylist"], rows)
    ratios = feeding["loader_over_model"].values()
    memory = "; ".join(f"{name} {size:.0f} MiB" for name, size in measured["peak_memory_mib"].items())
    rows_ratio, convert_ratio = measured["rows_over_to_pylist"], measured["convert_over_to_pylist"]
    return (
        f"{table}\n\nMedian ratios within a round: rows {rows_ratio:.0f} x `to_pylist`; converting nested Parquet "
        f"{convert_ratio:.1f} x `to_pylist`; contiguous HDF5 through the memory map "
        f"{measured['memory_map_gb_per_second']:.1f} GB/s, {measured['memory_map_over_readinto']:.0%} of `readinto`.\n"
        f"Peak memory of preparing, all libraries included: {memory}.\n"
        f"Training batches are made {min(ratios):.0f} to {max(ratios):.0f} times as fast as nano models take them, "
        f"both on {_threads(feeding)} (`python benchmarks/feeding.py`)."
    )


def model_speed(results: Path) -> str:
    """Times of the authors' code in ms and the speedup of ours, training and inference."""
    measured, empty, freed = (_read(results, name) for name in ("model_speed", "empty_pixels", "freed_memory"))
    columns = {
        "training": ("eager fp32", "compiled fp32", "eager bf16", "compiled bf16"),
        "inference": ("eager fp32", "eager bf16", "compiled bf16"),
    }
    rows = []
    for name, parts in measured["models"].items():
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
        f"instead of giving it back to the kernel, which makes a step\n{kept} as fast, on {_threads(freed)} "
        f"(`python benchmarks/freed_memory.py`)."
    )


def export(results: Path) -> str:
    """Size, quality and speed of exported variants."""
    measured = _read(results, "export")
    variants = measured["variants"]
    cases = list(variants["PyTorch eager"]["speed"])
    rows = []
    for name, entry in variants.items():
        quality = entry["quality"]
        cells = [f"{entry['mebibytes']:.1f}", *(f"{quality[key]:{METRICS[key].format}}" for key in EXPORTED)]
        for case in cases:
            speed = entry["speed"][case]
            cells.append(f"{speed['milliseconds']:.1f} ({speed['over_pytorch']:.2f})")
        rows.append([name, *cells])
    heads = ["", "MiB", *(METRICS[key].heading for key in EXPORTED), *(f"{case} [ms]" for case in cases)]
    return (
        f"{markdown_table(heads, rows)}\n\n{measured['jets']} test jets; in brackets how many times as fast as eager "
        "PyTorch on as many threads\n(`python benchmarks/export.py`). onnxruntime computes in float32 where weights "
        f"are bfloat16. Compared with float32 in onnxruntime:\n\n{chr(10).join(_beside_float32(variants))}"
    )


def _beside_float32(variants: dict) -> list[str]:
    """What each way to compute in int8 gains and loses."""
    whole, told = variants["float32"], []
    for name, entry in variants.items():
        if not name.startswith("int8"):
            continue
        loss = whole["quality"]["roc_auc"] - entry["quality"]["roc_auc"]
        wider = entry["quality"]["relative_resolution"] / whole["quality"]["relative_resolution"] - 1
        ratios = [
            f"{entry['speed'][case]['over_pytorch'] / whole['speed'][case]['over_pytorch']:.2f}"
            for case in ("1 thread, batch 1", "1 thread, batch 64")
        ]
        told.append(
            f"* {name}: AUC {-loss:+.4f}, resolution {100 * wider:+.1f} %, on one thread {' and '.join(ratios)} times "
            "as fast (batches of 1 and 64)."
        )
    return told


def cmssw(results: Path) -> str:
    """Which of the study's models the releases of CMSSW can run."""
    measured = _read(results, "cmssw")
    models, rows, lacking = measured["models"], [], {}
    for runtime in RUNTIMES:
        cells = [", ".join(runtime.releases), runtime.version, str(runtime.opset), str(runtime.ir)]
        cells.append(measured["own_runtimes"].get(runtime.version) or "–")
        for kind in ("float32", "int8"):
            found = {name: entry[runtime.version][kind] for name, entry in models.items()}
            differences = [value for entry in found.values() if isinstance(entry, dict) for value in entry.values()]
            cells.append(f"{max(differences):.0e}" if differences else "–")
            for name, entry in found.items():
                if isinstance(entry, str):
                    lacking.setdefault(f"{name} in {kind}", []).append(runtime.version)
        rows.append(cells)
    heads = ["CMSSW", "onnxruntime", "opset", "IR", "run in", "float32: largest difference", "int8: mean difference"]
    not_run = "; ".join(f"{what}: not for {', '.join(versions)}" for what, versions in lacking.items())
    installed = measured["versions"]["onnxruntime"]
    return (
        f"{markdown_table(heads, rows)}\n\n{', '.join(models)},\nof random weights. Each file was compared with "
        f"PyTorch on {measured['jets']} jets, an empty and a hot image, in onnxruntime {installed}\nand in the one "
        "named under *run in*; the worst of both and of all models is listed "
        f"(`python benchmarks/cmssw.py`).{not_run and f' {not_run}.'}"
    )


def event_scaling(results: Path) -> str:
    """Time and memory of the model of whole events against tokens, and their exponents."""
    measured = _read(results, "event_scaling")
    rows: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for quantity, factor, unit in (("time", 1, "s"), ("memory", 1 / 1024, "GiB")):
        for mode, kinds in measured[quantity].items():
            for kind, points in kinds.items():
                rows.setdefault((kind, mode), {}).setdefault(unit, {}).update(
                    {number: factor * value for number, value in points.items()}
                )
    numbers = [number for number in measured["time"]["forward"]["xca"] if int(number) in (1024, 8192, 65536)]
    heads = ["", *(f"{int(number)} [{unit}]" for unit in ("s", "GiB") for number in numbers)]
    heads += ["slope of time", "of memory"]
    cells = []
    for (kind, mode), values in rows.items():
        slopes = (measured["slopes"][quantity][mode][kind] for quantity in ("time", "memory"))
        found = (values[unit].get(number) for unit in ("s", "GiB") for number in numbers)
        shown = ["–" if value is None else f"{value:.2g}" for value in found]
        cells.append([f"{kind}, {mode}", *shown, *(f"{slope:.2f}" for slope in slopes)])
    return (
        f"{markdown_table(heads, cells)}\n\nThe whole model with {measured['jets']} jets, one event, float32, "
        f"CPU time of {_threads(measured)}\n(`python benchmarks/event_scaling.py`). Slopes are exponents "
        "from 1024 tokens up."
    )


TABLES = {
    "data sets": data_sets,
    "bundled checkpoint": bundled_checkpoint,
    "quickstart table": quickstart,
    "loading": loading,
    "model speed": model_speed,
    "event scaling": event_scaling,
    "export": export,
    "cmssw": cmssw,
}
