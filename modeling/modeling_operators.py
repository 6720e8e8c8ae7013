"""Operators that `torch.compile` calls without looking into them."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch

__all__ = ["define_operator"]

# Several copies of this code may meet in one process: the package, and checkpoints of other dates that bring their
# own. The namespace is a digest of the files that define operators, so that no copy computes with another's. A
# checkpoint brings only the files that its model needs.
_SOURCES = [
    Path(__file__).with_name(f"modeling_{name}.py")
    for name in ("operators", "activations", "depthwise", "kernels", "packed")
]
_DIGEST = sha256(b"".join(path.read_bytes() for path in _SOURCES if path.is_file())).hexdigest()[:12]
NAMESPACE = f"e2evit_{_DIGEST}"


def define_operator(
    name: str,
    function: Callable,
    fake: Callable,
    differentiate: Callable | None = None,
    save: Callable | None = None,
):
    """The operator `name` of this version of the code; equal copies share it.

    Defining it twice would free the first definition while it is still in use.

    Args:
        name: Its name in [`NAMESPACE`].
        function: What it computes, with types in its signature.
        fake: The same without data: tensors of the result's shape, type and strides.
        differentiate: `(ctx, gradient)` to the gradients of the inputs.
        save: `(ctx, inputs, output)`, keeps what `differentiate` needs.
    """
    namespace = getattr(torch.ops, NAMESPACE)
    if not hasattr(namespace, name):
        operator = torch.library.custom_op(f"{NAMESPACE}::{name}", function, mutates_args=())
        operator.register_fake(fake)
        if differentiate is not None:
            operator.register_autograd(differentiate, setup_context=save)
    return getattr(namespace, name).default
