"""From tokens to one vector: attention with learned queries."""

import torch
from torch import nn

from .modeling_layers import Mlp
from .modeling_precision import LayerNorm, no_autocast, widen

__all__ = ["MAX_SCORE", "AttentionPooling"]

MAX_SCORE = 15.0  # its exponential, summed over any number of tokens, is far from float32's limits


class AttentionPooling(nn.Module):
    """Each head's mean of the tokens, weighted with a softmax of its learned query's scores; then values and an MLP.

    Scores are capped smoothly at ±15, so no largest score needs to be found and subtracted first. As in attention, a
    head reads its own part of the values; they are computed from its mean token, which gives the same at lower cost.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, eps: float):
        super().__init__()
        self.num_heads = num_heads
        self.score = nn.Linear(width, num_heads)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.norm1 = LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.norm2 = LayerNorm(width, eps=eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, N, D)` to `(B, D)`."""
        scores = self.score(hidden_states)
        with no_autocast(hidden_states):
            weights = self.weights(scores).transpose(1, 2)  # [B, h, N]
            means = weights @ widen(hidden_states)[0] / weights.sum(2, keepdim=True)
        return self.read(means.to(hidden_states.dtype))

    def weights(self, scores: torch.Tensor) -> torch.Tensor:
        """Weights that do not yet sum to one."""
        (scores,) = widen(scores)
        return (MAX_SCORE * torch.tanh(scores / MAX_SCORE)).exp()

    def read(self, means: torch.Tensor) -> torch.Tensor:
        """From each head's mean token `(B, h, D)` to `(B, D)`."""
        values = self.value(means).unflatten(2, (self.num_heads, -1))  # [B, h, h, d]
        pooled = self.proj(values.diagonal(dim1=1, dim2=2).transpose(1, 2).flatten(1))
        return self.norm2(pooled + self.mlp(self.norm1(pooled)))
