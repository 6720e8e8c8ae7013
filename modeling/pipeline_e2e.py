"""`pipeline("e2e-jets")` and `pipeline("e2e-features")`: images or files in, predictions or embeddings out."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import Pipeline, PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files

from .files_e2e import Description, checked_channels, describe_file, file_channels, read_images
from .image_processing_e2e import E2EImageProcessor, as_rows
from .modeling_head import class_scores, has_no_heads

__all__ = ["E2EFeaturesPipeline", "E2EJetsPipeline", "dataset_channels", "file_channels", "read_images"]


class _E2EPipeline(Pipeline):
    """Turns detector images of every kind into network input."""

    image_processor: E2EImageProcessor
    model: PreTrainedModel
    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False
    _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        config, processor = self.model.config, self.image_processor
        if getattr(self.model, "reads_candidates", False):
            raise ValueError(f"A pipeline reads images, and {type(self.model).__name__} candidates: call the model.")
        if not hasattr(processor, "image_shape"):
            raise ValueError(f"The pipeline needs an E2EImageProcessor, got {type(processor).__name__}.")
        made_for = (getattr(config, "num_channels", None), *getattr(config, "image_shape", ()))
        if made_for != processor.image_shape:
            raise ValueError(
                f"The model is made for images of shape {made_for} (channels, eta, phi), and its image processor "
                f"makes {processor.image_shape}."
            )
        channel_names = getattr(config, "channel_names", None)
        if channel_names is not None and list(channel_names) != processor.channel_names:
            raise ValueError(
                f"The model is made for the channels {', '.join(channel_names)}, and its image processor returns "
                f"{', '.join(processor.channel_names)}."
            )

    def _sanitize_parameters(self, channel_names=None, **kwargs):
        if kwargs:
            raise ValueError(f"Unknown arguments of {type(self).__name__}: {', '.join(sorted(kwargs))}.")
        return ({} if channel_names is None else {"channel_names": channel_names}), {}, {}

    def __call__(self, inputs, channel_names: Sequence[str] | None = None, **kwargs):
        if isinstance(inputs, (str, os.PathLike)):
            channel_names = self._channels(describe_file(inputs), channel_names)
            images = _checked(read_images(inputs, self.image_processor.image_shape))
            return list(super().__call__(_numbered(images), channel_names=channel_names, **kwargs))  # pyright: ignore
        channel_names = self._channels(_describe_dataset(inputs), channel_names)
        if isinstance(inputs, Mapping) and (rows := as_rows(inputs))[0] is not inputs:
            inputs = rows
        is_array = isinstance(inputs, (np.ndarray, torch.Tensor))
        if isinstance(inputs, list) or (is_array and inputs.ndim == 4):
            inputs = list(_numbered(inputs))
            if not inputs:
                return []
        elif not (is_array or isinstance(inputs, Mapping)) and isinstance(inputs, Iterable):
            inputs = _numbered(inputs)  # a Dataset is read row by row
        return super().__call__(inputs, channel_names=channel_names, **kwargs)

    def _channels(self, described: Description | None, channel_names) -> Sequence[str] | None:
        processor = self.image_processor
        return checked_channels(described, processor.channel_names, processor.image_size, channel_names)

    def preprocess(self, image, channel_names=None):
        number, image = (image.number, image.image) if isinstance(image, _Numbered) else (0, image)
        try:
            features = self.image_processor(image, channel_names=channel_names, return_tensors="pt")
        except ValueError as error:  # the processor sees one image at a time
            raise ValueError(re.sub("^Image 0", f"Image {number}", str(error))) from error
        if (size := len(features["pixel_values"])) != 1:
            raise ValueError(f"Image {number}: expected one image, got {size}; pass a list of images or rows.")
        return {**features, "number": torch.tensor([number])}

    def save_pretrained(self, save_directory, **kwargs):
        """Model and image processor; a pipeline that came with a checkpoint's code saves that code too."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.image_processor.save_pretrained(save_directory, **kwargs)
        if getattr(self.model.config, "custom_pipelines", None):
            for path in (__file__, *get_relative_import_files(__file__)):
                shutil.copy(path, save_directory)


