"""Gradient times input is the derivative along the image, and leaves the model unchanged."""

import pytest
import torch
from models import make

from e2evit.plots.saliency import gradient_times_input

JETS = {"image_size": 50, "num_channels": 8, "num_aux_features": 0}


@pytest.mark.parametrize("name", ["linearvit", "xcit", "vit"])
@pytest.mark.parametrize("output", ["logits", "mass_preds"])
def test_it_is_the_slope_along_the_image(name, output):
    model = make(name, **JETS).double()
    images = torch.randn(2, 8, 50, 50, dtype=torch.float64) * (torch.rand(2, 8, 50, 50) < 0.05)
    found = gradient_times_input(model, images, output, label=1)
    assert torch.equal(found != 0, images != 0)
    # the sum over pixels is the derivative of the output as the whole image brightens
    # masses are float32 for any model, so their difference needs a longer step
    step, tolerance = (1e-5, 1e-4) if output == "logits" else (1e-3, 0.02)
    with torch.no_grad():
        up, down = (model(pixel_values=(1 + sign * step) * images)[output] for sign in (1, -1))
    slope = (up - down).double() / (2 * step)
    slope = slope[:, 1] if output == "logits" else slope
    torch.testing.assert_close(found.sum((1, 2, 3)), slope, rtol=tolerance, atol=tolerance)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not images.requires_grad


def test_the_winning_class_is_the_default():
    model, images = make("xcit", **JETS), torch.randn(2, 8, 50, 50)
    with torch.no_grad():
        winners = model(pixel_values=images).logits.argmax(-1)
    found = gradient_times_input(model, images)
    for number, winner in enumerate(winners.tolist()):
        alone = gradient_times_input(model, images[number : number + 1], label=winner)
        torch.testing.assert_close(found[number : number + 1], alone, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="`output` is logits or mass_preds, got 'mass'"):
        gradient_times_input(model, images, "mass")
