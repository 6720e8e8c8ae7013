"""Attention over all tokens of an image, for images whose tokens lie one after the other, and sums over them.

Query, key and value are `(M, W, D)`: windows, each of one image (`modeling_tokens.py`). A sum over an image is one
over places, then over windows; the latter in float32. What empty places hold has no effect.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .modeling_activations import relu
from .modeling_cross_covariance import block_diagonal
from .modeling_local import attend
from .modeling_operators import define_operator, is_transformed
from .modeling_precision import no_autocast, widen
from .modeling_tokens import PackedTokens, unpacked_places

__all__ = [
    "PACKED_ATTENTIONS",
    "PackedAttention",
    "from_segments",
    "gram",
    "map_tokens",
    "moments",
    "packed_cross_covariance",
    "packed_linear_attention",
    "packed_rank_augmented",
    "packed_softmax",
    "segment_sum",
    "sum_over_cells",
    "sum_over_images",
    "sum_over_tokens",
    "unpack",
]

USE_OPERATOR = True  # false: products of windows on CPUs too


def _sum(parts: torch.Tensor, segment: torch.Tensor, num_segments: int) -> torch.Tensor:
    return parts.new_zeros(num_segments, *parts.shape[1:]).index_add(0, segment, parts)


def _fake_sum(parts, segment, num_segments):
    return parts.new_empty(num_segments, *parts.shape[1:])


def _save_segment(ctx, inputs, output):
    ctx.save_for_backward(inputs[1])


def _spread(ctx, gradient):
    return gradient.index_select(0, *ctx.saved_tensors), None, None


# inductor would add scalar by scalar, each in an atomic operation
_sum_operator = define_operator("segment_sum", _sum, _fake_sum, _spread, _save_segment)


def segment_sum(parts: torch.Tensor, segment: torch.Tensor, num_segments: int) -> torch.Tensor:
    """`(n, ...)`, parts of the segments `(n,)`, to `(num_segments, ...)`, in float32 at least."""
    (parts,) = widen(parts)
    return (_sum_operator if torch.compiler.is_dynamo_compiling() else _sum)(parts, segment, num_segments)


class _FromSegments(torch.autograd.Function):
    @staticmethod
    def forward(values, segment):
        return values.index_select(0, segment)

    @staticmethod
    def setup_context(ctx, inputs, output):
        values, segment = inputs
        ctx.save_for_backward(segment)
        ctx.num_segments = values.shape[0]

    @staticmethod
    def backward(ctx, gradient):
        (segment,) = ctx.saved_tensors
        return segment_sum(gradient, segment, ctx.num_segments).to(gradient.dtype), None


def from_segments(values: torch.Tensor, segment: torch.Tensor) -> torch.Tensor:
    """Each part's `values[segment]`; the gradient is a [`segment_sum`]."""
    return _FromSegments.apply(values, segment)


