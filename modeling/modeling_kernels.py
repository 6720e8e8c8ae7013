"""Our kernels for bfloat16 on CPUs with AMX (`kernels/`): depthwise convolutions, and whole residual branches.

Inductor's code for a branch writes the tokens to memory after each norm, product and activation, multiplies small
windows one by one and rearranges them four times. Here a branch of compiled inference reads and writes its tokens
once. Depthwise convolutions use these kernels in training too, with gradients in float32.

The kernels are built with inductor's C++ compiler when first needed. Without a compiler, or in a checkpoint's copy of
this file, which comes without that folder, the models run in plain PyTorch.
"""

import os
import subprocess
import tempfile
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn
from transformers.utils import logging

from .modeling_wrapped import is_plain

__all__ = [
    "LANES",
    "SIDES",
    "can_convolve",
    "can_fuse",
    "convolve",
    "convolve_backward",
    "fused_depthwise_residual",
    "fused_linear_attention",
    "fused_local_interaction",
    "fused_mlp",
    "fused_project",
    "fused_project_back",
    "fused_window_attention",
]

USE_KERNELS = True  # false: PyTorch's kernels, or inductor's

LANES = 32  # widths are multiples of it
MAX_FUSED_WIDTH = 256  # beyond, weights leave the cache and oneDNN's products are faster
SIDES = {3, 5, 7}  # of depthwise convolutions
logger = logging.get_logger(__name__)

_SOURCES = sorted(Path(__file__).with_name("kernels").glob("*"))
# the operators of one build: the code of a checkpoint from another date may load its own
_DIGEST = sha256(
    "\n".join([torch.__version__, *(path.read_text(encoding="utf-8") for path in _SOURCES)]).encode()
).hexdigest()[:12]
NAMESPACE = f"e2evit_kernels_{_DIGEST}"
_operators = getattr(torch.ops, NAMESPACE)


def can_fuse(hidden_states: torch.Tensor, *modules: nn.Module) -> bool:
    """Whether a residual branch of these modules may run as one kernel: compiled inference in bfloat16 on a CPU.

    The branch itself checks what else its kernel requires (`modeling_branches.py`).
    """
    is_inference = torch.compiler.is_dynamo_compiling() and not (torch.is_grad_enabled() or modules[-1].training)
    if not (USE_KERNELS and is_inference) or torch.compiler.is_exporting():
        return False
    width = hidden_states.shape[-1]
    return (
        hidden_states.device.type == "cpu"
        and hidden_states.dtype == torch.bfloat16
        and width <= MAX_FUSED_WIDTH
        and width % LANES == 0
        and is_plain(*modules)
        and _kernels_are_loaded()
    )


def can_convolve(hidden_states: torch.Tensor, kernel_size: int) -> bool:
    """Whether [`convolve`] may replace a depthwise convolution of a grid `(B, H, W, D)`, in training too."""
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
    if hasattr(_operators, "mlp"):  # an equal copy of this file loaded them
        return True
    if not (_SOURCES and torch.cpu._is_amx_tile_supported() and torch.cpu._init_amx()):
        return False
    try:
        _load_library()
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        logger.warning(
            f"The kernels in {_SOURCES[0].parent} were not built, so bfloat16 is slower than it could be. {reason}"
        )
        return False
    _register_fakes()
    return True


def _register_fakes() -> None:
    for name, fake in FAKES.items():
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake)


def _load_library() -> None:
    """Load a library that was built before, or build one.

    The loader maps a library without reading it, so a damaged one would end the process with SIGBUS. Each is therefore
    named after its content: one that differs from its name is removed.
    """
    from torch.utils import cpp_extension  # imports setuptools

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR", cpp_extension.get_default_build_root()))
    for library in sorted(root.glob(f"{NAMESPACE}_*.so")):
        try:
            if library.stem == f"{NAMESPACE}_{_content_hash(library)}":
                torch.ops.load_library(library)
                return
            logger.warning(f"{library} is damaged: it is rebuilt.")
            library.unlink()
        except OSError as error:  # unreadable, or from a machine with other system libraries
            logger.info(f"{library} does not load here: {error}")
    torch.ops.load_library(_build(root))


