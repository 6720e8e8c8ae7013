"""`pipeline("e2e-jets")` and `pipeline("e2e-features")`: images or files in, predictions or embeddings out."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from transformers import Pipeline, PreTrainedModel

from .image_processing_e2e import E2EImageProcessor

__all__ = ["E2EFeaturesPipeline", "E2EJetsPipeline", "dataset_channels", "file_channels", "read_images"]


def read_images(path: str | os.PathLike, image_shape: tuple[int, int, int]) -> Iterator:
    """The images of a file, one at a time: dense from `.npy` and `.h5`, sparse rows from `.parquet`.

    Args:
        path: `.npy` holds an image or a batch of images; `.h5` and `.hdf5` a data set of images, of which the first
            with the right shape is read; `.parquet` rows with `pixel_index` and `pixel_value` (`pt`, `ieta`, `iphi`).
        image_shape: Channels, height, width; dense images may have their channels last.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another kind of file, or one without such images.
        ImportError: if the library for this kind of file is missing (h5py, pyarrow).
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}.")
    readers = {".npy": _read_npy, ".h5": _read_hdf5, ".hdf5": _read_hdf5, ".parquet": _read_parquet}
    ending = os.path.splitext(path)[1].lower()
    if ending not in readers:
        raise ValueError(f"{path}: expected a file that ends in {', '.join(readers)}, got {ending or 'no ending'}.")
    return readers[ending](path, image_shape)


def _is_image(shape: tuple, image_shape: tuple[int, int, int]) -> bool:
    channels, height, width = image_shape
    return tuple(shape) in ((channels, height, width), (height, width, channels))


def _read_npy(path: str, image_shape) -> Iterator[np.ndarray]:
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a readable array ({error}).") from error
    if _is_image(images.shape, image_shape):
        images = images[None]
    if images.ndim != 4 or not _is_image(images.shape[1:], image_shape) or images.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: expected numbers of shape {image_shape}, alone or in a batch, got {images.dtype} of "
            f"shape {images.shape}."
        )
    for image in images:
        yield np.array(image)


def _read_hdf5(path: str, image_shape) -> Iterator[np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("Reading HDF5 files needs h5py: pip install h5py.") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: not a readable HDF5 file ({error}).") from error
    with file:
        datasets = []
        file.visititems(lambda name, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
        images = next((item for item in datasets if item.ndim == 4 and _is_image(item.shape[1:], image_shape)), None)
        if images is None:
            got = ", ".join(f"{item.name} {item.shape}" for item in datasets) or "nothing"
            raise ValueError(f"{path}: expected a data set of images of shape {image_shape}, got {got}.")
        for number in range(len(images)):
            yield images[number]


def _read_parquet(path: str, image_shape) -> Iterator[dict]:
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("Reading Parquet files needs pyarrow: pip install pyarrow.") from error
    try:
        file = pq.ParquetFile(path)
        known = file.schema_arrow.names
        missing = [name for name in ("pixel_index", "pixel_value") if name not in known]
        if missing:
            raise ValueError(
                f"{path}: the column {', '.join(missing)} is missing, got {', '.join(known)}; "
                "`e2evit prepare` converts public files to sparse rows."
            )
        columns = [name for name in ("pixel_index", "pixel_value", "pt", "ieta", "iphi") if name in known]
        for batch in file.iter_batches(batch_size=64, columns=columns):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error}).") from error


