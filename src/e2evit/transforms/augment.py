"""Augmentations of lists of pixels, before they become images, from the detector's symmetries and defects.

Every function takes and returns the pixels of any number of images, on any device. A pixel that is lost stays in the
list with the value 0: the length of a list never depends on random numbers, so nothing waits for a GPU. The mass stays
that of the particles, which no detector defect changes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from numbers import Real

import torch

from e2evit.data.arguments import settle
from e2evit.data.grid import TOWER
from e2evit.modeling.modeling_constants import constant
from e2evit.modeling.modeling_tokens import Pixels

from .random_numbers import largest_count, normal, poisson, uniform

__all__ = [
    "Augmentation",
    "Draw",
    "add_noise_hits",
    "drop_crystals",
    "drop_layers",
    "drop_towers",
    "jet_keys",
    "mirror",
    "scale_energy",
    "shift_towers",
    "without_lost",
]

CALORIMETERS = ("ecal", "hcal")
SIGNED = ("trk_dz", "trk_dz_sig"), ("trk_d0", "trk_d0_sig")  # by z -> -z, and by y -> -y
LAYERS = ("bpix", "tib", "tob")  # their channels count hits
MOST = {"tower_shift": 100, "noise_hits": 10_000}  # of an option that is not a probability or a relative spread


class Draw(IntEnum):
    """What a random number is for; numbers of different draws are independent."""

    FLIP = 0
    ENERGY = 1
    TOWER = 2
    CRYSTAL = 3
    LAYER = 4
    NUMBER_OF_HITS = 5
    HIT = 6
    SHIFT = 7
    MASK = 8


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images, drawn anew for each image and epoch.

    Args:
        flips: Mirror in eta and in phi, each with probability 1/2.
        tower_shift: Shift by up to this many whole towers (0.087) in eta and in phi; pixels that leave are lost.
        energy_smearing: Relative standard deviation of the energy scale of each calorimeter, e.g. 0.03.
        dead_towers: Probability that an HCAL tower reads nothing.
        dead_crystals: Probability that an ECAL crystal reads nothing.
        noise_hits: Mean number of extra hits in each tracker layer.
        layer_drop: Probability that a tracker layer reads nothing.

    Raises:
        ValueError: for a number that is negative, too large or NaN.
    """

    flips: bool = False
    tower_shift: int = 0
    energy_smearing: float = 0.0
    dead_towers: float = 0.0
    dead_crystals: float = 0.0
    noise_hits: float = 0.0
    layer_drop: float = 0.0

    def __post_init__(self):
        for field in fields(self):
            value, most = getattr(self, field.name), MOST.get(field.name, 1)
            if isinstance(value, Real) and (
                not 0 <= value <= most or (field.name == "tower_shift" and value != int(value))
            ):
                what = "a whole number" if field.name == "tower_shift" else "a number"
                raise ValueError(f"`{field.name}` is {what} from 0 to {most}, got {value}.")
        settle(self)

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def __call__(self, pixels: Pixels, channel_names: Sequence[str], image_size: Sequence[int], *seeds: int) -> Pixels:
        """The pixels of augmented images, in detector units.

        Args:
            seeds: With the image's pixels, they determine its changes, in any batch.
        """
        detector, keys = (channel_names, image_size), jet_keys(pixels)
        number, device = pixels.num_images, pixels.index.device

        def counter(*shape: int) -> torch.Tensor:
            """0, 1, ... for draws of `shape` for each image."""
            return torch.arange(math.prod(shape), device=device).view(shape)

        def key(draw: Draw, ndim: int) -> tuple:
            return (*seeds, draw, keys.view(number, *[1] * ndim))

        if self.flips:
            pixels = mirror(pixels, *detector, self.flipped(keys, *seeds))
        if self.energy_smearing:
            spread = normal(*key(Draw.ENERGY, 1), counter(len(CALORIMETERS)))
            pixels = scale_energy(pixels, *detector, (1 + self.energy_smearing * spread).clamp(min=0))
        if self.dead_towers:
            towers = [-(-side // TOWER) for side in image_size]
            pixels = drop_towers(pixels, *detector, uniform(*key(Draw.TOWER, 2), counter(*towers)) < self.dead_towers)
        if self.dead_crystals:
            drawn = uniform(*seeds, Draw.CRYSTAL, keys[pixels.image], pixels.index)
            pixels = drop_crystals(pixels, *detector, drawn < self.dead_crystals)
        if self.layer_drop:
            drawn = uniform(*key(Draw.LAYER, 1), counter(len(channel_names)))
            pixels = drop_layers(pixels, *detector, drawn < self.layer_drop)
        if self.noise_hits:
            pixels = add_noise_hits(pixels, *detector, self.noise_hits, keys, *seeds)
        if self.tower_shift:
            drawn = uniform(*key(Draw.SHIFT, 1), counter(2))
            shift = (drawn * (2 * self.tower_shift + 1)).long() - self.tower_shift
            pixels = shift_towers(pixels, image_size, shift)
        return pixels

    def flipped(self, keys: torch.Tensor, *seeds: int) -> torch.Tensor:
        """Which images, of these [`jet_keys`], are mirrored in eta, and which in phi, `(2, B)`."""
        drawn = uniform(*seeds, Draw.FLIP, keys, torch.arange(2, device=keys.device).unsqueeze(1))
        return (drawn < 0.5) & self.flips

    @property
    def only_flips(self) -> bool:
        """Whether no pixel is lost or added."""
        return not any(getattr(self, field.name) for field in fields(self) if field.name != "flips")


def jet_keys(pixels: Pixels) -> torch.Tensor:
    """A number for each image `(B,)` that depends on which of its pixels are occupied."""
    keys = torch.zeros(pixels.num_images, dtype=torch.int64, device=pixels.index.device)
    return keys.index_add(0, pixels.image, (pixels.index.long() + 1) * (pixels.value != 0))


def mirror(pixels: Pixels, channel_names: Sequence[str], image_size: Sequence[int], chosen: torch.Tensor) -> Pixels:
    """Mirror images in eta (z -> -z: rows are reversed, dz changes sign) and in phi (y -> -y: columns, d0).

    Args:
        channel_names, image_size: Those of a row.
        chosen: Which images, in eta and in phi, `(2, B)`.
    """
    (height, width), device = image_size, pixels.index.device
    channel, row, column = _locate(pixels.index, image_size)
    eta, phi = chosen.to(pixels.index.dtype).index_select(1, pixels.image)
    index = pixels.index + eta * (width * (height - 1 - 2 * row)) + phi * (width - 1 - 2 * column)
    signed = constant(tuple(tuple(name in names for name in channel_names) for names in SIGNED), device)
    signs = (1 - 2 * (chosen.unsqueeze(2) & signed.unsqueeze(1)).to(pixels.value.dtype)).prod(0)  # (B, C)
    return pixels._replace(index=index, value=pixels.value * signs.take(pixels.image * len(channel_names) + channel))


def shift_towers(pixels: Pixels, image_size: Sequence[int], shift: torch.Tensor) -> Pixels:
    """Move every image by whole towers; pixels that leave the window are lost.

    Args:
        shift: Towers in eta and in phi of each image `(B, 2)`.
    """
    height, width = image_size
    channel, row, column = _locate(pixels.index, image_size)
    eta, phi = (TOWER * shift[pixels.image]).unbind(1)
    row, column = row + eta, column + phi
    stays = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    moved = (channel * height + row) * width + column
    return _keep(pixels._replace(index=torch.where(stays, moved, pixels.index)), stays)


def scale_energy(pixels: Pixels, channel_names, image_size, factors: torch.Tensor) -> Pixels:
    """Scale the energies of each calorimeter by `factors` `(B, 2)`, for ECAL and HCAL."""
    channel, value = _channel(pixels.index, image_size), pixels.value
    for factor, name in zip(factors.to(value.dtype).unbind(1), CALORIMETERS):
        value = torch.where(_is_in(channel, channel_names, (name,)), factor[pixels.image] * value, value)
    return pixels._replace(value=value)


def drop_towers(pixels: Pixels, channel_names, image_size, dead: torch.Tensor) -> Pixels:
    """Lose the HCAL towers that are `dead` `(B, towers in eta, towers in phi)`."""
    channel, row, column = _locate(pixels.index, image_size)
    is_dead = dead[pixels.image, row // TOWER, column // TOWER]
    return _keep(pixels, ~(_is_in(channel, channel_names, ("hcal",)) & is_dead))


def drop_crystals(pixels: Pixels, channel_names, image_size, dead: torch.Tensor) -> Pixels:
    """Lose the ECAL crystals among the pixels that are `dead` `(n,)`."""
    return _keep(pixels, ~(_is_in(_channel(pixels.index, image_size), channel_names, ("ecal",)) & dead))


def drop_layers(pixels: Pixels, channel_names, image_size, dead: torch.Tensor) -> Pixels:
    """Lose the tracker layers that are `dead` `(B, C)`; other channels stay."""
    channel = _channel(pixels.index, image_size)
    return _keep(pixels, ~(_is_in(channel, channel_names, LAYERS) & dead[pixels.image, channel]))


def add_noise_hits(pixels: Pixels, channel_names, image_size, mean: float, keys: torch.Tensor, *seeds: int) -> Pixels:
    """Add hits at random places of each tracker layer, on average `mean` in each image.

    A hit on top of another increases its count. Lost pixels move to the end.

    Args:
        keys: A number for each image `(B,)`; with `seeds`, it determines its hits.
    """
    area, device = image_size[0] * image_size[1], pixels.index.device
    layers = [number for number, name in enumerate(channel_names) if name.startswith(LAYERS)]
    if not layers:
        return pixels
    layer = constant(tuple(layers), device)
    each = torch.arange(largest_count(mean), device=device)
    counts = poisson(mean, *seeds, Draw.NUMBER_OF_HITS, keys[:, None], layer)
    drawn = uniform(*seeds, Draw.HIT, keys[:, None, None], layer[:, None], each)
    places = layer[:, None] * area + (drawn.double() * area).long()
    image = torch.arange(pixels.num_images, device=device)[:, None, None].expand_as(places)
    ones = (each < counts.unsqueeze(2)).to(pixels.value.dtype)
    listed = [(pixels.image, image), (pixels.index.long(), places), (pixels.value, ones)]
    image, index, value = (torch.cat([old, new.flatten()]) for old, new in listed)
    size = len(channel_names) * area
    lost = pixels.num_images * size
    place, order = torch.where(value == 0, lost, image * size + index).sort()
    is_first = torch.cat([place.new_ones(1, dtype=torch.bool), place[1:] != place[:-1]])[: len(place)]
    number = is_first.cumsum(0) - 1
    sums = torch.zeros_like(value).index_add(0, number, value[order])
    value = torch.where(is_first & (place < lost), sums[number], 0)
    return Pixels(image[order], index[order].to(pixels.index.dtype), value, pixels.num_images)


def without_lost(pixels: Pixels) -> Pixels:
    """The pixels that are not zero; they are in the order of the images even where lost ones are not."""
    kept = pixels.value.nonzero().squeeze(1)
    return pixels._replace(**{name: getattr(pixels, name)[kept] for name in ("image", "index", "value")})


def _keep(pixels: Pixels, kept: torch.Tensor) -> Pixels:
    return pixels._replace(value=torch.where(kept, pixels.value, 0))


def _locate(index: torch.Tensor, image_size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Channel, row and column."""
    height, width = image_size
    line = index // width
    channel = line // height
    return channel, line - channel * height, index - line * width


def _channel(index: torch.Tensor, image_size: Sequence[int]) -> torch.Tensor:
    return index // (image_size[0] * image_size[1])


def _is_in(channel: torch.Tensor, channel_names: Sequence[str], wanted: Sequence[str]) -> torch.Tensor:
    """Whether the name of each pixel's channel begins with one of `wanted`."""
    return constant(tuple(name.startswith(tuple(wanted)) for name in channel_names), channel.device)[channel]