def _content_hash(library: Path) -> str:
    return sha256(library.read_bytes()).hexdigest()[:16]


def _build(root: Path) -> Path:
    """Compile the library in the folder `root`, where it appears at once and whole."""
    from torch.utils import cpp_extension

    logger.info(f"Building {NAMESPACE} in {root}, which takes several seconds.")
    compiler, source = cpp_extension.get_cxx_compiler(), str(_SOURCES[0].with_name("kernels.cpp"))
    # the first processors with AMX, so that a cache may serve several machines
    flags = ["-std=c++20", "-O3", "-march=sapphirerapids", "-fopenmp", "-fPIC", f"-DE2EVIT_NAMESPACE={NAMESPACE}"]
    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-lc10", "-ltorch_cpu"]
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        compiled, linked = Path(folder, "kernels.o"), Path(folder, "kernels.so")
        # two steps: linking with OpenMP would add a second runtime, with its own threads
        for arguments in (
            [*flags, *includes, "-c", source, "-o", compiled],
            ["-shared", compiled, *libraries, "-o", linked],
        ):
            subprocess.run([compiler, *arguments], check=True, capture_output=True, encoding="utf-8")
        return linked.replace(root / f"{NAMESPACE}_{_content_hash(linked)}.so")


def _like_the_tokens(hidden_states, *arguments):
    return torch.empty_like(hidden_states)


