"""The weights of a model that may be sharded over processes, and their running mean."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

__all__ = [
    "RunningMean",
    "load_whole",
    "local_weights",
    "measure_batch_norms",
    "share_buffers",
    "whole_model",
    "whole_weights",
]


def local_weights(model: nn.Module) -> dict[str, Tensor]:
    """This process's part of each parameter and buffer, as views: writing to them changes the model."""
    return {
        name: tensor.to_local() if isinstance(tensor, DTensor) else tensor
        for name, tensor in model.state_dict().items()
    }


def whole_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU; of a sharded model, on the main process only. All processes must call it."""
    if accelerator.is_fsdp2:
        weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    else:
        weights = model.state_dict()
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


@torch.no_grad()
def share_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """Give all processes the BatchNorm statistics of the main one; until then each has those of its own batches."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer))


def _give_all(model: nn.Module, batch: dict) -> None:
    model(**batch)


@torch.no_grad()
def measure_batch_norms(
    accelerator: Accelerator, model: nn.Module, loader, give: Callable[[nn.Module, dict], object] = _give_all
) -> None:
    """Recompute BatchNorm statistics with the present weights, as the mean over the batches of `loader`.

    Running statistics come from earlier weights, which at a high learning rate are too different to predict with
    (section 3 of https://arxiv.org/abs/2105.07576); a running mean of weights has no statistics of its own.

    Args:
        give: Calls the model on a batch, by default with every entry; row numbers are already removed.
    """
    device = accelerator.device
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type):  # dropout draws, and training must not change
        update_bn(loader, _OfBatches(accelerator, model, give))
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for statistic in (module.running_mean, module.running_var):
                statistic.copy_(accelerator.reduce(statistic, "mean"))


class _OfBatches(nn.Module):
    """`model` as a function of one of our batches, as `update_bn` calls it."""

    def __init__(self, accelerator: Accelerator, model: nn.Module, give: Callable[[nn.Module, dict], object]):
        super().__init__()
        self.accelerator, self.model, self.give = accelerator, model, give
        self.train(model.training)  # `update_bn` restores it

    def forward(self, batch: dict) -> None:
        with self.accelerator.autocast():
            self.give(self.model, {name: value for name, value in batch.items() if name != "rows"})


def load_whole(accelerator: Accelerator, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """The inverse of [`whole_weights`]."""
    if accelerator.is_fsdp2:
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(model, dict(weights), options=options)
    else:
        model.load_state_dict(weights)


def whole_model(accelerator: Accelerator, model: nn.Module) -> nn.Module | None:
    """The model itself or, if it is sharded, an unsharded copy on the main process and `None` on the others.

    All processes must call it.
    """
    if not accelerator.is_fsdp2:
        return model
    weights = whole_weights(accelerator, model)
    if not accelerator.is_main_process:
        return None
    original_class = type(model).__mro__[2]  # behind FSDP<name> and FSDPModule, which sharding puts in front
    whole = original_class(model.config)
    whole.load_state_dict(weights)
    return whole


class RunningMean:
    """The exponential running mean of weights and BatchNorm statistics; in shards if the model is sharded.

    At first the decay is `(1 + n) / (10 + n)` after n steps, as in timm and TensorFlow; with `decay` from the start,
    the mean of a short run would be dominated by its beginning.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, decay: float):
        self.accelerator, self.model, self.decay = accelerator, model, decay
        self.mean = {name: tensor.clone() for name, tensor in local_weights(model).items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Include the present weights, `steps` steps after the first ones, which become the mean as they are."""
        current = local_weights(self.model)
        weight = 1 - min(self.decay, (1 + steps) / (10 + steps)) if steps else 1.0
        moving = [name for name, tensor in current.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.mean[name] for name in moving], [current[name] for name in moving], weight)
        for name in current.keys() - set(moving):  # BatchNorm counts its batches
            self.mean[name].copy_(current[name])

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Inside this block the model's weights are the mean; changing them changes the mean."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, tensor in local_weights(self.model).items():
            kept = tensor.clone()
            tensor.copy_(self.mean[name])
            self.mean[name].copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """As [`whole_weights`]."""
        with self.in_model():
            return whole_weights(self.accelerator, self.model)

    def load_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        with self.in_model():
            load_whole(self.accelerator, self.model, weights)
