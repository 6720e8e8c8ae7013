"""Masked pre-training of HitViT: nothing hidden reaches the encoder, and the right pixels are asked about."""

from itertools import product

import pytest
import torch
from e2evit.modeling.modeling_hitvit_masked import hide_units
from e2evit.modeling.modeling_tokens import make_tokens
from models import MODELS
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, AutoModelForMaskedImageModeling

CHANNELS = ["trk_pt", "trk_d0", "trk_dz", "ecal", "hcal", "bpix1", "bpix2", "bpix3"]
TRUTH = {"truth_columns": ["num_pileup", "jet_mass"], "truth_mean": [20.0, 90.0], "truth_width": [4.0, 40.0]}
KINDS = {
    "blocks": {},
    "pixels": {"mask_size": 1, "ask_every": 1},
    "overhanging": {"mask_size": 7, "num_decoder_layers": 2},
    "no hits": {"hit_tokens": False, "mask_size": 4},
    "convolution": {"local_mixing": "both", "global_mixing": "relu_linear", "num_decoder_layers": 2},
    "truth": TRUTH,
    "patches": {"num_patch_layers": 1, "patch_size": 10, "patch_hidden_size": 8, "local_mixing": "none"},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind="blocks", **fields):
    torch.manual_seed(0)
    fields = {"channel_names": CHANNELS, "num_aux_features": 0, "initializer_range": 0.2} | KINDS[kind] | fields
    return AutoModelForMaskedImageModeling.from_config(MODELS["hitvit"](**fields)).eval()


