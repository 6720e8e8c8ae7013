"""Configuration of LinearViT (L2ViT, https://arxiv.org/abs/2501.16182)."""

from transformers.backbone_utils import BackboneConfigMixin

from .configuration_e2e import E2EConfig
from .limits_e2e import COUNTS, FRACTION, POSITIVE, check_limits, limited, strict_config

__all__ = ["LinearViTConfig"]


@strict_config
class LinearViTConfig(BackboneConfigMixin, E2EConfig):
    r"""Shape of a LinearViT: stages of local-window blocks alternating with global linear-attention blocks.

    The defaults are the nano model for 125 x 125 images; the paper's models use `patch_size=4`, `window_size=7`,
    `denominator_floor=100` and `denominator_floor_per_token=False`.

    Args:
        patch_size (`int`):
            Side of the pixel block that the stem merges. 5 is one HCAL tower; powers of two are chains of
            3 x 3 convolutions of stride 2, as in the paper (4).
        fourier_positions (`bool`):
            Add XCiT's position encoding to the stem's tokens. The paper has none, because windows and convolutions see
            relative positions; but a jet image has its jet in the centre.
        token_stride (`int`): Stride of an additional 3 x 3 convolution after the patches; 1 for none.
        hidden_sizes (`tuple[int, ...]`): Width of each stage; the four per-stage fields have the same length.
        depths (`tuple[int, ...]`): Blocks of each stage: local, global, local, ...
        num_attention_heads (`tuple[int, ...]`): Attention heads of each stage.
        mlp_ratios (`tuple[float, ...]`): Hidden width of the MLP over the width of its stage.
        window_size (`int`): Side of a local-attention window, in tokens of that stage.
        global_attention (`str`):
            Mixer of the global blocks, a key of `GLOBAL_ATTENTIONS` (`modeling_mixers.py`): `"relu_linear"` is the
            paper's, `"softmax"` the quadratic control, others are other papers'.
        rotary_positions (`bool`): Rotary positions, for the mixers that can have them.
        local_kernel_size (`int`): Side of the depthwise kernels of the local concentration module (LCM).
        denominator_floor (`float`): Lower clamp of the linear-attention denominator; 100 in the authors' code.
        denominator_floor_per_token (`bool`):
            Multiply the floor by the number of tokens. The authors' 100 acts on a sum over the 196 tokens of a
            224-pixel image in stage 3, which is 0.51 per token; on the smaller grids of a 125-pixel image a plain 100
            would disable the normalisation.
        attention_pooling (`bool`):
            Pool the tokens by attention with one learned query per head. The paper's mean dilutes the few tokens of
            displaced tracks.
        drop_path_rate (`float`):
            Probability of dropping a sample's residual branch, rising linearly from 0 to this at the last block.
        layer_norm_eps (`float`): As in the authors' code.
        out_features (`list[str]`), out_indices (`list[int]`), *optional*:
            What an [`AutoBackbone`] returns, from `stem`, `stage1`, ...; the last one by default.
    """

    model_type = "linearvit"

    patch_size: int = limited(5, COUNTS["stride"])
    fourier_positions: bool = False
    token_stride: int = limited(2, COUNTS["stride"])
    hidden_sizes: tuple[int, ...] | list[int] = limited((96,), COUNTS["width"])
    depths: tuple[int, ...] | list[int] = limited((4,), COUNTS["blocks"])
    num_attention_heads: tuple[int, ...] | list[int] = limited((4,), COUNTS["heads"])
    mlp_ratios: tuple[float | int, ...] | list[float | int] = limited((4.0,), POSITIVE)
    window_size: int = limited(5, COUNTS["window"])
    global_attention: str = "relu_linear"
    rotary_positions: bool = False
    local_kernel_size: int = limited(7, COUNTS["window"])
    denominator_floor: float | int = limited(0.5, POSITIVE)
    denominator_floor_per_token: bool = True
    attention_pooling: bool = False
    drop_path_rate: float | int = limited(0.0, FRACTION)
    layer_norm_eps: float = limited(1e-5, POSITIVE)

    def __post_init__(self, **kwargs):
        self._settle_stages(len(self.depths), kwargs)
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the tokens that the model returns, those of its last stage."""
        return self.hidden_sizes[-1]

    @property
    def num_hidden_layers(self) -> int:
        """Number of stages; each returns hidden states."""
        return len(self.depths)

    @property
    def num_weights(self) -> int:
        shapes = zip(self.hidden_sizes, self.depths, self.mlp_ratios)
        blocks = sum(int(depth * width**2 * (4 + 2 * ratio)) for width, depth, ratio in shapes)
        return blocks + self.num_inputs * self.patch_size**2 * max(self.hidden_sizes, default=0)

    def validate_stages(self):
        fields = ("hidden_sizes", "depths", "num_attention_heads", "mlp_ratios")
        lengths = [len(getattr(self, name)) for name in fields]
        if len(set(lengths)) != 1:
            raise ValueError(
                f"{', '.join(f'`{name}`' for name in fields)} need one entry per stage, got {lengths} entries."
            )
        check_limits("len(depths)", lengths[0], COUNTS["stages"])
        check_limits("sum(depths)", sum(self.depths), COUNTS["blocks"])
        for width, heads in zip(self.hidden_sizes, self.num_attention_heads):
            if width % heads:
                raise ValueError(f"A stage of width {width} cannot be split into {heads} attention heads.")

    def validate_local_kernel(self):
        if self.local_kernel_size % 2 == 0:
            raise ValueError(f"`local_kernel_size` must be odd to keep the grid, got {self.local_kernel_size}.")
