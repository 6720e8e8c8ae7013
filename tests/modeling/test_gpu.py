"""Models on a GPU: those of a CPU, in any precision; without one, what can be told of tensors that have no values.

With `cpu`, tests compare a model with itself: they then show that the test itself runs.
"""

import copy

import pytest
import torch
from e2evit.modeling import (
    HitViTForJetsInEvents,
    HitViTForMaskedImageModeling,
    LinearViTForMaskedImageModeling,
    XCiTForMaskedImageModeling,
)
from e2evit.modeling.modeling_tokens import list_pixels
from models import MODELS, SHARED, SMALL, batch, make
from torch.fx.experimental import _config as meta_settings
from transformers import AutoModel

from e2evit import HitViTConfig, LinearViTConfig, XCiTConfig

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
MASKED = {
    "linearvit": (LinearViTForMaskedImageModeling, LinearViTConfig),
    "xcit": (XCiTForMaskedImageModeling, XCiTConfig),
    "hitvit": (HitViTForMaskedImageModeling, HitViTConfig),
}


@pytest.fixture(autouse=True)
def exact_convolutions():
    """TF32, cuDNN's default, keeps ten bits of the mantissa."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def on(device, inputs):
    return {name: values.to(device) for name, values in inputs.items()}


def packed(model, inputs):
    """The same batch with lists of pixels, if the model reads them."""
    if not model.reads_rows:
        return inputs
    pixels = list_pixels(model.config, inputs["pixel_values"])
    offsets = torch.bincount(pixels.image, minlength=pixels.num_images).cumsum(0)
    rows = {"pixel_index": pixels.index, "pixel_value": pixels.value}
    rows["row_offsets"] = torch.cat([offsets.new_zeros(1), offsets])
    return rows | {name: values for name, values in inputs.items() if name != "pixel_values"}


@pytest.fixture
def no_values():
    """A device whose tensors have no values, so that whatever waits for one is refused, as are tensors on the CPU.

    HitViT waits once, for the number of occupied pixels: here all are.
    """
    with meta_settings.patch(meta_nonzero_assume_all_nonzero=True):
        yield "meta"


@pytest.mark.parametrize("name", MODELS)
def test_a_step_waits_for_no_value(name, no_values):
    model = make(name).train()
    inputs = packed(model, batch())
    outputs = model.to(no_values)(**on(no_values, inputs))
    outputs.loss.backward()
    assert {part.device.type for part in outputs.values() if torch.is_tensor(part)} == {no_values}
    assert all(parameter.grad is None or parameter.grad.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_step_waits_for_no_value(name, no_values):
    model_class, config = MASKED[name]
    model = model_class(config(**SHARED | SMALL[name])).train()
    inputs = packed(model, {"pixel_values": batch()["pixel_values"]})
    grid = model.mask_grid((50, 50))
    inputs["bool_masked_pos"] = torch.rand(3, grid[0] * grid[1]) < 0.6
    model.to(no_values)(**on(no_values, inputs)).loss.backward()


def test_a_step_of_events_waits_for_no_value(no_values):
    model = HitViTForJetsInEvents(HitViTConfig(**SHARED | SMALL["hitvit"] | {"num_aux_features": 0})).train()
    inputs = packed(model, {"pixel_values": batch()["pixel_values"]})
    inputs["jets"] = torch.tensor([500.0, 25.0, 25.0]).expand(3, 2, 3)
    inputs |= {"labels": torch.zeros(3, 2, dtype=torch.int64), "mass_labels": torch.full((3, 2), 100.0)}
    model.to(no_values)(**on(no_values, inputs)).loss.backward()


def compared(name, device, inputs, precision=None, compile_with=None):
    """Outputs and gradients of the same weights: on the CPU in float32, and on a device."""
    results = []
    for place, dtype in (("cpu", None), (device, precision)):
        model = make(name).to(place)
        if compile_with is not None and place != "cpu":
            model.compile(**compile_with)
        with torch.autocast(place, dtype, enabled=dtype is not None):
            outputs = model(**on(place, inputs))
        outputs.loss.backward()
        gradients = {key: x.grad.cpu() for key, x in model.named_parameters() if x.grad is not None}
        results.append((outputs.logits.detach().float().cpu(), outputs.mass_preds.detach().float().cpu(), gradients))
    return results


def check(results, relative, absolute, of_gradients):
    (logits, masses, gradients), (other_logits, other_masses, other_gradients) = results
    torch.testing.assert_close(other_logits, logits, rtol=relative, atol=absolute)
    torch.testing.assert_close(other_masses, masses, rtol=relative, atol=100 * absolute)  # GeV
    assert gradients.keys() == other_gradients.keys()
    largest = max(gradient.norm() for gradient in gradients.values())
    for key, gradient in gradients.items():
        distance = (other_gradients[key] - gradient).norm()
        assert distance <= of_gradients * (gradient.norm() + 0.1 * largest), f"{key}: {distance} of {gradient.norm()}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients(name, device):
    check(compared(name, device, batch()), 1e-4, 1e-4, 1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_in_bfloat16(name, device):
    """Eight bits of the mantissa, rounded in a few dozen places."""
    check(compared(name, device, batch(), torch.bfloat16), 0.05, 0.05, 0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_in_float16(name):
    check(compared(name, "cuda", batch(), torch.float16), 0.02, 0.02, 0.05)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of inductor
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("name", ["linearvit_study", "xcit_study", "vit_study", "resnet_study"])
def test_outputs_and_gradients_compiled(name, precision):
    torch.compiler.reset()
    results = compared(name, "cuda", batch(), precision, {"mode": "reduce-overhead", "dynamic": False})
    check(results, *((1e-3, 1e-3, 1e-2) if precision is None else (0.05, 0.05, 0.1)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("name", [*SMALL, "linearvit_study", "xcit_study"])
def test_empty_and_hot_images(name, precision, device):
    """No deposit at all, and every pixel at the largest value that the processor makes."""
    inputs = batch()
    inputs["pixel_values"][0], inputs["pixel_values"][1] = 0, 12
    model = make(name).to(device)
    with torch.autocast(device, precision, enabled=precision is not None):
        outputs = model(**on(device, inputs))
    outputs.loss.backward()
    assert outputs.logits.isfinite().all()
    assert outputs.mass_preds.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*SMALL, "vit_study", "resnet_study"])
def test_a_step_does_not_wait_for_the_device(name):
    model = make(name).train().cuda()
    inputs = on("cuda", packed(model, batch()))
    model(**inputs).loss.backward()  # fills caches of constants
    torch.cuda.set_sync_debug_mode("default" if model.reads_rows else "error")  # see `no_values`
    try:
        model(**inputs).loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", DEVICES)
def test_a_copy_of_a_base_model_moves(device):
    """Buffers and cached constants follow the weights."""
    model = AutoModel.from_config(MODELS["xcit"](num_aux_features=0)).eval()
    other, images = copy.deepcopy(model).to(device), batch()["pixel_values"]
    result, expected = other(images.to(device)).last_hidden_state, model(images).last_hidden_state
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-4, atol=1e-4)
