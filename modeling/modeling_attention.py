"""Attention as pure functions, all linear in the number of tokens except the softmax control.

Query, key, value and result are `(B, h, N, d)` unless a docstring says otherwise. Feature maps are written φ; means
are over tokens. Normalisers are in float32 at least, whatever the autocast type, and are means over tokens rather
than sums: N cancels, and float16 sums overflow at N = 625.
"""

import torch
from torch.nn import functional as F

from .modeling_activations import relu
from .modeling_cross_covariance import block_diagonal
from .modeling_precision import no_autocast, widen

__all__ = [
    "axial_angles",
    "convolve_each",
    "focused_attention",
    "inline_attention",
    "inner_convolution",
    "inner_swiglu",
    "linear_attention",
    "linear_attention_in_blocks",
    "magnitude_aware_attention",
    "mamba_like_attention",
    "polarity_aware_attention",
    "rank_augmented_attention",
    "softmax_attention",
]

MAX_BATCH = 2**16  # images or windows at which CUDA's fused kernels fail, as they do at none


def _key_value(key, value):
    """Mean over tokens of k vᵀ, `(B, h, d, d)`."""
    return key.transpose(-1, -2) @ (value / key.shape[-2])


def linear_attention(query, key, value, denominator_floor):
    """φ(q_i) Σ_j φ(k_j) v_jᵀ / max(φ(q_i) · Σ_j φ(k_j), denominator_floor), φ = ReLU.

    L2ViT (arXiv 2501.16182) equations 3 and 4, without the learned scale.
    """
    query, key = query.relu(), key.relu()
    key_value = _key_value(key, value)
    with no_autocast(query):
        wide_query, wide_key = widen(query, key)
        denominator = wide_query @ wide_key.sum(dim=-2).unsqueeze(-1)  # [B, h, N, 1]
        denominator = denominator.clamp(min=denominator_floor) / key.shape[-2]
    return (query @ key_value / denominator).to(value.dtype)


