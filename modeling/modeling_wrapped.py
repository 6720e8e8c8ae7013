"""Whether a fast path may use the weights of a layer without calling it.

Adapters, hooks, offloading and quantisation all wrap or replace a layer and act when it is called. Weights are
therefore used by calling their layer; a path that reads them instead is taken only while the layer is plain.
"""

import torch
from torch import nn
from torch.nn.modules import module as all_modules

from .modeling_checkpointing import OWN_HOOKS

__all__ = ["is_plain"]

_LAYERS = {nn.BatchNorm2d, nn.Conv2d, nn.Linear}
_PACKAGE = __name__.rpartition(".")[0]


def is_plain(*modules: nn.Module) -> bool:
    """Whether nobody has wrapped, replaced or hooked these modules or any inside them."""
    is_watched = bool(
        all_modules._global_forward_hooks
        or all_modules._global_forward_pre_hooks
        or all_modules._global_backward_hooks
        or all_modules._global_backward_pre_hooks
    )
    return not is_watched and all(_is_plain(part) for module in modules for part in module.modules())


def _is_plain(module: nn.Module) -> bool:
    is_known = type(module) in _LAYERS or type(module).__module__.rpartition(".")[0] == _PACKAGE
    if not is_known or "forward" in module.__dict__:  # accelerate replaces the method of the instance
        return False
    if module._backward_hooks or module._backward_pre_hooks:
        return False
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if not all(hook in OWN_HOOKS for hook in hooks):
        return False
    # quantised and sharded weights are subclasses of tensors
    return all(
        type(weight) in (nn.Parameter, torch.Tensor) for weight in module._parameters.values() if weight is not None
    )
