"""Muon for many small matrices: those of one shape are orthogonalised together."""

import math
from collections import defaultdict

import torch
from torch import Tensor
from torch.optim import Muon

__all__ = ["BatchedMuon"]


class BatchedMuon(Muon):
    """[`torch.optim.Muon`] with `adjust_lr_fn="match_rms_adamw"`, but with the same few operations for all matrices of
    one shape: .7 of the time for the study's XCiT on one core (docs/design-log.md).
    """

    def __init__(self, params, lr: float = 1e-3, weight_decay: float = 0.1):
        super().__init__(params, lr, weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure=None):
        if closure is not None:
            raise ValueError("Call the closure before `step`.")
        alike: dict[tuple, list[tuple[Tensor, Tensor, Tensor, dict]]] = defaultdict(list)
        for group in self.param_groups:
            found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
            self._init_group(group, *found)
            fixed = tuple(group[name] for name in ("momentum", "nesterov", "ns_coefficients", "ns_steps", "eps"))
            for parameter, *others in zip(*found):
                alike[parameter.shape, parameter.device, parameter.dtype, fixed].append((parameter, *others, group))
        for (shape, *_, fixed), entries in alike.items():
            self._step_of_one_shape(shape, entries, *fixed)

    @staticmethod
    def _step_of_one_shape(
        shape: torch.Size, entries: list, momentum: float, nesterov: bool, coefficients, steps: int, eps: float
    ) -> None:
        parameters, gradients, means, groups = (list(part) for part in zip(*entries))
        torch._foreach_lerp_(means, gradients, 1 - momentum)
        updates = torch.stack(torch._foreach_lerp(gradients, means, momentum) if nesterov else means)
        if shape[0] > shape[1]:
            directions = orthogonal(updates.mT, coefficients, steps, eps).mT
        else:
            directions = orthogonal(updates, coefficients, steps, eps)
        directions = directions.to(parameters[0].dtype, memory_format=torch.contiguous_format).unbind()
        rates = [0.2 * math.sqrt(max(shape)) * group["lr"] for group in groups]
        torch._foreach_mul_(parameters, [1 - group["lr"] * group["weight_decay"] for group in groups])
        torch._foreach_sub_(parameters, torch._foreach_mul(directions, rates))


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The Newton-Schulz iteration of https://kellerjordan.github.io/posts/muon, of matrices `(n, rows, columns)` that
    are not tall, in bfloat16.
    """
    a, b, c = coefficients
    result = matrices.bfloat16()
    result = result / result.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = result @ result.mT
        update = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        result = torch.baddbmm(result, update, result, beta=a)
    return result
