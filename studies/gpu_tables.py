"""Tables of docs/gpu.md, from `benchmarks/gpu.py`."""

from pathlib import Path

from e2evit.data.texts import read_mapping
from e2evit.results.tables import markdown_table

__all__ = ["TABLES", "gpu_tables"]

MISSING = "–"


def gpu_tables(folder: Path) -> str:
    """All that `benchmarks/gpu.py` has measured into a folder."""
    makers = {"parity": _parity, "speed": _speed, "latency": _latency, "attention": _attention, "training": _training}
    measured = {name: folder / f"{name}.json" for name in makers}
    records = {name: read_mapping(path, "JSON") for name, path in measured.items() if path.is_file()}
    if not records:
        return (
            "Nothing has been measured on a GPU yet: `python benchmarks/gpu.py` writes `results/gpu` and these tables."
        )
    sections = [_device(next(iter(records.values())))]
    for name, record in records.items():
        sections.append(makers[name](record))
        if record["left_out"]:
            sections.append(f"Left out of this part: {'; '.join(record['left_out'])}.")
    return "\n\n".join(sections)


def _device(record: dict) -> str:
    device, versions = record["device"], record["versions"]
    shown = {"memory_gib": "{} GiB", "driver_version": "driver {}", "cuda": "CUDA {}", "clocks.max.sm": "at most {}"}
    known = [form.format(device[name]) for name, form in shown.items() if device.get(name) is not None]
    parts = [device["name"], *known]
    quick = ", a quick run" if record["quick"] else ""
    return f"Measured on {', '.join(parts)}, PyTorch {versions['torch']}{quick}."


def _parity(record: dict) -> str:
    rows = [
        [f"{name}, {way}", *(f"{found[key]:.1e}" for key in ("probability", "mass", "gradient")), _yes(found)]
        for name, ways in record["models"].items()
        for way, found in ways.items()
    ]
    heads = ["", "probability", "mass, relative", "gradient, relative", "within bounds"]
    return f"Largest differences from float32 on the CPU:\n\n{markdown_table(heads, rows)}"


def _yes(found: dict) -> str:
    return "yes" if found["within_bounds"] else "**no**"


def _speed(record: dict) -> str:
    rows = []
    for row in record["rows"]:
        rivals = [
            other["images_per_second"]
            for other in record["rows"]
            if all(other[key] == row[key] for key in ("batch_size", "mode", "way"))
            and other["model"].startswith("timm")
        ]
        shares = [row["of_bf16_peak"], row["of_bandwidth"]]
        memory = row["memory_mib"]
        rows.append(
            [
                f"{row['model']}, {row['mode']}, {row['way']}",
                str(row["batch_size"]),
                f"{row['images_per_second']:,.0f}".replace(",", " "),
                f"{row['images_per_second'] / rivals[0]:.2f}" if rivals and row["model"] == "xcit" else MISSING,
                MISSING if memory is None else f"{memory:,.0f}".replace(",", " "),
                *(MISSING if share is None else f"{100 * share:.1f}" for share in shares),
            ]
        )
    heads = ["", "batch", "images/s", "timm's = 1", "MiB", "% of products", "% of bandwidth"]
    limits = record["limits"]
    note = (
        f"Of {limits['bf16_tflops']:.0f} TFLOP/s of bfloat16 products and {limits['copy_gb_per_s']:.0f} GB/s of "
        "copies, measured on this device. Bytes are counted in eager steps: what all kernels read and write."
    )
    return f"{markdown_table(heads, rows)}\n\n{note}"


def _latency(record: dict) -> str:
    rows = [
        [f"{row['model']}, {row['runtime']}", f"{row['median_ms']:.2f}", f"{row['percentile_99_ms']:.2f}"]
        for row in record["rows"]
    ]
    return f"One image alone:\n\n{markdown_table(['', 'median [ms]', '99 % below [ms]'], rows)}"


def _attention(record: dict) -> str:
    rows = [
        [f"{mode}, {kind}", *(_tokens(found, key) for key in ("ms", "memory_mib"))]
        for mode, kinds in record["pays_from"].items()
        for kind, found in kinds.items()
    ]
    fused, plain = record["windows"]["fused"], record["windows"]["plain"]
    table = markdown_table(["", "pays in time from", "in memory from"], rows)
    return (
        f"Tokens from which on an attention layer is below softmax (PyTorch's fused kernel):\n\n{table}\n\n"
        "![Time and memory of an attention layer by number of tokens](gpu_attention.png)\n\n"
        f"In windows of 25 tokens, the fused kernel takes {fused / plain:.2f} of the time of plain products."
    )


def _tokens(found: dict, key: str) -> str:
    if key not in found:
        return MISSING
    return "never" if found[key] is None else str(found[key])


def _training(record: dict) -> str:
    rows = [
        [
            str(row["batch_size"]),
            f"{row['jets_seen']:,}".replace(",", " "),
            f"{row['seconds']:.0f}",
            f"{row['images_per_second']:,.0f}".replace(",", " "),
            f"{100 * row['data_share']:.1f}",
            MISSING if row["joules"] is None else f"{row['joules'] / 3600:.2f}",
        ]
        for row in record["rows"]
    ]
    heads = ["batch", "jets seen", "seconds", "jets/s", "% for batches", "Wh"]
    title = f"A training of the study's XCiT, {record['epochs']} epochs (the study's own has four):"
    text = f"{title}\n\n{markdown_table(heads, rows)}"
    if record["together"] is not None:
        seconds = record["together"]["seconds"]
        most = max(map(int, seconds))
        text += (
            f"\n\n{most} trainings of {record['together']['epochs']} epochs at once take {seconds[str(most)]:.0f} s, "
            f"one takes {seconds['1']:.0f} s, with the start of each process."
        )
    return text


TABLES = {"gpu": lambda results: gpu_tables(results / "gpu")}
