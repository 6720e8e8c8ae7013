"""Augmentations of sparse rows, from the detector's symmetries and defects: nearly free, before pixels become images.

Every function takes and returns the concatenated pixels of any number of images. The mass stays that of the particles,
which no detector defect changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Real

import numpy as np

from e2evit.data.arguments import settle
from e2evit.data.grid import TOWER

__all__ = [
    "Augmentation",
    "add_noise_hits",
    "drop_crystals",
    "drop_layers",
    "drop_towers",
    "eta_flip",
    "phi_flip",
    "scale_energy",
    "shift_towers",
]

CALORIMETERS = ("ecal", "hcal")
LAYERS = ("bpix", "tib", "tob")  # their channels count hits
MOST = {"tower_shift": 100, "noise_hits": 10_000}  # of an option that is not a probability or a relative spread


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images, drawn afresh for each image.

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

    def __call__(
        self,
        pixel_index: np.ndarray,
        pixel_value: np.ndarray,
        row_offsets: np.ndarray,
        channel_names: Sequence[str],
        image_size: Sequence[int],
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels and offsets `(B + 1,)` of augmented images, in the form [`E2EImageProcessor`] takes."""
        number, lengths = len(row_offsets) - 1, np.diff(row_offsets)
        detector, index, value = (channel_names, image_size), pixel_index, pixel_value
        if self.flips:
            for flip in (eta_flip, phi_flip):
                chosen = np.repeat(rng.random(number) < 0.5, lengths)
                mirrored = flip(index, value, *detector)
                index, value = np.where(chosen, mirrored[0], index), np.where(chosen, mirrored[1], value)
        if not any(getattr(self, field.name) for field in fields(self) if field.name != "flips"):
            return index, value, row_offsets
        image = np.repeat(np.arange(number), lengths)
        if self.energy_smearing:
            factors = np.maximum(0, rng.normal(1, self.energy_smearing, (number, len(CALORIMETERS))))
            value = scale_energy(image, index, value, *detector, factors)
        if self.dead_towers:
            towers = [-(-side // TOWER) for side in image_size]
            dead = rng.random((number, *towers)) < self.dead_towers
            image, index, value = drop_towers(image, index, value, *detector, dead)
        if self.dead_crystals:
            image, index, value = drop_crystals(image, index, value, *detector, self.dead_crystals, rng)
        if self.layer_drop:
            dead = rng.random((number, len(channel_names))) < self.layer_drop
            image, index, value = drop_layers(image, index, value, *detector, dead)
        if self.noise_hits:
            image, index, value = add_noise_hits(image, index, value, *detector, self.noise_hits, number, rng)
        if self.tower_shift:
            shift = rng.integers(-self.tower_shift, self.tower_shift + 1, (number, 2))
            image, index, value = shift_towers(image, index, value, image_size, shift)
        return index, value, np.searchsorted(image, np.arange(number + 1))


def eta_flip(
    pixel_index: np.ndarray, pixel_value: np.ndarray, channel_names: Sequence[str], image_size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mirror z -> -z: rows are reversed and dz changes sign.

    Args:
        pixel_index, pixel_value: Concatenated pixels of any number of images.
        channel_names, image_size: Those of a row.
    """
    height, width = np.array(image_size, np.uint32)
    line, column, channel = _locate(pixel_index, height, width)
    # line c * height + r becomes c * height + (height - 1 - r)
    mirrored = ((2 * channel + 1) * height - 1 - line) * width + column
    return mirrored, _negate(pixel_value, channel, channel_names, ("trk_dz", "trk_dz_sig"))


def phi_flip(
    pixel_index: np.ndarray, pixel_value: np.ndarray, channel_names: Sequence[str], image_size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mirror y -> -y: columns are reversed and d0 changes sign; arguments as for [`eta_flip`]."""
    height, width = np.array(image_size, np.uint32)
    line, column, channel = _locate(pixel_index, height, width)
    mirrored = line * width + (width - 1 - column)
    return mirrored, _negate(pixel_value, channel, channel_names, ("trk_d0", "trk_d0_sig"))


def shift_towers(image, index, value, image_size, shift):
    """Move every image by whole towers; pixels that leave the window are lost.

    Args:
        image, index, value: Image, index within it and value of each pixel.
        image_size: Height and width in pixels.
        shift: Towers in eta and in phi of each image `(B, 2)`.
    """
    height, width = image_size
    line, column, channel = (part.astype(np.int64) for part in _locate(index, *np.array(image_size, np.uint32)))
    row = line - channel * height + TOWER * shift[image, 0]
    column = column + TOWER * shift[image, 1]
    kept = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    moved = (channel * height + row) * width + column
    return image[kept], moved[kept], value[kept]


def scale_energy(image, index, value, channel_names, image_size, factors):
    """Scale the energies of each calorimeter by `factors` `(B, 2)`, for ECAL and HCAL."""
    channel = _channel(index, image_size)
    for calorimeter, name in enumerate(CALORIMETERS):
        factor = factors[image, calorimeter].astype(value.dtype)
        value = np.where(_is_in(channel, channel_names, (name,)), factor * value, value)
    return value


def drop_towers(image, index, value, channel_names, image_size, dead):
    """Drop the HCAL towers that are `dead` `(B, towers in eta, towers in phi)`."""
    line, column, channel = _locate(index, *np.array(image_size, np.uint32))
    row = line - channel * np.uint32(image_size[0])
    kept = ~(_is_in(channel, channel_names, ("hcal",)) & dead[image, row // TOWER, column // TOWER])
    return image[kept], index[kept], value[kept]


def drop_crystals(image, index, value, channel_names, image_size, probability, rng):
    """Drop a random fraction of the ECAL crystals."""
    kept = ~(_is_in(_channel(index, image_size), channel_names, ("ecal",)) & (rng.random(len(index)) < probability))
    return image[kept], index[kept], value[kept]


def drop_layers(image, index, value, channel_names, image_size, dead):
    """Drop the tracker layers that are `dead` `(B, C)`; other channels stay."""
    channel = _channel(index, image_size)
    kept = ~(_is_in(channel, channel_names, LAYERS) & dead[image, channel])
    return image[kept], index[kept], value[kept]


def add_noise_hits(image, index, value, channel_names, image_size, mean, number, rng):
    """Add hits at random places of each tracker layer, on average `mean` in each of `number` images.

    A hit on top of another increases its count.
    """
    area = image_size[0] * image_size[1]
    layers = [place for place, name in enumerate(channel_names) if name.startswith(LAYERS)]
    counts = rng.poisson(mean, (number, len(layers)))
    images = np.repeat(np.repeat(np.arange(number), len(layers)), counts.ravel())
    channels = np.repeat(np.tile(layers, number), counts.ravel()).astype(np.int64)
    places = channels * area + rng.integers(0, area, len(channels))
    size = len(channel_names) * area
    key = np.concatenate([image * size + index, images * size + places])
    pixels, inverse = np.unique(key, return_inverse=True)
    values = np.bincount(inverse, np.concatenate([value, np.ones(len(places))])).astype(value.dtype)
    return pixels // size, pixels % size, values


def _locate(pixel_index, height, width):
    """Line (channel * height + row), column and channel; unsigned, which NumPy divides several times faster."""
    index = pixel_index.astype(np.uint32)
    line = index // width
    return line, index - line * width, line // height


def _channel(pixel_index, image_size):
    return pixel_index.astype(np.uint32) // np.uint32(image_size[0] * image_size[1])


def _is_in(channel, channel_names, wanted):
    """Whether the name of each pixel's channel begins with one of `wanted`."""
    return np.array([name.startswith(tuple(wanted)) for name in channel_names])[channel]


def _negate(pixel_value, channel, channel_names, changing):
    """Values with opposite sign in the channels named in `changing`."""
    for number, name in enumerate(channel_names):
        if name in changing:
            pixel_value = np.where(channel == number, -pixel_value, pixel_value)
    return pixel_value
