"""Our kernels against the modules they replace, and when they are used.

Without AMX, PyTorch operators stand in for them (`reference_kernels.py`): only the calls from Python are tested.
"""

import os
import shutil
import subprocess
import sys
from copy import deepcopy

import pytest
import reference_kernels
import torch
from e2evit.modeling import modeling_kernels as kernels
from e2evit.modeling.modeling_depthwise import depthwise_conv, plain_depthwise_conv
from e2evit.modeling.modeling_layers import LocalInteraction, Mlp
from e2evit.modeling.modeling_linearvit import ConditionalPositionEncoding, LinearViTWindowAttention
from e2evit.modeling.modeling_mixers import ReluLinearAttention
from e2evit.modeling.modeling_precision import LayerNorm
from torch import nn

from e2evit import LinearViTConfig, LinearViTForImageClassification, XCiTConfig, XCiTForImageClassification

# Dynamo itself instantiates each autograd function it traces
pytestmark = [pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"), pytest.mark.cpp]
HAS_AMX = torch.cpu._is_amx_tile_supported()
needs_amx = pytest.mark.skipif(not HAS_AMX, reason="the processor has no AMX")


def make(name, width=32):
    shared = {"image_size": 50}
    if name == "xcit":
        config = XCiTConfig(hidden_size=width, num_hidden_layers=2, num_attention_heads=2, **shared)
        return XCiTForImageClassification(config).eval()
    shape = {"hidden_sizes": [width, 2 * width], "depths": [2, 2], "num_attention_heads": [2, 2], "mlp_ratios": [2, 2]}
    return LinearViTForImageClassification(LinearViTConfig(**shape, **shared)).eval()


@pytest.fixture
def loaded(monkeypatch):
    if not HAS_AMX:
        reference_kernels.install(monkeypatch)
    assert kernels._load_kernels()


def halve(*modules):
    """The modules with random bfloat16 weights, and the same numbers in float32."""
    for module in modules:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5)
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 2)
    halves = [module.eval().bfloat16() for module in modules]
    return halves, [deepcopy(module).float() for module in halves]


def assert_near(result, expected):
    """Sums are float32; inputs of products and results are rounded, each to 2^-9."""
    assert result.dtype == torch.bfloat16
    difference = result.float() - expected
    assert difference.norm() < 0.01 * expected.norm()
    assert difference.abs().max() < 0.05 * expected.abs().max()


GRIDS = [(2, 25, 25), (3, 7, 9), (1, 3, 4), (1, 40, 30)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("width", [32, 96])
@torch.no_grad()
def test_mlp(loaded, width, grid):
    torch.manual_seed(0)
    tokens, gamma = torch.randn(*grid, width).bfloat16(), torch.randn(width).bfloat16()
    (norm, mlp), (wide_norm, wide_mlp) = halve(LayerNorm(width), Mlp(width, 4 * width))
    branch = wide_mlp(wide_norm(tokens.float()))
    assert_near(kernels.fused_mlp(tokens, norm, mlp), tokens + branch)
    assert_near(kernels.fused_mlp(tokens, norm, mlp, gamma), tokens + gamma * branch)


@pytest.mark.parametrize("grid", GRIDS)
@torch.no_grad()
def test_projections(loaded, grid):
    torch.manual_seed(0)
    tokens, gamma = torch.randn(*grid, 96).bfloat16(), torch.randn(96).bfloat16()
    (norm, qkv, proj), (wide_norm, wide_qkv, wide_proj) = halve(LayerNorm(96), nn.Linear(96, 288), nn.Linear(96, 96))
    parts = kernels.fused_project(tokens, norm, qkv)
    for part, expected in zip(parts, wide_qkv(wide_norm(tokens.float())).chunk(3, dim=-1)):
        assert_near(part, expected)
    result = kernels.fused_project_back(tokens, parts[0], proj, gamma)
    assert_near(result, tokens + gamma * wide_proj(parts[0].float()))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("width", "num_heads", "side"), [(96, 4, 5), (64, 2, 7), (64, 1, 5), (32, 4, 3)])
@torch.no_grad()
def test_window_attention(loaded, width, num_heads, side, grid):
    torch.manual_seed(0)
    tokens = torch.randn(*grid, width).bfloat16()
    (norm, attention), (wide_norm, wide_attention) = halve(
        LayerNorm(width), LinearViTWindowAttention(width, num_heads, side)
    )
    result = kernels.fused_window_attention(tokens, norm, attention)
    assert_near(result, tokens + wide_attention(wide_norm(tokens.float())))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("width", "num_heads"), [(96, 4), (64, 2), (64, 1), (32, 4)])
@pytest.mark.parametrize("floor", [1e-3, 0.51])
@torch.no_grad()
def test_linear_attention(loaded, floor, width, num_heads, grid):
    torch.manual_seed(0)
    tokens = torch.randn(*grid, width).bfloat16()
    attention = ReluLinearAttention(LinearViTConfig(denominator_floor=floor), width, num_heads)
    (norm, attention), (wide_norm, wide_attention) = halve(LayerNorm(width), attention)
    result = kernels.fused_linear_attention(tokens, norm, attention)
    assert_near(result, tokens + wide_attention(wide_norm(tokens.float())))


