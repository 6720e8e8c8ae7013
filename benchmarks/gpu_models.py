"""Models on a device: whether they compute what a CPU does, images per second, memory, latency."""

import copy
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import reference
import torch
from gpu_measures import WARM_UP, Budget, Traffic, device_limits, interleaved, peak_memory, synchronize
from torch import nn
from torch.nn import functional as F
from torch.optim import AdamW
from transformers import AutoImageProcessor, AutoModelForImageClassification

from e2evit.hub.export import export_onnx
from e2evit.training import DataArguments, TargetArguments, load_data, new_model
from e2evit.training.collate import E2ECollator
from e2evit.training.cost import count_macs

__all__ = ["latency", "parity", "speed"]

ROOT = Path(__file__).parents[1]
STUDY = {name: f"study/{name}" for name in ("xcit", "linearvit", "hitvit", "vit", "resnet15")}
OTHERS = {name: f"models/{name}" for name in ("xcit_tiny", "linearvit_tiny", "xcit_small", "linearvit_small")}
PUBLISHED = ("xcit", "linearvit", "hitvit")  # whose trained weights are in checkpoints/
# 13 x 13 tokens of the study's XCiT for networks that know no other stem: images that their patches divide
SIDES = {"authors' xcit": 130, "timm's xcit": 104}
BOUNDS = {"float32": (1e-4, 1e-4, 1e-3), "bf16": (0.02, 0.02, 0.1)}  # of probabilities, masses, gradients


def compile_options(device: torch.device) -> dict:
    """As trainings compile on a GPU; on a CPU, whose compiler is too slow for a test, what comes before it."""
    return {"mode": "reduce-overhead", "dynamic": False} if device.type == "cuda" else {"backend": "aot_eager"}


def autocast(device: torch.device, precision: str):
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@cache
def jets():
    """The simulated jets of the tests, as the study's models read them."""
    data = DataArguments(data_dir=str(ROOT / "tests/data/jets"))
    return load_data(data, TargetArguments(mass_column="jet_mass", transverse=True))


@cache
def model_and_processor(name: str):
    torch.manual_seed(0)
    dataset, schema = jets()
    return new_model(ROOT / f"recipes/{(STUDY | OTHERS)[name]}.json", schema, dataset["train"], "jet_mass")