def jets(number=4, size=(50, 50), occupancy=0.01):
    """Random pixels, and towers that are constant in blocks of 5 x 5; the second image is empty."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(number, 8, *size, generator=generator)
    images *= torch.rand(images.shape, generator=generator) < occupancy
    towers = torch.rand(number, -(-size[0] // 5), -(-size[1] // 5), generator=generator)
    towers = (towers * (towers > 0.9)).repeat_interleave(5, 1).repeat_interleave(5, 2)
    images[:, CHANNELS.index("hcal")] = towers[:, : size[0], : size[1]]
    images[1] = 0
    return images


def random_mask(model, images, share=0.75):
    rows, columns = model.mask_grid(images.shape[2:])
    return torch.rand(len(images), rows * columns, generator=torch.Generator().manual_seed(1)) < share


def hidden_pixels(model, images, mask):
    """`(B, C, H, W)`, by the definition: a pixel's unit is hidden, and a tower goes with the pixel in its middle."""
    config, (height, width) = model.config, images.shape[2:]
    grid = mask.view(len(images), *model.mask_grid((height, width)))
    hidden = torch.zeros(images.shape, dtype=torch.bool)
    for channel, row, column in product(range(8), range(height), range(width)):
        at = row, column
        if CHANNELS[channel] in config.tower_channels:
            at = (min(row // 5 * 5 + 2, height - 1), min(column // 5 * 5 + 2, width - 1))
        hidden[:, channel, row, column] = grid[:, at[0] // config.mask_size, at[1] // config.mask_size]
    return hidden


def rows_of(images):
    flat = images.flatten(1)
    image, index = flat.nonzero(as_tuple=True)
    offsets = F.pad(image.bincount(minlength=len(images)).cumsum(0), (1, 0))
    return {"pixel_index": index, "pixel_value": flat[image, index], "row_offsets": offsets}


@every_kind
def test_hidden_pixels_do_not_reach_the_encoder(kind):
    """Whatever they hold, the encoder's states are the same to the bit; visible pixels change them."""
    model, images = make(kind), jets(3, (25, 30))
    mask = random_mask(model, images)
    hidden = hidden_pixels(model, images, mask)
    changed = torch.where(hidden, torch.randn(images.shape) * (torch.rand(images.shape) < 0.1), images)
    assert not torch.equal(changed, images)
    with torch.no_grad():
        one, other = (model(inputs, mask, output_hidden_states=True) for inputs in (images, changed))
        assert one.hidden_states[0].any()
        for state, same in zip(one.hidden_states, other.hidden_states, strict=True):
            assert torch.equal(state, same)
        assert torch.equal(one.pooler_output, other.pooler_output)
        seen = model(torch.where(hidden, images, 2 * images), mask, output_hidden_states=True)
    assert not torch.equal(one.hidden_states[-1], seen.hidden_states[-1])


@every_kind
def test_the_encoder_sees_the_tokens_that_are_left(kind):
    model, images = make(kind), jets(3, (25, 30))
    mask = random_mask(model, images)
    hidden = hidden_pixels(model, images, mask)
    visible = make_tokens(model.config, (25, 30), pixel_values=images * ~hidden)
    found = hide_units(model.config, (25, 30), mask, pixel_values=images).visible
    for one, other in zip(visible, found, strict=True):
        assert one is other is None or torch.equal(one, other)
    share = visible.counts.sum() / make_tokens(model.config, (25, 30), pixel_values=images).counts.sum()
    assert 0.1 < share < 0.4


@every_kind
def test_the_decoder_mixes_neighbours(kind):
    """Even if the encoder does not: the pooled state alone cannot tell one hidden unit from the next."""
    assert all(block.window is not None for block in make(kind).decoder.blocks)


@every_kind
def test_what_is_asked(kind):
    """One in three hidden units that are occupied or next to one: tokens' values, each channel where it can be."""
    model, images = make(kind), jets(3, (25, 31))
    config, side = model.config, model.config.mask_size
    mask = random_mask(model, images)
    masked = hide_units(config, (25, 31), mask, pixel_values=images)
    rows, columns = model.mask_grid((25, 31))
    # the slow way: a dense image of tokens' values
    every = make_tokens(config.__class__(**config.to_dict() | {"hit_tokens": True}), (25, 31), pixel_values=images)
    dense = torch.zeros(3, 25 * 31, 8)
    for window, image in enumerate(every.image):
        own = every.is_token[window]
        dense[image, every.pixel[window, own]] = every.values[window, own]
    padded = F.pad(dense.view(3, 25, 31, 8), (0, 0, 0, columns * side - 31, 0, rows * side - 25))
    units = padded.unflatten(1, (rows, side)).unflatten(3, (columns, side)).permute(0, 1, 3, 5, 2, 4).flatten(4)
    occupied = units.ne(0).flatten(3).any(3)  # [B, rows, columns]
    near = F.max_pool2d(occupied.float().unsqueeze(1), 3, 1, 1).flatten(1).bool() & mask
    expected = [
        own.nonzero().flatten()[:: config.ask_every] + number * rows * columns for number, own in enumerate(near)
    ]
    assert sorted(masked.units.tolist()) == torch.cat(expected).tolist()
    torch.testing.assert_close(masked.values, units.flatten(0, 2)[masked.units])
    for number, unit in enumerate(masked.units.tolist()):
        top, left = unit % (rows * columns) // columns * side, unit % columns * side
        for cell, channel in product(range(side * side), range(8)):
            row, column = top + cell // side, left + cell % side
            middle = (min(row // 5 * 5 + 2, 24), min(column // 5 * 5 + 2, 30))
            is_there = channel != CHANNELS.index("hcal") or (row, column) == middle
            assert masked.is_asked[number, channel, cell] == (row < 25 and column < 31 and is_there)


@every_kind
def test_dense_images_and_lists_of_pixels_agree(kind):
    model, images = make(kind, image_size=50), jets()
    mask = random_mask(model, images)
    truth = torch.tensor([[21.0, 80.0]] * 4) if kind == "truth" else None
    with torch.no_grad():
        one, other = model(images, mask, truth), model(bool_masked_pos=mask, truth_labels=truth, **rows_of(images))
    assert torch.equal(one.loss, other.loss)
    assert torch.equal(one.reconstruction, other.reconstruction)
    assert one.reconstruction.shape == (len(one.units), 8, model.config.mask_size, model.config.mask_size)


@every_kind
def test_an_image_does_not_see_its_batch(kind):
    model, images = make(kind), jets(3)
    mask = random_mask(model, images)
    num_units = mask.shape[1]
    with torch.no_grad():
        whole = model(images, mask)
        for number in range(3):
            alone, own = (
                model(images[number : number + 1], mask[number : number + 1]),
                whole.units // num_units == number,
            )
            assert torch.equal(alone.units, whole.units[own] % num_units)
            # matrix products of other sizes round differently
            torch.testing.assert_close(alone.reconstruction, whole.reconstruction[own], atol=1e-5, rtol=1e-4)


@every_kind
def test_every_parameter_learns(kind):
    model, images = make(kind).train(), jets()
    truth = torch.tensor([[21.0, 80.0], [float("nan"), 90.0], [18.0, 70.0], [25.0, float("nan")]])
    outputs = model(images, random_mask(model, images), truth if kind == "truth" else None)
    terms = [outputs.occupancy_loss, outputs.value_loss, *([outputs.truth_loss] if kind == "truth" else [])]
    torch.testing.assert_close(outputs.loss, sum(terms))
    outputs.loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(("images", "share"), [(jets(2) * 0, 0.5), (jets(2), 1.1)], ids=["empty images", "all hidden"])
def test_without_tokens(images, share):
    """The losses are finite, and have gradients that distributed training can wait for."""
    model = make().train()
    loss = model(images, random_mask(model, images, share)).loss
    loss.backward()
    assert bool(loss) == (share > 1)
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_truth_by_hand():
    model, images = make("truth"), jets(2)
    torch.nn.init.zeros_(model.truth.weight)
    with torch.no_grad():
        model.truth.bias.copy_(torch.tensor([0.0, 3.0]))
        outputs = model(images, truth_labels=torch.tensor([[24.0, 90.0], [float("nan"), 210.0]]))
    torch.testing.assert_close(outputs.truth_preds, torch.tensor([[20.0, 210.0]] * 2))
    # smooth L1 of 1 and 3 standard deviations, and of none
    torch.testing.assert_close(outputs.loss, torch.tensor((0.5 + 2.5 + 0.0) / 3))
    assert outputs.occupancy_loss is None


def test_weights_carry_over_to_the_classifier(tmp_path):
    model, images = make("truth"), jets()
    model.save_pretrained(tmp_path)
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = model.base_model(images)
        found = classifier.base_model(images)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(found.pooler_output, expected.pooler_output)


def test_what_is_refused():
    model, images = make("truth"), jets(2)
    with pytest.raises(ValueError, match=r"bool_masked_pos.*\(2, 100\).*\(2, 99\)"):
        model(images, torch.zeros(2, 99, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"truth_labels.*\(2, 2\).*truth_columns.*\(2, 3\)"):
        model(images, truth_labels=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="multiple of 16, got 24"):
        make(decoder_hidden_size=24)
    with pytest.raises(ValueError, match="one number for each of `truth_columns`, got 2 and 1 for 2"):
        make("truth", truth_width=[1.0])