def _like_parts(hidden_states, norm_weight, norm_bias, eps, panels, bias):
    return hidden_states.new_empty(len(bias) // hidden_states.shape[-1], *hidden_states.shape)


FAKES = {
    "depthwise": _like_the_tokens,
    "depthwise_gradient": lambda gradient, x, side: x.new_empty(side**2 + 1, x.shape[-1], dtype=torch.float),
    "linear_attention": _like_the_tokens,
    "local_interaction": _like_the_tokens,
    "mlp": _like_the_tokens,
    "project": _like_parts,
    "project_back": _like_the_tokens,
    "window_attention": _like_the_tokens,
}


def _panels(linear: nn.Linear) -> torch.Tensor:
    """The weight `(N, K)` as `(N / 32, K / 2, 32, 2)`, the order in which tiles read it; frozen, a constant."""
    weight = linear.weight.to(torch.bfloat16)
    return weight.unflatten(0, (-1, LANES)).unflatten(2, (-1, 2)).transpose(1, 2).contiguous()


def _bias(layer: nn.Linear | nn.Conv2d) -> torch.Tensor:
    assert layer.bias is not None
    return layer.bias.float()


def _norm(norm: nn.LayerNorm) -> tuple:
    return norm.weight.float(), norm.bias.float(), norm.eps


def _scale(gamma, hidden_states) -> torch.Tensor:
    return hidden_states.new_ones(hidden_states.shape[-1:], dtype=torch.float) if gamma is None else gamma.float()


def _kernel(weight: torch.Tensor) -> torch.Tensor:
    return weight.float().flatten(1).t().contiguous()  # [K * K, D]


def convolve(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The depthwise convolution of `(B, H, W, D)` with `weight` `(D, 1, K, K)`, its sums in float32."""
    return _operators.depthwise(hidden_states, _kernel(weight), bias.float(), weight.shape[-1])


def convolve_backward(gradient: torch.Tensor, hidden_states: torch.Tensor, weight: torch.Tensor):
    """Gradients of the three inputs of [`convolve`]; those of weight and bias in float32."""
    side, flipped = weight.shape[-1], _kernel(weight).flip(0)
    no_bias = gradient.new_zeros(len(weight), dtype=torch.float)
    to_hidden_states = _operators.depthwise(gradient, flipped, no_bias, side)
    to_weights = _operators.depthwise_gradient(gradient, hidden_states, side)  # [K * K + 1, D]
    return to_hidden_states, to_weights[:-1].t().contiguous().view(weight.shape), to_weights[-1]


def fused_mlp(hidden_states: torch.Tensor, norm: nn.LayerNorm, mlp, gamma: torch.Tensor | None = None) -> torch.Tensor:
    """`hidden_states + gamma * mlp(norm(hidden_states))`, `(..., D)`."""
    layers = [part for layer in (mlp.fc1, mlp.fc2) for part in (_panels(layer), _bias(layer))]
    return _operators.mlp(hidden_states.contiguous(), *_norm(norm), *layers, _scale(gamma, hidden_states))


def fused_project(hidden_states: torch.Tensor, norm: nn.LayerNorm, qkv: nn.Linear) -> tuple[torch.Tensor, ...]:
    """Query, key and value of `qkv(norm(hidden_states))`, each `(..., D)`."""
    parts = _operators.project(hidden_states.contiguous(), *_norm(norm), _panels(qkv), _bias(qkv))
    return parts.unbind()


def fused_project_back(
    hidden_states: torch.Tensor, context: torch.Tensor, proj: nn.Linear, gamma: torch.Tensor | None = None
) -> torch.Tensor:
    """`hidden_states + gamma * proj(context)`, `(..., D)`."""
    return _operators.project_back(
        hidden_states.contiguous(),
        context.contiguous(),
        _panels(proj),
        _bias(proj),
        _scale(gamma, hidden_states),
    )


def fused_window_attention(hidden_states: torch.Tensor, norm: nn.LayerNorm, attention) -> torch.Tensor:
    """`hidden_states + attention(norm(hidden_states))`, windows of a grid `(B, H, W, D)`."""
    layers = [part for layer in (attention.qkv, attention.proj) for part in (_panels(layer), _bias(layer))]
    return _operators.window_attention(
        hidden_states.contiguous(), *_norm(norm), *layers, attention.num_heads, attention.window_size
    )


def fused_linear_attention(hidden_states: torch.Tensor, norm: nn.LayerNorm, attention) -> torch.Tensor:
    """`hidden_states + attention(norm(hidden_states))` of a grid `(B, H, W, D)`, linear attention with a ReLU."""
    _, height, columns, width = hidden_states.shape
    result = _operators.linear_attention(
        hidden_states.flatten(1, 2).contiguous(),
        *_norm(norm),
        _panels(attention.qkv),
        _bias(attention.qkv),
        attention.qkv.weight[width : 2 * width].to(torch.bfloat16).contiguous(),
        attention.temperature.flatten().float(),
        attention.floor(height * columns),
        _panels(attention.proj),
        _bias(attention.proj),
    )
    return result.view(hidden_states.shape)


def fused_depthwise_residual(hidden_states: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
    """`hidden_states + convolution(hidden_states)`, depthwise on a grid `(B, H, W, D)`; the kernel is in float32, so
    the identity can be added to its centre."""
    side = convolution.kernel_size[0]
    identity = nn.functional.pad(hidden_states.new_ones(1, 1, dtype=torch.float), [0, 0, *[side * side // 2] * 2])
    kernel = _kernel(convolution.weight) + identity
    return _operators.depthwise(hidden_states.contiguous(), kernel, _bias(convolution), side)


def fused_local_interaction(
    hidden_states: torch.Tensor, norm: nn.LayerNorm, module, gamma: torch.Tensor | None = None
) -> torch.Tensor:
    """`hidden_states + gamma * module(norm(hidden_states))` on a grid `(B, H, W, D)`: depthwise, GELU, BatchNorm with
    its running statistics, depthwise."""
    scale = module.bn.weight.float() * (module.bn.running_var.float() + module.bn.eps).rsqrt()
    shift = module.bn.bias.float() - module.bn.running_mean.float() * scale
    return _operators.local_interaction(
        hidden_states.contiguous(),
        *_norm(norm),
        _kernel(module.conv1.weight),
        _bias(module.conv1),
        scale,
        shift,
        _kernel(module.conv2.weight),
        _bias(module.conv2),
        _scale(gamma, hidden_states),
        module.conv1.kernel_size[0],
    )
