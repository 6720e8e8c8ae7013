"""One attention layer alone, from 169 to 65 536 tokens: where linear attention begins to pay on a device."""

import matplotlib.pyplot as plt
import torch
from e2evit.modeling.modeling_mixers import GLOBAL_ATTENTIONS
from gpu_measures import Budget, interleaved, peak_memory
from torch.nn import functional as F

from e2evit import LinearViTConfig
from e2evit.plots.style import COLOURS, STYLE

__all__ = ["attention", "draw"]

WIDTH, HEADS, BATCH = 128, 4, 8
KINDS = ("relu_linear", "xca", "softmax")
SIDES = (13, 25, 32, 48, 64, 96, 128, 192, 256)
WINDOWS = (1024, 4, 25, 32)  # windows of 5 x 5 tokens: number, heads, tokens, channels of a head


def attention(device: torch.device, quick: bool, budget: Budget) -> dict:
    """Milliseconds and MiB of each kind by number of tokens, in bfloat16; and of softmax in windows, fused and not."""
    is_gpu = device.type == "cuda"
    sides = SIDES[:: 4 if quick else 1] if is_gpu else SIDES[:2]
    layers = {}
    for kind in KINDS:
        torch.manual_seed(0)
        layers[kind] = GLOBAL_ATTENTIONS[kind](LinearViTConfig(), WIDTH, HEADS).to(device)
    found: dict[str, dict] = {mode: {kind: {} for kind in KINDS} for mode in ("forward", "training")}
    for side in sides:
        tokens = torch.randn(BATCH if is_gpu else 1, side, side, WIDTH, device=device)
        for mode, of_mode in found.items():
            if not budget.allows(f"{mode} with {side**2} tokens"):
                continue
            steps = {kind: step_of(layer, tokens, mode) for kind, layer in layers.items()}
            with budget.memory_for(f"{mode} with {side**2} tokens"):
                memory = {kind: peak_memory(step, device) for kind, step in steps.items()}
                for kind, time_of in interleaved(steps, device, 0.6 if is_gpu else 0.1).items():
                    of_mode[kind][side**2] = {"ms": time_of["ms"], "memory_mib": memory[kind]}
    record = {"modes": found, "pays_from": pays_from(found), "width": WIDTH, "heads": HEADS, "batch_size": BATCH}
    return record | {"windows": windows(device)}


def step_of(layer, tokens: torch.Tensor, mode: str):
    def step():
        with torch.set_grad_enabled(mode == "training"), torch.autocast(tokens.device.type, torch.bfloat16):
            result = layer(tokens)
        if mode == "training":
            result.float().sum().backward()
            layer.zero_grad()

    return step


def pays_from(found: dict) -> dict:
    """The fewest tokens from which on a linear kind stays below softmax in time, and in memory; None: from none."""
    result: dict = {}
    for mode, of_mode in found.items():
        for kind in KINDS[:-1]:
            for quantity in ("ms", "memory_mib"):
                if any(point[quantity] is None for point in of_mode["softmax"].values()):
                    continue  # memory is measured on GPUs only
                beaten = [
                    (tokens, of_mode[kind][tokens][quantity] < softmax[quantity])
                    for tokens, softmax in of_mode["softmax"].items()
                ]
                last = next((tokens for tokens, is_less in reversed(beaten) if not is_less), 0)
                result.setdefault(mode, {}).setdefault(kind, {})[quantity] = next(
                    (tokens for tokens, _ in beaten if tokens > last), None
                )
    return result


def windows(device: torch.device) -> dict[str, float]:
    """Milliseconds of softmax in windows, forward and backward: PyTorch's fused kernel, and plain products."""
    query, key, value = (torch.randn(WINDOWS, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in "qkv")

    def fused():
        F.scaled_dot_product_attention(query, key, value).float().sum().backward()

    def plain():
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
        (scores.softmax(dim=-1).to(value.dtype) @ value).float().sum().backward()

    times = interleaved({"fused": fused, "plain": plain}, device, 0.5)
    return {name: time_of["ms"] for name, time_of in times.items()}


def draw(record: dict):
    """Time and memory by number of tokens; what was not measured is not drawn."""
    panels = [
        ("forward", "ms", "time [ms]"),
        ("training", "ms", "time [ms]"),
        ("training", "memory_mib", "memory [MiB]"),
    ]
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(18, 6), layout="constrained")
        for axis, (mode, quantity, label) in zip(axes, panels):
            for colour, kind in zip(COLOURS, KINDS):
                points = [(int(n), point[quantity]) for n, point in record["modes"][mode][kind].items()]
                points = [(n, y) for n, y in points if y is not None]
                if points:
                    axis.plot(*zip(*points), "o-", color=colour, label=kind)
            axis.set(xscale="log", yscale="log", xlabel="Tokens", ylabel=f"{mode.capitalize()}, {label}")
            if axis.has_data():
                axis.legend(loc="upper left")
        axes[0].set_title(f"{record['device']['name']}, batch {record['batch_size']}, width {record['width']}")
    return figure
