"""Masked pre-training of HitViT: tokens are a set, so the encoder sees only what is left (MAE, arXiv 2111.06377).

Square blocks of pixels ("units") are hidden. A small decoder sees the encoder's states and queries for some of the
hidden units that are occupied or touch one that is, and predicts which of a unit's pixels are occupied, and their
values. Shapes: `U` units of an image, `Q` queries, `P` pixels of a unit.
"""

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils.generic import can_return_tuple

from .modeling_constants import constant
from .modeling_hitvit import (
    HitViTBlock,
    HitViTModel,
    HitViTPreTrainedModel,
    num_place_features,
    place_features,
    run_blocks,
)
from .modeling_masked import E2EMaskedImageModelingOutput, masked_image_loss
from .modeling_precision import LayerNorm, residual_stream
from .modeling_stem import check_pixel_values
from .modeling_tokens import (
    PackedTokens,
    Pixels,
    channel_values,
    list_pixels,
    middle_of,
    token_pixels,
    tokens_of,
)

__all__ = ["HitViTForMaskedImageModeling", "HitViTMaskedOutput", "MaskedTokens", "hide_units"]

HEAD_WIDTH = 16  # of the decoder's attention
QUERY = -1.0  # what marks a query among the decoder's tokens


@dataclass
class HitViTMaskedOutput(E2EMaskedImageModelingOutput):
    r"""As [`E2EMaskedImageModelingOutput`], for the units that were asked for.

    Args:
        loss (`torch.Tensor` of shape `()`): Sum of the losses below, given a mask.
        reconstruction (`torch.Tensor` of shape `(num_queries, num_channels, mask_size, mask_size)`):
            Predicted pixel in network units, given that it is not zero.
        occupancy_logits (`torch.Tensor` of shape `(num_queries, num_channels, mask_size, mask_size)`):
            Log-odds that the pixel is not zero.
        units (`torch.Tensor` of shape `(num_queries,)`):
            What they are of: `image * num_units + unit`, units row by row.
        pooler_output (`torch.Tensor` of shape `(batch_size, hidden_size)`): The pooled state of what is visible.
        truth_loss (`torch.Tensor` of shape `()`): Smooth L1 error of the standardised truth.
        truth_preds (`torch.Tensor` of shape `(batch_size, num_columns)`): The truth, in its own units.
    """

    units: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    truth_loss: torch.Tensor | None = None
    truth_preds: torch.Tensor | None = None


class MaskedTokens(NamedTuple):
    """What is left of a batch, and what is asked.

    Args:
        visible: The encoder's tokens.
        tokens: The decoder's: those, and the queries.
        from_places, to_places: `(n,)`, the place of each visible token among the encoder's and the decoder's.
        query_places: `(Q,)`, the places of the queries.
        units: `(Q,)`, see [`HitViTMaskedOutput`].
        values: `(Q, C, P)`, what the units hold, in network units; a tower is at the pixel in its middle.
        is_asked: `(Q, C, P)`, false beyond the image, and for towers elsewhere.
    """

    visible: PackedTokens
    tokens: PackedTokens
    from_places: torch.Tensor
    to_places: torch.Tensor
    query_places: torch.Tensor
    units: torch.Tensor
    values: torch.Tensor
    is_asked: torch.Tensor


