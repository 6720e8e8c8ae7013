"""The pixels a prediction depends on."""

import torch

__all__ = ["gradient_times_input"]


def gradient_times_input(model, pixel_values: torch.Tensor, output: str = "logits", label: int | None = None):
    """Gradient times input (Shrikumar et al., arXiv 1605.01713): what each pixel contributes, to first order.

    Args:
        model: An `...ForImageClassification` of this repository; weights and mode are left unchanged.
        pixel_values: `(B, C, H, W)` in network units. Zero pixels contribute nothing.
        output: `"logits"`: the logit of class `label`; `"mass_preds"`: the mass [GeV].
        label: Index of the class; by default each image's most probable class.

    Returns:
        `(B, C, H, W)`, in the unit of the output.

    Raises:
        ValueError: for any other `output`.
    """
    if output not in ("logits", "mass_preds"):
        raise ValueError(f"`output` is logits or mass_preds, got {output!r}.")
    pixel_values = pixel_values.detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = model(pixel_values=pixel_values)
        if output == "logits":
            chosen = outputs.logits.argmax(-1) if label is None else torch.full((len(pixel_values),), label)
            value = outputs.logits.gather(1, chosen.to(outputs.logits.device)[:, None])
        else:
            value = outputs.mass_preds
        (gradient,) = torch.autograd.grad(value.sum(), pixel_values)
    return gradient * pixel_values.detach()
