"""Fast formulations against plain ones, outputs and gradients: depthwise convolutions, blocks, activations."""

import subprocess
import sys

import pytest
import torch
from e2evit.modeling import modeling_activations, modeling_attention, modeling_depthwise, modeling_stem
from e2evit.modeling.modeling_cross_covariance import (
    cross_covariance_attention,
    cross_covariance_attention_in_blocks,
)
from e2evit.modeling.modeling_depthwise import depthwise_conv, plain_depthwise_conv
from models import batch, make

from e2evit import E2EImageProcessor
from e2evit.data import find_schema
from e2evit.hub.code import add_code

# Dynamo itself instantiates each autograd function it traces
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def draw(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def compare(fast, plain, inputs, **tolerance):
    torch.manual_seed(1)
    actual, expected = fast(*inputs), plain(*inputs)
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(actual, expected, **tolerance)
    actual, expected = (torch.autograd.grad(result, inputs, cotangent) for result in (actual, expected))
    torch.testing.assert_close(actual, expected, **tolerance)


@pytest.mark.parametrize("grid", [(25, 25), (4, 9), (6, 1), (3, 2)])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 9])
def test_depthwise_convolution(kernel_size, grid):
    torch.manual_seed(0)
    inputs = [draw(2, *grid, 6), draw(6, 1, kernel_size, kernel_size), draw(6)]
    # the same sums in another order: 1e-13 in float64 (measured)
    compare(depthwise_conv, plain_depthwise_conv, inputs, rtol=1e-10, atol=1e-10)


def test_depthwise_convolution_of_mixed_types():
    """Under autocast the kernel stays in float32 and gets a float32 gradient."""
    torch.manual_seed(0)
    inputs = [draw(2, 9, 9, 8, dtype=torch.float32), draw(8, 1, 7, 7, dtype=torch.float32), draw(8)]
    with torch.autocast("cpu", torch.bfloat16):
        result = depthwise_conv(*inputs)
    result.float().square().sum().backward()
    assert result.dtype == torch.bfloat16
    assert [tensor.grad.dtype for tensor in inputs] == [tensor.dtype for tensor in inputs]
    expected = plain_depthwise_conv(*(tensor.detach().float() for tensor in inputs))
    # 49 products of bfloat16 numbers, each rounded to 2^-9
    torch.testing.assert_close(result.float(), expected, rtol=0.02, atol=0.1)


def test_the_switch_for_the_plain_convolution(monkeypatch):
    inputs = [torch.randn(1, 5, 5, 4), torch.randn(4, 1, 3, 3, requires_grad=True), torch.randn(4)]
    assert "depthwise_conv" in depthwise_conv(*inputs).grad_fn.name()
    monkeypatch.setattr(modeling_depthwise, "USE_OPERATOR", False)
    assert "Permute" in depthwise_conv(*inputs).grad_fn.name()


def in_heads(function, *rest):
    """Turn a function of heads `(B, h, N, d)` into one of tokens `(B, N, D)`."""

    def of_tokens(query, key, value, temperature):
        heads = (x.unflatten(-1, (len(temperature), -1)).transpose(1, 2) for x in (query, key, value))
        return function(*heads, temperature, *rest).transpose(1, 2).flatten(2)

    return of_tokens