@pytest.mark.parametrize("grid", GRIDS)
@torch.no_grad()
def test_depthwise(loaded, grid):
    torch.manual_seed(0)
    tokens = torch.randn(*grid, 64).bfloat16()
    (encoding,), (wide,) = halve(ConditionalPositionEncoding(64))
    assert_near(kernels.fused_depthwise_residual(tokens, encoding.proj), wide(tokens.float()))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize("dtype", [torch.float, torch.bfloat16])
def test_depthwise_gradients(loaded, dtype, side, grid):
    """The training operator, with float32 (autocast) and bfloat16 weights."""
    torch.manual_seed(0)
    tokens, cotangent = (torch.randn(*grid, 64).bfloat16() for _ in range(2))
    inputs = [tokens, torch.randn(64, 1, side, side).to(dtype), torch.randn(64).to(dtype)]
    for tensor in inputs:
        tensor.requires_grad_()
    result = depthwise_conv(*inputs)
    gradients = torch.autograd.grad(result, inputs, cotangent)
    wide = [tensor.detach().float().requires_grad_() for tensor in inputs]
    expected = plain_depthwise_conv(*wide)
    assert_near(result, expected)
    to_tokens, *to_weights = torch.autograd.grad(expected, wide, cotangent.float())
    assert_near(gradients[0], to_tokens)
    for actual, right in zip(gradients[1:], to_weights):
        assert actual.dtype == dtype
        # float32 sums in another order, then rounded to the weights' type
        tolerance = 1e-5 if dtype == torch.float else 2**-8
        assert (actual - right).norm() < tolerance * right.norm()


def test_the_switch_in_training(loaded, monkeypatch):
    """PyTorch's convolution rounds the kernel to bfloat16 first."""
    torch.manual_seed(0)
    inputs = torch.randn(1, 5, 5, 32).bfloat16(), torch.randn(32, 1, 3, 3), torch.randn(32)
    result = depthwise_conv(*inputs)
    monkeypatch.setattr(kernels, "USE_KERNELS", False)
    assert not torch.equal(depthwise_conv(*inputs), result)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("side", [3, 5, 7])
@torch.no_grad()
def test_local_interaction(loaded, side, grid):
    torch.manual_seed(0)
    tokens, gamma = torch.randn(*grid, 64).bfloat16(), torch.randn(64).bfloat16()
    (norm, module), (wide_norm, wide_module) = halve(LayerNorm(64), LocalInteraction(64, side))
    branch = wide_module(wide_norm(tokens.float()))
    assert_near(kernels.fused_local_interaction(tokens, norm, module), tokens + branch)
    assert_near(kernels.fused_local_interaction(tokens, norm, module, gamma), tokens + gamma * branch)


@pytest.mark.parametrize("spread", [0.0, 1e-4, 1e4])
@torch.no_grad()
def test_extreme_tokens(loaded, spread):
    """Norms remove the spread of the tokens; with weights this large, GELU and softmax see values in the thousands."""
    torch.manual_seed(0)
    tokens = spread * torch.randn(2, 10, 10, 64).bfloat16()
    modules = LayerNorm(64), Mlp(64, 128), LinearViTWindowAttention(64, 2, 5)
    (norm, mlp, attention), (wide_norm, wide_mlp, wide_attention) = halve(*modules)
    for layer in (norm, wide_norm):
        layer.weight *= 100
    normed = wide_norm(tokens.float())
    for result, branch in (
        (kernels.fused_mlp(tokens, norm, mlp), wide_mlp(normed)),
        (kernels.fused_window_attention(tokens, norm, attention), wide_attention(normed)),
    ):
        assert result.isfinite().all()
        difference = result.float() - tokens - branch
        # 2^-9 of a score of 1000 is a factor e^2 in its weight: most of a window's weight stays in place
        assert difference.norm() < 0.1 * (tokens + branch).norm()


def operators(model, pixel_values) -> set[str]:
    """Our kernels in a model's compiled graphs."""
    targets = set()

    def backend(graph, inputs):
        targets.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compiler.reset()
    torch.compile(model, backend=backend)(pixel_values)
    return {target.split(".")[1] for target in targets if target.startswith(kernels.NAMESPACE)}


OPERATORS = {
    "linearvit": {"depthwise", "linear_attention", "local_interaction", "mlp", "window_attention"},
    "xcit": {"local_interaction", "mlp", "project", "project_back"},
}


@pytest.mark.parametrize("name", OPERATORS)
@torch.no_grad()
def test_compiled_models_use_them(loaded, name):
    model, pixel_values = make(name).bfloat16(), torch.randn(2, 8, 50, 50).bfloat16()
    assert operators(model, pixel_values) == OPERATORS[name]


