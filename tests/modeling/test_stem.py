"""Stems that skip empty pixels against the same stems over all pixels, in outputs and gradients."""

import pytest
import torch
from e2evit.modeling import modeling_stem
from e2evit.modeling.modeling_stem import LINEAR_SCALE, ConvStem, PixelEmbedding, linear_pixels, pixel_features
from models import batch, make
from torch.nn import functional as F

from e2evit import E2EImageProcessor, XCiTConfig

FIELDS = {"papers": {}, "study": {"pixel_features": True, "pixel_hidden_size": 6}}


def stem(token_stride=1, patch_size=5, **fields) -> ConvStem:
    torch.manual_seed(0)
    config = XCiTConfig(num_channels=3, patch_size=patch_size, token_stride=token_stride, **fields)
    return ConvStem(config, 8, F.gelu, bias=True, pad=True)


def images(height=23, width=31, share=0.1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    pixel_values = torch.randn(4, 3, height, width, generator=generator, dtype=dtype)
    pixel_values *= torch.rand(4, 1, height, width, generator=generator) < share
    pixel_values[1] = 0  # an entire image without a hit
    pixel_values[2, :2] = 0  # hits in one channel only
    return pixel_values


def run(module, pixel_values, monkeypatch, skip_empty):
    monkeypatch.setattr(modeling_stem, "SKIP_EMPTY", skip_empty)
    module.zero_grad()
    found = module(pixel_values)
    cotangent = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=found.dtype)
    (found * cotangent).sum().backward()
    return found, {name: weight.grad.clone() for name, weight in module.named_parameters()}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize(("height", "width"), [(25, 25), (23, 31)])
@pytest.mark.parametrize("token_stride", [1, 2])
def test_empty_pixels_may_be_skipped(fields, height, width, token_stride, monkeypatch):
    module = stem(token_stride, **fields).double()
    pixel_values = images(height, width, dtype=torch.float64)
    expected, slow = run(module, pixel_values, monkeypatch, skip_empty=False)
    found, fast = run(module, pixel_values, monkeypatch, skip_empty=True)
    assert found.shape == expected.shape == (4, -(-height // (5 * token_stride)), -(-width // (5 * token_stride)), 8)
    # the same sums in another order: 1e-13 in float64 (measured)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


def test_under_autocast(monkeypatch):
    module = stem(**FIELDS["study"])
    with torch.autocast("cpu", torch.bfloat16):
        expected, slow = run(module, images(), monkeypatch, skip_empty=False)
        found, fast = run(module, images(), monkeypatch, skip_empty=True)
    # both round inputs and products to 2^-9
    torch.testing.assert_close(found.float(), expected.float(), rtol=0.05, atol=0.05)
    assert fast.keys() == slow.keys()
    # bfloat16 products would make oneDNN generate and cache a kernel for each number of pixels
    full = modeling_stem._convolve_occupied(module.pixels, module.convs[0], images())
    with torch.autocast("cpu", torch.bfloat16):
        half = modeling_stem._convolve_occupied(module.pixels, module.convs[0], images())
    assert torch.equal(half, full.bfloat16())
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in fast.values())


def test_when_all_pixels_are_taken(monkeypatch):
    """The plain convolution handles nearly full images, graphs of other devices and gradients of empty pixels."""
    module, taken = stem(), []

    def convolve(*inputs):
        taken.append(plain(*inputs) is not None)
        return plain(*inputs)

    plain = modeling_stem._convolve_occupied
    monkeypatch.setattr(modeling_stem, "_convolve_occupied", convolve)
    module(images())
    module(images(share=0.9))
    module(torch.zeros(2, 3, 25, 25))
    assert taken == [True, False, True]
    pixel_values = images().requires_grad_()
    module(pixel_values).sum().backward()
    stem(patch_size=4)(images())
    torch.export.export(module.eval(), (images(),))
    assert len(taken) == 3
    assert pixel_values.grad[1].abs().max() > 0  # of an empty image


@pytest.mark.parametrize("fields", [{"pixel_features": True}, {"pixel_hidden_size": 6}, FIELDS["study"]])
def test_embeddings_of_all_pixels(fields, monkeypatch):
    """For models whose first convolution is not our own."""
    torch.manual_seed(0)
    module = PixelEmbedding(XCiTConfig(num_channels=3, **fields)).double()
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)  # where the embedding has no weights of its own
    module.register_parameter("weight", torch.nn.Parameter(weight))
    module.register_forward_hook(lambda module, _, output: output * module.weight)
    expected, slow = run(module, images(dtype=torch.float64), monkeypatch, skip_empty=False)
    found, fast = run(module, images(dtype=torch.float64), monkeypatch, skip_empty=True)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["xcit_study", "linearvit_study", "vit_study"])
def test_a_whole_model(name, monkeypatch):
    model, rows = make(name, pixel_hidden_size=4), batch()
    losses = []
    for skip_empty in (True, False):
        monkeypatch.setattr(modeling_stem, "SKIP_EMPTY", skip_empty)
        losses.append(model(**rows).loss)
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)


def test_an_empty_pixel_stays_empty():
    embedding = PixelEmbedding(XCiTConfig(num_channels=3, **FIELDS["study"]))
    found = embedding(images())
    assert torch.equal(found.ne(0).any(1) & images().ne(0).any(1), found.ne(0).any(1))
    occupied = images().permute(0, 2, 3, 1)[images().ne(0).any(1)]
    torch.testing.assert_close(embedding.embed(occupied), found.permute(0, 2, 3, 1)[images().ne(0).any(1)])


def test_pixel_features_undo_the_processor():
    """Values, magnitudes, and the values before the processor's logarithm; zero where the image is empty."""
    processor = E2EImageProcessor(["trk_pt", "trk_d0"], image_size=4, channel_scale=[0.5, 0.01])
    image = torch.zeros(1, 2, 4, 4)
    image[0, 0, 1, 2], image[0, 1, 1, 2] = 30.0, -0.2
    pixel_values = processor(image, return_tensors="pt")["pixel_values"]
    found = pixel_features(pixel_values)
    assert torch.equal(found[:, :2], pixel_values)
    assert torch.equal(found[:, 2:4], pixel_values.abs())
    scale = torch.tensor([0.5, 0.01]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(found[:, 4:] * LINEAR_SCALE * scale, image)
    torch.testing.assert_close(linear_pixels(pixel_values), found[:, 4:].abs())