def linear_attention_in_blocks(query, key, value, temperature, denominator_floor):
    """`temperature * linear_attention(...)` of tokens `(B, N, D)`, `temperature` `(h, 1, 1)`.

    The heads' key-value products are the diagonal blocks of one D x D matrix: h times the multiplications, but no
    token is copied into another order, and at small widths copies dominate. In bfloat16 a second such matrix gives
    the denominators, summed in float32 and rounded like the numerators; its products cost next to nothing.
    """
    num_heads, width = len(temperature), query.shape[-1]
    query, key, num_tokens = relu(query), relu(key), key.shape[1]
    scale = temperature.flatten().repeat_interleave(width // num_heads)  # [D]
    if query.dtype == torch.bfloat16:
        key_value = torch.bmm(key.transpose(1, 2), value) * (scale / num_tokens)
        key_sum = key.mean(dim=1, dtype=torch.float32).unsqueeze(-1).expand(-1, -1, width)
        both = [block_diagonal(matrix, num_heads).to(query.dtype) for matrix in (key_value, key_sum)]
        context, denominator = torch.bmm(query, torch.cat(both, dim=-1)).chunk(2, dim=-1)
        return context / denominator.clamp(min=denominator_floor / num_tokens)
    if key.dtype == torch.float16:  # a sum over tokens would overflow; otherwise dividing the small matrix is cheaper
        key_value = torch.bmm(key.transpose(1, 2), value / num_tokens) * scale
    else:
        key_value = torch.bmm(key.transpose(1, 2), value) * (scale / num_tokens)
    key_value = block_diagonal(key_value, num_heads)
    with no_autocast(query):
        wide = torch.promote_types(query.dtype, torch.float32)
        parts = query * key.sum(dim=1, keepdim=True, dtype=wide)  # [B, N, D]
        denominator = parts.unflatten(-1, (num_heads, -1)).sum(dim=-1, keepdim=True)  # [B, N, h, 1]
        denominator = denominator.clamp(min=denominator_floor) / num_tokens
    context = torch.bmm(query, key_value.to(query.dtype)).unflatten(-1, (num_heads, -1))
    return (context / denominator).flatten(-2).to(value.dtype)


def softmax_attention(query, key, value):
    """softmax(q kᵀ / √d) v.

    Plain matrix products, except on a GPU: for the 25 to 49 tokens of a window, the backward pass of PyTorch's fused
    CPU kernel takes several times as long.
    """
    if query.device.type == "cuda" and 0 < len(query) < MAX_BATCH:  # its kernels write no scores to memory
        return F.scaled_dot_product_attention(query, key, value)
    # scale before the product: otherwise inductor replaces these lines with PyTorch's fused kernel
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    return scores.softmax(dim=-1).to(value.dtype) @ value


def axial_angles(height: int, width: int, num_pairs: int, device=None) -> torch.Tensor:
    """Rotary angles `(height * width, num_pairs)` of a grid, float32: the first half from the row, the rest from the
    column, each the position times 10000^(-i / half)."""
    half = num_pairs // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    rows, columns = (torch.arange(side, device=device, dtype=torch.float32) for side in (height, width))
    angles = torch.broadcast_tensors(
        (rows.unsqueeze(1) * frequencies).unsqueeze(1), (columns.unsqueeze(1) * frequencies).unsqueeze(0)
    )
    return torch.cat(angles, dim=-1).flatten(0, 1)


def _rotate(tokens, angles):
    """Rotates neighbouring channels in pairs by `angles` `(N, d / 2)` or `(h, N, d / 2)` (arXiv 2104.09864)."""
    if angles is None:
        return tokens
    one, other = tokens.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = angles.cos().to(tokens.dtype), angles.sin().to(tokens.dtype)
    return torch.stack([one * cosine - other * sine, one * sine + other * cosine], dim=-1).flatten(-2)


def rank_augmented_attention(query, key, value, angles=None):
    """Linear attention with keys weighted by their similarity to the mean query (RALA, CVPR 2025, arXiv 2411.07635).

    k_j ← N softmax_j(mean φ(q) · φ(k_j) / √d) φ(k_j); result φ(q) Σ k_j v_jᵀ / φ(q) · Σ k_j, φ = ELU + 1. `angles`
    rotate query and key in the numerator only, so that the denominator stays positive.
    """
    num_tokens, width = key.shape[-2:]
    with no_autocast(query):
        query, key, value_wide = widen(query, key, value)
        query, key = F.elu(query) + 1, F.elu(key) + 1
        scores = query.mean(dim=-2, keepdim=True) @ key.transpose(-1, -2) * width**-0.5  # [B, h, 1, N]
        key = num_tokens * scores.softmax(dim=-1).transpose(-1, -2) * key
        denominator = query @ key.mean(dim=-2).unsqueeze(-1) + 1e-6
        # sum v_j k_jᵀ, then transpose: compiled for CPUs, the gradient of the weighted keys otherwise gets a layout in
        # which inductor writes past the end of a sum over it (https://github.com/pytorch/pytorch/issues/196681)
        key_value = _key_value(value_wide, _rotate(key, angles)).transpose(-1, -2)
        return (_rotate(query, angles) @ key_value / denominator).to(value.dtype)


def magnitude_aware_attention(query, key, value, angles=None):
    """Linear attention that keeps the magnitude of the query (MALA, ICCV 2025, arXiv 2507.00698).

    Weights φ(q) · φ(k_j) (1 + 1/z) / (N √d) - z / N, z = φ(q) · mean φ(k) / √d, φ = ELU + 1. They sum to one and
    may be negative. `angles` rotate query and key in the first product.
    """
    width = key.shape[-1]
    with no_autocast(query):
        query, key, value_wide = widen(query, key, value)
        query, key = (F.elu(query) + 1) * width**-0.5, F.elu(key) + 1
        z = query @ key.mean(dim=-2).unsqueeze(-1)  # [B, h, N, 1]
        mean_value = value_wide.mean(dim=-2, keepdim=True)
        product = _rotate(query, angles) @ _key_value(_rotate(key, angles), value_wide)
        return (product * (1 + 1 / (z + 1e-6)) - z * mean_value).to(value.dtype)


def mamba_like_attention(query, key, value, angles):
    """Linear attention with rotary positions, inside MILA's block (NeurIPS 2024, arXiv 2405.16605).

    rot(φ(q)) · Σ_j rot(φ(k_j)) v_jᵀ / (φ(q) · Σ_j φ(k_j)), φ = ELU + 1; `angles` `(h, N, d / 2)`.
    """
    with no_autocast(query):
        query, key, value_wide = widen(query, key, value)
        query, key = F.elu(query) + 1, F.elu(key) + 1
        denominator = query @ key.mean(dim=-2).unsqueeze(-1) + 1e-6
        numerator = _rotate(query, angles) @ _key_value(_rotate(key, angles), value_wide)
        return (numerator / denominator).to(value.dtype)


def inner_swiglu(query, key, value, weight, gate_weight):
    """f(q) after one gradient step of f on the pairs (k, v), f(x) = x W ⊙ SiLU(x W_gate) (ViT³, arXiv 2512.01643).

    The step descends -Σ_n f(k_n) · v_n / (3 N) from the learned `weight`, `gate_weight` `(h, d, d)`, at a rate of one;
    each column's gradient g is damped to g / (|g| + 1). It is written out, so that training can differentiate it.
    """
    with no_autocast(query):
        query, key, value_wide, weight, gate_weight = widen(query, key, value, weight, gate_weight)
        output_gradient = -value_wide / (3 * key.shape[-2])
        linear, gate = key @ weight, key @ gate_weight
        sigmoid = gate.sigmoid()
        gradients = (
            key.transpose(-1, -2) @ (output_gradient * gate * sigmoid),
            key.transpose(-1, -2) @ (output_gradient * linear * sigmoid * (1 + gate * (1 - sigmoid))),
        )
        weight, gate_weight = (
            start - step / (torch.linalg.vector_norm(step, dim=-2, keepdim=True) + 1)
            for start, step in zip((weight, gate_weight), gradients)
        )
        return (query @ weight * F.silu(query @ gate_weight)).to(value.dtype)


def inner_convolution(query, key, value, kernel):
    """As [`inner_swiglu`] on grids `(B, H, W, d)`, f a depthwise 3 x 3 convolution with `kernel` `(d, 1, 3, 3)`.

    The gradient g of a channel's nine numbers is damped to g / (|g| + 1).
    """
    height, width = key.shape[1:3]
    with no_autocast(query):
        query, key, value_wide, kernel = widen(query, key, value, kernel)
        output_gradient = -value_wide / (3 * height * width)
        padded = F.pad(key, (0, 0, 1, 1, 1, 1))
        step = torch.stack(
            [
                (padded[:, row : row + height, column : column + width] * output_gradient).sum(dim=(1, 2))
                for row in range(3)
                for column in range(3)
            ],
            dim=-1,
        )  # [B, d, 9]
        step = step / (torch.linalg.vector_norm(step, dim=-1, keepdim=True) + 1)
        kernels = (kernel.flatten(1) - step).view(-1, 1, 3, 3)
        return convolve_each(query, kernels).to(value.dtype)


def convolve_each(grids, kernels):
    """Convolves each channel of each sample `(B, H, W, D)` with its own 3 x 3 kernel, `(B * D, 1, 3, 3)`."""
    if not len(kernels):  # PyTorch has no convolution in zero groups
        return grids
    image = grids.permute(0, 3, 1, 2)
    result = F.conv2d(image.flatten(0, 1)[None], kernels, padding=1, groups=len(kernels))
    return result.view(image.shape).permute(0, 2, 3, 1)


def inline_attention(query, key, value):
    """Injective linear attention, normalised by subtraction (InLine, NeurIPS 2024, arXiv 2412.06590).

    Weights q · k_j / (N √d) + (1 - q · mean k / √d) / N: they sum to one without a division, and may be negative.
    """
    query = query * key.shape[-1] ** -0.5
    mean_key, mean_value = key.mean(dim=-2).unsqueeze(-1), value.mean(dim=-2, keepdim=True)
    return (query @ _key_value(key, value) + (1 - query @ mean_key) * mean_value).to(value.dtype)


def focused_attention(query, key, value, power: int = 3):
    """Linear attention with a feature map that sharpens directions (FLatten, ICCV 2023, arXiv 2308.00442).

    φ(x) = |x| x^p / |x^p|, the power elementwise; `query` and `key` must be positive. Lengths are of the whole token,
    all heads together.
    """

    def sharpen(x):
        powered = x**power
        length, powered_length = (y.square().sum(dim=(1, 3), keepdim=True).sqrt() for y in (x, powered))
        return powered * length / powered_length.clamp(min=1e-12)

    with no_autocast(query):
        query, key, value_wide = widen(query, key, value)
        query, key = sharpen(query), sharpen(key)
        denominator = query @ key.mean(dim=-2).unsqueeze(-1) + 1e-6
        return (query @ _key_value(key, value_wide) / denominator).to(value.dtype)


def polarity_aware_attention(query, key, value, power):
    """Positive and negative parts of query and key, paired by sign (PolaFormer, ICLR 2025, arXiv 2501.15061).

    Like signs act on the first half of v, unlike signs on the second; parts are raised to `power` `(h, 1, d)` and each
    half is normalised by its own sum.
    """
    with no_autocast(query):
        query, key, value_wide, power = widen(query, key, value, power)
        # keeps the gradient at zero finite under powers that are not integers
        parts = [[(s * x).clamp(min=1e-12) ** power for s in (1, -1)] for x in (query, key)]
        keys = torch.cat(parts[1], dim=-1)  # [B, h, N, 2 d]
        halves = []
        for order, half in zip(((0, 1), (1, 0)), value_wide.chunk(2, dim=-1)):
            queries = torch.cat([parts[0][i] for i in order], dim=-1)
            denominator = queries @ keys.mean(dim=-2).unsqueeze(-1) + 1e-6
            halves.append(queries @ _key_value(keys, half) / denominator)
        return torch.cat(halves, dim=-1).to(value.dtype)
