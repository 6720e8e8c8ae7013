"""Configurations of the models of particle-flow candidates, the baselines that do not look at images."""

from .configuration_e2e import E2EConfig
from .limits_e2e import COUNTS, FRACTION, POSITIVE, check_limits, limited, strict_config

__all__ = ["CandidatesConfig", "ParticleFlowNetworkConfig", "ParticleNetConfig", "ParticleTransformerConfig"]


@strict_config
class CandidatesConfig(E2EConfig):
    r"""What models of candidates share.

    Their fields for images describe the images of the same jets, which these models do not read.

    Args:
        dropout (`float`): Probability with which a feature, or a weight of an attention, is dropped in training.
    """

    dropout: float | int = limited(0.1, FRACTION)

    def validate_candidates(self):
        for name in ("pixel_features", "pixel_hidden_size", "energy_pooling"):
            if getattr(self, name):
                raise ValueError(f"`{name}` is for models of images; {self.model_type!r} reads candidates.")


@strict_config
class ParticleTransformerConfig(CandidatesConfig):
    r"""Particle Transformer (https://arxiv.org/abs/2202.03772); the defaults are those of its repository,
    https://github.com/jet-universe/particle_transformer, for JetClass.

    Args:
        hidden_size (`int`): Width of a candidate.
        num_hidden_layers (`int`): Blocks in which candidates attend to each other.
        num_class_attention_layers (`int`): Blocks in which a class token attends to them.
        num_attention_heads (`int`): Heads of all attentions.
        mlp_ratio (`float`): Hidden width of the MLPs and of the embedding, over `hidden_size`.
        pair_hidden_sizes (`tuple[int, ...]`):
            Widths of the layers between the four features of a pair of candidates and its attention biases.
        layer_norm_eps (`float`): As in the authors' code.
    """

    model_type = "particle_transformer"

    hidden_size: int = limited(128, COUNTS["width"])
    num_hidden_layers: int = limited(8, COUNTS["blocks"])
    num_class_attention_layers: int = limited(2, COUNTS["blocks"])
    num_attention_heads: int = limited(8, COUNTS["heads"])
    mlp_ratio: float | int = limited(4.0, POSITIVE)
    pair_hidden_sizes: tuple[int, ...] | list[int] = limited((64, 64, 64), COUNTS["width"])
    layer_norm_eps: float = limited(1e-5, POSITIVE)

    @property
    def num_weights(self) -> int:
        blocks = self.num_hidden_layers + self.num_class_attention_layers
        return int(blocks * self.hidden_size**2 * (4 + 2 * self.mlp_ratio))

    def validate_class_attention(self):
        if not self.num_class_attention_layers:
            raise ValueError("`num_class_attention_layers` must be 1 or more: the class token sees the jet in these.")

    def validate_heads(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` {self.hidden_size} cannot be split into {self.num_attention_heads} attention heads."
            )


@strict_config
class ParticleNetConfig(CandidatesConfig):
    r"""ParticleNet (https://arxiv.org/abs/1902.08570); the defaults are those of
    https://github.com/jet-universe/particle_transformer for JetClass.

    Args:
        num_neighbors (`int`): Nearest neighbours of each candidate.
        edge_hidden_sizes (`tuple[int, ...]`): Widths of the edge convolutions, each of three layers.
        hidden_size (`int`): Width of the layer after the average over candidates, which the heads read.
    """

    model_type = "particle_net"

    num_neighbors: int = limited(16, COUNTS["neighbors"])
    edge_hidden_sizes: tuple[int, ...] | list[int] = limited((64, 128, 256), COUNTS["width"])
    hidden_size: int = limited(256, COUNTS["width"])

    @property
    def num_weights(self) -> int:
        return sum(2 * width**2 for width in self.edge_hidden_sizes)

    def validate_edges(self):
        check_limits("the number of edge_hidden_sizes", len(self.edge_hidden_sizes), COUNTS["stages"])


@strict_config
class ParticleFlowNetworkConfig(CandidatesConfig):
    r"""A particle flow network (https://arxiv.org/abs/1810.05165): F(Σ Φ(candidate)); the defaults are those of
    https://github.com/jet-universe/particle_transformer for JetClass.

    Args:
        hidden_size (`int`): Width of all layers.
        num_hidden_layers (`int`): Layers of Φ, and as many of F.
        dropout (`float`): None in the published model.
    """

    model_type = "particle_flow_network"

    hidden_size: int = limited(128, COUNTS["width"])
    num_hidden_layers: int = limited(3, COUNTS["blocks"])
    dropout: float | int = limited(0.0, FRACTION)

    @property
    def num_weights(self) -> int:
        return 2 * self.num_hidden_layers * self.hidden_size**2

    def validate_layers(self):
        if not self.num_hidden_layers:
            raise ValueError("`num_hidden_layers` must be 1 or more.")
