"""Finding the step whose loss was not finite after others have followed it, so that no step waits for a GPU."""

import copy
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .weights import local_weights

__all__ = ["Rewind"]


@dataclass
class Rewind:
    """What it takes to repeat the steps since the loss was last seen to be finite.

    Attributes:
        rows: Row numbers of the batches since then.
        batches: Of the epoch, before them.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    device: torch.device
    batches: int = 0
    rows: list[torch.Tensor] = field(default_factory=list)

    def mark(self, batches: int) -> None:
        """Remember this place: weights, optimizer and random numbers, on the device."""
        self.batches, self.rows = batches, []
        self.weights = {name: tensor.clone() for name, tensor in local_weights(self.model).items()}
        self.states = copy.deepcopy(self.optimizer.state_dict()), self._schedule_state()
        self.random_states = torch.get_rng_state(), self._device_random_state()

    @torch.no_grad()
    def back(self) -> list[torch.Tensor]:
        """Return to the place that was marked last, and return the rows of the batches since then."""
        for name, tensor in local_weights(self.model).items():
            tensor.copy_(self.weights[name])
        optimizer, schedule = self.states
        self.optimizer.load_state_dict(optimizer)
        self.optimizer.zero_grad()
        self.schedule.load_state_dict(schedule)
        host, device = self.random_states
        torch.set_rng_state(host)
        if device is not None:
            torch.cuda.set_rng_state(device, self.device)
        return self.rows

    def _schedule_state(self) -> dict:
        state = self.schedule.state_dict()
        return state | {"lr_lambdas": [None] * len(state["lr_lambdas"])}

    def _device_random_state(self) -> torch.Tensor | None:
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
