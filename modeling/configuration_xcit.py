"""Configuration of XCiT (https://arxiv.org/abs/2106.09681)."""

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin

from .configuration_e2e import E2EConfig

__all__ = ["XCiTConfig"]


@strict
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
            What an [`AutoBackbone`] returns, from `stem`, `block1`, ...; the last one by default.
    """

    model_type = "xcit"

    patch_size: int = 5
    token_stride: int = 2
    hidden_size: int = 96
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    mlp_ratio: float | int = 4.0
    num_class_attention_layers: int = 2
    layer_scale_init_value: float | int = 1.0
    tokens_norm: bool = True
    drop_path_rate: float | int = 0.0
    layer_norm_eps: float = 1e-6

    def __post_init__(self, **kwargs):
        self.stage_names = ["stem", *(f"block{number + 1}" for number in range(self.num_hidden_layers))]
        chosen = {name: kwargs.pop(name, None) for name in ("out_features", "out_indices")}
        self.set_output_features_output_indices(**chosen)
        super().__post_init__(**kwargs)

    def validate_heads(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` {self.hidden_size} cannot be split into {self.num_attention_heads} attention heads."
            )

    def validate_drop_path(self):
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"`drop_path_rate` must lie in [0, 1), got {self.drop_path_rate}.")
