"""The computing cost of a model."""

import resource
import sys
import time

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from e2evit.modeling import CANDIDATE_FIELDS, HitViTForJetsInEvents, modeling_depthwise, modeling_packed

__all__ = ["count_macs", "model_cost", "peak_memory_gib"]

REPEATS, LONGEST = 20, 10.0  # seconds
OCCUPANCY = 0.015  # of a channel's pixels
OCCUPIED = 22  # where tokens are pixels, one in so many: 711 of a jet image, about as many as real ones have
NUM_JETS = 2  # of an event
NUM_CANDIDATES = 90  # of a jet, about as many as real ones have at 21 pile-up collisions


def model_cost(model, accelerator: Accelerator, batch_size: int) -> dict[str, float]:
    """`macs` of one image, and images per second of `model` in batches of `batch_size`, as the accelerator runs it.

    Random inputs lie on the device: reading and preprocessing are not included. The rate is measured on inputs as
    sparse as jet images, since stems may skip empty pixels; it is the median of up to 20 batches, or of as many as ten
    seconds allow.
    """
    macs = count_macs(model)
    model = model.to(accelerator.device).eval()
    inputs = _inputs(model, batch_size, accelerator.device)
    if not (model.reads_rows or model.reads_candidates):
        inputs["pixel_values"] *= torch.rand_like(inputs["pixel_values"]) < OCCUPANCY
    seconds, start = [], time.perf_counter()
    with torch.no_grad(), accelerator.autocast():
        while len(seconds) < REPEATS and (len(seconds) < 3 or time.perf_counter() - start < LONGEST):
            before = time.perf_counter()
            model(**inputs)
            if accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - before)
    return {
        "macs": macs,
        "images_per_second": batch_size / sorted(seconds)[len(seconds) // 2],
        "batch_size": batch_size,
    }


@torch.no_grad()
def count_macs(model) -> int:
    """Multiply-accumulate operations (MACs) of the forward pass of one image, in matrix products and convolutions.

    The image has no empty pixels; for a model whose tokens are pixels, as many as a jet image.
    """
    modules = (modeling_depthwise, modeling_packed)
    operators = [module.USE_OPERATOR for module in modules]
    for module in modules:
        module.USE_OPERATOR = False  # the counter knows PyTorch's
    was_training = model.training
    try:
        inputs = _inputs(model.eval(), 1, model.device)
        with FlopCounterMode(display=False) as counter:
            model(**inputs)
    finally:
        for module, operator in zip(modules, operators):
            module.USE_OPERATOR = operator
        model.train(was_training)
    return counter.get_total_flops() // 2


def _inputs(model, batch_size: int, device) -> dict[str, torch.Tensor]:
    config = model.config
    if getattr(model, "reads_candidates", False):
        return {"candidate_values": _candidates(batch_size, device)} | _aux_values(config, batch_size, device)
    inputs = {"pixel_values": torch.rand(batch_size, config.num_channels, *config.image_shape, device=device)}
    if getattr(model, "reads_rows", False):
        number = torch.arange(inputs["pixel_values"][0, 0].numel(), device=device).view(config.image_shape)
        inputs["pixel_values"][:, 0] *= number % OCCUPIED == 0
        inputs["pixel_values"][:, 1:] = 0
    inputs |= _aux_values(config, batch_size, device)
    if isinstance(model, HitViTForJetsInEvents):
        pt, middle = torch.tensor([500.0]), torch.tensor(config.image_shape) / 2
        inputs["jets"] = torch.cat([pt, middle]).expand(batch_size, NUM_JETS, 3).to(device)
    return inputs


def _aux_values(config, batch_size: int, device) -> dict[str, torch.Tensor]:
    number = config.num_aux_features
    return {"aux_values": torch.zeros(batch_size, number, device=device)} if number else {}


def _candidates(batch_size: int, device) -> torch.Tensor:
    """Charged hadrons of 5 GeV around an axis."""
    values = torch.zeros(batch_size, NUM_CANDIDATES, len(CANDIDATE_FIELDS), device=device)
    own = {"id": 211, "charge": 1, "pt": 5, "energy": 5.1}
    for name, value in own.items():
        values[..., CANDIDATE_FIELDS.index(name)] = value
    for name in ("eta", "phi"):
        values[..., CANDIDATE_FIELDS.index(name)] = 0.8 * torch.rand(batch_size, NUM_CANDIDATES, device=device) - 0.4
    return values


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory so far, of the accelerator or else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
