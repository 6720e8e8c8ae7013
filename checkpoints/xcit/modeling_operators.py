"""Operators that `torch.compile` calls without looking into them."""

import torch

__all__ = ["define_operator"]


def define_operator(name: str, function, fake, differentiate=None, save=None):
    """The operator `e2evit::name`: the process's first copy of the models' code defines it, others use that one.

    A checkpoint brings its own copy. To define an operator again would free the first one under those who hold it;
    whoever changes what it computes gives it another name.

    Args:
        name: Its name in the namespace `e2evit`.
        function: What it computes, with types in its signature.
        fake: The same without numbers: tensors of the result's shape, type and strides.
        differentiate: `(ctx, gradient)` to the gradients of the inputs.
        save: `(ctx, inputs, output)`, keeps what `differentiate` needs.
    """
    if not hasattr(torch.ops.e2evit, name):
        operator = torch.library.custom_op(f"e2evit::{name}", function, mutates_args=())
        operator.register_fake(fake)
        if differentiate is not None:
            operator.register_autograd(differentiate, setup_context=save)
    return getattr(torch.ops.e2evit, name).default
