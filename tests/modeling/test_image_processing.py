"""Detector units to network units."""

import numpy as np
import pytest
import torch
from e2evit.modeling import geometry_e2e
from e2evit.modeling.image_processing_e2e import compress
from samples import row_table
from transformers import AutoImageProcessor

from e2evit import E2EImageProcessor
from e2evit.data import find_schema, grid
from e2evit.data.sparse import dense_to_sparse
from e2evit.transforms import transverse

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


def test_compress_is_one_formula_for_arrays_and_tensors():
    values = np.array([0.0, 1.0, -3.0, 1e4], dtype=np.float32)
    expected = np.sign(values) * np.log1p(np.abs(values) / 0.5)
    assert np.array_equal(compress(values, 0.5), expected)
    torch.testing.assert_close(compress(torch.from_numpy(values), 0.5), torch.from_numpy(expected))


@pytest.mark.parametrize("height", [125, 280])
def test_transverse_energies_agree_with_the_data_code(height):
    """The processor's copy of the geometry equals that of `e2evit.data`, in every row and for every seed tower."""
    assert geometry_e2e.TRANSVERSE == transverse.TRANSVERSE
    rows = np.arange(grid.ROWS)
    for is_ecal in (False, True):
        factor = geometry_e2e.transverse_factor(rows, np.full(grid.ROWS, is_ecal))
        assert np.array_equal(factor, transverse.transverse_factor(rows, is_ecal))
    low, high = grid.SEED_ROWS
    for ieta in range(low, high + 1):
        image_rows = np.arange(height)
        expected = image_rows if height == 280 else grid.TOWER * ieta + grid.TOWER // 2 - 62 + image_rows
        assert np.array_equal(geometry_e2e.window_rows(image_rows, height, ieta), expected)


def test_rows_are_converted_as_tables_are():
    schema = find_schema("simulated")
    table = row_table(20)
    converted = transverse.transverse_table(table, schema)
    names = transverse.transverse_schema(schema).channel_names
    processor = E2EImageProcessor(names, channel_scale=SCALE)
    expected = processor(converted.to_pylist(), channel_names=names, return_tensors="np")["pixel_values"]
    result = processor(table.to_pylist(), channel_names=CHANNELS, return_tensors="np")["pixel_values"]
    assert np.array_equal(result, expected)


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
    rows = rows_of(images)
    columns = {name: [row[name] for row in rows] for name in rows[0]}  # a slice of a `Dataset`
    assert np.array_equal(processor(columns, return_tensors="np")["pixel_values"], expected)
    for given in (images[0], rows_of(images)[0]):
        assert np.array_equal(processor(given, return_tensors="np")["pixel_values"], expected[:1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_tensors_of_any_type(processor, images, dtype):
    tensor = torch.tensor(images).to(dtype)
    expected = processor(tensor.float(), return_tensors="np")["pixel_values"]
    for given in (tensor, list(tensor), tensor.float().requires_grad_()):
        assert np.array_equal(processor(given, return_tensors="np")["pixel_values"], expected)
    row = {"pixel_index": torch.tensor([7]), "pixel_value": torch.ones(1, dtype=dtype)}
    assert processor(row, return_tensors="pt")["pixel_values"].count_nonzero() == 1


@pytest.mark.parametrize(
    "nothing",
    [
        *([], np.zeros((0, 8, 125, 125)), torch.zeros(0, 8, 125, 125)),
        {"pixel_index": np.zeros(0, int), "pixel_value": np.zeros(0), "row_offsets": np.zeros(1, int)},
    ],
    ids=["list", "array", "tensor", "rows"],
)
def test_no_images(processor, nothing):
    assert processor(nothing, return_tensors="pt")["pixel_values"].shape == (0, 8, 125, 125)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"pixel_index": [31250, 0], "pixel_value": [3e38, 1.0]}, r"Image 1 holds a pixel of 3e\+38, .* scale, 0.004"),
        ({"pixel_index": [0], "pixel_value": [1e300]}, "Image 1 holds NaN or infinite"),
        ({"pixel_index": [5.5], "pixel_value": [1.0]}, "Image 1: `pixel_index` holds whole numbers, got float64: 5.5"),
        ({"pixel_index": [np.nan], "pixel_value": [1.0]}, "whole numbers"),
        ({"pixel_index": [1e30], "pixel_value": [1.0]}, "whole numbers"),
        ({"pixel_index": [1, None], "pixel_value": [1.0, 2.0]}, "whole numbers, got object"),
        ({"pixel_index": [1], "pixel_value": [None]}, "real numbers, got object"),
        ({"pixel_index": [1], "pixel_value": [1j]}, "real numbers, got complex"),
        ({"pixel_index": [-1], "pixel_value": [1.0]}, "Image 1: pixel_index reaches -1"),
        ({"pixel_index": [1]}, "Image 1: a row needs .* got pixel_index"),
        ({}, "Image 1: .* got nothing"),
        (None, "Image 1: .* got NoneType"),
        ({"pixel_index": [1], "pixel_value": [1.0], "ieta": [20]}, "`ieta` is one number for each image"),
        ({"pixel_index": [1], "pixel_value": [1.0], "pt": "x"}, "`pt` is one number for each image"),
    ],
)
def test_pixels_that_are_no_numbers(processor, row, message):
    good = {"pixel_index": [0.0], "pixel_value": [1]}
    assert processor([good], return_tensors="pt")["pixel_values"].count_nonzero() == 1
    with pytest.raises(ValueError, match=message):
        processor([good, row])