class E2EJetsPipeline(_E2EPipeline):
    """The class and mass (in GeV) of jets from their detector images.

    ```python
    import e2evit
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
        `label` and `score` of the most probable class, `scores` of all (of a regression, its numbers); `mass` [GeV]
        and `mass_uncertainty` [GeV], one standard deviation, `None` if the model does not predict it; of models that
        estimate it, `containment`, the probability that the jet contains all of the decay.

    Raises:
        As [`read_images`] and the image processor; `ValueError` for a checkpoint that is only pre-trained.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if has_no_heads(self.model.config):
            raise ValueError("This checkpoint has been pre-trained and predicts no classes: fine-tune it first.")

    def _forward(self, model_inputs):
        number, outputs = model_inputs.pop("number"), self.model(**model_inputs)
        names = ("logits", "mass_preds", "mass_scale_preds", "containment_logits")
        return {name: outputs[name] for name in names if outputs.get(name) is not None} | {"number": number}

    def postprocess(self, outputs):
        _check_finite(outputs)
        labels: dict = self.model.config.id2label or {}
        scores = class_scores(self.model.config, outputs["logits"][0]).tolist()
        scores = {labels[number]: value for number, value in enumerate(scores)}
        label = max(scores, key=scores.__getitem__)
        uncertainty, containment = (outputs.get(name) for name in ("mass_scale_preds", "containment_logits"))
        prediction = {
            "label": label,
            "score": scores[label],
            "scores": scores,
            "mass": float(outputs["mass_preds"][0]),
            "mass_uncertainty": None if uncertainty is None else float(uncertainty[0]),
        }
        return prediction if containment is None else prediction | {"containment": float(containment[0].sigmoid())}


class E2EFeaturesPipeline(_E2EPipeline):
    """Embeddings of jets: the pooled feature that the heads read, a `(D,)` float32 array for each image.

    transformers' `image-feature-extraction` opens pictures only. Inputs as in [`E2EJetsPipeline`]:

    ```python
    embeddings = pipeline("e2e-features", model="checkpoints/linearvit")("jets.parquet", batch_size=64)
    ```
    """

    def _forward(self, model_inputs):
        features = self.model.base_model(model_inputs["pixel_values"]).pooler_output
        return {"features": features, "number": model_inputs["number"]}

    def postprocess(self, outputs):
        _check_finite(outputs)
        return outputs["features"][0].float().numpy()


def _describe_dataset(dataset) -> Description | None:
    """What a `Dataset` of `e2evit.load_e2e` says about its images, in its description; `None` for other inputs."""
    text = getattr(getattr(dataset, "info", None), "description", None) or ""
    lines = re.findall(r"^Channels: (.+)\. (\d+) x (\d+) pixels, (\w+)\.$", text, re.MULTILINE)
    if len(lines) != 1:
        return None
    ((channels, height, width, normalisation),) = lines
    names = [channel.split(" [")[0] for channel in channels.split("], ")]
    return Description(names, [int(height), int(width)], normalisation == "physical")


def dataset_channels(dataset) -> list[str] | None:
    """What the channels of a `Dataset` of `load_e2e` hold; `None` for other inputs and for normalised images."""
    described = _describe_dataset(dataset)
    return described.channel_names if described is not None and described.is_physical else None


@dataclass(frozen=True)
class _Numbered:
    """An image and its place in the input, which errors name."""

    number: int
    image: Any


def _numbered(images: Iterable) -> Iterator[_Numbered]:
    return (_Numbered(*pair) for pair in enumerate(images))


def _check_finite(outputs: Mapping[str, torch.Tensor]) -> None:
    for name, values in outputs.items():
        if not values.isfinite().all():
            raise ValueError(
                f"Image {int(outputs['number'])}: the model's `{name}` is not finite. Its weights are damaged, or its "
                "numbers exceed the range of its type: try float32."
            )


def _checked(images: Iterator) -> Iterator:
    """The same images with the first one read already, so that an error in the file is raised at once."""
    first = next(images, None)

    def again():
        if first is not None:
            yield first
            yield from images

    return again()
