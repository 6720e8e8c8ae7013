"""Configuration of HitViT: a transformer whose tokens are the occupied pixels."""

from typing import Literal

from .configuration_e2e import E2EConfig
from .limits_e2e import COUNTS, FRACTION, NON_NEGATIVE, POSITIVE, REAL, limited, strict_config

__all__ = ["HitViTConfig"]


@strict_config
class HitViTConfig(E2EConfig):
    r"""Shape of a HitViT: blocks of mixing between neighbours, attention over the image, and an MLP.

    Every occupied pixel is a token. The defaults are for 125 x 125 images; for jets, `recipes/models/hitvit_nano.json`
    has a better shape.

    Args:
        tower_channels (`tuple[str, ...]`):
            Those of `channel_names` that are constant in blocks of pixels: a block is one entry, at the pixel in its
            centre.
        tower_size (`int`): Side of such a block in pixels.
        hit_channels (`tuple[str, ...]`):
            Those of `channel_names` that count hits, which are tokens of their own only with `hit_tokens`.
        energy_channels (`tuple[str, ...]`):
            Those of `channel_names` that are energies or momenta, from which the invariant masses are computed.
        hit_tokens (`bool`):
            Whether a pixel with hits and nothing else is a token. If not, its hits are lost.
        hidden_size (`int`): Width of a token.
        num_hidden_layers (`int`): Blocks.
        num_attention_heads (`int`): Heads of all attentions, and of the pooling.
        mlp_ratio (`float`): Hidden width of the MLP over `hidden_size`.
        window_size (`int`): Tokens of a window; an image's tokens are padded to a multiple of it.
        alternate (`bool`):
            Blocks alternate between mixing of neighbours and attention over the image, as in LinearViT. If not, each
            has both. All have an MLP.
        local_mixing (`str`):
            `"window"`: softmax attention in windows along `curve`, with rotary positions; `"convolution"`: depthwise,
            over neighbouring pixels; `"both"`: first the convolution; `"none"`.
        curve (`str`):
            Order of the tokens, a key of `CURVES` (`modeling_curves.py`): `"morton"`, `"hilbert"`; `"grid"`, whose
            windows do not reach beyond cells of 12 x 12 pixels (as in DSVT); `"random"`, the control.
        curve_shift (`int`):
            Every other time, windows are along the transposed curve, under an image moved by so many pixels. With 26,
            the centre of a jet image lies in the middle of one of Morton's blocks of 16; with 0, where four of its
            largest meet.
        kernel_size (`int`): Side of the convolution.
        convolution (`str`):
            `"gather"`: each token collects its neighbours; `"scatter"`: a dense convolution of the image, for images
            of which most pixels are occupied. Both compute the same.
        global_mixing (`str`):
            `"xca"`, `"relu_linear"` (L2ViT), `"rala"`, or `"softmax"`, the quadratic control; `"none"`.
        denominator_floor (`float`): Lower clamp of the denominator of `"relu_linear"`, times the image's tokens.
        num_patch_layers (`int`):
            XCiT's blocks on patches, between the first and the second half of the blocks on pixels; 0 for none.
        patch_size (`int`): Side in pixels of the cells that the first convolution of the patches' stem reads.
        patch_stride (`int`):
            Stride of its second convolution in cells, 1 or 2: there is a patch every `patch_size * patch_stride`
            pixels.
        patch_hidden_size (`int`): Width of a patch.
        rotary_periods (`tuple[float, float]`): Shortest and longest period of the positions, in pixels.
        periodic_columns (`bool`):
            Whether the last column touches the first, as phi does in images of the whole detector. Periods of columns
            are then rounded so that they divide the circumference, and patches have positions of rows only.
        absolute_columns (`bool`):
            Whether a token knows its column, besides those of its neighbours. With `periodic_columns` and without
            this, only the cuts of the curve and the grid of patches depend on where phi begins.
        jet_reach (`int`):
            Half the side of the window around a jet of an event, in pixels. Besides looking at the whole event, a jet
            sees the tokens in its window with their places relative to its axis.
        num_masses (`int`):
            Number of invariant masses that the mass head reads, each with its own learned weights of the pixels'
            energies; 0 for none.
        num_query_layers (`int`): Layers in which jets look at the tokens of their event.
        drop_path_rate (`float`):
            Probability of dropping an image's residual branch, rising linearly from 0 to this at the last block on
            pixels; half of it in those on patches.
        layer_norm_eps (`float`): Of all layer norms.
        mask_size (`int`): Side in pixels of the blocks that pre-training hides. 1 hides single pixels, which their
            neighbours give away.
        ask_every (`int`):
            The decoder is asked about one in so many of the hidden blocks that are occupied or touch one that is.
        decoder_hidden_size (`int`): Width of a token in the decoder of pre-training, a multiple of 16.
        num_decoder_layers (`int`): Its blocks.
        truth_columns (`tuple[str, ...]`):
            Columns of the data that pre-training also learns to predict from the pooled state.
        truth_mean, truth_width (`tuple[float, ...]`): Their means and standard deviations in training.
    """

    model_type = "hitvit"

    pixel_features: bool = True
    pixel_hidden_size: int = limited(64, COUNTS["features"])
    energy_pooling: bool = True
    initializer_range: float | int = limited(0.1, NON_NEGATIVE)  # near 1 / sqrt(hidden_size): starts faster than 0.02
    tower_channels: tuple[str, ...] | list[str] = ("hcal", "hcal_et")
    tower_size: int = limited(5, COUNTS["stride"])
    hit_channels: tuple[str, ...] | list[str] = ("bpix1", "bpix2", "bpix3")
    energy_channels: tuple[str, ...] | list[str] = (
        *("trk_pt", "ecal", "ecal_et", "ecal_pt", "hcal", "hcal_et", "hcal_pt", "energy"),
    )
    hit_tokens: bool = True
    hidden_size: int = limited(64, COUNTS["width"])
    num_hidden_layers: int = limited(4, COUNTS["blocks"])
    num_attention_heads: int = limited(4, COUNTS["heads"])
    mlp_ratio: float | int = limited(3.0, POSITIVE)
    window_size: int = limited(32, COUNTS["window"])
    alternate: bool = True
    local_mixing: Literal["window", "convolution", "both", "none"] = "window"
    curve: Literal["morton", "hilbert", "grid", "random"] = "morton"
    curve_shift: int = limited(26, COUNTS["features"])
    kernel_size: int = limited(3, COUNTS["stride"])
    convolution: Literal["gather", "scatter"] = "gather"
    global_mixing: Literal["xca", "relu_linear", "rala", "softmax", "none"] = "xca"
    denominator_floor: float | int = limited(0.5, POSITIVE)
    num_patch_layers: int = limited(0, COUNTS["blocks"])
    patch_size: int = limited(5, COUNTS["stride"])
    patch_stride: int = limited(2, COUNTS["stride"])
    patch_hidden_size: int = limited(96, COUNTS["width"])
    rotary_periods: tuple[float | int, ...] | list[float | int] = limited((4.0, 250.0), POSITIVE)
    periodic_columns: bool = False
    absolute_columns: bool = True
    jet_reach: int = limited(62, COUNTS["pixels"])
    num_masses: int = limited(0, COUNTS["features"])
    num_query_layers: int = limited(2, COUNTS["blocks"])
    drop_path_rate: float | int = limited(0.0, FRACTION)
    layer_norm_eps: float = limited(1e-5, POSITIVE)
    mask_size: int = limited(5, COUNTS["stride"])
    ask_every: int = limited(3, COUNTS["stride"])
    decoder_hidden_size: int = limited(32, COUNTS["width"])
    num_decoder_layers: int = limited(1, COUNTS["blocks"])
    truth_columns: tuple[str, ...] | list[str] = ()
    truth_mean: tuple[float | int, ...] | list[float | int] = limited((), REAL)
    truth_width: tuple[float | int, ...] | list[float | int] = limited((), POSITIVE)

    @property
    def num_weights(self) -> int:
        on_pixels = self.num_hidden_layers * self.hidden_size**2 * (8 + 2 * self.mlp_ratio)
        on_patches = self.num_patch_layers * self.patch_hidden_size**2 * (4 + 2 * self.mlp_ratio)
        if self.num_patch_layers:  # their stem
            on_patches += self.patch_hidden_size * (9 * self.patch_hidden_size + self.patch_size**2)
        return int(on_pixels + on_patches)

    def channels_among(self, names: tuple[str, ...] | list[str]) -> list[bool]:
        """For each channel of the image, whether its name is one of these."""
        return [name in names for name in self.channel_names or [None] * self.num_channels]

    def validate_heads(self):
        if self.hidden_size % (4 * self.num_attention_heads):
            raise ValueError(
                f"A width of {self.hidden_size} cannot be split into {self.num_attention_heads} attention heads of a "
                "multiple of 4 channels, as rotary positions of rows and columns need."
            )

    def validate_positions(self):
        if len(self.rotary_periods) != 2 or self.rotary_periods[0] > self.rotary_periods[1]:
            raise ValueError(f"`rotary_periods` are the shortest and the longest, got {self.rotary_periods}.")

    def validate_patches(self):
        if not self.num_patch_layers:
            return
        if self.patch_hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`patch_hidden_size` {self.patch_hidden_size} cannot be split into {self.num_attention_heads} "
                "attention heads."
            )
        if self.patch_stride > 2:
            raise ValueError(
                f"`patch_stride` must be 1 or 2, as a patch sees 3 x 3 cells and none may be left out, got "
                f"{self.patch_stride}."
            )
        side, columns = self.patch_size * self.patch_stride, self.image_shape[1]
        if self.periodic_columns and columns % side:
            raise ValueError(
                f"With `periodic_columns`, `patch_size` {self.patch_size} times `patch_stride` {self.patch_stride} "
                f"must divide the image's {columns} columns."
            )

    def validate_masses(self):
        if self.num_masses and self.channel_names is not None and not any(self.channels_among(self.energy_channels)):
            raise ValueError(
                f"`num_masses` needs energies, and none of `energy_channels` {', '.join(self.energy_channels)} is in "
                f"`channel_names` {', '.join(self.channel_names)}: name yours there, or set `num_masses` to 0."
            )

    def validate_kernel(self):
        if self.kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` must be odd, so that a pixel is in the middle, got {self.kernel_size}.")

    def validate_decoder(self):
        if self.decoder_hidden_size % 16:
            raise ValueError(f"`decoder_hidden_size` must be a multiple of 16, got {self.decoder_hidden_size}.")

    def validate_truth(self):
        lengths = [len(part) for part in (self.truth_columns, self.truth_mean, self.truth_width)]
        if len(set(lengths)) > 1:
            raise ValueError(
                "`truth_mean` and `truth_width` have one number for each of `truth_columns`, got "
                f"{lengths[1]} and {lengths[2]} for {lengths[0]}."
            )