# Exported graphs have no sums of segments: ONNX has them from opset 16 on, and those of ScatterND are wrong, since
# threads of onnxruntime overwrite each other's sums (https://github.com/microsoft/onnxruntime/issues/18048). Graphs
# put the parts of an image side by side instead, so that images do not touch. There is always room for one part more,
# because onnxruntime 1.14 refuses to sum over none.
def _windows_of_images(parts: torch.Tensor, tokens: PackedTokens, fill: float) -> torch.Tensor:
    """`(M, ...)` to `(B, n, ...)` for images of fewer than n windows, with `fill` for those that an image lacks."""
    window = tokens.is_token.shape[1]
    number = torch.arange(tokens.counts.max().item() // window + 1, device=parts.device)
    places = (tokens.starts // window).unsqueeze(1) + number
    places = torch.where(number * window < tokens.counts.unsqueeze(1), places, parts.shape[0])
    return torch.cat([parts, parts.new_full((1, *parts.shape[1:]), fill)])[places]


def sum_over_images(parts: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
    """`(M, ...)`, a part for each window, to `(B, ...)`, in float32 at least."""
    if torch.compiler.is_exporting():
        return _windows_of_images(widen(parts)[0], tokens, 0.0).sum(1)
    return segment_sum(parts, tokens.image, tokens.counts.shape[0])


def sum_over_cells(values: torch.Tensor, cell: torch.Tensor, num_cells: int, tokens: PackedTokens) -> torch.Tensor:
    """Tokens `(M, W, D)` in the cells `(M, W)` of their images to `(B, num_cells, D)`, in float32 at least."""
    if torch.compiler.is_exporting():
        places = unpacked_places(tokens, spare=1)
        cell = F.pad(cell.flatten(), (0, 1))[places].unsqueeze(1)  # [B, 1, N]
        is_inside = cell == torch.arange(num_cells, device=cell.device).unsqueeze(1)
        (values,) = widen(unpack(values, places))
        return is_inside.to(values.dtype) @ values
    none = tokens.counts.shape[0] * num_cells  # one more, for empty places
    cell = torch.where(tokens.is_token, tokens.image.unsqueeze(1) * num_cells + cell, none)
    cells = segment_sum(values.flatten(0, 1), cell.flatten(), none + 1)[:-1]
    return cells.unflatten(0, (tokens.counts.shape[0], num_cells))


def sum_over_tokens(values: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
    """`(M, W, ...)`, zero in empty places, to `(B, ...)`, in float32 at least."""
    return sum_over_images(widen(values)[0].sum(1), tokens)


def unpack(hidden_states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """`(M, W, D)` to `(B, N, D)`, zero beyond the tokens of an image; `places` from [`unpacked_places`]."""
    return F.pad(hidden_states.flatten(0, 1), (0, 0, 0, 1))[places]


# On CPUs, products for each image take a fraction of the time of those for each window and their sum, whose parts are
# larger than the tokens. `starts` (ascending from 0) and `counts` `(B,)` are those of `PackedTokens`; empty places are
# not read.
def _image_slices(starts: torch.Tensor, counts: torch.Tensor) -> list[slice]:
    return [slice(start, start + count) for start, count in zip(starts.tolist(), counts.tolist())]


def _wide(left: torch.Tensor, right: torch.Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)


def _gram(left: torch.Tensor, right: torch.Tensor, starts: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    wide = _wide(left, right)
    result = left.new_empty(len(counts), left.shape[1], right.shape[1], dtype=wide)
    for number, own in enumerate(_image_slices(starts, counts)):
        torch.mm(left[own].to(wide).t(), right[own].to(wide), out=result[number])
    return result


def _fake_gram(left, right, starts, counts):
    return left.new_empty(counts.shape[0], left.shape[1], right.shape[1], dtype=_wide(left, right))


def _map(values: torch.Tensor, matrices: torch.Tensor, starts: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    result, matrices = values.new_empty(len(values), matrices.shape[2]), matrices.to(values.dtype)
    ends = [*starts.tolist()[1:], len(values)]  # of each image with the empty places behind it
    for number, (own, end) in enumerate(zip(_image_slices(starts, counts), ends)):
        torch.mm(values[own], matrices[number], out=result[own])
        result[own.stop : end] = 0
    return result


def _fake_map(values, matrices, starts, counts):
    return values.new_empty(values.shape[0], matrices.shape[2])


def _save_all(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate_gram(ctx, gradient):
    left, right, starts, counts = ctx.saved_tensors
    both, (of_left, of_right) = torch.promote_types(left.dtype, right.dtype), ctx.needs_input_grad[:2]
    to_left = _map_operator(right.to(both), gradient.transpose(1, 2), starts, counts) if of_left else None
    to_right = _map_operator(left.to(both), gradient, starts, counts) if of_right else None
    return to_left, to_right, None, None


def _differentiate_map(ctx, gradient):
    values, matrices, starts, counts = ctx.saved_tensors
    to_values = _map_operator(gradient, matrices.transpose(1, 2), starts, counts)
    return to_values, _gram_operator(values, gradient, starts, counts).to(matrices.dtype), None, None


def _moments(pairs: torch.Tensor, starts: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    wide, width = torch.promote_types(pairs.dtype, torch.float32), pairs.shape[1] // 2
    products = pairs.new_empty(len(counts), width, width, dtype=wide)
    squares = pairs.new_empty(len(counts), 2 * width, dtype=wide)
    for number, own in enumerate(_image_slices(starts, counts)):
        tokens = pairs[own].to(wide)  # those of a jet fit into the cache
        torch.mm(tokens[:, :width].t(), tokens[:, width:], out=products[number])
        torch.sum(tokens.square(), 0, out=squares[number])
    return products, squares


def _fake_moments(pairs, starts, counts):
    wide, width = torch.promote_types(pairs.dtype, torch.float32), pairs.shape[1] // 2
    shape = (counts.shape[0], width, width)
    return pairs.new_empty(shape, dtype=wide), pairs.new_empty(shape[0], 2 * width, dtype=wide)


def _differentiate_moments(ctx, to_products, to_squares):
    pairs, starts, counts = ctx.saved_tensors
    width = to_products.shape[1]
    matrices = torch.diag_embed(2 * to_squares)
    matrices[:, width:, :width] = to_products.transpose(1, 2)
    matrices[:, :width, width:] = to_products
    # in float16 the matrices could overflow
    values = pairs.float() if pairs.dtype == torch.float16 else pairs
    return _map_operator(values, matrices, starts, counts).to(pairs.dtype), None, None


_gram_operator = define_operator("image_gram", _gram, _fake_gram, _differentiate_gram, _save_all)
_map_operator = define_operator("image_map", _map, _fake_map, _differentiate_map, _save_all)
_moments_operator = define_operator("image_moments", _moments, _fake_moments, _differentiate_moments, _save_all)


def _takes_images(values: torch.Tensor) -> bool:
    is_exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return USE_OPERATOR and values.device.type == "cpu" and not is_exporting and not is_transformed()


def gram(left: torch.Tensor, right: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
    """Σ left rightᵀ over the tokens `(M, W, ...)` of each image, `(B, D, D')`, in float32 at least."""
    if _takes_images(left):
        return _gram_operator(left.flatten(0, 1), right.flatten(0, 1), tokens.starts, tokens.counts)
    both = torch.promote_types(left.dtype, right.dtype)
    left = left.to(both) * tokens.is_token.unsqueeze(2)
    return sum_over_images(torch.bmm(left.transpose(1, 2), right.to(both)), tokens)


def moments(pairs: torch.Tensor, tokens: PackedTokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ left rightᵀ `(B, D, D)` and Σ squares `(B, 2 D)` over the tokens of each image, in float32 at least.

    Args:
        pairs: `(M, W, 2 D)`, left and right of each token side by side.
    """
    if _takes_images(pairs):
        return _moments_operator(pairs.flatten(0, 1), tokens.starts, tokens.counts)
    left, right = pairs.chunk(2, dim=2)
    squares = sum_over_tokens(widen(pairs)[0].square() * tokens.is_token.unsqueeze(2), tokens)
    return gram(left, right, tokens), squares


def map_tokens(values: torch.Tensor, matrices: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
    """Each token `(M, W, D)` times the matrix of its image `(B, D, D')`."""
    if _takes_images(values):
        mapped = _map_operator(values.flatten(0, 1), matrices, tokens.starts, tokens.counts)
        return mapped.view(*values.shape[:2], matrices.shape[2])
    return torch.bmm(values, matrices.to(values.dtype)[tokens.image])


def packed_cross_covariance(query_key, value, temperature, tokens: PackedTokens):
    """XCA (`cross_covariance_attention`): each image has its own map and norms.

    Args:
        query_key: `(M, W, 2 D)`, the query and the key of each token side by side.
        value: `(M, W, D)`, as the result.
        temperature: `(h, 1, 1)`.
    """
    num_heads, width = len(temperature), value.shape[-1]
    with no_autocast(value):
        products, squares = moments(query_key, tokens)
        query_norm, key_norm = squares.clamp(min=1e-24).sqrt().chunk(2, dim=1)
        scores = products / query_norm.unsqueeze(2) / key_norm.unsqueeze(1)
        scores = scores * temperature.flatten().repeat_interleave(width // num_heads).unsqueeze(-1)
        weights = block_diagonal(scores, num_heads, float("-inf")).softmax(-1)
        return map_tokens(value, weights.transpose(1, 2), tokens)


def packed_linear_attention(query, key, value, temperature, tokens: PackedTokens, denominator_floor: float):
    """L2ViT's (`linear_attention`), whose denominators are at least `denominator_floor` times the image's tokens."""
    num_heads, width = len(temperature), query.shape[-1]
    query, key = relu(query), relu(key)
    with no_autocast(query):
        scale = temperature.flatten().repeat_interleave(width // num_heads)
        number = tokens.counts.clamp(min=1).view(-1, 1, 1)
        key_value = block_diagonal(gram(key, value, tokens) * (scale / number), num_heads)
        ones = torch.ones_like(key[..., :1])
        # in the channels of a head, the sum over its own
        key_mean = block_diagonal((gram(key, ones, tokens) / number).expand(-1, -1, width), num_heads)
        denominator = map_tokens(widen(query)[0], key_mean, tokens).clamp(min=denominator_floor)
        return (map_tokens(query, key_value, tokens) / denominator).to(value.dtype)


def packed_rank_augmented(query, key, value, num_heads: int, tokens: PackedTokens):
    """RALA (`rank_augmented_attention`): keys are weighted by their similarity to the mean query of their image."""
    width = query.shape[-1] // num_heads
    is_token, number = tokens.is_token.unsqueeze(2), tokens.counts.clamp(min=1).view(-1, 1, 1)
    with no_autocast(query):
        query, key, value_wide = widen(query, key, value)
        query, key = (F.elu(query) + 1) * is_token, (F.elu(key) + 1) * is_token
        mean = sum_over_tokens(query, tokens)[tokens.image].unsqueeze(1) / number[tokens.image]
        scores = (key * mean).unflatten(2, (num_heads, width)).sum(3) * width**-0.5  # [M, W, h]
        # a softmax over the tokens of an image, whose largest score cancels
        image, lowest = tokens.image.unsqueeze(1), torch.finfo(scores.dtype).min
        of_windows = scores.detach().masked_fill(~is_token, lowest).amax(1)
        if torch.compiler.is_exporting():
            largest = _windows_of_images(of_windows, tokens, lowest).amax(1)
        else:
            largest = of_windows.new_full((len(number), num_heads), lowest)
            largest = largest.scatter_reduce(0, image.expand_as(of_windows), of_windows, "amax")
        weights = (scores - largest[tokens.image].unsqueeze(1)).masked_fill(~is_token, lowest).exp()
        share = weights / from_segments(sum_over_tokens(weights, tokens), tokens.image).unsqueeze(1)
        key = key * share.repeat_interleave(width, dim=2)
        key_value = block_diagonal(gram(key, value_wide, tokens), num_heads)
        key_mean = gram(key, torch.ones_like(key[..., :1]), tokens).expand(-1, -1, num_heads * width)
        denominator = map_tokens(query, block_diagonal(key_mean, num_heads), tokens) + 1e-6
        return (map_tokens(query, key_value, tokens) / denominator).to(value.dtype)


def packed_softmax(query, key, value, num_heads: int, tokens: PackedTokens):
    """Softmax attention between the tokens of an image, padded to the largest: the quadratic control."""
    places = unpacked_places(tokens)
    query, key, value = (
        unpack(part, places).unflatten(2, (num_heads, -1)).transpose(1, 2) for part in (query, key, value)
    )
    is_token = places < tokens.is_token.numel()
    hidden = torch.finfo(query.dtype).min  # finite: an image may be empty
    bias = torch.zeros_like(is_token, dtype=query.dtype).masked_fill(~is_token, hidden)[:, None, None]
    if torch.compiler.is_exporting():  # where the fused form would have to know that there are several tokens
        context = attend(query, key, value, bias)
    else:
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    context = context.transpose(1, 2).flatten(2)  # [B, N, D]
    return _repack(context, tokens)


def _repack(values: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
    """The inverse of [`unpack`], `(B, N, D)` to `(M, W, D)`, zero in empty places."""
    number = torch.arange(tokens.is_token.numel(), device=values.device).view(tokens.is_token.shape)
    number = (number - tokens.starts[tokens.image].unsqueeze(1)).masked_fill(~tokens.is_token, -1)
    return F.pad(values, (0, 0, 0, 1))[tokens.image.unsqueeze(1), number]


class PackedAttention(nn.Module):
    """Multi-head attention over all tokens of an image `(M, W, D)`, with one learned temperature per head."""

    initial_temperature = 1.0

    def __init__(self, config):
        super().__init__()
        self.num_heads, self.head_dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.denominator_floor = config.denominator_floor
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.temperature = nn.Parameter(torch.empty(self.num_heads, 1, 1))
        self.reset_parameters()

    def reset_parameters(self):  # `_init_weights` calls it again: `from_pretrained` discards values set in `__init__`
        init.constant_(self.temperature, self.initial_temperature)

    def mix(self, qkv: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
        """`(M, W, 3 D)` to `(M, W, D)`."""
        raise NotImplementedError

    def forward(self, hidden_states: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
        return self.proj(self.mix(self.qkv(hidden_states), tokens))


class PackedCrossCovariance(PackedAttention):
    def mix(self, qkv, tokens):
        query_key, value = qkv.split([2 * qkv.shape[2] // 3, qkv.shape[2] // 3], dim=2)
        return packed_cross_covariance(query_key, value, self.temperature, tokens)


class PackedLinearAttention(PackedAttention):
    @property
    def initial_temperature(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.head_dim**-0.5

    def mix(self, qkv, tokens):
        query, key, value = qkv.chunk(3, dim=2)
        return packed_linear_attention(query, key, value, self.temperature, tokens, self.denominator_floor)


class PackedSoftmax(PackedAttention):
    def mix(self, qkv, tokens):
        query, key, value = qkv.chunk(3, dim=2)
        query = query * self.temperature.flatten().repeat_interleave(self.head_dim)
        return packed_softmax(query.to(value.dtype), key, value, self.num_heads, tokens)


class PackedRankAugmented(PackedAttention):
    """Without the gate and the convolution of its paper, since HitViT has its own local mixing, and with the learned
    scale of the queries that all attentions here have."""

    def mix(self, qkv, tokens):
        query, key, value = qkv.chunk(3, dim=2)
        scale = self.temperature.flatten().repeat_interleave(self.head_dim)
        return packed_rank_augmented(query * scale, key, value, self.num_heads, tokens)


PACKED_ATTENTIONS = {
    "xca": PackedCrossCovariance,
    "relu_linear": PackedLinearAttention,
    "rala": PackedRankAugmented,
    "softmax": PackedSoftmax,
}
