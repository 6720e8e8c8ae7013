"""Particle Transformer (https://arxiv.org/abs/2202.03772): attention biased by the kinematics of each pair.

Only candidates that exist enter the networks of candidates and of pairs, each pair once, since its features are
symmetric. The published code fills jets up to 128 candidates with copies, which its BatchNorms count too.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_candidates import ParticleTransformerConfig
from .modeling_activations import gelu
from .modeling_candidates import (
    ETA,
    ID,
    LEAST,
    NUM_FEATURES,
    PHI,
    PT,
    CandidateNorm,
    CandidatesForJetClassification,
    CandidatesModel,
    padded,
    wrapped,
)
from .modeling_precision import LayerNorm

__all__ = ["ParticleTransformerForJetClassification", "ParticleTransformerModel", "pair_features"]

MASSES = {211: 0.13957, 11: 0.000511, 13: 0.10566}  # GeV; photons and neutral hadrons have none in the simulation
NUM_PAIR_FEATURES = 4


def pair_features(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """ln kT, ln z, ln Δ and ln m² of pairs of candidates `(P, 10)`, in GeV, `(P, 4)` (equation 3).

    The mass is a sum of positive terms. E² - p², as published, loses all digits of a mass below 0.2 GeV at
    250 GeV in single precision.
    """
    (pt, y, phi, mt, m2), (other_pt, other_y, other_phi, other_mt, other_m2) = _kinematics(first), _kinematics(second)
    across, along = wrapped(phi - other_phi), y - other_y
    softer, apart = torch.minimum(pt, other_pt), torch.hypot(along, across)
    # of E E' - p p': mT mT' cosh(Δy) - pT pT' cos(Δφ) without a difference of large numbers
    at_rest = (pt.square() * other_m2 + other_pt.square() * m2 + m2 * other_m2) / (mt * other_mt + pt * other_pt)
    moving = 2 * (mt * other_mt * (along / 2).sinh().square() + pt * other_pt * (across / 2).sin().square())
    mass = m2 + other_m2 + 2 * (at_rest + moving)
    features = [softer * apart, softer / (pt + other_pt), apart, mass]
    return torch.stack(features, dim=1).clamp(min=LEAST).log()


def _kinematics(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """pT, rapidity, phi, transverse mass and mass squared."""
    code, pt = values[:, ID].abs(), values[:, PT].clamp(min=LEAST)
    m2 = sum((code == kind) * mass**2 for kind, mass in MASSES.items())
    mt = (pt.square() + m2).sqrt()
    return pt, (pt / mt * values[:, ETA].sinh()).asinh(), values[:, PHI], mt, m2  # pyright: ignore[reportReturnType]


class CandidateEmbedding(nn.Module):
    """Three layers from the features of a candidate to its token."""

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        sizes = [NUM_FEATURES, width, int(width * config.mlp_ratio), width]
        self.norm = CandidateNorm(NUM_FEATURES)
        self.norms = nn.ModuleList(LayerNorm(size, eps=config.layer_norm_eps) for size in sizes[:-1])
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(M, F)` to `(M, D)`."""
        features = self.norm(features)
        for norm, layer in zip(self.norms, self.layers):
            features = gelu(layer(norm(features)))
        return features


