"""From pixels to tokens: the features of a pixel, and the convolutions that turn patches into tokens."""

from math import prod

import torch
from torch import nn
from torch.nn import functional as F

from .modeling_precision import widen
from .modeling_sizes import pad_to_multiple
from .modeling_wrapped import is_plain

__all__ = ["ConvStem", "PixelEmbedding", "check_pixel_values", "linear_pixels", "pixel_features"]

MAX_PIXEL = 12.0  # 160 000 times a channel's median pixel, beyond what the LHC can give, and within float16
LINEAR_SCALE = 16.0  # in median pixels: makes linear and compressed pixels about equally large

SKIP_EMPTY = True  # false: empty pixels are convolved like the others
MAX_OCCUPANCY = 0.4  # fraction of occupied pixels above which skipping the empty ones gains nothing


def check_pixel_values(pixel_values: torch.Tensor, num_channels: int) -> None:
    """Refuses images of another layout in one line."""
    if pixel_values.ndim != 4 or pixel_values.shape[1] != num_channels:
        raise ValueError(
            f"Expected `pixel_values` of shape (batch, {num_channels} channels, height, width), "
            f"got {tuple(pixel_values.shape)}."
        )


def linear_pixels(pixel_values: torch.Tensor) -> torch.Tensor:
    """Absolute values with the processor's logarithm undone, so that a sum over pixels is an energy."""
    return pixel_values.abs().clamp(max=MAX_PIXEL).expm1() / LINEAR_SCALE


def pixel_features(pixel_values: torch.Tensor) -> torch.Tensor:
    """`(B, C, ...)` to `(B, 3 C, ...)`: the value, its absolute value, and the value with the logarithm undone."""
    return torch.cat([pixel_values, pixel_values.abs(), pixel_values.sign() * linear_pixels(pixel_values)], dim=1)