class _E2EPipeline(Pipeline):
    """Turns detector images of every kind into network input."""

    image_processor: E2EImageProcessor
    model: PreTrainedModel
    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(self, channel_names=None, **kwargs):
        if kwargs:
            raise ValueError(f"Unknown arguments of {type(self).__name__}: {', '.join(sorted(kwargs))}.")
        return ({} if channel_names is None else {"channel_names": channel_names}), {}, {}

    def __call__(self, inputs, channel_names: Sequence[str] | None = None, **kwargs):
        if isinstance(inputs, (str, os.PathLike)):
            channel_names = channel_names or file_channels(inputs)
            images = _checked(read_images(inputs, self.image_processor.image_shape))
            return list(super().__call__(images, channel_names=channel_names, **kwargs))  # pyright: ignore
        channel_names = channel_names or dataset_channels(inputs)
        if isinstance(inputs, (np.ndarray, torch.Tensor)) and inputs.ndim == 4:
            inputs = list(inputs)
        elif not isinstance(inputs, (np.ndarray, torch.Tensor, Mapping, list)) and isinstance(inputs, Iterable):
            inputs = (row for row in inputs)  # a Dataset is read row by row
        return super().__call__(inputs, channel_names=channel_names, **kwargs)

    def preprocess(self, image, channel_names=None):
        processor = self.image_processor
        if isinstance(image, Mapping):
            return processor.preprocess(image, channel_names=channel_names, return_tensors="pt")
        channels, height, width = processor.image_shape
        orders = {(channels, height, width): "channels_first", (height, width, channels): "channels_last"}
        # if the shape is ambiguous, the processor decides
        order = orders.get(tuple(image.shape)) if len(orders) == 2 else None
        return processor.preprocess(image, data_format=order, channel_names=channel_names, return_tensors="pt")

    def save_pretrained(self, save_directory, **kwargs):
        """Model and image processor; a pipeline that came with a checkpoint's code saves that code too."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.image_processor.save_pretrained(save_directory, **kwargs)
        if getattr(self.model.config, "custom_pipelines", None):
            shutil.copy(__file__, save_directory)


class E2EJetsPipeline(_E2EPipeline):
    """The class and mass (in GeV) of jets from their detector images.

    ```python
    import e2evit.modeling
    from transformers import pipeline

    jets = pipeline("e2e-jets", model="checkpoints/linearvit")
    jets("jets.parquet", batch_size=64)  # [{"label": "top", "score": 0.93, "scores": {...}, "mass": 171.2, ...}, ...]
    jets(image, channel_names=["trk_pt", ...])  # one image
    for prediction in jets(dataset, batch_size=64):  # one by one, whatever the size
        ...
    ```

    Inputs are in the detector's units (GeV, cm, hits), in the channel order of the processor: a dense array
    `(C, H, W)` or `(H, W, C)`, a sparse row, a path as in [`read_images`]; a batch `(B, C, H, W)`, a list of any of
    these except paths, a `Dataset`, or a generator.

    `channel_names` says what the channels hold; a model of transverse energies needs it, and converts plain energies
    of rows that have `ieta`. Parquet rows and data sets of e2evit provide it.

    Returns, for each image:
        `label` and `score` of the most probable class, `scores` of all; `mass` [GeV] and `mass_uncertainty` [GeV], one
        standard deviation, `None` if the model does not predict it.

    Raises:
        As [`read_images`] and the image processor.
    """

    def _forward(self, model_inputs):
        return self.model(**model_inputs)

    def postprocess(self, outputs):
        probabilities = outputs["logits"][0].float().softmax(-1).tolist()
        labels: dict = self.model.config.id2label or {}
        scores = {labels[number]: value for number, value in enumerate(probabilities)}
        label = max(scores, key=scores.__getitem__)
        uncertainty = outputs.get("mass_scale_preds")
        return {
            "label": label,
            "score": scores[label],
            "scores": scores,
            "mass": float(outputs["mass_preds"][0]),
            "mass_uncertainty": None if uncertainty is None else float(uncertainty[0]),
        }


class E2EFeaturesPipeline(_E2EPipeline):
    """Embeddings of jets: the pooled feature that the heads read, a `(D,)` float32 array for each image.

    transformers' `image-feature-extraction` opens pictures only. Inputs as in [`E2EJetsPipeline`]:

    ```python
    embeddings = pipeline("e2e-features", model="checkpoints/linearvit")("jets.parquet", batch_size=64)
    ```
    """

    def _forward(self, model_inputs):
        return {"features": self.model.base_model(model_inputs["pixel_values"]).pooler_output}

    def postprocess(self, outputs):
        return outputs["features"][0].float().numpy()


def file_channels(path: str | os.PathLike) -> list[str] | None:
    """What the channels of a Parquet file of e2evit hold; `None` for other files and for normalised images."""
    if not os.fspath(path).lower().endswith(".parquet") or not os.path.isfile(path):
        return None
    try:
        import pyarrow
        import pyarrow.parquet as pq

        metadata = pq.read_schema(path).metadata or {}
    except (ImportError, pyarrow.ArrowException, OSError):
        return None  # reading its rows says what is wrong
    description = json.loads(metadata.get(b"e2evit", b"{}"))
    return description.get("channel_names") if description.get("normalisation", "physical") == "physical" else None


def dataset_channels(dataset) -> list[str] | None:
    """What the channels of a `Dataset` of `e2evit.load_e2e` hold, by its description; `None` for other inputs and for
    normalised images."""
    description = getattr(getattr(dataset, "info", None), "description", None) or ""
    lines = re.findall(r"^Channels: (.+)\. \d+ x \d+ pixels, physical\.$", description, re.MULTILINE)
    return [channel.split(" [")[0] for channel in lines[0].split("], ")] if len(lines) == 1 else None


def _checked(images: Iterator) -> Iterator:
    """The same images with the first one read already, so that an error in the file is raised at once."""
    first = next(images, None)

    def again():
        if first is not None:
            yield first
            yield from images

    return again()
