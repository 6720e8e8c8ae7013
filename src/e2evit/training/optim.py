"""Optimiser and schedule."""

import math

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["make_optimizer", "make_schedule"]


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> AdamW:
    """AdamW with the papers' exclusions: biases and 1-D parameters (norms, LayerScale) do not decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=learning_rate)


def make_schedule(optimizer, num_steps: int, warmup_ratio: float) -> LambdaLR:
    """Linear warm-up, then a cosine to zero at `num_steps`."""
    warmup = max(1, round(warmup_ratio * num_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, num_steps - warmup))))

    return LambdaLR(optimizer, factor)
