"""The operators of modeling/kernels written in PyTorch, with the schemas of kernels.cpp, for processors without AMX.

With them, tests on any machine check what Python passes to the kernels and that compiled models call them.
"""

import re
from pathlib import Path

import torch
from e2evit.modeling import modeling_kernels as kernels
from e2evit.modeling.modeling_linearvit import window_merge, window_partition
from torch.nn import functional as F

NAMESPACE = "e2evit_reference_kernels"
SOURCE = Path(__file__).parents[1] / "modeling/kernels/kernels.cpp"


def schemas() -> list[str]:
    """The operator schemas that kernels.cpp declares."""
    found = re.findall(r'library\.def\((?:R"\((.*?)\)"|"([^"]*)")\);', SOURCE.read_text(), re.DOTALL)
    return [" ".join((long or short).split()).replace("( ", "(") for long, short in found]


def _weight(panels):
    """`(N / 32, K / 2, 32, 2)` back to `(N, K)`."""
    return panels.float().transpose(1, 2).flatten(2).flatten(0, 1)


def _linear(x, panels, bias):
    return F.linear(x, _weight(panels), bias)


def _norm(x, weight, bias, eps):
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps)


def _convolve(x, kernel, bias, side):
    image = x.float().permute(0, 3, 1, 2)
    weight = kernel.t().reshape(-1, 1, side, side)
    return F.conv2d(image, weight, bias, padding=side // 2, groups=len(weight)).permute(0, 2, 3, 1)


def mlp(x, weight, bias, eps, panels1, bias1, panels2, bias2, gamma):
    return x + gamma * _linear(F.gelu(_linear(_norm(x, weight, bias, eps), panels1, bias1)), panels2, bias2)


def project(x, weight, bias, eps, panels, projection_bias):
    projected = _linear(_norm(x, weight, bias, eps), panels, projection_bias)
    return torch.stack(projected.split(x.shape[-1], dim=-1))


def project_back(x, context, panels, bias, gamma):
    return x + gamma * _linear(context.float(), panels, bias)


def window_attention(x, weight, bias, eps, qkv_panels, qkv_bias, panels, projection_bias, num_heads, side):
    height, width = x.shape[1:3]
    right, bottom = -width % side, -height % side
    normed = F.pad(_norm(x, weight, bias, eps), (0, 0, 0, right, 0, bottom))
    heads = window_partition(_linear(normed, qkv_panels, qkv_bias), side, num_heads)
    context = window_merge(F.scaled_dot_product_attention(*heads), side, height + bottom, width + right)
    return x + _linear(context[:, :height, :width], panels, projection_bias)


def linear_attention(
    x, weight, bias, eps, qkv_panels, qkv_bias, key_weight, temperature, floor, panels, projection_bias
):
    assert torch.equal(_weight(qkv_panels).chunk(3)[1], key_weight.float())
    projected = _linear(_norm(x, weight, bias, eps), qkv_panels, qkv_bias)
    query, key, value = projected.unflatten(-1, (3, len(temperature), -1)).permute(2, 0, 3, 1, 4)
    scores = query.relu() @ key.relu().transpose(-1, -2)
    context = scores @ value / scores.sum(dim=-1, keepdim=True).clamp(min=floor) * temperature.view(-1, 1, 1)
    return x + _linear(context.transpose(1, 2).flatten(2), panels, projection_bias)


def depthwise(x, kernel, bias, side):
    return _convolve(x, kernel, bias, side)


def depthwise_gradient(gradient, x, side):
    image, image_gradient = (tensor.float().permute(0, 3, 1, 2) for tensor in (x, gradient))
    shape = (x.shape[-1], 1, side, side)
    kernel = torch.nn.grad.conv2d_weight(image, shape, image_gradient, padding=side // 2, groups=shape[0])
    return torch.cat([kernel.flatten(1).t(), image_gradient.sum((0, 2, 3)).unsqueeze(0)])


def local_interaction(x, weight, bias, eps, kernel1, bias1, scale, shift, kernel2, bias2, gamma, side):
    hidden = F.gelu(_convolve(_norm(x, weight, bias, eps), kernel1, bias1, side)) * scale + shift
    return x + gamma * _convolve(hidden, kernel2, bias2, side)


def _rounded(function):
    """Make results contiguous and, except for gradients of weights, bfloat16."""

    def run(*arguments):
        result = function(*arguments)
        return result.contiguous() if function is depthwise_gradient else result.bfloat16().contiguous()

    return run


def install(monkeypatch) -> None:
    """Register these operators in place of the compiled ones."""
    monkeypatch.setattr(kernels, "NAMESPACE", NAMESPACE)
    monkeypatch.setattr(kernels, "_operators", getattr(torch.ops, NAMESPACE))
    monkeypatch.setattr(kernels, "_load_kernels", lambda: True)
    if not hasattr(kernels._operators, "mlp"):
        library = torch.library.Library(NAMESPACE, "FRAGMENT")
        for schema in schemas():
            library.define(schema)
            name = schema.split("(")[0]
            library.impl(name, _rounded(globals()[name]), "CPU")
        _libraries.append(library)
        kernels._register_fakes()


_libraries: list[torch.library.Library] = []  # an operator lives as long as its library
