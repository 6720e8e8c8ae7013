"""E2EImageProcessor: detector images, dense or sparse, in detector units, to `pixel_values` in network units."""

from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from math import prod
from numbers import Integral

import numpy as np
import torch
from transformers import BaseImageProcessor, BatchFeature
from transformers.image_utils import is_pil_image

from .geometry_e2e import DETECTOR_ROWS, TRANSVERSE, transverse_factor, window_rows
from .limits_e2e import COUNTS, POSITIVE, REAL, check_limits
from .pixels_e2e import compress, compress_finite, to_float32, to_numpy, whole_numbers

__all__ = ["AUX_COLUMNS", "AUX_NAMES", "E2EImageProcessor", "as_rows", "compress", "to_numpy"]

AUX_COLUMNS = ("pt", "ieta", "iphi")
AUX_NAMES = ("log_pt", *AUX_COLUMNS)
ORDERS = ("channels_first", "channels_last")
NORMALISATIONS = ("physical", "max_scaled_255", "scaled")
SETTINGS = {"channel_names": ("channel_scale",), "aux_names": ("aux_mean", "aux_std")}  # one for each name


class E2EImageProcessor(BaseImageProcessor):
    r"""Compresses detector images with [`compress`], one scale per channel, and makes one dense batch.

    Everything before the last step works on the 1.5 % of the pixels that are not zero. A processor whose channels
    hold transverse energies (`ecal_et`, `hcal_et`) converts plain ones (`ecal`, `hcal`) of rows that say where on the
    detector they lie (`ieta`), and refuses images that come without `channel_names`.

    Args:
        channel_names (`Sequence[str]`): Detector layers in the order of the image, e.g. `["trk_pt", ...]`.
        image_size (`int` or `Sequence[int]`): Side, or height (eta) and width (phi), in pixels.
        channel_scale (`Sequence[float]`, *optional*):
            One positive scale per channel, in the channel's unit (GeV, cm, hits); 1 by default.
        data_format (`str`):
            Order of dense images whose shape fits both orders: `"channels_first"` or `"channels_last"`.
            `input_data_format` is an alias.
        aux_names (`Sequence[str]`):
            Scalars of a row to return as `aux_values`: `"pt"` [GeV], `"log_pt"` (its logarithm), `"ieta"`, `"iphi"`.
        aux_mean, aux_std (`Sequence[float]`): Their means and standard deviations on the training jets.
        normalisation (`str`, *optional*):
            What the pixels were: `"physical"` (GeV, cm, hits), `"max_scaled_255"` (each image and channel scaled to a
            maximum of 255) or `"scaled"` (otherwise). It changes nothing here; `e2evit eval` refuses other data.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        channel_names: Sequence[str] = (),
        image_size: int | Sequence[int] = 125,
        channel_scale: Sequence[float] | None = None,
        data_format: str = "channels_first",
        aux_names: Sequence[str] = (),
        aux_mean: Sequence[float] = (),
        aux_std: Sequence[float] = (),
        input_data_format: str | None = None,
        normalisation: str | None = None,
        **kwargs,
    ):
        if self._auto_class is None:  # this code is not the checkpoint's, and will not be saved with it
            kwargs.pop("auto_map", None)
        super().__init__(**kwargs)
        self.channel_names = _listed("channel_names", channel_names)
        self.image_size = _sides(image_size)
        scale = [1.0] * len(self.channel_names) if channel_scale is None else channel_scale
        self.channel_scale = _listed("channel_scale", scale)
        self.data_format = _known_order(input_data_format or data_format)
        if normalisation not in (None, *NORMALISATIONS):
            raise ValueError(f"`normalisation` must be {', '.join(NORMALISATIONS)} or None, got {normalisation!r}.")
        self.normalisation = normalisation
        self.aux_names = _listed("aux_names", aux_names)
        self.aux_mean, self.aux_std = _listed("aux_mean", aux_mean), _listed("aux_std", aux_std)
        check_limits("channel_scale", self.channel_scale, POSITIVE)
        check_limits("aux_mean", self.aux_mean, REAL)
        check_limits("aux_std", self.aux_std, POSITIVE)
        if not all(isinstance(name, str) for name in self.channel_names):
            raise ValueError(f"`channel_names` are names, got {self.channel_names}.")
        check_limits("channels * height * width", prod(self.image_shape) or 1, COUNTS["image"])
        if not len(self.aux_names) == len(self.aux_mean) == len(self.aux_std):
            raise ValueError("`aux_names`, `aux_mean` and `aux_std` need the same length.")
        if unknown := set(self.aux_names) - {*AUX_NAMES}:
            raise ValueError(f"`aux_names` are {', '.join(AUX_NAMES)}; got {', '.join(sorted(unknown))}.")

    @classmethod
    def from_dict(cls, image_processor_dict, **kwargs):
        """As in transformers, but overrides are checked, and names select their stored settings (`channel_scale`)."""
        overrides = {name: kwargs.pop(name) for name in signature(cls).parameters.keys() & kwargs.keys()}
        for names, settings in SETTINGS.items():
            stored = [name for name in (names, *settings) if image_processor_dict.get(name) is not None]
            if names not in overrides or names not in stored:
                continue
            chosen, known = _listed(names, overrides[names]), image_processor_dict[names]
            for setting in set(settings) & set(stored) - overrides.keys():
                if unknown := [name for name in chosen if name not in known]:
                    raise ValueError(
                        f"`{names}`: this processor has {', '.join(known)}, but no {', '.join(map(str, unknown))}; "
                        f"pass `{setting}` too."
                    )
                overrides[setting] = [image_processor_dict[setting][known.index(name)] for name in chosen]
        return super().from_dict(image_processor_dict | overrides, **kwargs)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width; checked, as the attributes may have changed."""
        if len(self.channel_scale) != len(self.channel_names):
            raise ValueError(
                f"`channel_scale` needs one positive number for each of the {len(self.channel_names)} channels, "
                f"got {self.channel_scale}."
            )
        height, width = _sides(self.image_size)
        return (len(self.channel_names), height, width)

    def preprocess(
        self,
        images,
        return_tensors: str | None = None,
        data_format: str | None = None,
        channel_names: Sequence[str] | None = None,
        input_data_format: str | None = None,
        packed: bool = False,
        **kwargs,
    ) -> BatchFeature:
        """Detector images to network input.

        Args:
            images:
                A dense image `(C, H, W)` or `(H, W, C)`, a batch of them or a list of images (numpy, torch or PIL);
                or a sparse row, a mapping with `pixel_index` and `pixel_value` (and `pt`, `ieta`,
                `iphi` for `aux_names`), a list of rows, or `dataset[:8]`; or, fastest, many rows in one mapping: their
                pixels concatenated, with `row_offsets` `(B + 1,)` where each row begins and the last one ends.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.
            input_data_format, data_format (`str`, *optional*):
                The order of dense images, `"channels_first"` or `"channels_last"`; by default the only one that fits
                their shape, or the processor's.
            channel_names (`Sequence[str]`, *optional*):
                What the channels of `images` hold: the processor's own names, or `ecal` and `hcal` where the
                processor has `ecal_et` and `hcal_et`. Required by such a processor, the processor's by default
                otherwise.
            packed (`bool`):
                Return lists of pixels, for models that read them (HitViT): no dense image is made of rows.

        Returns:
            [`BatchFeature`] with `pixel_values` `(B, C, H, W)`, float32, and `aux_values` `(B, len(aux_names))`. If
            `packed`, the first are `pixel_index` and `pixel_value` `(n,)` of all images, in network units, and
            `row_offsets` `(B + 1,)`, as above.

        Raises:
            ValueError: for other channels or another shape, a NaN or infinite pixel, one that is infinite in network
                units, an index that is not a whole number or outside the image, or energies that cannot be converted;
                it names the image.
        """
        if kwargs:
            raise ValueError(f"Unknown arguments of E2EImageProcessor: {', '.join(sorted(kwargs))}.")
        images = [images] if is_pil_image(images) else images
        if isinstance(images, (str, bytes)) or not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
            raise ValueError(f"Image 0: expected an array, or a row of pixels, got {type(images).__name__}.")
        converted = self._converted_channels(channel_names)
        if isinstance(images, Mapping) and "row_offsets" not in images:
            images = as_rows(images)
        columns = None
        if isinstance(images, Mapping):
            columns = images
        elif not isinstance(images, (np.ndarray, torch.Tensor)) and len(images) and isinstance(images[0], Mapping):
            columns = self._concatenate(images)
        if columns is not None:
            features = self._from_pixels(columns, converted, packed)
        elif converted:
            raise ValueError(
                f"{', '.join(self.channel_names[number] for number in converted)}: a dense image does not say where "
                "on the detector it lies, so its energies cannot become transverse. Pass transverse energies, or rows "
                "with `pixel_index`, `pixel_value` and `ieta`."
            )
        else:
            order = input_data_format or data_format
            features = self._from_dense(images, order and _known_order(order), packed)
        if self.aux_names and columns is not None:
            features["aux_values"] = self._aux_values(columns)
        return BatchFeature(features, tensor_type=return_tensors)

    def _converted_channels(self, channel_names: Sequence[str] | None) -> list[int]:
        """Numbers of the channels whose energies must become transverse."""
        expected = ", ".join(self.channel_names)
        if channel_names is None:
            transverse = [name for name in self.channel_names if name in TRANSVERSE.values()]
            if transverse:
                raise ValueError(
                    f"This processor reads transverse energies ({', '.join(transverse)}), and nothing says which "
                    "energies these images hold: pass `channel_names`, with `ecal` and `hcal` for plain energies, or "
                    "`processor.channel_names` for transverse ones."
                )
            return []
        pairs = list(zip(channel_names, self.channel_names))
        converted = [number for number, (given, own) in enumerate(pairs) if given != own]
        if len(channel_names) != len(self.channel_names) or any(
            TRANSVERSE.get(pairs[number][0]) != pairs[number][1] for number in converted
        ):
            raise ValueError(f"Expected the channels {expected}, got {', '.join(channel_names)}.")
        return converted

    @staticmethod
    def _concatenate(rows: Sequence[Mapping]) -> dict[str, np.ndarray]:
        """Rows to one mapping with `row_offsets`."""
        for i, row in enumerate(rows):
            if not isinstance(row, Mapping) or not {"pixel_index", "pixel_value"} <= set(row):
                got = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
                raise ValueError(f"Image {i}: a row needs `pixel_index` and `pixel_value`, got {got or 'nothing'}.")
        indices = [whole_numbers(row["pixel_index"], f"Image {i}: ") for i, row in enumerate(rows)]
        values = [to_float32(row["pixel_value"]) for row in rows]
        for i, (index, value) in enumerate(zip(indices, values)):
            if index.shape != value.shape:
                raise ValueError(f"Image {i}: {index.size} entries in pixel_index and {value.size} in pixel_value.")
        columns = {
            "pixel_index": np.concatenate([np.empty(0, np.int64), *indices]),
            "pixel_value": np.concatenate([np.empty(0, np.float32), *values]),
            "row_offsets": np.cumsum([0, *(index.size for index in indices)]),
        }
        return columns | {name: _numbers(name, [row.get(name) for row in rows]) for name in AUX_COLUMNS}

    def check_rows(self, columns: Mapping, channel_names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Rows in detector units, as lists of pixels, for code that makes images of them elsewhere, say on a GPU.

        Args:
            columns: Pixels of many rows with `row_offsets`, and what else, as for [`preprocess`].

        Returns:
            `pixel_index` and `pixel_value` `(n,)`, `row_offsets` `(B + 1,)`, and `aux_values` if there are any.

        Raises:
            ValueError: as [`preprocess`].
        """
        index, value, scale, image, offsets = self._checked(columns, self._converted_channels(channel_names))
        with np.errstate(all="ignore"):
            is_finite = np.isfinite(value / scale).all()
        if not is_finite:
            compress_finite(value, scale, image)  # its error names the image
        rows = {"pixel_index": index, "pixel_value": value, "row_offsets": offsets}
        return rows | ({"aux_values": self._aux_values(columns)} if self.aux_names else {})

    def _from_pixels(self, columns: Mapping, converted: Sequence[int], packed: bool) -> dict[str, np.ndarray]:
        index, value, scale, image, offsets = self._checked(columns, converted)
        value = compress_finite(value, scale, image)
        if packed:
            return {"pixel_index": index.astype(np.int64), "pixel_value": value, "row_offsets": offsets}
        num_images, num_pixels = len(offsets) - 1, prod(self.image_shape)
        pixel_values = np.zeros(num_images * num_pixels, dtype=np.float32)
        pixel_values[image * num_pixels + index] = value
        return {"pixel_values": pixel_values.reshape(num_images, *self.image_shape)}

    def _checked(self, columns: Mapping, converted: Sequence[int]) -> tuple[np.ndarray, ...]:
        """Index, value in detector units, scale of the channel and image of each pixel; offsets of rows, from 0."""
        num_channels, height, width = self.image_shape
        offsets = whole_numbers(columns["row_offsets"], name="row_offsets")
        if offsets.ndim != 1 or not offsets.size or (np.diff(offsets) < 0).any():
            raise ValueError(
                "`row_offsets` must be an ascending list, one longer than the number of images; got "
                f"{str(offsets.tolist())[:60]}."
            )
        offsets = offsets.astype(np.int64) - offsets[0]  # which may be rows of a larger table
        num_pixels, num_images = num_channels * height * width, len(offsets) - 1
        index, value = whole_numbers(columns["pixel_index"]), to_float32(columns["pixel_value"])
        image = np.repeat(np.arange(num_images), np.diff(offsets))
        if not image.size == index.size == value.size:
            raise ValueError(
                f"`row_offsets` span {image.size} pixels, but `pixel_index` has {index.size} and `pixel_value` "
                f"{value.size}."
            )
        if index.size and (index.min() < 0 or index.max() >= num_pixels):
            bad = np.flatnonzero((index < 0) | (index >= num_pixels))[0]
            raise ValueError(
                f"Image {image[bad]}: pixel_index reaches {index[bad]}, but an image of shape {self.image_shape} has "
                f"{num_pixels} pixels; was it written for another grid?"
            )
        place = image * num_pixels + index
        if index.size and not (np.diff(place) > 0).all():  # not ascending, which is allowed
            numbers, counts = np.unique(place, return_counts=True)
            if counts.max() > 1:
                bad = divmod(int(numbers[counts.argmax()]), num_pixels)
                raise ValueError(f"Image {bad[0]}: pixel_index holds {bad[1]} more than once.")
        # numpy divides unsigned 32-bit integers fastest, and gathers and scatters by 64-bit ones
        channel = (index.astype(np.uint32) // np.uint32(height * width)).astype(np.intp)
        if converted:
            rows = index.astype(np.int64) // width % height
            value = self._make_transverse(value, channel, rows, image, columns.get("ieta"), converted)
        scale = np.asarray(self.channel_scale, dtype=np.float32).take(channel)
        return index, value, scale, image, offsets

    def _make_transverse(self, value, channel, rows, image, ieta, converted) -> np.ndarray:
        """`value` with the energies of the channels `converted` transverse; arguments before `ieta` are per pixel."""
        num_images = image[-1] + 1 if image.size else 0
        ieta = np.full(num_images, np.nan) if ieta is None else np.asarray(ieta, dtype=np.float64)
        chosen = np.isin(channel, converted)
        seeds = ieta[image[chosen]]
        is_known = np.isfinite(seeds) & (seeds == np.round(seeds))
        if not is_known.all():
            bad = int(image[chosen][~is_known][0])
            raise ValueError(
                f"Image {bad} does not say where on the detector it lies (`ieta` of its seed tower), so its energies "
                "cannot become transverse."
            )
        is_ecal = np.array([name == "ecal_et" for name in self.channel_names])[channel[chosen]]
        detector_rows = window_rows(rows[chosen], self.image_size[0], seeds.astype(np.int64))
        outside = (detector_rows < 0) | (detector_rows >= DETECTOR_ROWS)
        if outside.any():
            bad = int(image[chosen][outside][0])
            raise ValueError(f"Image {bad}: around `ieta` {ieta[bad]:.0f} its window leaves the detector.")
        value = value.copy()
        value[chosen] *= transverse_factor(detector_rows, is_ecal)
        return value

    def _from_dense(self, images, order: str | None, packed: bool) -> dict[str, np.ndarray]:
        is_array = isinstance(images, (np.ndarray, torch.Tensor))
        if is_array and images.ndim > 3:
            images = self._channels_first(images, order, ndim=4)
        else:
            images = [self._channels_first(image, order, ndim=3) for image in ([images] if is_array else images)]
            images = np.stack(images) if images else np.empty((0, *self.image_shape), np.float32)
        image, channel, row, column = np.nonzero(images)
        scale = np.asarray(self.channel_scale, dtype=np.float32)[channel]
        value = compress_finite(images[image, channel, row, column], scale, image)
        if packed:
            index = np.ravel_multi_index((channel, row, column), self.image_shape)
            offsets = np.searchsorted(image, np.arange(len(images) + 1))
            return {"pixel_index": index, "pixel_value": value, "row_offsets": offsets}
        pixel_values = np.zeros_like(images, order="C")
        pixel_values[image, channel, row, column] = value
        return {"pixel_values": pixel_values}

    def _channels_first(self, images, order: str | None, ndim: int) -> np.ndarray:
        """An image (`ndim` 3) or a batch (4), `(..., C, H, W)`, float32."""
        if is_pil_image(images):
            images, order = np.atleast_3d(images), "channels_last"
        images = to_float32(images)
        channels, height, width = self.image_shape
        shapes = {"channels_first": (channels, height, width), "channels_last": (height, width, channels)}
        fitting = [name for name, shape in shapes.items() if images.shape[-3:] == shape]
        order = order or (fitting[0] if len(fitting) == 1 else self.data_format)
        if order not in fitting or images.ndim != ndim:
            raise ValueError(
                f"Expected images of shape {shapes[order]} ({order}; {', '.join(self.channel_names)}), "
                f"got {images.shape[ndim - 3 :]}."
            )
        return np.moveaxis(images, -1, -3) if order == "channels_last" else images

    def _aux_values(self, columns: Mapping) -> np.ndarray:
        unknown = np.full(len(columns["row_offsets"]) - 1, np.nan)
        sources = [name.removeprefix("log_") for name in self.aux_names]
        chosen = [np.asarray(columns.get(source, unknown)) for source in sources]
        with np.errstate(all="ignore"):
            values = [np.log(x) if name == "log_pt" else x for name, x in zip(self.aux_names, chosen)]
            result = ((np.stack(values, axis=1) - self.aux_mean) / self.aux_std).astype(np.float32)
        for image, number in np.argwhere(~np.isfinite(result))[:1]:
            raise ValueError(
                f"Image {image}: this model's `aux_values` need `{sources[number]}`, got {chosen[number][image]}."
            )
        return result


def as_rows(rows: Mapping) -> list[Mapping]:
    """A row, or rows in one mapping of lists, as a slice of a `Dataset` has them."""
    index = rows.get("pixel_index", ())
    if not hasattr(index, "__len__") or not len(index) or np.ndim(index[0]) == 0:
        return [rows]
    return [dict(zip(rows, values)) for values in zip(*rows.values(), strict=True)]


def _sides(image_size) -> list[int]:
    """Height and width."""
    sides = [image_size] * 2 if isinstance(image_size, Integral) else image_size
    is_list = isinstance(sides, Iterable) and not isinstance(sides, (str, Mapping))
    if not is_list or len(sides := list(sides)) != 2 or None in sides:
        raise ValueError(f"`image_size` is one side or (height, width), got {image_size!r}.")
    check_limits("image_size", sides, COUNTS["pixels"])
    return [int(side) for side in sides]


def _listed(name: str, values) -> list:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"`{name}` must be a list, got {values!r}.")
    return list(values)


def _numbers(name: str, values: list) -> np.ndarray:
    """One number for each row, NaN for `None`."""
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0)
    if numbers.shape != (len(values),):
        raise ValueError(f"`{name}` is one number for each image, got {str(values)[:80]}.")
    return numbers


def _known_order(data_format: str) -> str:
    if data_format not in ORDERS:
        raise ValueError(f"`input_data_format` (`data_format`) is {' or '.join(ORDERS)}, got {data_format!r}.")
    return str(getattr(data_format, "value", data_format))
