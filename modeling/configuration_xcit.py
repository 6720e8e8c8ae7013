"""Configuration of XCiT (https://arxiv.org/abs/2106.09681)."""

from transformers.backbone_utils import BackboneConfigMixin

from .configuration_e2e import E2EConfig
from .limits_e2e import COUNTS, FRACTION, NON_NEGATIVE, POSITIVE, limited, strict_config

__all__ = ["XCiTConfig"]


@strict_config
class XCiTConfig(BackboneConfigMixin, E2EConfig):
    r"""Shape of an XCiT: cross-covariance blocks on one grid of tokens, then class attention.

    The defaults are the nano model for 125 x 125 images; the paper's models use `patch_size` 8 or 16,
    `token_stride=1`, and other widths and depths.

    Args:
        patch_size (`int`):
            Side of the pixel block that the stem merges. 5 is one HCAL tower; powers of two are chains of
            3 x 3 convolutions of stride 2, as in the paper (8, 16).
        token_stride (`int`): Stride of an additional 3 x 3 convolution after the patches; 1 for none.
        hidden_size (`int`): Width of a token.
        num_hidden_layers (`int`): Cross-covariance blocks.
        num_attention_heads (`int`): Heads of both attentions.
        mlp_ratio (`float`): Hidden width of the MLP over `hidden_size`.
        num_class_attention_layers (`int`): Class-attention blocks at the end.
        layer_scale_init_value (`float`):
            Initial LayerScale: 1 in the paper's 12-layer models, 1e-5 in its 24-layer ones.
        tokens_norm (`bool`):
            Whether class-attention blocks normalise all tokens or only the class token: false in the paper's nano
            models, true in the others.
        drop_path_rate (`float`): Probability of dropping a sample's residual branch, the same in every block.
        layer_norm_eps (`float`): As in the authors' code.
        out_features (`list[str]`), out_indices (`list[int]`), *optional*:
            What an [`AutoBackbone`] returns, from `stem`, `stage1` (its first block), ...; the last one by default.
    """

    model_type = "xcit"

    patch_size: int = limited(5, COUNTS["stride"])
    token_stride: int = limited(2, COUNTS["stride"])
    hidden_size: int = limited(96, COUNTS["width"])
    num_hidden_layers: int = limited(4, COUNTS["blocks"])
    num_attention_heads: int = limited(4, COUNTS["heads"])
    mlp_ratio: float | int = limited(4.0, POSITIVE)
    num_class_attention_layers: int = limited(2, COUNTS["blocks"])
    layer_scale_init_value: float | int = limited(1.0, NON_NEGATIVE)
    tokens_norm: bool = True
    drop_path_rate: float | int = limited(0.0, FRACTION)
    layer_norm_eps: float = limited(1e-6, POSITIVE)

    def __post_init__(self, **kwargs):
        self._settle_stages(self.num_hidden_layers, kwargs)
        super().__post_init__(**kwargs)

    @property
    def num_weights(self) -> int:
        blocks = self.num_hidden_layers + self.num_class_attention_layers
        stem = self.num_inputs * self.patch_size**2 * self.hidden_size
        return int(blocks * self.hidden_size**2 * (4 + 2 * self.mlp_ratio)) + stem

    def validate_heads(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` {self.hidden_size} cannot be split into {self.num_attention_heads} attention heads."
            )
