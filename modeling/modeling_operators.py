"""Operators that `torch.compile` calls without looking into them."""

import inspect
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch

__all__ = ["define_operator", "is_transformed"]

# what operators of any file compute with; a checkpoint always brings these
_SOURCES = ("modeling_operators.py", "modeling_activations.py", "modeling_depthwise.py", "modeling_kernels.py")
_SHARED = b"".join(Path(__file__).with_name(name).read_bytes() for name in _SOURCES)


def define_operator(
    name: str,
    function: Callable,
    fake: Callable,
    differentiate: Callable | None = None,
    save: Callable | None = None,
):
    """The operator `name` of this version of the code; equal copies share it.

    Several copies of this code may meet in one process: the package, and checkpoints of other dates that bring their
    own. The namespace is a digest of the file that defines the operator and of those it computes with, so that no copy
    computes with another's. Defining it twice would free the first definition while it is still in use.

    Args:
        name: Its name in the namespace.
        function: What it computes, with types in its signature.
        fake: The same without data: tensors of the result's shape, type and strides.
        differentiate: `(ctx, gradient)` to the gradients of the inputs.
        save: `(ctx, inputs, output)`, keeps what `differentiate` needs.
    """
    code = _SHARED + Path(inspect.getfile(function)).read_bytes()
    namespace_name = f"e2evit_{sha256(code).hexdigest()[:12]}"
    namespace = getattr(torch.ops, namespace_name)
    if not hasattr(namespace, name):
        operator = torch.library.custom_op(f"{namespace_name}::{name}", function, mutates_args=())
        operator.register_fake(fake)
        if differentiate is not None:
            operator.register_autograd(differentiate, setup_context=save)
    return getattr(namespace, name).default


def is_transformed() -> bool:
    """Whether `torch.func` is at work, which cannot differentiate operators of Python."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
