"""From images, dense or as lists of pixels, to tokens: one for each occupied pixel.

The tokens of all images lie one after the other, without padding to the longest. Letters in shape comments, besides
those of `modeling_e2e.py`: `M` windows of `W` places, together `T = M W` places for tokens. Each image begins with a
new window, and the last places of its last window are empty.
"""

import sys
from math import pi, prod
from typing import NamedTuple

import torch

from .modeling_constants import constant, table
from .modeling_curves import curve_order, curve_ranks
from .modeling_sizes import pad_to_multiple
from .modeling_stem import LINEAR_SCALE, linear_pixels

__all__ = [
    "PIXEL",
    "PackedTokens",
    "Pixels",
    "channel_values",
    "list_pixels",
    "make_tokens",
    "middle_of",
    "pack",
    "token_pixels",
    "tokens_of",
    "unpacked_places",
]

WHOLE = (torch.int32, torch.int64, torch.int16, torch.uint8)
PIXEL = 2 * pi / 360  # side of a pixel of the barrel, in eta and phi


class Pixels(NamedTuple):
    """Pixels of all images, `(n,)` each; a value of 0 stands for none.

    Args:
        image: Number of the image in the batch.
        index: `(channel * height + row) * width + column`.
        value: In network units, or in those of the detector before a collator has made them.
        num_images: `B`.
    """

    image: torch.Tensor
    index: torch.Tensor
    value: torch.Tensor
    num_images: int


class PackedTokens(NamedTuple):
    """Tokens of a batch in the order of a curve, and how to bring them into that of a second curve.

    Args:
        values: `(M, W, C)`, the channels of a pixel in network units; zero in empty places.
        is_token: `(M, W)`, false in empty places, which are the same in both orders.
        pixel: `(M, W)`, row-major number of the pixel; 0 in empty places.
        steps: `(M, W, 2)`, rows and columns from the middle of the image, or from a jet's axis in its window.
        image: `(M,)`, the image of each window. There may be more windows than needed, all empty, at the end.
        counts: `(B,)`, tokens of each image.
        starts: `(B,)`, place of the first token of each image.
        to_second, to_first: `(T,)`, the place in one order of the token at each place in the other.
        neighbours:
            `(T, K K)`, the places of the pixels around each token, row by row; `T` for an empty pixel. Only for
            convolutions that gather.
    """

    values: torch.Tensor
    is_token: torch.Tensor
    pixel: torch.Tensor
    steps: torch.Tensor
    image: torch.Tensor
    counts: torch.Tensor
    starts: torch.Tensor
    to_second: torch.Tensor
    to_first: torch.Tensor
    neighbours: torch.Tensor | None


