"""Optimiser and schedule."""

import math

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers.modeling_layers import GradientCheckpointingLayer

__all__ = ["make_optimizer", "make_schedule"]


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0) -> AdamW:
    """AdamW with the papers' exclusions: biases and 1-D parameters (norms, LayerScale) do not decay.

    `layer_decay` below one lowers the rate by that factor for each block that a parameter is further from the head
    (section 3 of https://arxiv.org/abs/2106.08254, for fine-tuning).
    """
    depths = _depths(model)
    deepest = max(depths.values())
    groups: dict[tuple, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        key = (parameter.ndim > 1, depths[name], name.startswith("head."))
        rate = learning_rate * layer_decay ** (deepest - depths[name])
        group = {"params": [], "lr": rate, "weight_decay": weight_decay if key[0] else 0.0, "is_head": key[2]}
        groups.setdefault(key, group)["params"].append(parameter)
    return AdamW(groups.values(), lr=learning_rate, fused=True)


def _depths(model: nn.Module) -> dict[str, int]:
    """Number of the block that each parameter is in: zero before the first, one more than all after the last."""
    blocks = [name for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)]
    depth, depths = 0, {}
    for name, _ in model.named_parameters():
        inside = [number for number, block in enumerate(blocks, 1) if name.startswith(f"{block}.")]
        depth = max([depth, *inside])
        # what follows the last block is the norm and the heads; a layer between blocks belongs to the one before
        depths[name] = inside[0] if inside else depth + (depth == len(blocks))
    return depths


def make_schedule(optimizer, num_steps: int, warmup_ratio: float, head_first_steps: int = 0) -> LambdaLR:
    """Linear warm-up, then a cosine to zero at `num_steps`; the backbone stands still for `head_first_steps`."""
    warmup = max(1, round(warmup_ratio * num_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, num_steps - warmup))))

    def backbone_factor(step: int) -> float:
        return 0.0 if step < head_first_steps else factor(step)

    return LambdaLR(
        optimizer, [factor if group.get("is_head") else backbone_factor for group in optimizer.param_groups]
    )
