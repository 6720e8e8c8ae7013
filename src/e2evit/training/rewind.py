"""Finds the step whose loss was not finite after later steps have run, so that no step need wait for its loss."""

import copy
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .weights import local_weights

__all__ = ["Rewind", "random_states", "reads_losses_later"]

DEFERRED = {"cuda"}  # devices that would idle while the loss of each step is read
REPLICATED = {DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU}  # one process, or DDP


def reads_losses_later(accelerator: Accelerator) -> bool:
    """Whether the loss of a step stays on the device until it is logged.

    Not with weights that are sharded or updated by another library; nor with a gradient scaler, which waits in each
    step anyway, or accumulated gradients, of which a rewind knows nothing.
    """
    is_replicated = accelerator.distributed_type in REPLICATED
    is_plain = accelerator.scaler is None and accelerator.gradient_accumulation_steps == 1
    return accelerator.device.type in DEFERRED and is_replicated and is_plain


@dataclass
class Rewind:
    """What it takes to repeat the steps since the loss was last seen to be finite.

    Attributes:
        batches: Number of batches of the epoch done before the mark.
        rows: Row numbers of the batches since.
        kept: Weights, states of optimizer and schedule, and of the random numbers, at the mark.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    device: torch.device
    batches: int = 0
    rows: list[torch.Tensor] = field(default_factory=list)
    kept: tuple = ()

    def mark(self, batches: int) -> None:
        """Remember this place, on the device."""
        self.kept = ()  # before the next copies are made
        weights = {name: tensor.clone() for name, tensor in local_weights(self.model).items()}
        states = copy.deepcopy(self.optimizer.state_dict()), self.schedule.state_dict()
        self.batches, self.rows, self.kept = batches, [], (weights, *states, random_states(self.device))

    @torch.no_grad()
    def back(self) -> list[torch.Tensor]:
        """Restore what was marked; returns the rows of the batches since."""
        weights, optimizer, schedule, (host, device) = self.kept
        for name, tensor in local_weights(self.model).items():
            tensor.copy_(weights[name])
        self.optimizer.load_state_dict(optimizer)
        self.optimizer.zero_grad()
        self.schedule.load_state_dict(schedule)
        torch.set_rng_state(host)
        if device is not None:
            torch.cuda.set_rng_state(device, self.device)
        return self.rows


def random_states(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of the host's random numbers, and of those of a GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
