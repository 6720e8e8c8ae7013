"""Time, memory and traffic of steps on a device, within a budget of seconds."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Budget", "Traffic", "device_limits", "interleaved", "peak_memory", "synchronize", "uuid_of"]

WARM_UP = 3  # steps: CUDA graphs are recorded in the second


class Budget:
    """Seconds that a part may take; what did not fit is listed.

    Args:
        deadline: When all parts must have ended, on the clock of `time.perf_counter`.
    """

    def __init__(self, seconds: float, deadline: float = float("inf")):
        self.start, self.left_out = time.perf_counter(), []
        self.seconds = min(seconds, deadline - self.start)

    def used(self) -> float:
        return time.perf_counter() - self.start

    def allows(self, title: str, share: float = 1.0) -> bool:
        """Whether there is time left, of a share of the budget; otherwise `title` is listed."""
        if self.used() < share * self.seconds:
            return True
        self.left_out.append(title)
        return False

    @contextmanager
    def memory_for(self, title: str) -> Iterator[None]:
        """If a device has not enough memory for what follows, `title` is listed instead."""
        try:
            yield
        except torch.OutOfMemoryError:
            self.left_out.append(f"{title}, for want of memory")
            torch.cuda.empty_cache()


def uuid_of(device: torch.device) -> str:
    """By which the driver's tools know a GPU, whichever of them this process sees."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(steps: Mapping[str, Callable], device: torch.device, seconds: float, rounds: int = 5) -> dict:
    """Milliseconds of each step, the median over rounds, and half the distance between the quartiles in parts of it.

    In each round every step is repeated as often as fills its share of the seconds.
    """
    repeats, samples = {}, {name: [] for name in steps}
    for name, step in steps.items():
        for _ in range(WARM_UP):
            step()
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        once = time.perf_counter() - start
        repeats[name] = max(1, min(200, int(seconds / rounds / len(steps) / max(once, 1e-5))))
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                step()
            synchronize(device)
            samples[name].append(1e3 * (time.perf_counter() - start) / repeats[name])
    result = {}
    for name, values in samples.items():
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        result[name] = {"ms": float(median), "spread": float((high - low) / 2 / median)}
    return result


def peak_memory(step: Callable, device: torch.device) -> float | None:
    """MiB that the first steps take beyond what there is before them, with a graph's own memory; None on CPUs."""
    if device.type != "cuda":
        return None
    synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(WARM_UP):
        step()
    synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


class Traffic(TorchDispatchMode):
    """Counts the bytes that eager kernels read and write; views are free."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return result


def device_limits(device: torch.device, sizes: Sequence[int] = (8192, 2**28)) -> dict[str, float]:
    """What this device reaches: bfloat16 products [TFLOP/s] of square matrices, and copies [GB/s] of floats."""
    side, number = sizes
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source, target = (torch.zeros(number, device=device) for _ in range(2))
    times = interleaved({"products": lambda: left @ right, "copies": lambda: target.copy_(source)}, device, 1.0)
    return {
        "bf16_tflops": 2 * side**3 / times["products"]["ms"] / 1e9,
        "copy_gb_per_s": 2 * 4 * number / times["copies"]["ms"] / 1e6,
    }