def batch_of(model, processor, size: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Training jets, repeated to fill a batch."""
    rows = jets()[0]["train"].with_format("arrow")[:]
    rows = rows.take(pa.array(np.arange(size) % len(rows)))
    batch = E2ECollator(processor, "jet_mass", packed=model.reads_rows)(rows)
    return {name: values.to(device) for name, values in batch.items()}


def parity(device: torch.device, quick: bool, budget: Budget) -> dict:
    """Trained models in several precisions, eager and compiled, against float32 on the CPU."""
    names = PUBLISHED[:2] if quick else (*PUBLISHED, "vit", "resnet15")
    models: dict[str, dict] = {}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for name in names:
            if not budget.allows(name):
                continue
            if name in PUBLISHED:
                path = ROOT / f"checkpoints/{name}"
                model, processor = (
                    x.from_pretrained(path) for x in (AutoModelForImageClassification, AutoImageProcessor)
                )
            else:
                model, processor = model_and_processor(name)
            expected = outputs_of(copy.deepcopy(model), processor, torch.device("cpu"), "float32", False)
            ways = [("float32", False), ("bf16", False)] + [("bf16", True)] * (not model.reads_rows)
            for precision, is_compiled in ways:
                title = f"{precision} {'compiled' if is_compiled else 'eager'}"
                actual = outputs_of(copy.deepcopy(model), processor, device, precision, is_compiled)
                models.setdefault(name, {})[title] = differences(expected, actual, BOUNDS[precision])
    return {"models": models, "bounds": BOUNDS}


def outputs_of(model, processor, device: torch.device, precision: str, is_compiled: bool) -> tuple:
    """Probabilities, masses [GeV] and the gradients of the loss, on the CPU; of a graph, when it is replayed."""
    torch.compiler.reset()
    batch = batch_of(model, processor, 16, device)
    batch["labels"] = batch["labels"].clamp(max=model.config.num_labels - 1)
    model = model.eval().to(device)
    if is_compiled:
        model.compile(**compile_options(device))
    for _ in range(WARM_UP if is_compiled else 1):  # a graph is recorded in the second call
        model.zero_grad()
        with autocast(device, precision):
            outputs = model(**batch)
        outputs.loss.backward()
    gradients = {name: x.grad.float().cpu() for name, x in model.named_parameters() if x.grad is not None}
    return outputs.logits.detach().float().softmax(-1).cpu(), outputs.mass_preds.detach().float().cpu(), gradients


def differences(expected: tuple, actual: tuple, bounds: tuple[float, float, float]) -> dict:
    """Largest difference of a probability, of a mass in parts of it, and of a gradient in parts of the largest one."""
    largest = max(x.norm() for x in expected[2].values())
    result = {
        "probability": (actual[0] - expected[0]).abs().max().item(),
        "mass": (actual[1] / expected[1] - 1).abs().max().item(),
        "gradient": max(((actual[2][name] - x).norm() / largest).item() for name, x in expected[2].items()),
    }
    return result | {"within_bounds": all(value <= bound for value, bound in zip(result.values(), bounds))}


class Contender(nn.Module):
    """A network that knows only logits, with our calls; images are padded or cut to the side that it needs."""

    reads_rows = False

    def __init__(self, network: nn.Module, side: int):
        super().__init__()
        self.network, self.side = network, side

    def forward(self, pixel_values, labels=None, **others):
        more = self.side - pixel_values.shape[-1]
        logits = self.network(F.pad(pixel_values, (0, more, 0, more)))
        return {"logits": logits, "loss": None if labels is None else F.cross_entropy(logits, labels.clamp(0, 1))}


def contenders() -> dict[str, Callable[[], nn.Module]]:
    """XCiT of the study's width, depth and number of tokens, as its authors and as timm write it."""
    made: dict[str, Callable] = {"authors' xcit": partial(reference.XCiT, 8, 112, 4, 4, patch_size=10)}
    with suppress(ImportError):  # of timm itself, or of what it needs
        from timm.models.xcit import Xcit

        shape = {"embed_dim": 112, "depth": 4, "num_heads": 4, "patch_size": 8, "eta": 1.0, "tokens_norm": True}
        made["timm's xcit"] = partial(Xcit, img_size=SIDES["timm's xcit"], in_chans=8, num_classes=2, **shape)
    return made


def build(name: str, size: int, device: torch.device) -> tuple[nn.Module, dict]:
    """A model on the device, and a batch for it."""
    own = name if name in STUDY | OTHERS else "xcit"
    model, processor = model_and_processor(own)
    batch = batch_of(model, processor, size, device)
    if own == name:
        return copy.deepcopy(model).to(device), batch
    return Contender(contenders()[name](), SIDES[name]).to(device), batch


def call(model, batch, device: torch.device):
    with autocast(device, "bf16"):
        return model(**batch)


def training_step(model, batch, device: torch.device) -> Callable:
    optimizer = AdamW(model.parameters(), lr=1e-5, fused=True)
    model.train()

    def step():
        call(model, batch, device)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference_step(model, batch, device: torch.device) -> Callable:
    model.eval()
    batch = {name: values for name, values in batch.items() if name not in ("labels", "mass_labels", "rows")}

    def step():
        with torch.no_grad():
            call(model, batch, device)

    return step


STEPS = {"training": training_step, "inference": inference_step}


def speed(device: torch.device, quick: bool, budget: Budget) -> dict:
    """Images per second, memory and shares of the device's limits, for models, batch sizes, eager and compiled."""
    is_gpu = device.type == "cuda"
    limits = device_limits(device, (8192, 2**28) if is_gpu else (256, 2**20))
    rivals = list(contenders())
    if "timm's xcit" not in rivals:
        budget.left_out.append("timm's xcit: timm cannot be imported")
    first = (256, 1024, 64) if is_gpu else (2,)
    groups = [(["xcit", *rivals], size) for size in first[: 1 if quick else None]]
    if not quick:
        groups += [(["xcit", "linearvit", "hitvit"], first[0]), (["xcit", "vit", "resnet15"], first[0])]
        groups += [(list(OTHERS)[:2], first[0]), (list(OTHERS)[2:], first[0])]
    rows = []
    for names, size in groups:
        for mode in STEPS:
            if not budget.allows(f"{mode} of {', '.join(names)}, batch {size}"):
                continue
            with budget.memory_for(f"{mode} of {', '.join(names)}, batch {size}"):
                rows += measured(names, size, mode, device, limits)
            torch.compiler.reset()
            if is_gpu:
                torch.cuda.empty_cache()
    return {"rows": rows, "limits": limits}


def measured(names: list[str], size: int, mode: str, device: torch.device, limits: dict) -> list[dict]:
    """One row for each model, eager and compiled, which take turns."""
    steps, memory, rows = {}, {}, []
    for name in names:
        for way in ("eager", "compiled"):
            model, batch = build(name, size, device)
            if way == "compiled" and model.reads_rows:
                continue
            if way == "compiled":
                model.compile(**compile_options(device))
            steps[name, way] = STEPS[mode](model, batch, device)
            memory[name, way] = peak_memory(steps[name, way], device)
    for (name, way), time_of in interleaved(steps, device, 4.0 if device.type == "cuda" else 0.5).items():
        row = {"model": name, "batch_size": size, "mode": mode, "way": way} | time_of
        row |= {"images_per_second": 1e3 * size / time_of["ms"], "memory_mib": memory[name, way]}
        rows.append(row | shares(name, size, mode, way, time_of["ms"], steps[name, way], limits))
    return rows


@cache
def macs_of(name: str) -> int | None:
    return count_macs(copy.deepcopy(model_and_processor(name)[0])) if name in STUDY | OTHERS else None


def shares(name: str, size: int, mode: str, way: str, milliseconds: float, step: Callable, limits: dict) -> dict:
    """Parts of what the device can multiply and, run eagerly, of what it can copy; a backward pass counts twice."""
    result: dict[str, float | None] = {"of_bf16_peak": None, "of_bandwidth": None}
    if (macs := macs_of(name)) is not None:
        products = 2 * macs * size * (3 if mode == "training" else 1)
        result["of_bf16_peak"] = products / (milliseconds / 1e3) / (1e12 * limits["bf16_tflops"])
    if way == "eager":
        with Traffic() as traffic:
            step()
        result["of_bandwidth"] = traffic.bytes / (milliseconds / 1e3) / (1e9 * limits["copy_gb_per_s"])
    return result


def latency(device: torch.device, quick: bool, budget: Budget) -> dict:
    """Milliseconds of one image alone: the median, and what one call in a hundred exceeds."""
    number, rows = (1000 if device.type == "cuda" else 5), []
    for name in PUBLISHED[:1] if quick else PUBLISHED:
        model, processor = model_and_processor(name)
        if not budget.allows(f"{name}"):
            continue
        for way in ("eager", "compiled")[: 1 if model.reads_rows else 2]:
            torch.compiler.reset()
            own = copy.deepcopy(model).to(device)
            if way == "compiled":
                own.compile(**compile_options(device))
            step = inference_step(own, batch_of(model, processor, 1, device), device)
            rows.append({"model": name, "runtime": f"PyTorch, {way}"} | one_by_one(step, device, number))
        if budget.allows(f"{name} in ONNX Runtime"):
            rows += onnx_latency(name, model, processor, device, number, budget)
    return {"rows": rows}


def onnx_latency(name: str, model, processor, device: torch.device, number: int, budget: Budget) -> list[dict]:
    """That of the exported graph, which takes an image on the host and makes network units of it."""
    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if find_spec("onnxruntime") is None:
        budget.left_out.append(f"{name} in ONNX Runtime, which is not installed")
        return []
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        budget.left_out.append(f"{name} in ONNX Runtime, which has no {provider} here (onnxruntime-gpu has one)")
        return []
    with TemporaryDirectory() as folder:
        path = export_onnx(copy.deepcopy(model).cpu().eval(), processor, Path(folder) / "model.onnx")
        if provider.startswith("CUDA"):
            onnxruntime.preload_dlls()  # those of PyTorch's wheels
        session = onnxruntime.InferenceSession(str(path), providers=[provider])
        if session.get_providers()[0] != provider:  # it falls back to the CPU without a word
            budget.left_out.append(f"{name} in ONNX Runtime, whose {provider} does not find its libraries")
            return []
        channels, height, width = processor.image_shape
        image = np.zeros((1, height, width, channels), np.float32)
        feed = {session.get_inputs()[0].name: image}
        times = one_by_one(lambda: session.run(None, feed), torch.device("cpu"), number)
    return [{"model": name, "runtime": f"ONNX Runtime, {provider.removesuffix('ExecutionProvider')}"} | times]


def one_by_one(step: Callable, device: torch.device, number: int) -> dict:
    for _ in range(min(number, 20)):
        step()
    times = []
    for _ in range(number):
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        times.append(1e3 * (time.perf_counter() - start))
    return {"median_ms": float(np.median(times)), "percentile_99_ms": float(np.quantile(times, 0.99))}