class PixelEmbedding(nn.Module):
    """What the first convolution sees of a pixel: `config.num_inputs` values, all zero for an empty pixel.

    With `config.pixel_features` they are those of [`pixel_features`]; with `config.pixel_hidden_size` a ReLU layer
    follows, minus its output for an empty pixel. The patch convolution is then the sum over hits of a deep set
    (https://arxiv.org/abs/1703.06114, theorem 2); without the layer it adds up the channels of 25 pixels before the
    network can look at any one of them.
    """

    def __init__(self, config):
        super().__init__()
        self.num_channels, self.has_features = config.num_channels, config.pixel_features
        size = config.pixel_hidden_size
        self.hidden = nn.Conv2d(config.num_pixel_features, size, kernel_size=1) if size else None

    def embed(self, values: torch.Tensor) -> torch.Tensor:
        """Occupied pixels `(n, C)` to `(n, config.num_inputs)`."""
        values = pixel_features(values) if self.has_features else values
        if self.hidden is None:
            return values
        assert self.hidden.bias is not None
        weight, bias = widen(self.hidden.weight.flatten(1), self.hidden.bias)
        return F.linear(values.to(weight.dtype), weight, bias).relu() - bias.relu()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` to `(B, config.num_inputs, H, W)`, channels last."""
        check_pixel_values(pixel_values, self.num_channels)
        if self.has_features or self.hidden is not None:
            embedded = None
            if _may_skip_empty(self, pixel_values) and (self.hidden is None or is_plain(self.hidden)):
                embedded = _embed_occupied(self, pixel_values)  # pyright: ignore[reportCallIssue]
            if embedded is not None:
                return embedded
        values = pixel_features(pixel_values) if self.has_features else pixel_values
        # on CPUs, convolutions are 1.3 (ResNet) to 5 times (depthwise) as fast in this layout
        values = values.contiguous(memory_format=torch.channels_last)
        if self.hidden is None:
            return values
        assert self.hidden.bias is not None
        values = values.to(self.hidden.weight.dtype)
        if is_plain(self.hidden):
            empty = self.hidden.bias[:, None, None]
        else:
            empty = self.hidden(values.new_zeros(1, values.shape[1], 1, 1))
        return self.hidden(values).relu() - empty.relu()


class ConvStem(nn.Module):
    """Convolutions with BatchNorm until a patch is one token, with an activation between but not after them.

    For a patch size that is a power of two, a chain of 3 x 3 convolutions of stride 2, each twice as wide as the one
    before (XCiT section 3, L2ViT section 3.4); otherwise one convolution that sees exactly its patch, so that a patch
    of 5 is one HCAL tower. `token_stride` appends a 3 x 3 convolution of that stride.
    Maps `(B, C, H, W)` to `(B, H', W', D)`. With `pad`, sides that the patch does not divide are padded with zeros on
    the right and at the bottom, as in L2ViT.
    """

    def __init__(self, config, hidden_size: int, activation, bias: bool, pad: bool):
        super().__init__()
        self.activation = activation
        self.pixels = PixelEmbedding(config)
        self.pad_multiple = config.patch_size if pad else 1
        is_power_of_two = config.patch_size & (config.patch_size - 1) == 0
        self.sees_patches = not is_power_of_two and pad
        strides = [2] * (config.patch_size.bit_length() - 1) if is_power_of_two else [config.patch_size]
        strides += [config.token_stride] if config.token_stride > 1 or not strides else []
        self.total_stride = prod(strides)
        widths = [hidden_size >> (len(strides) - 1 - i) for i in range(len(strides))]
        if widths[0] == 0:
            raise ValueError(
                f"{len(strides)} convolutions, each twice as wide as the one before, cannot end at the width "
                f"{hidden_size}: choose a smaller `patch_size` than {config.patch_size}."
            )
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for i, (in_width, width, stride) in enumerate(zip([config.num_inputs, *widths], widths, strides)):
            sees_one_patch = i == 0 and not is_power_of_two
            kernel_size = stride if sees_one_patch else 3
            padding = 0 if sees_one_patch else 1
            self.convs.append(nn.Conv2d(in_width, width, kernel_size, stride, padding, bias=bias))
            self.norms.append(nn.BatchNorm2d(width))

    def num_tokens(self, side: int) -> int:
        """Tokens along a side of `side` pixels."""
        return -(-side // self.total_stride)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        check_pixel_values(pixel_values, self.pixels.num_channels)
        hidden_states = None
        first = self.convs[0]
        if self.sees_patches and _may_skip_empty(self.pixels, pixel_values) and is_plain(self.pixels, first):
            hidden_states = _convolve_occupied(self.pixels, first, pixel_values)  # pyright: ignore
        if hidden_states is None:
            pixel_values = pad_to_multiple(pixel_values, self.pad_multiple)
            hidden_states = first(self.pixels(pixel_values).to(first.weight.dtype))
        hidden_states = self.norms[0](hidden_states)
        for conv, norm in zip(self.convs[1:], self.norms[1:]):
            hidden_states = norm(conv(self.activation(hidden_states)))
        return hidden_states.permute(0, 2, 3, 1)  # [B, H', W', D]


def _may_skip_empty(pixels: PixelEmbedding, pixel_values: torch.Tensor) -> bool:
    """Whether to compute occupied pixels only, which needs a CPU.

    An exported graph and gradients for empty pixels need them all. Skipping breaks a compiled graph, which must be
    allowed and is worth it only with a layer for single pixels.
    """
    is_tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    is_exporting = torch.compiler.is_exporting() or is_tracing
    is_compiling = torch.compiler.is_dynamo_compiling()
    is_worth_it = not is_compiling or (pixels.hidden is not None and not _is_one_graph())
    is_possible = pixel_values.device.type == "cpu" and not is_exporting and not pixel_values.requires_grad
    return SKIP_EMPTY and is_possible and is_worth_it


@torch.compiler.assume_constant_result
def _is_one_graph() -> bool:
    """Whether the graph being compiled may not break (`fullgraph=True`)."""
    from torch._dynamo.symbolic_convert import InstructionTranslator

    return bool(getattr(InstructionTranslator.current_tx(), "one_graph", False))


def _occupied(pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """Image, row and column of each occupied pixel, `(n,)` each; `None` if too many are occupied."""
    is_occupied = pixel_values.ne(0).any(dim=1)
    image, row, column = is_occupied.nonzero(as_tuple=True)
    return (image, row, column) if len(image) <= MAX_OCCUPANCY * is_occupied.numel() else None


def _product_dtype(weight: torch.Tensor) -> torch.dtype:
    """The type that a convolution with this weight returns on CPUs."""
    is_cast = torch.is_autocast_enabled("cpu") and weight.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if is_cast else weight.dtype


# Both functions below multiply in float32: in bfloat16, oneDNN writes and keeps a kernel for each new number of
# pixels, which was slower and took 10 MB more in each step of a ResNet.
@torch.compiler.disable  # the number of occupied pixels is known only at run time
def _embed_occupied(pixels: PixelEmbedding, pixel_values: torch.Tensor) -> torch.Tensor | None:
    """`pixels(pixel_values)` computed for occupied pixels only; `None` if too many are occupied."""
    places = _occupied(pixel_values)
    if places is None:
        return None
    image, row, column = places
    with torch.autocast("cpu", enabled=False):
        values = pixels.embed(pixel_values.permute(0, 2, 3, 1)[image, row, column])
    if pixels.hidden is not None:
        values = values.to(_product_dtype(pixels.hidden.weight))
    batch_size, _, height, width = pixel_values.shape
    result = values.new_zeros(batch_size, height, width, values.shape[1])
    return result.index_put((image, row, column), values).permute(0, 3, 1, 2)


@torch.compiler.disable
def _convolve_occupied(pixels: PixelEmbedding, conv: nn.Conv2d, pixel_values: torch.Tensor) -> torch.Tensor | None:
    """`conv(pixels(pixel_values))` of patches that tile the image, from occupied pixels only.

    For each place in a patch, the pixels there are multiplied by the kernel's column and added to their tokens, which
    all differ. A jet image with pile-up has deposits in a tenth of its pixels; with 24 features per pixel this takes
    less than half of the convolution's time.

    Returns:
        `(B, D, H', W')`, channels last; `None` if too many pixels are occupied.
    """
    side, (batch_size, _, height, width) = conv.stride[0], pixel_values.shape
    rows, columns = -(-height // side), -(-width // side)
    places = _occupied(pixel_values)
    if places is None:
        return None
    image, row, column = places
    place = row % side * side + column % side
    order = place.argsort(stable=True)
    image, row, column = image[order], row[order], column[order]
    token = (image * rows + row // side) * columns + column // side
    counts = place.bincount(minlength=side * side).tolist()
    with torch.autocast("cpu", enabled=False):
        kernel = widen(conv.weight)[0].permute(2, 3, 1, 0).flatten(0, 1)  # [place, features, D]
        values = pixels.embed(pixel_values.permute(0, 2, 3, 1)[image, row, column]).to(kernel.dtype)
        total = kernel.new_zeros(batch_size * rows * columns, len(conv.weight))
        for at_place, tokens, weight in zip(values.split(counts), token.split(counts), kernel):
            total = total.index_add_(0, tokens, at_place @ weight)
    total = total if conv.bias is None else total + conv.bias
    return total.to(_product_dtype(conv.weight)).unflatten(0, (batch_size, rows, columns)).permute(0, 3, 1, 2)