@pytest.mark.parametrize("images", [None, 5, "jets.h5", b"jets", (image for image in ())])
def test_what_is_no_image(processor, images):
    with pytest.raises(ValueError, match="Image 0: expected an array, or a row of pixels, got "):
        processor(images)


def test_offsets_that_do_not_fit(processor):
    pixels = {"pixel_index": np.arange(3), "pixel_value": np.ones(2), "row_offsets": np.array([0, 3])}
    with pytest.raises(ValueError, match="span 3 pixels, but `pixel_index` has 3 and `pixel_value` 2"):
        processor(pixels)
    for wrong in ([0, 2, 1], [[0, 2]], []):
        with pytest.raises(ValueError, match="`row_offsets` must be an ascending list"):
            processor(pixels | {"row_offsets": np.array(wrong, int)})


def test_offsets_in_a_larger_table(processor):
    pixels = {"pixel_index": np.arange(3), "pixel_value": np.ones(3), "row_offsets": np.array([10, 12, 13])}
    assert processor(pixels, packed=True)["row_offsets"].tolist() == [0, 2, 3]
    assert processor.check_rows(pixels)["row_offsets"].tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("row", "got"),
    [({}, "`pt`, got nan"), ({"pt": 0.0, "ieta": 3}, "`pt`, got 0.0"), ({"pt": 50.0}, "`ieta`, got nan")],
)
def test_aux_values_that_are_not_finite(row, got):
    processor = E2EImageProcessor(CHANNELS, aux_names=["log_pt", "ieta"], aux_mean=[6, 28], aux_std=[0.5, 10])
    with pytest.raises(ValueError, match=f"Image 0: this model's `aux_values` need {got}"):
        processor({"pixel_index": [0], "pixel_value": [1.0]} | row)


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
    with pytest.raises(ValueError, match="Image 1: pixel_index holds 7 more than once"):
        processor(
            [{"pixel_index": [7, 3], "pixel_value": [1.0, 2.0]}, {"pixel_index": [7, 7], "pixel_value": [1.0, 2.0]}]
        )
    with pytest.raises(ValueError, match="Image 0: 2 entries"):
        processor({"pixel_index": [0, 1], "pixel_value": [1.0]})
    with pytest.raises(ValueError, match="channel_scale"):
        E2EImageProcessor(CHANNELS, channel_scale=[1.0])
    with pytest.raises(ValueError, match="data_format"):
        E2EImageProcessor(CHANNELS, data_format="nchw")
    with pytest.raises(ValueError, match="`channel_names` are names"):
        E2EImageProcessor([1, 2])
    with pytest.raises(ValueError, match="`image_size` is one side"):
        E2EImageProcessor(CHANNELS, image_size=[None, None])
