"""Detector units to network units."""

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor

from e2evit import E2EImageProcessor
from e2evit.data import find_schema
from e2evit.data.sparse import dense_to_sparse

CHANNELS = find_schema("simulated").channel_names
SCALE = [4.0, 0.002, 0.004, 0.3, 0.1, 1.0, 1.0, 1.0]


@pytest.fixture
def processor():
    return E2EImageProcessor(CHANNELS, channel_scale=SCALE)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    images = rng.normal(0, 3, (3, 8, 125, 125)) * (rng.random((3, 8, 125, 125)) < 0.015)
    return images.astype(np.float32)


def rows_of(images):
    index, value = dense_to_sparse(images)
    return [{"pixel_index": i.as_py(), "pixel_value": v.as_py()} for i, v in zip(index, value)]


def test_formula_keeps_zeros_and_signs(processor, images):
    result = processor(images, return_tensors="pt")["pixel_values"]
    scale = torch.tensor(SCALE)[:, None, None]
    expected = torch.sign(torch.tensor(images)) * torch.log(1 + torch.tensor(images).abs() / scale)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(result == 0, torch.tensor(images) == 0)


def test_all_kinds_of_input_agree(processor, images):
    expected = processor(images, return_tensors="np")["pixel_values"]
    for given in (list(images), torch.tensor(images), rows_of(images)):
        assert np.array_equal(processor(given, return_tensors="np")["pixel_values"], expected)
    last = processor(np.moveaxis(images, 1, -1), data_format="channels_last", return_tensors="np")["pixel_values"]
    assert np.array_equal(last, expected)
    for given in (images[0], rows_of(images)[0]):
        assert np.array_equal(processor(given, return_tensors="np")["pixel_values"], expected[:1])


def test_empty_image(processor):
    assert not processor({"pixel_index": [], "pixel_value": []}, return_tensors="pt")["pixel_values"].any()


def test_aux_values():
    processor = E2EImageProcessor(
        CHANNELS, aux_names=["log_pt", "ieta"], aux_mean=[np.log(500), 28], aux_std=[0.5, 10]
    )
    row = {"pixel_index": [0], "pixel_value": [1.0], "pt": 500.0 * np.e, "ieta": 38}
    aux = processor([row], return_tensors="pt")["aux_values"]
    torch.testing.assert_close(aux, torch.tensor([[2.0, 1.0]]))


def test_round_trip(processor, images, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is E2EImageProcessor
    assert np.array_equal(loaded(images)["pixel_values"], processor(images)["pixel_values"])


def test_errors_name_the_image(processor, images):
    with pytest.raises(ValueError, match=r"\(8, 125, 125\).*\(8, 125, 124\)"):
        processor(images[..., :-1])
    images[1, 2, 3, 4] = np.nan
    with pytest.raises(ValueError, match="Image 1 holds NaN"):
        processor(images)
    with pytest.raises(ValueError, match="Image 1 holds NaN"):
        processor(rows_of(images))
    with pytest.raises(ValueError, match="Image 1: pixel_index reaches 125000"):
        processor([{"pixel_index": [0], "pixel_value": [1.0]}, {"pixel_index": [125000], "pixel_value": [1.0]}])
    with pytest.raises(ValueError, match="Image 0: 2 entries"):
        processor({"pixel_index": [0, 1], "pixel_value": [1.0]})
    with pytest.raises(ValueError, match="channel_scale"):
        E2EImageProcessor(CHANNELS, channel_scale=[1.0])
    with pytest.raises(ValueError, match="data_format"):
        E2EImageProcessor(CHANNELS, data_format="nchw")