def list_pixels(config, pixel_values=None, pixel_index=None, pixel_value=None, row_offsets=None) -> Pixels:
    """The pixels of dense images `(B, C, H, W)`, or of rows as [`E2EImageProcessor`] returns them with `packed`.

    Raises:
        ValueError: for both or neither, other shapes or types, or offsets that do not fit (on CPUs).
    """
    rows = (pixel_index, pixel_value, row_offsets)
    if any(part is None for part in rows) if pixel_values is None else any(part is not None for part in rows):
        raise ValueError("Pass either `pixel_values`, or `pixel_index`, `pixel_value` and `row_offsets`.")
    if pixel_values is not None:
        flat, size = pixel_values.reshape(-1), prod(pixel_values.shape[1:])
        place = flat.detach().nonzero().squeeze(1)
        value = flat.take(place)
        return Pixels(place // size, place % size, _as_float(value), pixel_values.shape[0])
    assert pixel_index is not None and pixel_value is not None and row_offsets is not None  # noqa: PT018
    if any(part.dtype not in WHOLE for part in (pixel_index, row_offsets)):
        raise ValueError(
            f"`pixel_index` and `row_offsets` are whole numbers, got {pixel_index.dtype} and {row_offsets.dtype}."
        )
    is_list = pixel_index.ndim == row_offsets.ndim == 1 and pixel_value.shape == pixel_index.shape
    if not is_list or not len(row_offsets):
        raise ValueError(
            "Expected `pixel_index` and `pixel_value` of one length and `row_offsets` (batch + 1,), got "
            f"{tuple(pixel_index.shape)}, {tuple(pixel_value.shape)} and {tuple(row_offsets.shape)}."
        )
    if row_offsets.device.type == "cpu" and not torch.compiler.is_exporting():
        ends = row_offsets[0].item(), row_offsets[-1].item()
        if ends != (0, len(pixel_index)) or (row_offsets.diff() < 0).any():
            raise ValueError(
                f"`row_offsets` must rise from 0 to {len(pixel_index)}, the number of pixels; got "
                f"{row_offsets[:5].tolist()}... up to {ends[1]}."
            )
    num_images = len(row_offsets) - 1
    numbers = torch.arange(num_images, device=pixel_index.device)
    image = numbers.repeat_interleave(row_offsets.diff().long(), output_size=len(pixel_index))
    return Pixels(image, pixel_index.long(), _as_float(pixel_value), num_images)


def _as_float(value: torch.Tensor) -> torch.Tensor:
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


@torch.compiler.disable  # the number of tokens is known only at run time
def make_tokens(config, image_shape: tuple[int, int], **images: torch.Tensor | None) -> PackedTokens:
    """Tokens of the images that [`list_pixels`] reads, of `image_shape` pixels.

    The channels of a pixel are one token, and a block of a tower channel counts for the pixel in its centre, with the
    mean of the block. Nothing depends on the order in which pixels are listed, or on the other images of the batch.
    Its only wait for a GPU is for the number of occupied pixels.

    Raises:
        ValueError: for a pixel beyond the image, and as [`list_pixels`].
    """
    return tokens_of(config, image_shape, list_pixels(config, **images))


def token_pixels(config, image_shape: tuple[int, int], pixels: Pixels) -> tuple[torch.Tensor, ...]:
    """Channel and row-major number of the token's pixel, both `(n,)`, for each pixel; `(C,)`, whether a channel is one
    of towers.

    Raises:
        ValueError: for a pixel beyond the image, or one that is listed twice (on CPUs).
    """
    height, width = image_shape
    size, device = height * width, pixels.index.device
    channel, place = pixels.index // size, pixels.index % size
    is_known = device.type == "cpu" and not torch.compiler.is_exporting()
    if is_known and ((channel < 0) | (channel >= config.num_channels)).any():
        raise ValueError(
            f"`pixel_index` reaches {int(pixels.index.max())}, but an image of {config.num_channels} x {height} x "
            f"{width} pixels has {config.num_channels * size}; was it written for another grid?"
        )
    if is_known and not ((key := pixels.image * (config.num_channels * size) + pixels.index).diff() > 0).all():
        numbers, counts = key.unique(return_counts=True)  # not ascending, which is allowed
        if (counts > 1).any():
            bad = divmod(int(numbers[counts.argmax()]), config.num_channels * size)
            raise ValueError(f"Image {bad[0]}: `pixel_index` holds {bad[1]} more than once.")
    is_tower = constant(tuple(config.channels_among(config.tower_channels)), device)
    return channel, torch.where(is_tower[channel], middle_of(place, image_shape, config.tower_size), place), is_tower


def tokens_of(config, image_shape: tuple[int, int], pixels: Pixels) -> PackedTokens:
    """As [`make_tokens`], of pixels."""
    height, width = image_shape
    size, window, device = height * width, config.window_size, pixels.index.device
    channel, place, is_tower = token_pixels(config, image_shape, pixels)
    key = pixels.image * size + table(device, curve_ranks, config.curve, height, width)[place]
    makes_token = pixels.value.detach().ne(0)
    if not config.hit_tokens:
        makes_token &= ~constant(tuple(config.channels_among(config.hit_channels)), device)[channel]
    none = pixels.num_images * size
    occupied = torch.zeros(none + 1, dtype=torch.bool, device=device)
    occupied[torch.where(makes_token, key, none)] = True
    token = occupied[:none].nonzero().squeeze(1)  # keys of tokens, ascending
    image, rank = token // size, token % size
    pixel = table(device, curve_order, config.curve, height, width)[rank]

    counts = occupied[:none].view(pixels.num_images, size).sum(1)
    at, of_windows, starts = pack(image, counts, window)
    number, num_places = of_windows.shape[0], of_windows.shape[0] * window
    place_of = at.new_full((none + 1,), num_places).index_put((token,), at)
    if torch.compiler.is_exporting():
        values = _values_in_graph(config, image_shape, pixels, image, pixel)
        values = values.new_zeros(num_places, values.shape[1]).index_put((at,), values)
    else:
        values = channel_values(pixels.value, place_of[key], channel, num_places, is_tower, config.tower_size)
    empty = torch.arange(num_places, device=device)
    pixel_at = torch.zeros_like(empty).index_put((at,), pixel)
    second = table(device, curve_ranks, config.curve, height, width, config.curve_shift, True, config.periodic_columns)
    in_second = at[(image * size + second[pixel]).argsort()]
    neighbours = None
    if config.local_mixing in ("convolution", "both") and config.convolution == "gather":
        around = _around(pixel, height, width, config.kernel_size, config.periodic_columns)
        ranks = table(device, curve_ranks, config.curve, height, width)[around]
        found = place_of[torch.where(around >= 0, image.unsqueeze(1) * size + ranks, none)]
        neighbours = at.new_full((num_places, found.shape[1]), num_places).index_put((at,), found)
    tokens = PackedTokens(
        values=values.view(number, window, values.shape[1]),
        is_token=torch.zeros_like(empty, dtype=torch.bool).index_fill(0, at, True).view(number, window),
        pixel=pixel_at.view(number, window),
        steps=torch.stack([pixel_at // width - height // 2, pixel_at % width - width // 2], 1).view(number, window, 2),
        image=of_windows,
        counts=counts,
        starts=starts,
        to_second=empty.index_put((at,), in_second),
        to_first=empty.index_put((in_second,), at),
        neighbours=neighbours,
    )
    return _of_any_number(tokens)


def pack(image: torch.Tensor, counts: torch.Tensor, window: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Windows for tokens whose images are `image` `(n,)`, ascending: the place of each token, the image of each
    window `(M,)`, and the place of the first token of each image.

    Args:
        counts: `(B,)`, tokens of each image.
        window: Places in a window.
    """
    windows = (counts + window - 1) // window
    ends = windows.cumsum(0)
    starts = (ends - windows) * window
    # a GPU and an exported graph do not know the number of windows yet, only that no image wastes a whole one
    is_known = image.device.type == "cpu" and not torch.compiler.is_exporting()
    number = rounded_up(int(windows.sum())) if is_known else image.shape[0] // window + counts.shape[0]
    number_in_image = torch.arange(image.shape[0], device=image.device) - (counts.cumsum(0) - counts)[image]
    of_windows = (ends < torch.arange(1, number + 1, device=image.device).unsqueeze(1)).sum(1)
    return starts[image] + number_in_image, of_windows.clamp(max=max(counts.shape[0] - 1, 0)), starts


def rounded_up(number: int) -> int:
    """The number, rounded up by at most a sixteenth.

    Batches then have few sizes, and a step can reuse the memory and the kernels of earlier ones.
    """
    step = 1 << max(number.bit_length() - 5, 0)
    return -(-number // step) * step


def _of_any_number(tokens: PackedTokens) -> PackedTokens:
    """The same; a graph compiled for them is one for any number of tokens and images."""
    if "torch._dynamo" in sys.modules and not torch.compiler.is_exporting():
        for part in tokens:
            if part is not None:
                torch._dynamo.maybe_mark_dynamic(part, 0)  # pyright: ignore[reportPrivateImportUsage]
    return tokens


def _around(pixel: torch.Tensor, height: int, width: int, side: int, periodic: bool) -> torch.Tensor:
    """The `side` x `side` pixels around each pixel `(n,)`, `(n, side * side)`; -1 beyond the image."""
    offsets = torch.arange(side, device=pixel.device) - side // 2
    row = (pixel // width).view(-1, 1, 1) + offsets.unsqueeze(1)
    column = (pixel % width).view(-1, 1, 1) + offsets
    column = column % width if periodic else column
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return torch.where(is_inside, row * width + column, -1).flatten(1)


def middle_of(place: torch.Tensor, image_shape: tuple[int, int], side: int) -> torch.Tensor:
    """The pixel in the middle of the block of each pixel; a block may overhang the image."""
    height, width = image_shape
    row, column = (part // side * side + side // 2 for part in (place // width, place % width))
    return row.clamp(max=height - 1) * width + column.clamp(max=width - 1)


def channel_values(value, at, channel, num_places: int, is_tower: torch.Tensor, tower_size: int) -> torch.Tensor:
    """`(T, C)` from pixels that belong to the place `at`, or to none if that is `num_places`."""
    linear = value.sign() * linear_pixels(value)  # whose mean over a block is an energy
    part = torch.where(is_tower[channel], linear / tower_size**2, value)
    # on a GPU in a fixed order
    total = part.new_zeros(num_places + 1, len(is_tower)).index_put((at, channel), part, accumulate=True)[:-1]
    return torch.where(is_tower, _compressed(total), total)


def _compressed(linear: torch.Tensor) -> torch.Tensor:
    """As the processor returns pixels, from [`linear_pixels`] with a sign."""
    return linear.sign() * (linear.abs() * LINEAR_SCALE).log1p()


def _values_in_graph(config, image_shape: tuple[int, int], pixels: Pixels, image, pixel) -> torch.Tensor:
    """[`channel_values`] of tokens at `image` and `pixel` `(n,)`, `(n, C)`, by dense images instead of sums: for
    exported graphs, as `_windows_of_images` of modeling_packed.py."""
    width, side, size = image_shape[1], config.tower_size, prod(image_shape)
    places = pixels.image * (config.num_channels * size) + pixels.index
    dense = pixels.value.new_zeros(pixels.num_images * config.num_channels * size).index_put((places,), pixels.value)
    dense = dense.view(-1, config.num_channels, size)
    towers = [number for number, is_tower in enumerate(config.channels_among(config.tower_channels)) if is_tower]
    values = dense.transpose(1, 2)[image, pixel]  # [n, C]
    if not towers:
        return values
    linear = dense[:, towers].unflatten(2, image_shape)
    linear = pad_to_multiple(linear.sign() * linear_pixels(linear), side)
    blocks = linear.unflatten(3, (-1, side)).unflatten(2, (-1, side)).mean((3, 5))
    means = _compressed(blocks.permute(0, 2, 3, 1)[image, pixel // width // side, pixel % width // side])
    is_middle = middle_of(pixel, image_shape, side) == pixel
    columns = list(values.unbind(1))
    for tower, mean in zip(towers, means.unbind(1)):
        columns[tower] = torch.where(is_middle, mean, 0.0)
    return torch.stack(columns, dim=1)


def unpacked_places(tokens: PackedTokens, spare: int = 0) -> torch.Tensor:
    """Places `(B, N)` of the tokens of each image, `T` beyond its last one; the largest has `N - spare` tokens."""
    largest = tokens.counts.max().item() if tokens.counts.shape[0] else 0
    number = torch.arange(largest + spare, device=tokens.counts.device)
    places = tokens.starts.unsqueeze(1) + number
    return torch.where(number < tokens.counts.unsqueeze(1), places, tokens.is_token.numel())
