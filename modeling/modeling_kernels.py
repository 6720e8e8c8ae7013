"""Kernels of our own for bfloat16 on CPUs with AMX (`kernels/`): depthwise convolutions, and whole residual branches.

What inductor makes of a branch writes tokens to memory after each norm, product and activation, and small windows,
which it multiplies one by one, are rearranged four times. In compiled inference a branch reads and writes its tokens
once here. Depthwise convolutions are done by these kernels in training too, their gradients in float32.

The kernels are built with the C++ compiler that inductor uses, when something first asks for them; without a compiler,
or in a checkpoint's copy of this file, which has no such folder beside it, everything goes as written in the models.
"""

import hashlib
import os
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from transformers.utils import logging

__all__ = [
    "can_convolve",
    "can_fuse",
    "convolve",
    "convolve_backward",
    "fused_depthwise",
    "fused_linear_attention",
    "fused_local_concentration",
    "fused_mlp",
    "fused_project",
    "fused_project_back",
    "fused_window_attention",
]

USE_KERNELS = True  # false: PyTorch's, or what inductor makes of the models

LANES = 32  # widths are multiples of it
LARGEST_FUSED_WIDTH = 256  # beyond, weights leave the cache and oneDNN's products are faster
SIDES = {3, 5, 7}  # of depthwise convolutions
logger = logging.get_logger(__name__)


def can_fuse(block: nn.Module, hidden_states: torch.Tensor) -> bool:
    """Whether the branches of `block` may be done by the functions below: compiled inference in bfloat16 on a CPU."""
    is_inference = torch.compiler.is_dynamo_compiling() and not (torch.is_grad_enabled() or block.training)
    if not (USE_KERNELS and is_inference) or torch.compiler.is_exporting():
        return False
    width, is_half = hidden_states.shape[-1], hidden_states.dtype == torch.bfloat16
    return (
        hidden_states.device.type == "cpu"
        and is_half
        and width <= LARGEST_FUSED_WIDTH
        and width % LANES == block.mlp.fc1.out_features % LANES == 0
        and width // block.attn.num_heads % 2 == 0
        and all(module.kernel_size[0] in SIDES for module in block.modules() if isinstance(module, nn.Conv2d))
        and _kernels_are_loaded()
    )


def can_convolve(hidden_states: torch.Tensor, kernel_size: int) -> bool:
    """Whether [`convolve`] may take the place of a depthwise convolution of a grid `(B, H, W, D)`, in training too."""
    return (
        USE_KERNELS
        and hidden_states.device.type == "cpu"
        and hidden_states.dtype == torch.bfloat16
        and hidden_states.shape[-1] % LANES == 0
        and kernel_size in SIDES
        and _load_kernels()
    )


@torch.compiler.assume_constant_result
def _kernels_are_loaded() -> bool:
    return _load_kernels()


@lru_cache
def _load_kernels() -> bool:
    if hasattr(torch.ops.e2evit, "fused_mlp"):  # another copy of this file did it
        return True
    sources = sorted(Path(__file__).with_name("kernels").glob("*"))
    if not (sources and torch.cpu._is_amx_tile_supported() and torch.cpu._init_amx()):
        return False
    try:
        torch.ops.load_library(_build(sources))
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        logger.warning(f"bfloat16 stays slower than it could be here, {sources[0].parent} was not built. {reason}")
        return False
    for name, fake in FAKES.items():
        torch.library.register_fake(f"e2evit::{name}", fake)
    return True


def _build(sources: list[Path]) -> Path:
    """The library of these sources, from where PyTorch keeps extensions if it was built before."""
    from torch.utils import cpp_extension  # takes setuptools along

    texts = [torch.__version__, *(path.read_text() for path in sources)]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR", cpp_extension.get_default_build_root()))
    library = root / f"e2evit_kernels_{digest}.so"
    if library.is_file():
        return library
    logger.info(f"Building {library}, which takes some seconds.")
    compiler, source = cpp_extension.get_cxx_compiler(), str(sources[0].with_name("kernels.cpp"))
    # the first processors with AMX, so that a cache may serve several machines
    flags = ["-std=c++20", "-O3", "-march=sapphirerapids", "-fopenmp", "-fPIC"]
    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-lc10", "-ltorch_cpu"]
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        compiled, linked = f"{folder}/kernels.o", f"{folder}/kernels.so"
        # in two steps: a linker that heard of OpenMP would bring a second runtime, with threads of its own
        for arguments in (
            [*flags, *includes, "-c", source, "-o", compiled],
            ["-shared", compiled, *libraries, "-o", linked],
        ):
            subprocess.run([compiler, *arguments], check=True, capture_output=True, text=True)
        os.replace(linked, library)
    return library


def _like_the_tokens(hidden_states, *arguments):
    return torch.empty_like(hidden_states)