@pytest.mark.parametrize("num_tokens", [1, 63, 625])
@pytest.mark.parametrize("denominator_floor", [1e-6, 1e3])
def test_linear_attention_in_blocks(num_tokens, denominator_floor):
    torch.manual_seed(0)
    inputs = [*(draw(2, num_tokens, 24) for _ in range(3)), draw(3, 1, 1)]

    def plain(query, key, value, temperature):
        return modeling_attention.linear_attention(query, key, value, denominator_floor) * temperature

    compare(
        lambda *x: modeling_attention.linear_attention_in_blocks(*x, denominator_floor),
        in_heads(plain),
        inputs,
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize(
    "denominator_floor", [1e-6, 1e4]
)  # below and above all denominators, or rounding would decide
def test_linear_attention_in_blocks_of_bfloat16(denominator_floor):
    """Denominators come from a separate product; half a dozen places round to 2^-8."""
    torch.manual_seed(0)
    tokens = [torch.randn(2, 625, 24).bfloat16() for _ in range(3)]
    temperature = torch.rand(3, 1, 1)
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        inputs = [x.to(dtype).requires_grad_() for x in (*tokens, temperature)]
        result = modeling_attention.linear_attention_in_blocks(*inputs, denominator_floor)
        assert result.dtype == dtype
        gradients = torch.autograd.grad(result.float().square().sum(), inputs)
        results.append([x.float() for x in (result, *gradients)])
    for actual, expected in zip(*results, strict=True):
        assert (actual - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("num_tokens", [1, 63, 625])
def test_cross_covariance_attention_in_blocks(num_tokens):
    torch.manual_seed(0)
    inputs = [*(draw(2, num_tokens, 24) for _ in range(3)), draw(3, 1, 1)]
    compare(cross_covariance_attention_in_blocks, in_heads(cross_covariance_attention), inputs, rtol=1e-10, atol=1e-10)


@pytest.mark.cpp
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_rank_augmented_attention_compiled_for_cpus():
    """Inductor wrote past the end of a sum: wrong gradients or an abort (pytorch/pytorch#196681)."""

    def attend(qkv):
        return modeling_attention.rank_augmented_attention(*qkv.permute(2, 0, 3, 1, 4))

    torch.manual_seed(0)
    inputs = [draw(2, 13 * 13, 3, 4, 32, dtype=torch.float32)]  # 169 tokens are not a multiple of the vector length
    compare(torch.compile(attend), attend, inputs, rtol=1e-4, atol=1e-5)  # float32 sums in another order


@pytest.mark.parametrize("name", ["gelu", "relu"])
def test_activations(name):
    function, plain = getattr(modeling_activations, name), getattr(torch.nn.functional, name)
    compiled = torch.compile(function, backend="aot_eager")
    inputs = [torch.linspace(-9, 9, 2000).requires_grad_()]
    # mostly the error of erf in float32, 1.2e-6 at 9
    compare(compiled, plain, inputs, rtol=0, atol=2e-6)
    zeros = [torch.zeros(5, requires_grad=True)]
    compare(compiled, plain, zeros, rtol=0, atol=1e-6)  # a derivative of 0, or of 1 / 2


@pytest.mark.parametrize("name", ["linearvit", "xcit", "hitvit", "hitvit_convolution", "hitvit_patches"])
def test_a_compiled_model_equals_an_eager_one(name):
    model, inputs = make(name), batch()
    compiled = make(name)
    compiled.compile(backend="aot_eager")
    expected, actual = model(**inputs), compiled(**inputs)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=1e-5)
    expected.loss.backward()
    actual.loss.backward()
    for (key, parameter), other in zip(model.named_parameters(), compiled.parameters(), strict=True):
        # gradients of this loss reach 10; sums over tokens are taken in another order
        torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # tracing reads it
@pytest.mark.parametrize("name", ["linearvit_study", "xcit_study"])
@torch.no_grad()
def test_one_graph(name, monkeypatch):
    """With what the bundled checkpoints have; only a compiled graph that may break skips empty pixels."""
    model, inputs = make(name, pixel_hidden_size=4, num_aux_features=0), batch(2)["pixel_values"]
    traced = torch.jit.trace(model, (inputs,), strict=False)
    for images in (inputs, batch(3, seed=1)["pixel_values"]):
        # the same products, with empty pixels among them
        torch.testing.assert_close(traced(images)["logits"], model(images).logits, rtol=1e-5, atol=1e-5)
    calls, skip = [], modeling_stem._convolve_occupied
    monkeypatch.setattr(modeling_stem, "_convolve_occupied", lambda *args: calls.append(args) or skip(*args))
    for fullgraph in (True, False):
        compiled = torch.compile(model, fullgraph=fullgraph, backend="eager")
        calls.clear()
        actual = compiled(inputs).logits
        assert bool(calls) != fullgraph
        torch.testing.assert_close(actual, model(inputs).logits, rtol=1e-5, atol=1e-5)
        torch.compiler.reset()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("linearvit", {"depths": [1, 1], "window_size": 4, "fourier_positions": True}),
        ("xcit", {"num_hidden_layers": 1}),
    ],
)
@torch.no_grad()
def test_exported_for_any_size(name, fields):
    """In a graph for any size, nothing depends on whether a patch or a window overhangs the image."""
    model = make(name, pixel_hidden_size=4, num_aux_features=0, pixel_features=True, energy_pooling=True, **fields)
    dynamic = {"pixel_values": {dim: torch.export.Dim.DYNAMIC for dim in (0, 2, 3)}}
    example = {"pixel_values": batch(2, (125, 125))["pixel_values"]}
    graph = torch.export.export(model, (), example, dynamic_shapes=dynamic).module()
    for number, size in [(2, (125, 125)), (1, (81, 131)), (3, (120, 90)), (2, (160, 160))]:
        inputs = {"pixel_values": batch(number, size)["pixel_values"]}
        # the same products, with empty pixels among them
        torch.testing.assert_close(graph(**inputs).logits, model(**inputs).logits, rtol=1e-5, atol=1e-5)


def test_compiled_grids_keep_their_layout(monkeypatch):
    given = []
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: given.append(kwargs) or function)
    make("linearvit").compile()
    make("linearvit").compile(mode="reduce-overhead")  # an explicit request wins
    assert given == [{"options": {"layout_optimization": False}}, {"mode": "reduce-overhead"}]


def test_two_copies_of_the_code_share_one_operator(tmp_path):
    """A checkpoint's own code and the installed package in one process; a second definition would free the first."""
    make("linearvit").save_pretrained(tmp_path / "model")
    E2EImageProcessor(find_schema("simulated").channel_names).save_pretrained(tmp_path / "model")
    add_code(tmp_path / "model")
    script = f"""
import sys, torch, e2evit.modeling
from transformers import AutoModelForImageClassification as Auto
from transformers.dynamic_module_utils import get_class_from_dynamic_module
folder = {str(tmp_path / "model")!r}
ours = Auto.from_pretrained(folder)
other = get_class_from_dynamic_module("modeling_linearvit.LinearViTForImageClassification", folder)
theirs = other.from_pretrained(folder)
assert type(theirs) is not type(ours)
modules = [sys.modules[type(model.linearvit.stages[0][0].cpe1.proj).__module__] for model in (ours, theirs)]
assert modules[0] is not modules[1]
assert modules[0]._forward_operator is modules[1]._forward_operator
inputs = {{"pixel_values": torch.ones(1, 8, 50, 50), "aux_values": torch.zeros(1, 2)}}
for model in (ours, theirs, ours):
    model(**inputs).logits.sum().backward()
assert torch.equal(ours(**inputs).logits, theirs(**inputs).logits)
"""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]


def _environment(folder):
    import os

    return os.environ | {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