class PairBias(nn.Module):
    """From pairs of candidates to a bias for each head of attention."""

    def __init__(self, config):
        super().__init__()
        sizes = [NUM_PAIR_FEATURES, *config.pair_hidden_sizes, config.num_attention_heads]
        self.norm = CandidateNorm(sizes[0])
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.norms = nn.ModuleList(CandidateNorm(size) for size in sizes[1:])

    def forward(self, values: torch.Tensor, is_real: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Candidates `(B, N, 10)` to biases `(B, h, N, N)`, -inf for keys that are padding."""
        both = (is_real.unsqueeze(2) & is_real.unsqueeze(1)).triu()
        jet, one, other = both.nonzero(as_tuple=True)
        with torch.no_grad():
            features = pair_features(values[jet, one], values[jet, other])
        features = self.norm(features)
        for layer, norm in zip(self.layers, self.norms):
            features = gelu(norm(layer(features)))
        features = features.to(dtype)
        number, length = is_real.shape
        bias = features.new_zeros(number, length, length, features.shape[1])
        bias = bias.index_put((jet, one, other), features).index_put((jet, other, one), features)
        return bias.permute(0, 3, 1, 2).contiguous().masked_fill(~is_real[:, None, None], float("-inf"))


class Attention(nn.Module):
    """Softmax attention with a bias.

    As in the published code, the learned scales of the heads act after the output projection.
    """

    def __init__(self, config, dropout: float):
        super().__init__()
        width, self.num_heads, self.dropout = config.hidden_size, config.num_attention_heads, dropout
        self.query, self.key_value, self.output = (nn.Linear(width, n * width) for n in (1, 2, 1))
        self.head_scale = nn.Parameter(torch.ones(self.num_heads))

    def forward(self, queries: torch.Tensor, tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """`(B, Q, D)` and `(B, N, D)` to `(B, Q, D)`."""
        query, key, value = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query(queries), *self.key_value(tokens).chunk(2, dim=2))
        )
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, bias, dropout)
        context = self.output(context.transpose(1, 2).flatten(2)).unflatten(2, (self.num_heads, -1))
        return (context * self.head_scale.unsqueeze(1)).flatten(2)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        init.ones_(self.head_scale)


class Block(nn.Module):
    """Attention and MLP with norms before and after each (NormFormer), and a learned scale of the residual."""

    def __init__(self, config, dropout: float):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        hidden = int(width * config.mlp_ratio)
        self.norm1, self.attn, self.norm2 = LayerNorm(width, eps), Attention(config, dropout), LayerNorm(width, eps)
        self.norm3, self.fc1 = LayerNorm(width, eps), nn.Linear(width, hidden)
        self.norm4, self.fc2 = LayerNorm(hidden, eps), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.residual_scale = nn.Parameter(torch.ones(width))

    def forward(
        self, tokens: torch.Tensor, bias: torch.Tensor, class_token: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Tokens `(B, N, D)` to tokens; with a class token `(B, 1, D)`, which `bias` must then include, to that."""
        queries = tokens if class_token is None else class_token
        seen = self.norm1(tokens if class_token is None else torch.cat([class_token, tokens], dim=1))
        # the class token asks as it is, not normalised: so does the published code
        mixed = self.attn(seen if class_token is None else class_token, seen, bias)
        queries = queries + self.dropout(self.norm2(mixed))
        hidden = self.dropout(gelu(self.fc1(self.norm3(queries))))
        return self.residual_scale * queries + self.dropout(self.fc2(self.norm4(hidden)))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        init.ones_(self.residual_scale)


class ParticleTransformerModel(CandidatesModel):
    """Candidates attend to each other, then a class token to them."""

    config_class = ParticleTransformerConfig
    base_model_prefix = "particle_transformer"

    def __init__(self, config):
        super().__init__(config)
        self.embedding, self.pair_bias = CandidateEmbedding(config), PairBias(config)
        self.blocks = nn.ModuleList(Block(config, config.dropout) for _ in range(config.num_hidden_layers))
        self.class_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.class_blocks = nn.ModuleList(Block(config, 0.0) for _ in range(config.num_class_attention_layers))
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if module is self:
            init.trunc_normal_(self.class_token, std=self.config.initializer_range)
        else:
            super()._init_weights(module)

    def block_names(self):
        return [f"{kind}.{i}" for kind in ("blocks", "class_blocks") for i in range(len(getattr(self, kind)))]

    def encode(self, features, values, is_real):
        tokens = padded(self.embedding(features[is_real]), is_real)
        bias = self.pair_bias(values, is_real, tokens.dtype)
        for block in self.blocks:
            tokens = block(tokens, bias)
        pooled = self.class_token.to(tokens.dtype).repeat(len(tokens), 1, 1)  # a view of it would need a gradient
        absent = torch.zeros_like(is_real, dtype=tokens.dtype).masked_fill(~is_real, float("-inf"))
        absent = F.pad(absent, (1, 0))[:, None, None]
        for block in self.class_blocks:
            pooled = block(tokens, absent, pooled)
        return tokens, self.norm(pooled).squeeze(1)


class ParticleTransformerForJetClassification(CandidatesForJetClassification):
    """Particle Transformer with class and mass heads."""

    config_class = ParticleTransformerConfig
    base_model_prefix = "particle_transformer"
    model_class = ParticleTransformerModel
