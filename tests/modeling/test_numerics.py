"""Outputs are finite for any input, and models learn from the first steps."""

import pytest
import torch
from e2evit.modeling.modeling_precision import LayerNorm, widen_layer_norms
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import MODELS, learn, read_jets
from models import BACKBONES, make
from models import MODELS as KINDS
from torch import nn

from e2evit.training.checkpoint import read_model_config

OURS = [name for name in KINDS if name not in BACKBONES]
models = {}


def model_of(name):
    """Small enough for a thousand passes: 5 x 5 tokens."""
    if name not in models:
        models[name] = make(name, image_size=25, token_stride=1, num_aux_features=0).train()
    return models[name]


@pytest.fixture(scope="module")
def _one_thread():
    """Tensors this small are slower with two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def widened_norm(width):
    norm = nn.LayerNorm(width)
    widen_layer_norms(norm)
    return norm


@pytest.mark.parametrize("make_norm", [LayerNorm, widened_norm])
def test_layer_norms_of_many_tokens_in_bfloat16(make_norm):
    """PyTorch's own CPU kernel gets these gradients wrong by a fraction of 0.2 (weight) and 0.8 (bias)."""
    torch.manual_seed(0)
    tokens, cotangent = (torch.randn(30_000, 32) + 0.5).bfloat16(), (0.1 * torch.randn(30_000, 32) + 0.02).bfloat16()
    norm, plain = make_norm(32), nn.LayerNorm(32)
    with torch.autocast("cpu", torch.bfloat16):
        result = norm(tokens)
    result.backward(cotangent.to(result.dtype))
    plain(tokens.float()).backward(cotangent.float())
    for actual, expected in zip(norm.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-3, atol=1e-2)  # for sums of up to 600


@pytest.mark.parametrize("name", KINDS)
def test_every_layer_norm_is_ours(name):
    norms = [module for module in make(name).modules() if isinstance(module, nn.LayerNorm)]
    assert all(isinstance(norm, LayerNorm) or norm._forward_pre_hooks for norm in norms)
    assert norms or "resnet" in name


@pytest.mark.usefixtures("_one_thread")
@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(OURS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    log_spread=st.floats(-4, 4),
    occupancy=st.sampled_from([0.0, 0.015, 1.0, "one hot pixel"]),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.slow
def test_finite(name, dtype, log_spread, occupancy, seed):
    """Forward and backward, for inputs of spread 1e-4 to 1e4, empty images and single hot pixels.

    In float16 the first of the two images is full: in a batch of only (nearly) empty images, every norm divides by the
    square root of its epsilon, and the product of these factors exceeds 65504. A gradient scaler skips such a step.
    The ResNet of transformers convolves the pixels themselves: there, sums of 1e4 exceed it, too.
    """
    if name == "resnet_study" and dtype == torch.float16:
        log_spread = min(log_spread, 3.0)
    generator = torch.Generator().manual_seed(seed)
    pixel_values = torch.randn(2, 8, 25, 25, generator=generator) * 10**log_spread
    if occupancy == "one hot pixel":
        one = torch.zeros_like(pixel_values)
        one[:, seed % 8, seed % 25, seed // 25 % 25] = 10**log_spread
    else:
        one = pixel_values * (torch.rand(pixel_values.shape, generator=generator) < occupancy)
    pixel_values = torch.stack([pixel_values[0] if dtype == torch.float16 else one[0], one[1]])
    model = model_of(name)
    model.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        outputs = model(pixel_values, labels=torch.tensor([0, 1]), mass_labels=torch.tensor([80.0, 170.0]))
    outputs.loss.backward()
    assert outputs.logits.isfinite().all()
    assert outputs.mass_preds.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    "family",
    [
        pytest.param("linearvit", marks=pytest.mark.thorough),
        pytest.param("xcit", marks=pytest.mark.slow),
        pytest.param("hitvit", marks=pytest.mark.thorough),
    ],
)
def test_a_new_model_learns(family, simulated_jets):
    """On the committed jets of all processes; `benchmarks/learning.py` tries every configuration on 512 jets."""
    images, labels = read_jets(simulated_jets, signal=("top", "x_top"))
    shallower = {"num_hidden_layers": 2} if family == "hitvit" else {}  # four take two minutes
    config = read_model_config(MODELS / f"{family}_nano.json", num_labels=2, **shallower)
    assert learn(config, images, labels) >= 0.8
