"""`pipeline("e2e-jets")`: images or files in, classes and masses out; it travels with the checkpoint."""

import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from transformers import Pipeline

__all__ = ["E2EJetsPipeline", "read_images"]


def read_images(path: str | os.PathLike, image_shape: tuple[int, int, int]) -> Iterator:
    """The images of a file, one at a time: dense ones of `.npy` and `.h5`, sparse rows of `.parquet`.

    Args:
        path: `.npy` holds an image or a batch of images; `.h5` and `.hdf5` a data set of images, the first that has
            their shape; `.parquet` rows with `pixel_index` and `pixel_value` (`pt`, `ieta`, `iphi`).
        image_shape: Channels, height, width; dense images may have their channels last.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another kind of file, or one that holds no such images.
        ImportError: if what reads this kind is not installed (h5py, pyarrow).
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}.")
    readers = {".npy": _read_npy, ".h5": _read_hdf5, ".hdf5": _read_hdf5, ".parquet": _read_parquet}
    ending = os.path.splitext(path)[1].lower()
    if ending not in readers:
        raise ValueError(f"{path}: expected a file that ends with {', '.join(readers)}, got {ending or 'no ending'}.")
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
        found = []
        file.visititems(lambda name, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        images = next((item for item in found if item.ndim == 4 and _is_image(item.shape[1:], image_shape)), None)
        if images is None:
            got = ", ".join(f"{item.name} {item.shape}" for item in found) or "nothing"
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
                "`scripts/prepare_data.py` makes sparse rows of the public files."
            )
        columns = [name for name in ("pixel_index", "pixel_value", "pt", "ieta", "iphi") if name in known]
        for batch in file.iter_batches(batch_size=64, columns=columns):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error}).") from error


class E2EJetsPipeline(Pipeline):
    """What made a jet, and its mass in GeV, from its detector image.

    ```python
    from transformers import pipeline

    jets = pipeline("e2e-jets", model="ORG/NAME", trust_remote_code=True)
    jets(image)  # {"label": "top", "score": 0.93, "scores": {...}, "mass": 171.2, "mass_uncertainty": 14.8}
    jets("jets.parquet", batch_size=64)  # a list
    for found in jets(dataset, batch_size=64):  # one by one, whatever the size
        ...
    ```

    Inputs are in the detector's units (GeV, cm, hits), in the channel order of the processor: a dense array
    `(C, H, W)` or `(H, W, C)`, a sparse row, a path as in [`read_images`]; a batch `(B, C, H, W)`, a list of any of
    these but paths, a `Dataset`, or a generator.

    Returns of each image:
        `label` and `score` of the most probable class, `scores` of all; `mass` [GeV] and `mass_uncertainty` [GeV], one
        standard deviation, `None` if the model does not predict it.

    Raises:
        As [`read_images`] and the image processor.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(self, **kwargs):
        if kwargs:
            raise ValueError(f"Unknown arguments of E2EJetsPipeline: {', '.join(sorted(kwargs))}.")
        return {}, {}, {}

    def __call__(self, inputs, **kwargs):
        if isinstance(inputs, (str, os.PathLike)):
            return list(super().__call__(_checked(read_images(inputs, self.image_processor.image_shape)), **kwargs))
        if isinstance(inputs, (np.ndarray, torch.Tensor)) and inputs.ndim == 4:
            inputs = list(inputs)
        elif not isinstance(inputs, (np.ndarray, torch.Tensor, Mapping, list)) and isinstance(inputs, Iterable):
            inputs = (row for row in inputs)  # a Dataset is read row by row
        return super().__call__(inputs, **kwargs)

    def preprocess(self, image):
        if isinstance(image, Mapping):
            return self.image_processor(image, return_tensors="pt")
        channels, height, width = self.image_processor.image_shape
        orders = {(channels, height, width): "channels_first", (height, width, channels): "channels_last"}
        # where the shape does not tell, the processor does
        order = orders.get(tuple(image.shape)) if len(orders) == 2 else None
        return self.image_processor(image, data_format=order, return_tensors="pt")

    def _forward(self, model_inputs):
        return self.model(**model_inputs)

    def postprocess(self, outputs):
        probabilities = outputs["logits"][0].float().softmax(-1).tolist()
        scores = {self.model.config.id2label[number]: value for number, value in enumerate(probabilities)}
        label = max(scores, key=scores.get)
        uncertainty = outputs.get("mass_scale_preds")
        return {
            "label": label,
            "score": scores[label],
            "scores": scores,
            "mass": float(outputs["mass_preds"][0]),
            "mass_uncertainty": None if uncertainty is None else float(uncertainty[0]),
        }


def _checked(images: Iterator) -> Iterator:
    """The same images, the first one read already: an error in the file comes at once."""
    first = next(images, None)

    def again():
        if first is not None:
            yield first
            yield from images

    return again()
