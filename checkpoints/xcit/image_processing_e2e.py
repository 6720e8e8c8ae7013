"""E2EImageProcessor: detector images, dense or sparse, in detector units, to `pixel_values` in network units."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import BaseImageProcessor, BatchFeature

__all__ = ["E2EImageProcessor"]


class E2EImageProcessor(BaseImageProcessor):
    r"""Scales each channel, compresses it with a signed logarithm and makes one dense batch; zero stays zero.

    `network = sign(x) log(1 + |x| / channel_scale)`: absolute energies survive, the signs of d0 and dz too, and
    everything before the last step works on the 1.5 % of the pixels that are not zero.

    Args:
        channel_names (`Sequence[str]`): Detector layers in the order of the image, e.g. `["trk_pt", ...]`.
        image_size (`int` or `Sequence[int]`): Side, or height (eta) and width (phi), in pixels.
        channel_scale (`Sequence[float]`, *optional*):
            One positive scale a channel, in that channel's unit (GeV, cm, hits); 1 if not given.
        data_format (`str`): Order of dense images: `"channels_first"` or `"channels_last"`.
        aux_names (`Sequence[str]`):
            Scalars of a row to return as `aux_values`: `"log_pt"` (pT in GeV), `"ieta"`, `"iphi"`.
        aux_mean, aux_std (`Sequence[float]`): Their means and standard deviations on the training jets.
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channel_names = list(channel_names)
        self.image_size = [image_size] * 2 if isinstance(image_size, int) else list(image_size)
        self.channel_scale = [1.0] * len(self.channel_names) if channel_scale is None else list(channel_scale)
        self.data_format = data_format
        self.aux_names, self.aux_mean, self.aux_std = list(aux_names), list(aux_mean), list(aux_std)
        if len(self.channel_scale) != len(self.channel_names) or min(self.channel_scale, default=1) <= 0:
            raise ValueError(
                f"`channel_scale` needs one positive number for each of the {len(self.channel_names)} channels, "
                f"got {self.channel_scale}."
            )
        if data_format not in ("channels_first", "channels_last"):
            raise ValueError(f"`data_format` is 'channels_first' or 'channels_last', got {data_format!r}.")
        if not len(self.aux_names) == len(self.aux_mean) == len(self.aux_std):
            raise ValueError("`aux_names`, `aux_mean` and `aux_std` need the same length.")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (len(self.channel_names), *self.image_size)

    def preprocess(self, images, return_tensors: str | None = None, data_format: str | None = None, **kwargs):
        """Detector images to network input.

        Args:
            images:
                A dense image `(C, H, W)`, a batch `(B, C, H, W)` or a list of images (numpy or torch; channels last
                with `data_format`); or a sparse row, a mapping with `pixel_index` and `pixel_value` (and `pt`, `ieta`,
                `iphi` for `aux_names`), or a list of rows; or many rows in one mapping, the fastest: their pixels one
                after the other and `row_offsets` `(B + 1,)`, where each row begins and the last ends.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.
            data_format (`str`, *optional*): Overrides the processor's for dense images.

        Returns:
            [`BatchFeature`] with `pixel_values` `(B, C, H, W)`, float32, and `aux_values` `(B, len(aux_names))`.

        Raises:
            ValueError: on another shape, a NaN or infinite pixel, or an index outside the image; it names the image.
        """
        if kwargs:
            raise ValueError(f"Unknown arguments of E2EImageProcessor: {', '.join(sorted(kwargs))}.")
        if isinstance(images, Mapping):
            images = images if "row_offsets" in images else [images]
        if isinstance(images, Mapping):
            pixel_values = self._from_pixels(images["pixel_index"], images["pixel_value"], images["row_offsets"])
        elif not isinstance(images, (np.ndarray, torch.Tensor)) and len(images) and isinstance(images[0], Mapping):
            pixel_values = self._from_rows(images)
        else:
            pixel_values = self._from_dense(images, data_format or self.data_format)
        features = {"pixel_values": pixel_values}
        if self.aux_names and isinstance(images, Mapping):
            features["aux_values"] = self._aux_values({name: np.asarray(column) for name, column in images.items()})
        elif self.aux_names and isinstance(images[0], Mapping):
            names = ("pt", "ieta", "iphi")
            features["aux_values"] = self._aux_values(
                {name: np.array([row.get(name) for row in images], dtype=np.float64) for name in names}
            )
        return BatchFeature(features, tensor_type=return_tensors)

    def _network_units(self, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return np.copysign(np.log1p(np.abs(values) / scale), values)

    def _from_rows(self, rows) -> np.ndarray:
        indices = [np.asarray(row["pixel_index"]) for row in rows]
        values = [np.asarray(row["pixel_value"], dtype=np.float32) for row in rows]
        for i, (index, value) in enumerate(zip(indices, values)):
            if index.shape != value.shape:
                raise ValueError(f"Image {i}: {index.size} entries in pixel_index and {value.size} in pixel_value.")
        offsets = np.cumsum([0, *(index.size for index in indices)])
        return self._from_pixels(np.concatenate(indices).astype(np.int64), np.concatenate(values), offsets)

    def _from_pixels(self, index, value, offsets) -> np.ndarray:
        num_channels, height, width = self.image_shape
        num_pixels, number = num_channels * height * width, len(offsets) - 1
        index, value = np.asarray(index), np.asarray(value, dtype=np.float32)
        image = np.repeat(np.arange(number), np.diff(offsets))
        if index.size and (index.min() < 0 or index.max() >= num_pixels):
            bad = int(image[(index < 0) | (index >= num_pixels)][0])
            raise ValueError(
                f"Image {bad}: pixel_index reaches {index[image == bad].max()}, but an image of shape "
                f"{self.image_shape} has {num_pixels} pixels; was it written for another grid?"
            )
        self._check_finite(value, image)
        # numpy divides unsigned 32-bit numbers fastest, and gathers and scatters by 64-bit ones
        channel = (index.astype(np.uint32) // np.uint32(height * width)).astype(np.intp)
        scale = np.asarray(self.channel_scale, dtype=np.float32).take(channel)
        pixel_values = np.zeros(number * num_pixels, dtype=np.float32)
        pixel_values[image * num_pixels + index] = self._network_units(value, scale)
        return pixel_values.reshape(number, *self.image_shape)

    def _from_dense(self, images, data_format: str) -> np.ndarray:
        if isinstance(images, torch.Tensor):
            images = images.detach().cpu().numpy()
        elif not isinstance(images, np.ndarray):
            images = np.stack([np.asarray(image) for image in images])
        images = np.asarray(images, dtype=np.float32)
        if images.ndim == 3:
            images = images[None]
        if data_format == "channels_last":
            images = np.moveaxis(images, -1, 1)
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"Expected images of shape {self.image_shape} (channels {', '.join(self.channel_names)}; eta; phi), "
                f'got {images.shape[1:]}. If they store channels last, pass `data_format="channels_last"`.'
            )
        image, channel, row, column = np.nonzero(images)
        value = images[image, channel, row, column]
        self._check_finite(value, image)
        pixel_values = np.zeros_like(images, order="C")
        scale = np.asarray(self.channel_scale, dtype=np.float32)[channel]
        pixel_values[image, channel, row, column] = self._network_units(value, scale)
        return pixel_values

    @staticmethod
    def _check_finite(value: np.ndarray, image: np.ndarray):
        if not np.isfinite(value).all():
            bad = int(image[~np.isfinite(value)][0])
            raise ValueError(f"Image {bad} holds NaN or infinite pixels; drop it or fix its producer.")

    def _aux_values(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        chosen = [np.log(columns["pt"]) if name == "log_pt" else columns[name] for name in self.aux_names]
        return ((np.stack(chosen, axis=1) - self.aux_mean) / self.aux_std).astype(np.float32)
