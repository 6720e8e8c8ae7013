"""From the tokens of an image to one vector: attention with learned queries, weights that are energies, and masses."""

from math import log

import torch
from torch import nn
from torch.nn import functional as F

from .modeling_attention_pooling import AttentionPooling
from .modeling_head import MIN_CONTENT
from .modeling_packed import gram, sum_over_tokens
from .modeling_precision import no_autocast, widen
from .modeling_stem import linear_pixels
from .modeling_tokens import PIXEL, PackedTokens

__all__ = ["TokenAttentionPooling", "TokenEnergyPooling", "TokenMassPooling"]

NUM_SUMS = 2  # weighted energies of each channel
TYPICAL_MASS = 100.0  # in the units of `TokenMassPooling.masses`


class TokenAttentionPooling(AttentionPooling):
    """[`AttentionPooling`] of images with different numbers of tokens."""

    @classmethod
    def of(cls, config) -> "TokenAttentionPooling":
        """For the tokens of HitViT."""
        return cls(config.hidden_size, config.num_attention_heads, config.mlp_ratio, config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`(M, W, D)` to `(B, D)`; an image without tokens has zeros to start from."""
        scores = self.score(hidden_states)
        with no_autocast(hidden_states):
            weights = self.weights(scores) * tokens.is_token.unsqueeze(2)  # [M, W, h]
            total = sum_over_tokens(weights, tokens).unsqueeze(2)
            summed = gram(weights, hidden_states, tokens)  # [B, h, D]
            means = (summed / total.clamp(min=torch.finfo(summed.dtype).tiny)).to(hidden_states.dtype)
        return self.read(means)


class TokenEnergyPooling(nn.Module):
    """Tokens averaged with their energies as weights, and logarithms of weighted energies, for each detector channel.

    The first is [`EnergyPooling`] with pixels for patches. A jet's mass, to leading order, is a sum over its
    constituents of energies times a function of their places: [`NUM_SUMS`] such sums with learned functions, as
    logarithms, are the second. Energies are absolute values with the processor's logarithm undone.
    """

    def __init__(self, config, hidden_size: int):
        super().__init__()
        self.num_channels, self.width = config.num_channels, max(1, hidden_size // config.num_channels)
        self.values = nn.Linear(hidden_size, self.num_channels * self.width)
        self.weights = nn.Linear(hidden_size, self.num_channels * NUM_SUMS)
        self.output = nn.Linear(self.num_channels * (self.width + NUM_SUMS + 1), hidden_size)

    def forward(self, hidden_states: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
        """`(M, W, D)` to `(B, D)`."""
        weights = self.weights(hidden_states)
        with no_autocast(hidden_states):
            content, weights = widen(linear_pixels(tokens.values), weights)
            weights = F.softplus(weights).unflatten(2, (self.num_channels, NUM_SUMS))
            sums = sum_over_tokens(weights * content.unsqueeze(3), tokens)  # [B, C, sums]
            total = sum_over_tokens(content, tokens).unsqueeze(2)  # zero in empty places
            means = gram(content, hidden_states, tokens) / total.clamp(min=MIN_CONTENT)  # [B, C, D]
        # each channel reads its own part of the values of its mean
        values = self.values(means.to(hidden_states.dtype)).unflatten(2, (self.num_channels, self.width))
        values = values.diagonal(dim1=1, dim2=2).transpose(1, 2)  # [B, C, width]
        logs = torch.cat([sums, total], dim=2).log1p().to(values.dtype)
        return self.output(torch.cat([values, logs], dim=2).flatten(1))


class TokenMassPooling(nn.Module):
    """Invariant masses of an image, for the mass head: m² = (Σ E)² - (Σ p)², where each pixel is a massless particle.

    A pixel's energy is a weighted sum of its `config.energy_channels`, each in units of its own scale. The weights are
    learned from the pixel's state, so they can calibrate the channels and suppress pile-up. Energies are assumed to be
    transverse; otherwise the mass is too large by cosh η of the jet. All pixels are assumed to have the barrel's size
    in η and φ.
    """

    def __init__(self, config, hidden_size: int):
        super().__init__()
        is_energy = config.channels_among(config.energy_channels)
        self.channels = [i for i, known in enumerate(is_energy) if known or config.channel_names is None]
        self.num_masses = config.num_masses
        self.weights = nn.Linear(hidden_size, len(self.channels) * self.num_masses)
        self.output = nn.Linear(self.num_masses, hidden_size)

    def masses(self, hidden_states: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
        """Squared masses `(B, num_masses)` of tokens `(M, W, D)`, in squares of the channels' units."""
        weights = self.weights(hidden_states)
        with no_autocast(hidden_states):
            content = linear_pixels(torch.stack([tokens.values[..., i] for i in self.channels], dim=2))
            content, weights = widen(content, weights)
            weights = F.softplus(weights).unflatten(2, (len(self.channels), self.num_masses))
            energies = (weights * content.unsqueeze(3)).sum(2)  # [M, W, masses]
            eta, phi = (tokens.steps.to(energies.dtype) * PIXEL).unbind(2)
            # E - p_x apart: of a narrow jet, E² - p_x² = (E - p_x) (E + p_x) is a small difference of large numbers
            momenta = torch.stack([eta.cosh() - phi.cos(), phi.cos(), phi.sin(), eta.sinh()], dim=2)
            excess, along, across, beam = gram(energies, momenta, tokens).unbind(2)  # [B, masses]
            squares = excess * (excess + 2 * along) - across.square() - beam.square()
            return squares.clamp(min=0)

    def forward(self, hidden_states: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
        """`(M, W, D)` to `(B, D)`."""
        # centred near 0: otherwise the head learns to use them much later
        logs = self.masses(hidden_states, tokens).log1p() - 2 * log(TYPICAL_MASS)
        return self.output(logs.to(hidden_states.dtype))