@torch.no_grad()
def test_each_branch_decides_for_itself(loaded):
    """Window attention with odd heads and 9 x 9 convolutions have no kernel; the other branches keep theirs."""
    shape = {"hidden_sizes": [96], "depths": [2], "num_attention_heads": [32], "mlp_ratios": [2]}
    config = LinearViTConfig(**shape, image_size=50, local_kernel_size=9, global_attention="xca")
    model = LinearViTForImageClassification(config).eval().bfloat16()
    used = operators(model, torch.randn(2, 8, 50, 50).bfloat16())
    assert used == {"depthwise", "mlp", "project", "project_back"}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("case", ["switch", "float32", "training", "gradients", "width", "hooks"])
def test_when_they_are_not_used(loaded, name, case, monkeypatch):
    if case == "switch":
        monkeypatch.setattr(kernels, "USE_KERNELS", False)
    dtype = torch.float if case == "float32" else torch.bfloat16
    model = make(name, width=24 if case == "width" else 32).to(dtype).train(case == "training")
    for layer in model.modules() if case == "hooks" else []:
        layer.register_forward_hook(lambda *_: None)
    with torch.set_grad_enabled(case == "gradients"):
        assert not operators(model, torch.randn(2, 8, 50, 50, dtype=dtype))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", OPERATORS)
@torch.no_grad()
def test_compiled_models_stay_near(loaded, name):
    torch.manual_seed(0)
    model, pixel_values = make(name), torch.randn(3, 8, 50, 50)
    expected = model(pixel_values).logits
    torch.compiler.reset()
    half = deepcopy(model).bfloat16()
    half.compile()
    model.compile(backend="aot_eager")
    for number in (3, 2):  # the second call compiles for any number of images
        logits = half(pixel_values[:number].bfloat16()).logits.float()
        assert (logits - expected[:number]).norm() < 0.05 * expected[:number].norm()
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(pixel_values).logits - expected).norm() < 0.05 * expected.norm()


@needs_amx
@pytest.mark.parametrize("compiler", ["false", "a-compiler-that-does-not-exist"])
def test_without_a_compiler(compiler, tmp_path):
    """A warning says so, and models fall back to plain PyTorch."""
    code = "from e2evit.modeling import modeling_kernels; print(modeling_kernels._load_kernels())"
    environment = os.environ | {"CXX": compiler, "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert "was not built" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("g++") is None, reason="building the kernels needs g++")
def test_the_library_builds(tmp_path):
    """Its operators carry this version's names, and the schemas used by tests on other processors."""
    code = """
import torch
from e2evit.modeling import modeling_kernels as kernels
kernels._load_library()
kernels._register_fakes()
for name in sorted(kernels.FAKES):
    print(getattr(getattr(torch.ops, kernels.NAMESPACE), name).default._schema)
"""
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [
        f"{kernels.NAMESPACE}::{schema}" for schema in sorted(reference_kernels.schemas())
    ]
    (library,) = tmp_path.iterdir()
    assert library.name == f"{kernels.NAMESPACE}_{kernels._content_hash(library)}.so"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache in which libraries are texts: `cache()` is what was loaded, and how many were built so far."""
    loaded, built = [], []

    def build(root):
        built.append(root)
        (root / "new").write_text(f"library {len(built)}", encoding="utf-8")
        return (root / "new").replace(root / f"{kernels.NAMESPACE}_{kernels._content_hash(root / 'new')}.so")

    def load(library):
        if library.read_text(encoding="utf-8") == "of another machine":
            raise OSError("wrong ELF class")
        loaded.append(library.read_text(encoding="utf-8"))

    def outcome():
        kernels._load_library()
        return loaded[-1], len(built)

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "_build", build)
    monkeypatch.setattr(torch.ops, "load_library", load)
    return outcome


def test_a_library_is_built_once(cache):
    assert cache() == cache() == ("library 1", 1)


@pytest.mark.parametrize("content", ["", "libr", "library 2", "library 1 and more"])
def test_a_damaged_library_is_built_again(cache, content, tmp_path):
    """It would end the process with SIGBUS: it is never loaded, and gone."""
    cache()
    (library,) = tmp_path.iterdir()
    library.write_text(content, encoding="utf-8")
    assert cache() == ("library 2", 2)
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["library 2"]


def test_what_is_not_a_library_is_left_alone(cache, tmp_path):
    """A folder of that name, the half of a build that was killed, and a library that loads on another machine only."""
    (tmp_path / f"{kernels.NAMESPACE}_0.so").mkdir()
    (tmp_path / "tmpkilled").mkdir()
    (tmp_path / "tmpkilled/kernels.so").write_text("libr", encoding="utf-8")
    other = tmp_path / "other"
    other.write_text("of another machine", encoding="utf-8")
    other = other.replace(tmp_path / f"{kernels.NAMESPACE}_{kernels._content_hash(other)}.so")
    assert cache() == cache() == ("library 1", 1)
    assert other.is_file()