def unit_grid(config, image_shape: tuple[int, int]) -> tuple[int, int]:
    """Units in eta and in phi; the last ones may overhang the image."""
    rows, columns = (-(-side // config.mask_size) for side in image_shape)
    return rows, columns


def decoder_config(config):
    """That of the decoder, whose tokens hold nothing but a mark."""
    own = copy.deepcopy(config)
    own.hidden_size, own.num_attention_heads = config.decoder_hidden_size, config.decoder_hidden_size // HEAD_WIDTH
    own.alternate = False
    own.local_mixing = "window"  # neighbours tell what is hidden; a convolution ends inside the hidden block
    own.tower_channels, own.hit_tokens, own.num_channels, own.channel_names = (), True, 1, None
    return own


@torch.compiler.disable  # how much is left is known only at run time
def hide_units(config, image_shape: tuple[int, int], bool_masked_pos: torch.Tensor | None, **images) -> MaskedTokens:
    """Split the pixels of images, as [`list_pixels`] reads them, by `bool_masked_pos` `(B, U)`.

    A tower belongs to the unit of the pixel in its middle, as its token does.

    Raises:
        ValueError: for a mask of another shape, and as [`list_pixels`].
    """
    pixels = list_pixels(config, **images)
    channel, place, is_tower = token_pixels(config, image_shape, pixels)
    (rows, columns), side, width = unit_grid(config, image_shape), config.mask_size, image_shape[1]
    num_units, device = rows * columns, place.device
    shape = (pixels.num_images, num_units)
    if bool_masked_pos is None:
        bool_masked_pos = torch.zeros(shape, dtype=torch.bool, device=device)
    if tuple(bool_masked_pos.shape) != shape:
        raise ValueError(f"Expected `bool_masked_pos` of shape {shape}, got {tuple(bool_masked_pos.shape)}.")
    mask = bool_masked_pos.bool().flatten()

    unit = pixels.image * num_units + place // width // side * columns + place % width // side
    left = (~mask[unit]).nonzero().squeeze(1)
    visible = tokens_of(
        config, image_shape, Pixels(pixels.image[left], pixels.index[left], pixels.value[left], pixels.num_images)
    )
    occupied = torch.zeros(mask.shape, device=device).index_fill(0, unit[pixels.value.ne(0)], 1.0)
    is_near = F.max_pool2d(occupied.view(-1, 1, rows, columns), 3, stride=1, padding=1).flatten().bool()
    candidates = (is_near & mask).view(shape)
    asked = candidates & ((candidates.cumsum(1) - 1) % config.ask_every == 0)
    asked = asked.flatten().nonzero().squeeze(1)

    seen = visible.is_token.flatten().nonzero().squeeze(1)
    corner = asked % num_units // columns * side * width + asked % num_units % columns * side
    marks = Pixels(
        image=torch.cat([visible.image.repeat_interleave(config.window_size)[seen], asked // num_units]),
        index=torch.cat([visible.pixel.flatten()[seen], middle_of(corner, image_shape, side)]),
        value=torch.cat([torch.ones(len(seen), device=device), torch.full((len(asked),), QUERY, device=device)]),
        num_images=pixels.num_images,
    )
    tokens = tokens_of(decoder_config(config), image_shape, marks)
    mark = tokens.values.flatten()
    queries = mark.eq(QUERY).nonzero().squeeze(1)
    pixel, image = tokens.pixel.flatten()[queries], tokens.image.repeat_interleave(config.window_size)[queries]
    units = image * num_units + pixel // width // side * columns + pixel % width // side
    values, is_asked = _targets(config, image_shape, pixels, (channel, place, is_tower), unit, units)
    # visible tokens and queries are listed by image, then along the curve, as `seen` and `queries` are
    return MaskedTokens(visible, tokens, seen, mark.gt(0).nonzero().squeeze(1), queries, units, values, is_asked)


def _targets(config, image_shape: tuple[int, int], pixels: Pixels, of_pixels, unit: torch.Tensor, units: torch.Tensor):
    """`values` and `is_asked` of [`MaskedTokens`].

    Args:
        of_pixels: See [`token_pixels`].
        unit: `(n,)`, that of each pixel.
        units: `(Q,)`, those of the queries.
    """
    (height, width), side, device = image_shape, config.mask_size, unit.device
    channel, place, is_tower = of_pixels
    rows, columns = unit_grid(config, image_shape)
    number = unit.new_full((pixels.num_images * rows * columns,), -1)
    number[units] = torch.arange(len(units), device=device)
    number, cells = number[unit], side * side
    own = (number >= 0).nonzero().squeeze(1)
    cell = number[own] * cells + place[own] // width % side * side + place[own] % width % side
    num_cells = len(units) * cells
    values = channel_values(pixels.value[own], cell, channel[own], num_cells, is_tower, config.tower_size)
    cell_number = torch.arange(cells, device=device)
    corner = (units % (rows * columns)).unsqueeze(1)
    row, column = corner // columns * side + cell_number // side, corner % columns * side + cell_number % side
    is_inside = (row < height) & (column < width)
    is_middle = middle_of(row * width + column, image_shape, config.tower_size) == row * width + column
    is_asked = is_inside.unsqueeze(1) & (~is_tower.unsqueeze(1) | is_middle.unsqueeze(1))
    return values.unflatten(0, (-1, cells)).transpose(1, 2), is_asked


class HitViTDecoder(nn.Module):
    """The encoder's states and queries to the pixels of the units asked for.

    A query knows its place and, through the image's pooled state, what the encoder has seen as a whole, so that
    pre-training trains the pooling too.
    """

    def __init__(self, config):
        super().__init__()
        self.config = decoder_config(config)
        width = self.config.hidden_size
        self.embed = nn.Linear(config.hidden_size, width)
        self.query = nn.Linear(num_place_features(self.config), width)
        self.pooled = nn.Linear(config.hidden_size, width)
        self.blocks = nn.ModuleList(HitViTBlock(self.config, i, 0.0) for i in range(config.num_decoder_layers))
        self.norm = LayerNorm(width, eps=config.layer_norm_eps)
        self.output = nn.Linear(width, 2 * config.num_channels * config.mask_size**2)

    def forward(self, states: torch.Tensor, pooled: torch.Tensor, masked: MaskedTokens, image_shape: tuple[int, int]):
        """`states` `(M, W, D)` and `pooled` `(B, D)` to `(Q, 2 C P)`."""
        tokens, (height, width) = masked.tokens, image_shape
        places = place_features(self.config, tokens.pixel.flatten()[masked.query_places], height, width)
        queries = self.query(places.to(pooled.dtype))
        image = tokens.image.repeat_interleave(tokens.pixel.shape[1])[masked.query_places]
        queries = queries + self.pooled(pooled)[image]
        seen = self.embed(states.flatten(0, 1)[masked.from_places])
        hidden_states = seen.new_zeros(tokens.is_token.numel(), seen.shape[1])
        hidden_states = hidden_states.index_copy(0, masked.to_places, seen)
        hidden_states = hidden_states.index_copy(0, masked.query_places, queries.to(seen.dtype))
        hidden_states = residual_stream(hidden_states.unflatten(0, tokens.pixel.shape))
        hidden_states = run_blocks(self.blocks, self.config, hidden_states, tokens, image_shape)
        return self.output(self.norm(hidden_states.flatten(0, 1)[masked.query_places]))


class HitViTForMaskedImageModeling(HitViTPreTrainedModel):
    """HitViT with a decoder of hidden pixels and, with `config.truth_columns`, a regression of simulation truth."""

    mask_ratio = 0.75

    def __init__(self, config):
        super().__init__(config)
        self.hitvit = HitViTModel(config)
        self.decoder = HitViTDecoder(config)
        self.truth = nn.Linear(config.hidden_size, len(config.truth_columns)) if config.truth_columns else None
        self.post_init()

    def mask_grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Units in eta and in phi that are hidden together, for an image of `image_size` pixels."""
        return unit_grid(self.config, image_size)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        truth_labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        pixel_index: torch.Tensor | None = None,
        pixel_value: torch.Tensor | None = None,
        row_offsets: torch.Tensor | None = None,
        **kwargs,
    ) -> HitViTMaskedOutput:
        r"""
        Args:
            pixel_values, pixel_index, pixel_value, row_offsets (`torch.Tensor`, *optional*):
                Complete images as in [`HitViTModel`]; masking happens here.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_units)`, *optional*):
                Units to hide, row by row, see `mask_grid`; without it nothing is hidden and there is no loss.
            truth_labels (`torch.Tensor` of shape `(batch_size, num_columns)`, *optional*):
                The columns `config.truth_columns` in their own units; NaN is left out of the loss.
            output_hidden_states (`bool`, *optional*):
                Also return the visible tokens after the embedding and each block.

        Raises:
            ValueError: if a shape does not match the configuration or the image.
        """
        wanted = self.base_model.wants_hidden_states(output_hidden_states, kwargs)
        if pixel_values is not None:
            check_pixel_values(pixel_values, self.config.num_channels)
        shape = self.hitvit.image_shape(pixel_values)
        images = {"pixel_values": pixel_values, "pixel_index": pixel_index, "pixel_value": pixel_value}
        images["row_offsets"] = row_offsets
        masked = hide_units(self.config, shape, bool_masked_pos, **images)  # pyright: ignore[reportCallIssue]
        states, kept = self.hitvit.encode(masked.visible, shape[0], shape[1], wanted)
        pooled = self.hitvit.pooling(states, masked.visible)
        outputs = {} if bool_masked_pos is None else self._reconstruct(states, pooled, masked, shape)
        truth_preds, truth_loss = self._truth(pooled, truth_labels)
        losses = [outputs.get("occupancy_loss"), outputs.get("value_loss"), truth_loss]
        losses = [loss for loss in losses if loss is not None]
        return HitViTMaskedOutput(
            loss=torch.stack(losses).sum() if losses else None,
            hidden_states=tuple(kept) if wanted else None,
            pooler_output=pooled,
            truth_loss=truth_loss,
            truth_preds=truth_preds,
            **outputs,
        )

    def _reconstruct(self, states: torch.Tensor, pooled: torch.Tensor, masked: MaskedTokens, image_shape):
        """The fields of [`HitViTMaskedOutput`] about hidden pixels."""
        side = self.config.mask_size
        pixels = self.decoder(states, pooled, masked, image_shape).unflatten(1, (2 * self.config.num_channels, -1))
        logits, reconstruction = pixels.chunk(2, dim=1)
        occupancy_loss, value_loss = masked_image_loss(masked.values, reconstruction, logits, masked.is_asked)
        return {
            "reconstruction": reconstruction.unflatten(2, (side, side)),
            "occupancy_logits": logits.unflatten(2, (side, side)),
            "occupancy_loss": occupancy_loss,
            "value_loss": value_loss,
            "units": masked.units,
        }

    def _truth(self, pooled: torch.Tensor, labels: torch.Tensor | None):
        """Predictions in the columns' units, and their loss."""
        if labels is not None and labels.shape != (expected := (len(pooled), len(self.config.truth_columns))):
            raise ValueError(
                f"Expected `truth_labels` of shape {expected} (`config.truth_columns`), got {tuple(labels.shape)}."
            )
        if self.truth is None:
            return None, None
        outputs = self.truth(pooled).float()
        mean, std = (
            constant(tuple(part), outputs.device) for part in (self.config.truth_mean, self.config.truth_width)
        )
        if labels is None:
            return outputs * std + mean, None
        known = labels.isfinite()
        # replace missing targets before the difference: NaN times zero would still poison the gradient
        error = F.smooth_l1_loss(outputs, ((labels - mean) / std).where(known, 0.0), reduction="none")
        return outputs * std + mean, (error * known).sum() / known.sum().clamp(min=1)
