"""Masked image modelling as in SimMIM (https://arxiv.org/abs/2111.09886), for images that are mostly empty.

Masked tokens are replaced, not dropped: windows and convolutions need the whole grid.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils.generic import ModelOutput, can_return_tuple

from .modeling_e2e import E2EPreTrainedModel
from .modeling_stem import ConvStem

__all__ = [
    "E2EForMaskedImageModeling",
    "E2EMaskedImageModelingOutput",
    "embed_masked",
    "masked_image_loss",
    "pixel_mask",
    "token_grid",
]


@dataclass
class E2EMaskedImageModelingOutput(ModelOutput):
    r"""What every `*ForMaskedImageModeling` of this repository returns.

    Args:
        loss (`torch.Tensor` of shape `()`): `occupancy_loss + value_loss`, given a mask.
        reconstruction (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
            Predicted pixel in network units, given that it is not zero.
        occupancy_logits (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
            Log-odds that the pixel is not zero.
        occupancy_loss (`torch.Tensor` of shape `()`): Cross-entropy of occupancy over masked pixels.
        value_loss (`torch.Tensor` of shape `()`): Smooth L1 error of masked pixels that are not zero.
        hidden_states (`tuple[torch.Tensor, ...]`): As in [`E2EModelOutput`].
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    occupancy_logits: torch.Tensor | None = None
    occupancy_loss: torch.Tensor | None = None
    value_loss: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


def masked_image_loss(pixel_values, reconstruction, occupancy_logits, mask):
    """Two targets, because with 98.5 % of the pixels zero a mean error is smallest for zero everywhere.

    All arguments `(B, C, H, W)`, `mask` true where the input was hidden. Returns `(occupancy_loss, value_loss)`:
    cross-entropy of being non-zero over masked pixels, and smooth L1 over the non-zero ones among them; 0 if there is
    no such pixel.
    """
    occupied = pixel_values != 0
    entropy = F.binary_cross_entropy_with_logits(occupancy_logits.float(), occupied.float(), reduction="none")
    occupancy_loss = (entropy * mask).sum() / mask.sum().clamp(min=1)
    hidden = mask & occupied
    error = F.smooth_l1_loss(reconstruction.float(), pixel_values.float(), reduction="none")
    return occupancy_loss, (error * hidden).sum() / hidden.sum().clamp(min=1)


def embed_masked(stem, pixel_values, bool_masked_pos=None, mask_token=None):
    """Tokens `(B, H', W', D)` of `stem`, `mask_token` where masked; masked pixels are hidden from the stem too.

    `bool_masked_pos` is `(B, H' W')`. The stem's convolutions overlap: were only tokens replaced, neighbours would
    still see the rim of a masked patch.
    """
    if bool_masked_pos is None:
        return stem(pixel_values)
    if mask_token is None:
        raise ValueError("`bool_masked_pos` needs a model for masked images (`...ForMaskedImageModeling`).")
    tokens = stem(pixel_values * ~pixel_mask(stem, pixel_values, bool_masked_pos))
    mask = bool_masked_pos.bool().view(tokens.shape[:3]).unsqueeze(-1)
    return torch.where(mask, mask_token.to(tokens.dtype), tokens)


def pixel_mask(stem, pixel_values, bool_masked_pos):
    """Masked tokens `(B, H' W')` to masked pixels `(B, 1, H, W)`."""
    height, width = pixel_values.shape[-2:]
    rows, columns = token_grid(stem, (height, width))
    expected = (len(pixel_values), rows * columns)
    if tuple(bool_masked_pos.shape) != expected:
        raise ValueError(f"Expected `bool_masked_pos` of shape {expected}, got {tuple(bool_masked_pos.shape)}.")
    tokens = bool_masked_pos.bool().view(-1, 1, rows, columns)
    stride = _conv_stem(stem).total_stride
    return tokens.repeat_interleave(stride, 2).repeat_interleave(stride, 3)[..., :height, :width]


def token_grid(stem, image_size):
    """Tokens in eta and in phi for an image of `image_size` pixels."""
    rows, columns = (_conv_stem(stem).num_tokens(side) for side in image_size)
    return rows, columns


def _conv_stem(stem):
    return stem if isinstance(stem, ConvStem) else stem.proj


class E2EForMaskedImageModeling(E2EPreTrainedModel):
    """Reconstruction of hidden pixels.

    A subclass sets `self.<base_model_prefix>`, `self.decoder`, `self.stride` (pixels per output token) and `stem`.
    """

    decoder: nn.Module
    stride: int
    stem: nn.Module
    mask_ratio = 0.6  # unless a recipe has another

    def mask_grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Tokens in eta and in phi that `bool_masked_pos` may hide, for an image of `image_size` pixels."""
        return token_grid(self.stem, image_size)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> E2EMaskedImageModelingOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
                Complete images in network units; masking happens here.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_tokens)`, *optional*):
                Tokens of the stem's grid to hide, row by row; without it nothing is hidden and there is no loss.
            output_hidden_states (`bool`, *optional*): Also return the tokens of each stage.

        Raises:
            ValueError: if a shape does not match the configuration or the image.
        """
        outputs = self.base_outputs(pixel_values, bool_masked_pos, output_hidden_states=output_hidden_states, **kwargs)
        height, width = pixel_values.shape[-2:]
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        tokens = outputs.last_hidden_state[:, -rows * columns :]  # without a class token
        pixels = self.decoder(tokens).transpose(1, 2).unflatten(2, (rows, columns))
        pixels = F.pixel_shuffle(pixels, self.stride)[..., :height, :width]
        occupancy_logits, reconstruction = pixels.chunk(2, dim=1)
        loss = occupancy_loss = value_loss = None
        if bool_masked_pos is not None:
            mask = pixel_mask(self.stem, pixel_values, bool_masked_pos).expand_as(pixel_values)
            occupancy_loss, value_loss = masked_image_loss(pixel_values, reconstruction, occupancy_logits, mask)
            loss = occupancy_loss + value_loss
        return E2EMaskedImageModelingOutput(
            loss=loss,
            reconstruction=reconstruction,
            occupancy_logits=occupancy_logits,
            occupancy_loss=occupancy_loss,
            value_loss=value_loss,
            hidden_states=outputs.hidden_states,
        )
