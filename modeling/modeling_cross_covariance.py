"""Cross-covariance attention (XCA, XCiT, https://arxiv.org/abs/2106.09681): attention between channels."""

import torch
from torch import nn
from transformers import initialization as init

__all__ = [
    "MAX_BLOCK_WIDTH",
    "CrossCovarianceAttention",
    "block_diagonal",
    "cross_covariance_attention",
    "cross_covariance_attention_in_blocks",
    "cross_covariance_map",
    "split_heads",
]

MAX_BLOCK_WIDTH = 256  # beyond, multiplying blocks of zeros costs more than copying heads


def split_heads(qkv: torch.Tensor, num_heads: int) -> torch.Tensor:
    """`(B, N, 3 D)` to query, key and value, each `(B, h, N, d)`."""
    batch_size, num_tokens, width = qkv.shape
    return qkv.view(batch_size, num_tokens, 3, num_heads, width // (3 * num_heads)).permute(2, 0, 3, 1, 4)


def block_diagonal(matrix: torch.Tensor, num_heads: int, fill: float = 0.0) -> torch.Tensor:
    """`(..., D, D)` with `fill` where row and column belong to different heads."""
    blocks = matrix.unflatten(-1, (num_heads, -1)).unflatten(-3, (num_heads, -1))  # [..., h, d, h, d]
    is_own = torch.eye(num_heads, dtype=torch.bool, device=matrix.device)[:, None, :, None]
    return blocks.where(is_own, fill).flatten(-2).flatten(-3, -2)


def cross_covariance_attention(query, key, value, temperature):
    """[`cross_covariance_map`] applied to the channels of v; all `(B, h, N, d)`."""
    weights = cross_covariance_map(query, key, temperature).to(value.dtype)
    return (weights @ value.transpose(-1, -2)).transpose(-1, -2)


def cross_covariance_map(query, key, temperature):
    """softmax(q̂ᵀ k̂ · τ), `(B, h, d, d)`; q̂ and k̂ have unit length over the tokens.

    XCiT equation 1; `temperature` `(h, 1, 1)` multiplies, as in the authors' code and unlike the equation. The d x d
    map and its norms are in float32 at least.
    """
    query, key = query.transpose(-1, -2), key.transpose(-1, -2)  # [B, h, d, N]
    wide = torch.promote_types(query.dtype, torch.float32)
    # divide the d x d map by the lengths instead of the N x d inputs; 1e-12 is F.normalize's floor
    query_norm = torch.linalg.vector_norm(query, dim=-1, keepdim=True, dtype=wide).clamp(min=1e-12)  # [B, h, d, 1]
    key_norm = torch.linalg.vector_norm(key, dim=-1, dtype=wide).clamp(min=1e-12).unsqueeze(-2)  # [B, h, 1, d]
    scores = (query @ key.transpose(-1, -2)).to(wide) / query_norm / key_norm * temperature
    return scores.softmax(dim=-1)


def cross_covariance_attention_in_blocks(query, key, value, temperature):
    """`cross_covariance_attention` of tokens `(B, N, D)`: the heads' maps are diagonal blocks of one D x D matrix."""
    num_heads, width = len(temperature), query.shape[-1]
    wide = torch.promote_types(query.dtype, torch.float32)
    query_norm = torch.linalg.vector_norm(query, dim=1, dtype=wide).clamp(min=1e-12).unsqueeze(-1)  # [B, D, 1]
    key_norm = torch.linalg.vector_norm(key, dim=1, dtype=wide).clamp(min=1e-12).unsqueeze(-2)  # [B, 1, D]
    scores = torch.bmm(query.transpose(1, 2), key).to(wide) / query_norm / key_norm
    scores = scores * temperature.flatten().repeat_interleave(width // num_heads).unsqueeze(-1)
    scores = block_diagonal(scores, num_heads, float("-inf"))
    return torch.bmm(value, scores.softmax(dim=-1).to(value.dtype).transpose(1, 2))


class CrossCovarianceAttention(nn.Module):
    """Multi-head `cross_covariance_attention` with one learned temperature per head, of tokens `(B, ..., D)`."""

    kernel_name = "cross_covariance"

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.temperature = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.reset_parameters()

    def reset_parameters(self):  # `_init_weights` calls it again: `from_pretrained` discards values set in `__init__`
        init.ones_(self.temperature)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(hidden_states).flatten(1, -2)  # [B, N, 3 D]
        if hidden_states.shape[-1] <= MAX_BLOCK_WIDTH:
            query, key, value = qkv.chunk(3, dim=-1)
            context = cross_covariance_attention_in_blocks(query, key, value, self.temperature)
        else:
            query, key, value = split_heads(qkv, self.num_heads)
            context = cross_covariance_attention(query, key, value, self.temperature).transpose(1, 2)  # [B, N, h, d]
        return self.proj(context.reshape(hidden_states.shape))

    def attention_map(self, hidden_states, grid, place):
        """The weights between channels, `(B, h, d, d)`."""
        query, key, _ = split_heads(self.qkv(hidden_states).flatten(1, -2), self.num_heads)
        return cross_covariance_map(query, key, self.temperature).detach()