def _like_parts(hidden_states, norm_weight, norm_bias, eps, panels, bias):
    return hidden_states.new_empty(len(bias) // hidden_states.shape[-1], *hidden_states.shape)


FAKES = {
    "fused_depthwise": _like_the_tokens,
    "fused_depthwise_gradient": lambda gradient, x, side: x.new_empty(side**2 + 1, x.shape[-1], dtype=torch.float),
    "fused_linear_attention": _like_the_tokens,
    "fused_local_concentration": _like_the_tokens,
    "fused_mlp": _like_the_tokens,
    "fused_project": _like_parts,
    "fused_project_back": _like_the_tokens,
    "fused_window_attention": _like_the_tokens,
}


def _panels(linear: nn.Linear) -> torch.Tensor:
    """The weight `(N, K)` as `(N / 32, K / 2, 32, 2)`, the order in which tiles read it; a constant when frozen."""
    weight = linear.weight.to(torch.bfloat16)
    return weight.unflatten(0, (-1, LANES)).unflatten(2, (-1, 2)).transpose(1, 2).contiguous()


def _norm(norm: nn.LayerNorm) -> tuple:
    return norm.weight.float(), norm.bias.float(), norm.eps


def _scale(gamma, hidden_states) -> torch.Tensor:
    return hidden_states.new_ones(hidden_states.shape[-1:], dtype=torch.float) if gamma is None else gamma.float()


def _kernel(weight: torch.Tensor) -> torch.Tensor:
    return weight.float().flatten(1).t().contiguous()  # [K * K, D]


def convolve(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The depthwise convolution of `(B, H, W, D)` with `weight` `(D, 1, K, K)`, its sums in float32."""
    return torch.ops.e2evit.fused_depthwise(hidden_states, _kernel(weight), bias.float(), weight.shape[-1])


def convolve_backward(gradient: torch.Tensor, hidden_states: torch.Tensor, weight: torch.Tensor):
    """Gradients of the three inputs of [`convolve`]; those of weight and bias are float32."""
    side, flipped = weight.shape[-1], _kernel(weight).flip(0)
    no_bias = gradient.new_zeros(len(weight), dtype=torch.float)
    to_hidden_states = torch.ops.e2evit.fused_depthwise(gradient, flipped, no_bias, side)
    to_weights = torch.ops.e2evit.fused_depthwise_gradient(gradient, hidden_states, side)  # [K * K + 1, D]
    return to_hidden_states, to_weights[:-1].t().contiguous().view(weight.shape), to_weights[-1]


def fused_mlp(hidden_states: torch.Tensor, norm: nn.LayerNorm, mlp: nn.Module, gamma=None) -> torch.Tensor:
    """`hidden_states + gamma * mlp(norm(hidden_states))`, `(..., D)`."""
    layers = [part for layer in (mlp.fc1, mlp.fc2) for part in (_panels(layer), layer.bias.float())]
    return torch.ops.e2evit.fused_mlp(hidden_states.contiguous(), *_norm(norm), *layers, _scale(gamma, hidden_states))


def fused_project(hidden_states: torch.Tensor, norm: nn.LayerNorm, qkv: nn.Linear) -> tuple[torch.Tensor, ...]:
    """Query, key and value of `qkv(norm(hidden_states))`, each `(..., D)`."""
    parts = torch.ops.e2evit.fused_project(hidden_states.contiguous(), *_norm(norm), _panels(qkv), qkv.bias.float())
    return parts.unbind()


def fused_project_back(
    hidden_states: torch.Tensor, context: torch.Tensor, proj: nn.Linear, gamma=None
) -> torch.Tensor:
    """`hidden_states + gamma * proj(context)`, `(..., D)`."""
    return torch.ops.e2evit.fused_project_back(
        hidden_states.contiguous(),
        context.contiguous(),
        _panels(proj),
        proj.bias.float(),
        _scale(gamma, hidden_states),
    )


def fused_window_attention(hidden_states: torch.Tensor, norm: nn.LayerNorm, attention: nn.Module) -> torch.Tensor:
    """`hidden_states + attention(norm(hidden_states))`, windows of a grid `(B, H, W, D)`."""
    layers = [part for layer in (attention.qkv, attention.proj) for part in (_panels(layer), layer.bias.float())]
    return torch.ops.e2evit.fused_window_attention(
        hidden_states.contiguous(), *_norm(norm), *layers, attention.num_heads, attention.window_size
    )


def fused_linear_attention(
    hidden_states: torch.Tensor, norm: nn.LayerNorm, attention: nn.Module, denominator_floor: float
) -> torch.Tensor:
    """`hidden_states + attention(norm(hidden_states))` of a grid `(B, H, W, D)`, linear attention with a ReLU."""
    width = hidden_states.shape[-1]
    result = torch.ops.e2evit.fused_linear_attention(
        hidden_states.flatten(1, 2).contiguous(),
        *_norm(norm),
        _panels(attention.qkv),
        attention.qkv.bias.float(),
        attention.qkv.weight[width : 2 * width].to(torch.bfloat16).contiguous(),
        attention.temperature.flatten().float(),
        denominator_floor,
        _panels(attention.proj),
        attention.proj.bias.float(),
    )
    return result.view(hidden_states.shape)


def fused_depthwise(hidden_states: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
    """`hidden_states + convolution(hidden_states)`, depthwise on a grid `(B, H, W, D)`; in float32, where the ones of
    the sum can be a part of the kernel."""
    side = convolution.kernel_size[0]
    identity = nn.functional.pad(hidden_states.new_ones(1, 1, dtype=torch.float), [0, 0, *[side * side // 2] * 2])
    kernel = _kernel(convolution.weight) + identity
    return torch.ops.e2evit.fused_depthwise(hidden_states.contiguous(), kernel, convolution.bias.float(), side)


def fused_local_concentration(
    hidden_states: torch.Tensor, norm: nn.LayerNorm, module: nn.Module, gamma=None
) -> torch.Tensor:
    """`hidden_states + gamma * module(norm(hidden_states))` on a grid `(B, H, W, D)`: depthwise, GELU, BatchNorm with
    its running statistics, depthwise."""
    scale = module.bn.weight.float() * (module.bn.running_var.float() + module.bn.eps).rsqrt()
    shift = module.bn.bias.float() - module.bn.running_mean.float() * scale
    return torch.ops.e2evit.fused_local_concentration(
        hidden_states.contiguous(),
        *_norm(norm),
        _kernel(module.conv1.weight),
        module.conv1.bias.float(),
        scale,
        shift,
        _kernel(module.conv2.weight),
        module.conv2.bias.float(),
        _scale(gamma, hidden_states),
        module.conv1.kernel_size[0],
    )
