"""ParticleNet (https://arxiv.org/abs/1902.08570): convolutions over the nearest candidates of each candidate."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_candidates import ParticleNetConfig
from .modeling_candidates import (
    NUM_FEATURES,
    CandidateNorm,
    CandidatesForJetClassification,
    CandidatesModel,
    padded,
)
from .modeling_precision import no_autocast

__all__ = ["ParticleNetForJetClassification", "ParticleNetModel", "nearest"]

NUM_EDGE_LAYERS = 3


@torch.no_grad()
def nearest(points: torch.Tensor, is_real: torch.Tensor, number: int) -> torch.Tensor:
    """The places of the `number` nearest other candidates of the jet `(B, N, number)`; where it has fewer, a
    candidate's own place.

    Args:
        points: Coordinates `(B, N, d)`.
        is_real: Which candidates exist, `(B, N)`.
    """
    with no_autocast(points):
        apart = torch.cdist(points.float(), points.float(), compute_mode="donot_use_mm_for_euclid_dist")
    own = torch.arange(points.shape[1], device=points.device)
    no_neighbor = ~is_real.unsqueeze(1) | (own == own.unsqueeze(1))
    apart = apart.masked_fill(no_neighbor, float("inf"))
    apart = F.pad(apart, (0, max(0, number - len(own))), value=float("inf"))  # as many places in any batch
    apart, places = apart.topk(number, dim=2, largest=False)
    return torch.where(apart.isinf(), own.unsqueeze(1), places)


class EdgeConvolution(nn.Module):
    """Three layers on pairs of a candidate and a neighbour, averaged over the neighbours, and a shortcut."""

    def __init__(self, input_size: int, output_size: int):
        super().__init__()
        sizes = [2 * input_size] + [output_size] * NUM_EDGE_LAYERS
        self.layers = nn.ModuleList(nn.Linear(*pair, bias=False) for pair in pairwise(sizes))
        self.norms = nn.ModuleList(CandidateNorm(output_size) for _ in self.layers)
        self.shortcut = nn.Identity()
        if input_size != output_size:
            self.shortcut = nn.Sequential(nn.Linear(input_size, output_size, bias=False), CandidateNorm(output_size))

    def forward(self, features: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
        """`(M, D)` to `(M, D')`.

        Args:
            neighbors: Their rows in `features`, `(M, k)`.
        """
        first, *layers = self.layers
        # the first layer of (x, x' - x): once for each candidate instead of once for each pair
        own, other = first.weight.chunk(2, dim=1)  # pyright: ignore
        edges = F.linear(features, own - other).unsqueeze(1) + F.linear(features, other)[neighbors]
        shape, edges = edges.shape[:2], edges.flatten(0, 1)
        edges = self.norms[0](edges).relu()
        for layer, norm in zip(layers, list(self.norms)[1:]):
            edges = norm(layer(edges)).relu()
        mixed = edges.unflatten(0, shape).mean(1)
        return (self.shortcut(features) + mixed).relu()


class ParticleNetModel(CandidatesModel):
    """Edge convolutions, the first among neighbours in eta and phi, the others among neighbours in the features."""

    config_class = ParticleNetConfig
    base_model_prefix = "particle_net"

    def __init__(self, config):
        super().__init__(config)
        sizes = [NUM_FEATURES, *config.edge_hidden_sizes]
        self.norm = CandidateNorm(NUM_FEATURES)
        self.convolutions = nn.ModuleList(EdgeConvolution(*pair) for pair in pairwise(sizes))
        self.output, self.dropout = nn.Linear(sizes[-1], config.hidden_size), nn.Dropout(config.dropout)
        self.post_init()

    def block_names(self):
        return [f"convolutions.{i}" for i in range(len(self.convolutions))]

    def encode(self, features, values, is_real):
        jet = is_real.nonzero()[:, 0]
        rows = torch.zeros_like(is_real, dtype=torch.long)
        rows[is_real] = torch.arange(len(jet), device=jet.device)
        points = features[..., -2:]  # eta and phi from the axis
        hidden = self.norm(features[is_real])
        for convolution in self.convolutions:
            places = nearest(points, is_real, self.config.num_neighbors)[is_real]
            hidden = convolution(hidden, rows[jet.unsqueeze(1), places])
            points = padded(hidden, is_real)
        counts = is_real.sum(1, keepdim=True)
        pooled = points.sum(1) / counts
        return points, self.dropout(self.output(pooled).relu())


class ParticleNetForJetClassification(CandidatesForJetClassification):
    """ParticleNet with class and mass heads."""

    config_class = ParticleNetConfig
    base_model_prefix = "particle_net"
    model_class = ParticleNetModel
