"""From the tokens of an image to one vector: attention with learned queries, and weights that are energies."""

import torch
from torch import nn
from torch.nn import functional as F

from .modeling_head import MIN_CONTENT
from .modeling_layers import Mlp
from .modeling_packed import sum_over_tokens
from .modeling_precision import LayerNorm, no_autocast, widen
from .modeling_stem import linear_pixels
from .modeling_tokens import PackedTokens

__all__ = ["AttentionPooling", "TokenEnergyPooling"]

MAX_SCORE = 15.0  # its exponential, summed over any number of tokens, is far from float32's limits
NUM_SUMS = 2  # weighted energies of each channel


class AttentionPooling(nn.Module):
    """Each head's mean of the tokens' values, weighted with a softmax of its learned query's scores; then an MLP.

    Scores are capped smoothly at ±15, so no largest score needs to be found and subtracted first.
    """

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.score = nn.Linear(width, self.num_heads)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.norm1 = LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = Mlp(width, int(width * config.mlp_ratio))
        self.norm2 = LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
        """`(M, W, D)` to `(B, D)`; an image without tokens has zeros to start from."""
        scores, values = self.score(hidden_states), self.value(hidden_states)
        with no_autocast(hidden_states):
            scores, wide = widen(scores, values)
            scores = MAX_SCORE * torch.tanh(scores / MAX_SCORE)
            weights = (scores.exp() * tokens.is_token.unsqueeze(2)).unsqueeze(3)  # [M, W, h, 1]
            total = sum_over_tokens(weights, tokens)
            summed = sum_over_tokens(weights * wide.unflatten(2, (self.num_heads, -1)), tokens)
            smallest = torch.finfo(summed.dtype).tiny
            pooled = (summed / total.clamp(min=smallest)).flatten(1).to(values.dtype)
        pooled = self.proj(pooled)
        return self.norm2(pooled + self.mlp(self.norm1(pooled)))


class TokenEnergyPooling(nn.Module):
    """Tokens averaged with their energies as weights, and logarithms of weighted energies, for each detector channel.

    The first is [`EnergyPooling`] with pixels for patches. A jet's mass, to leading order, is a sum over its
    constituents of energies times a function of their places: [`NUM_SUMS`] such sums with learned functions, as
    logarithms, are the second. Energies are absolute values with the processor's logarithm undone.
    """

    def __init__(self, config, hidden_size: int):
        super().__init__()
        self.num_channels, self.width = config.num_channels, max(1, hidden_size // config.num_channels)
        self.values = nn.Linear(hidden_size, self.num_channels * (self.width + NUM_SUMS))
        self.output = nn.Linear(self.num_channels * (self.width + NUM_SUMS + 1), hidden_size)

    def forward(self, hidden_states: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
        """`(M, W, D)` to `(B, D)`."""
        values = self.values(hidden_states)
        with no_autocast(hidden_states):
            content, wide = widen(linear_pixels(tokens.values), values)  # [M, W, C], zero in empty places
            wide = wide.unflatten(2, (self.num_channels, -1))
            values, weights = wide.split([self.width, NUM_SUMS], dim=3)
            parts = torch.cat([values, F.softplus(weights), torch.ones_like(weights[..., :1])], dim=3)
            summed = sum_over_tokens(parts * content.unsqueeze(3), tokens)  # [B, C, width + sums + 1]
            total = summed[..., -1:]
            pooled = [summed[..., : self.width] / total.clamp(min=MIN_CONTENT), summed[..., self.width :].log1p()]
            pooled = torch.cat(pooled, dim=2).flatten(1)
        return self.output(pooled.to(hidden_states.dtype))
