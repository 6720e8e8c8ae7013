"""HitViT: every occupied pixel is a token, and nothing is computed for the empty ones.

A jet image holds some 700 occupied pixels of 15 625. Blocks mix neighbours (`modeling_local.py`), then all tokens of
the image in linear time (`modeling_packed.py`). Tokens stay `(M, W, D)`, windows of one image each
(`modeling_tokens.py`), so an image never sees the others of its batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import can_return_tuple

from .configuration_hitvit import HitViTConfig
from .modeling_checkpointing import update_statistics_once
from .modeling_e2e import E2EForImageClassification, E2EModelOutput, E2EOutput, E2EPreTrainedModel
from .modeling_head import E2EHead
from .modeling_layers import DropPath, Mlp
from .modeling_local import Surroundings, TokenConvolution, WindowAttention, reorder, rotary_table, surroundings
from .modeling_packed import PACKED_ATTENTIONS, unpack
from .modeling_patches import PatchBlocks
from .modeling_pooling import TokenAttentionPooling, TokenEnergyPooling, TokenMassPooling
from .modeling_precision import LayerNorm, residual_stream
from .modeling_stem import check_pixel_values, pixel_features
from .modeling_tokens import PackedTokens, make_tokens, unpacked_places
from .modeling_trainer import shown_to_trainer

__all__ = [
    "HitViTBlock",
    "HitViTForImageClassification",
    "HitViTModel",
    "HitViTModelOutput",
    "HitViTPreTrainedModel",
    "make_head",
    "num_place_features",
    "place_features",
    "run_blocks",
]


@dataclass
class HitViTModelOutput(E2EModelOutput):
    r"""As [`E2EModelOutput`], with tokens in the order of the curve and zeros beyond the last token of an image.

    Hidden states are those after the embedding and each block, where all blocks on patches are one.

    Args:
        token_counts (`torch.Tensor` of shape `(batch_size,)`): Tokens of each image.
        tokens (`PackedTokens`): The pixels behind the tokens.
    """

    token_counts: torch.Tensor | None = None
    tokens: PackedTokens | None = None


def place_features(config, pixel: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The place of pixels `(n,)`, `(n, num_place_features)`.

    Row and column from the image's centre in units of half its height, and the cosines and sines of their rotary
    positions. Columns that go around the detector have cosines and sines only, and none without
    `config.absolute_columns`.
    """
    num_pairs = config.hidden_size // config.num_attention_heads // 2
    angles = rotary_table(pixel, width, config.rotary_periods, num_pairs, config.periodic_columns)
    angles = angles if config.absolute_columns else angles[:, : num_pairs // 2]
    sides = [(pixel // width, height), (pixel % width, width)]
    sides = sides if config.absolute_columns and not config.periodic_columns else sides[:1]
    places = [(part - side // 2).unsqueeze(1) * (2 / height) for part, side in sides]
    return torch.cat([*places, angles.cos(), angles.sin()], dim=1)


def num_place_features(config) -> int:
    """Those of [`place_features`]."""
    num_pairs = config.hidden_size // config.num_attention_heads // 2
    if not config.absolute_columns:
        return 1 + num_pairs
    return (1 if config.periodic_columns else 2) + 2 * num_pairs


class TokenEmbedding(nn.Module):
    """The channels of a pixel and its place to a token.

    With `config.pixel_features`, each channel as the processor returns it, its absolute value and the linear value;
    the place as [`place_features`]. `config.pixel_hidden_size` is the width of a GELU layer between.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        width, hidden = config.num_pixel_features + num_place_features(config), config.pixel_hidden_size
        self.hidden = nn.Linear(width, hidden) if hidden else None
        self.proj = nn.Linear(hidden or width, config.hidden_size)

    def forward(self, tokens: PackedTokens, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """`(M, W, D)`, of features of type `dtype`."""
        values = tokens.values.flatten(0, 1)
        values = pixel_features(values) if self.config.pixel_features else values
        places = place_features(self.config, tokens.pixel.flatten(), height, width)
        features = torch.cat([values, places], dim=1).to(dtype)
        hidden_states = features if self.hidden is None else F.gelu(self.hidden(features))
        return self.proj(hidden_states).unflatten(0, tokens.pixel.shape)


class HitViTBlock(GradientCheckpointingLayer):
    """Mixing of neighbours, attention over the image, MLP; each behind a layer norm, except the convolution.

    With `config.alternate`, blocks of even number mix neighbours and those of odd number attend over the image, as in
    LinearViT; with `local_mixing: none`, an even block is an MLP only.
    """

    def __init__(self, config, number: int, drop_path_rate: float):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        is_local, is_global = (not config.alternate or number % 2 == own for own in (0, 1))
        convolves, attends = (is_local and config.local_mixing in (kind, "both") for kind in ("convolution", "window"))
        self.convolution = TokenConvolution(config) if convolves else None
        self.norm1 = LayerNorm(width, eps=eps) if attends else None
        self.window = WindowAttention(config) if attends else None
        mixes = is_global and config.global_mixing != "none"
        self.norm2 = LayerNorm(width, eps=eps) if mixes else None
        self.attn = PACKED_ATTENTIONS[config.global_mixing](config) if mixes else None
        self.norm3 = LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * config.mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)

    def _drop(self, branch: torch.Tensor, tokens: PackedTokens) -> torch.Tensor:
        """Drops the branch of whole images."""
        if not self.training or self.drop_path.rate == 0:
            return branch
        return branch * self.drop_path(branch.new_ones(tokens.counts.shape[0], 1, 1))[tokens.image]

    def forward(
        self, hidden_states: torch.Tensor, tokens: PackedTokens, around: Surroundings, grid: tuple[int, int, int]
    ) -> torch.Tensor:
        if self.convolution is not None:
            hidden_states = self.convolution(hidden_states, around, grid)
        if self.window is not None and self.norm1 is not None:
            hidden_states = hidden_states + self._drop(self.window(self.norm1(hidden_states), around), tokens)
        if self.attn is not None and self.norm2 is not None:
            hidden_states = hidden_states + self._drop(self.attn(self.norm2(hidden_states), tokens), tokens)
        return hidden_states + self._drop(self.mlp(self.norm3(hidden_states)), tokens)


def run_blocks(
    blocks: nn.ModuleList,
    config,
    hidden_states: torch.Tensor,
    tokens: PackedTokens,
    image_shape: tuple[int, int],
    keep: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Tokens `(M, W, D)` after all blocks, which see them in the two orders in turn.

    Args:
        keep: Sees the tokens in the first order, before the first block and after each, and returns them.
    """
    (height, width), dtype = image_shape, hidden_states.dtype
    grid = (tokens.counts.shape[0], height, width)
    numbers = (False, True) if sum(block.window is not None for block in blocks) > 1 else (False,)
    orders = [surroundings(config, tokens, width, height, dtype, in_second) for in_second in numbers]
    to_second, to_first = (tokens.to_second, tokens.to_first), (tokens.to_first, tokens.to_second)
    is_second, num_windowed = False, 0
    hidden_states = hidden_states if keep is None else keep(hidden_states)
    for block in blocks:
        wants_second = is_second
        if block.window is not None:
            wants_second, num_windowed = bool(num_windowed % 2), num_windowed + 1
        elif isinstance(block, PatchBlocks):  # it reads the tokens' pixels
            wants_second = False
        if is_second != wants_second:
            hidden_states = reorder(hidden_states, *(to_first if is_second else to_second))
            is_second = wants_second
        hidden_states = block(hidden_states, tokens, orders[is_second], grid)
        if is_second and keep is not None:
            hidden_states, is_second = reorder(hidden_states, *to_first), False
        hidden_states = hidden_states if keep is None else keep(hidden_states)
    return reorder(hidden_states, *to_first) if is_second else hidden_states


class HitViTPreTrainedModel(E2EPreTrainedModel):
    config: HitViTConfig
    config_class = HitViTConfig
    base_model_prefix = "hitvit"
    reads_rows = True
    _no_split_modules = ["HitViTBlock", "XCiTBlock"]
    _truncated_normal_convolutions = False  # those of XCiT's blocks and of the patches' stem


class HitViTModel(HitViTPreTrainedModel):
    """Embedding of pixels, blocks, layer norm, attention pooling."""

    def __init__(self, config):
        super().__init__(config)
        self.embed = TokenEmbedding(config)
        last = max(config.num_hidden_layers - 1, 1)
        blocks: list[nn.Module] = [
            HitViTBlock(config, i, config.drop_path_rate * i / last) for i in range(config.num_hidden_layers)
        ]
        if config.num_patch_layers:
            blocks.insert(len(blocks) // 2, PatchBlocks(config))
        self.blocks = nn.ModuleList(blocks)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooling = TokenAttentionPooling.of(config)
        update_statistics_once(self)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def block_names(self):
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def image_shape(self, pixel_values: torch.Tensor | None) -> tuple[int, int]:
        """Height and width of dense images, or those of the configuration."""
        return self.config.image_shape if pixel_values is None else (pixel_values.shape[2], pixel_values.shape[3])

    def make_tokens(self, pixel_values, pixel_index, pixel_value, row_offsets) -> PackedTokens:
        """The tokens of images, all arguments as in `forward`."""
        if pixel_values is not None:
            check_pixel_values(pixel_values, self.config.num_channels)
        return make_tokens(
            self.config,
            self.image_shape(pixel_values),  # pyright: ignore[reportCallIssue]
            pixel_values=pixel_values,
            pixel_index=pixel_index,
            pixel_value=pixel_value,
            row_offsets=row_offsets,
        )

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_index: torch.Tensor | None = None,
        pixel_value: torch.Tensor | None = None,
        row_offsets: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        packed: bool = False,
        tokens: PackedTokens | None = None,
        **kwargs,
    ) -> HitViTModelOutput:
        """Dense images `pixel_values` `(B, C, H, W)` of any size, or their occupied pixels in three lists.

        Args:
            pixel_index, pixel_value: `(n,)`, of all images, `(channel * height + row) * width + column` in images of
                the configured size and the value in network units.
            row_offsets: `(B + 1,)`, where the pixels of each image begin, and where those of the last one end.
            tokens: Those of the images, if [`make_tokens`] has been called.
            packed: Return the last hidden state as `(M, W, D)`, which saves the copy (`modeling_tokens.py`).
        """
        wanted = self.wants_hidden_states(output_hidden_states, kwargs)
        height, width = self.image_shape(pixel_values)
        if tokens is None:
            tokens = self.make_tokens(pixel_values, pixel_index, pixel_value, row_offsets)
        hidden_states, states = self.encode(tokens, height, width, wanted)
        pooled = self.pooling(hidden_states, tokens)
        return HitViTModelOutput(
            last_hidden_state=hidden_states if packed else unpack(hidden_states, unpacked_places(tokens)),
            pooler_output=pooled,
            hidden_states=tuple(states) if wanted else None,
            token_counts=tokens.counts,
            tokens=tokens if packed else None,
        )

    def encode(self, tokens: PackedTokens, height: int, width: int, wants_states: bool = False):
        """Tokens of images of `height` x `width` pixels to `(M, W, D)` after the last norm, and to the states
        `(B, N, D)` after the embedding and each block."""
        states = []
        keep = partial(self._keep, states, tokens) if wants_states else None
        hidden_states = residual_stream(self.embed(tokens, height, width, self.dtype))
        hidden_states = run_blocks(self.blocks, self.config, hidden_states, tokens, (height, width), keep)
        return self.norm(hidden_states), states

    def _keep(self, states: list, tokens: PackedTokens, hidden_states: torch.Tensor) -> torch.Tensor:
        """Keeps tokens where the gradient passes; continue with the result (see `TokenStates`)."""
        places = unpacked_places(tokens)
        states.append(unpack(hidden_states, places))
        packed = hidden_states.new_zeros(tokens.is_token.numel() + 1, hidden_states.shape[2])
        return packed.index_put((places,), states[-1])[:-1].view(hidden_states.shape)


def make_head(config) -> E2EHead:
    """The class and mass heads of a HitViT, with the poolings that its configuration asks for."""
    width = config.hidden_size
    energies = TokenEnergyPooling(config, width) if config.energy_pooling else None
    masses = TokenMassPooling(config, width) if config.num_masses else None
    return E2EHead(config, width, energy_pooling=energies, mass_pooling=masses)


class HitViTForImageClassification(HitViTPreTrainedModel, E2EForImageClassification):
    """HitViT with class and mass heads."""

    def __init__(self, config):
        super().__init__(config)
        self.hitvit = HitViTModel(config)
        self.head = make_head(config)
        self.post_init()

    @shown_to_trainer
    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        aux_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        mass_labels: torch.Tensor | None = None,
        mass_weights: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        pixel_index: torch.Tensor | None = None,
        pixel_value: torch.Tensor | None = None,
        row_offsets: torch.Tensor | None = None,
        containment_labels: torch.Tensor | None = None,
        **kwargs,
    ) -> E2EOutput:
        r"""As [`E2EForImageClassification`], but images may also be lists of pixels, which needs no dense image.

        Args:
            pixel_index, pixel_value, row_offsets (`torch.Tensor`, *optional*): As in [`HitViTModel`].

        Raises:
            ValueError: for both kinds of images or neither, and as [`E2EForImageClassification`].
        """
        # at the start, so that all that follows is one graph
        tokens = self.base_model.make_tokens(pixel_values, pixel_index, pixel_value, row_offsets)
        outputs = self.base_outputs(
            pixel_values, output_hidden_states=output_hidden_states, packed=True, tokens=tokens, **kwargs
        )
        predictions = self.head(outputs.pooler_output, aux_values, outputs.last_hidden_state, outputs.tokens)
        return self.with_losses(outputs, predictions, labels, mass_labels, mass_weights, containment_labels)
