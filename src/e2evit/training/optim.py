"""Optimizer and schedule."""

import math

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .muon import BatchedMuon

__all__ = ["OPTIMIZERS", "Optimizers", "make_optimizer", "make_schedule"]

OPTIMIZERS = ("adamw", "muon")


class Optimizers(Optimizer):
    """Several optimizers as one, each with its own parameters."""

    def __init__(self, *parts: Optimizer):  # the base class would keep groups and state a second time
        self.parts = parts

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict:
        return {parameter: state for part in self.parts for parameter, state in part.state.items()}

    @property
    def defaults(self) -> dict:
        return self.parts[0].defaults

    def step(self, closure=None):
        if closure is not None:
            raise ValueError("Each of the optimizers would call the closure: call it before `step` instead.")
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


def make_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0, name: str = "adamw"
) -> Optimizer:
    """AdamW without weight decay on biases and 1-D parameters (norms, LayerScale), as in the papers; or Muon.

    Args:
        layer_decay: Factor on the learning rate per block of distance from the head (section 3 of
            https://arxiv.org/abs/2106.08254, for fine-tuning).
        name: With `"muon"`, Muon (https://kellerjordan.github.io/posts/muon) trains the matrices outside the heads;
            its updates are scaled to the size of AdamW's (section 2.2 of https://arxiv.org/abs/2502.16982), so that
            one learning rate serves both. Convolution kernels are trained by AdamW.
    """
    depths = model.parameter_depths()
    deepest = max(depths.values())
    if layer_decay != 1 and deepest == min(depths.values()):
        raise ValueError(f"layer_decay needs blocks, and {type(model).__name__} names none: define `block_names`.")
    parts: dict[bool, dict[tuple, dict]] = {False: {}, True: {}}
    for name_of, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head = name_of.startswith("head.")
        key = (parameter.ndim > 1, depths[name_of], is_head)
        rate = learning_rate * layer_decay ** (deepest - depths[name_of])
        group = {"params": [], "lr": rate, "weight_decay": weight_decay if key[0] else 0.0, "is_head": is_head}
        groups = parts[name == "muon" and parameter.ndim == 2 and not is_head]
        groups.setdefault(key, group)["params"].append(parameter)
    adamw = AdamW(parts[False].values(), lr=learning_rate, fused=True)
    if not parts[True]:
        return adamw
    return Optimizers(adamw, BatchedMuon(parts[True].values(), lr=learning_rate))


def make_schedule(optimizer, num_steps: int, warmup_ratio: float, head_first_steps: int = 0) -> LambdaLR:
    """Linear warm-up, then a cosine to zero at `num_steps`; the backbone is frozen for `head_first_steps`.

    The first step of the warm-up has the rate 1 / warmup, not 0 as in transformers' `get_cosine_schedule_with_warmup`,
    whose first step changes nothing; published results were trained with this schedule.
    """
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
