"""HitViT: tokens of occupied pixels, packed; each fast formula beside a slow one, in values and gradients."""

import json

import numpy as np
import pytest
import torch
from e2evit.modeling import modeling_packed, modeling_tokens
from e2evit.modeling.modeling_curves import curve_ranks
from e2evit.modeling.modeling_packed import unpack
from e2evit.modeling.modeling_stem import LINEAR_SCALE, linear_pixels
from e2evit.modeling.modeling_tokens import make_tokens, unpacked_places
from models import CHANNELS, batch, jets, make
from torch.nn import functional as F

from e2evit import DataArguments, E2EImageProcessor, HitViTConfig, HitViTModel, TargetArguments, TrainArguments, train
from e2evit.training.cost import count_macs

NAMED = {"channel_names": CHANNELS, "num_aux_features": 0}
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "pixel_hidden_size": 8}
KINDS = {  # every local and global mixer, and every order
    "windows": {},
    "hilbert": {"curve": "hilbert"},
    "grid": {"curve": "grid"},
    "random": {"curve": "random", "global_mixing": "relu_linear"},
    "gather": {"local_mixing": "convolution"},
    "both": {"local_mixing": "both", "kernel_size": 5},
    "scatter": {"local_mixing": "both", "convolution": "scatter"},
    "softmax": {"local_mixing": "none", "global_mixing": "softmax"},
    "rala": {"global_mixing": "rala"},
    "local only": {"global_mixing": "none", "local_mixing": "convolution"},
    "no hits": {"hit_tokens": False},
    # cells overhang, and the block before the patches leaves tokens in the second order
    "patches": {"num_patch_layers": 2, "patch_size": 4, "patch_hidden_size": 8, "alternate": False}
    | {"num_hidden_layers": 4},
    "patches, no windows": {"num_patch_layers": 2, "patch_size": 4, "patch_hidden_size": 8, "local_mixing": "none"}
    | {"num_masses": 2},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def hitvit(kind="windows", **fields):
    large_weights = {"initializer_range": 0.2}  # so that all parts matter
    return make("hitvit", **large_weights | NAMED | SMALL | KINDS[kind] | fields)


def rows_of(images, shuffled=False):
    """The same images as lists of pixels."""
    flat = images.flatten(1)
    image, index = flat.nonzero(as_tuple=True)
    order = torch.arange(len(image))
    if shuffled:
        order = (image + torch.rand(len(image), generator=torch.Generator().manual_seed(1)) * 0.9).argsort()
    offsets = F.pad(image.bincount(minlength=len(images)).cumsum(0), (1, 0))
    return {"pixel_index": index[order], "pixel_value": flat[image, index][order], "row_offsets": offsets}


def logits(model, images):
    with torch.no_grad():
        outputs = model(images)
    return torch.cat([outputs.logits, outputs.mass_outputs.flatten(1)], dim=1)


def slow_tokens(config, image):
    """Pixel numbers and channels of the tokens of one image `(C, H, W)`, in no particular order."""
    channels, (height, width), side = image.clone(), image.shape[1:], config.tower_size
    tower = CHANNELS.index("hcal")
    channels[tower] = 0
    for top in range(0, height, side):
        for left in range(0, width, side):
            block = image[tower, top : top + side, left : left + side]
            mean = (block.sign() * linear_pixels(block)).sum() / side**2
            centre = min(top + side // 2, height - 1), min(left + side // 2, width - 1)
            channels[tower][centre] += mean.sign() * (mean.abs() * LINEAR_SCALE).log1p()
    counted = [config.hit_tokens or not name.startswith("bpix") for name in CHANNELS]
    is_token = (channels[counted] != 0).any(0).flatten()
    return {int(number): channels.flatten(1)[:, int(number)] for number in is_token.nonzero()}


@pytest.mark.parametrize("hit_tokens", [True, False])
@pytest.mark.parametrize("size", [(50, 50), (23, 36)])
def test_tokens(hit_tokens, size):
    """Each occupied pixel once, in the order of both curves; a tower in its middle; empty places hold nothing."""
    config, images = HitViTConfig(channel_names=CHANNELS, hit_tokens=hit_tokens), jets(3, size)
    images[1] = 0
    tokens = make_tokens(config, size, pixel_values=images)
    orders = {False: (config.curve, *size), True: (config.curve, *size, config.curve_shift, True)}
    for number, image in enumerate(images):
        expected = slow_tokens(config, image)
        assert tokens.counts[number] == len(expected)
        places = tokens.starts[number] + torch.arange(len(expected))
        assert (tokens.image[places // config.window_size] == number).all()
        found = tokens.pixel.flatten()[places]
        for pixel, value in zip(found.tolist(), tokens.values.flatten(0, 1)[places]):
            torch.testing.assert_close(value, expected[pixel])
        for in_second, order in orders.items():
            inside = tokens.to_second[places] if in_second else places
            ranks = curve_ranks(*order)[tokens.pixel.flatten()[inside]]
            assert (np.diff(ranks) > 0).all()
    assert tokens.is_token.sum() == tokens.counts.sum()
    assert not tokens.values[~tokens.is_token].any()
    assert torch.equal(tokens.to_first[tokens.to_second], torch.arange(tokens.is_token.numel()))


@every_kind
def test_rows_and_dense_images_give_the_same(kind):
    """In outputs and in gradients, of weights and of pixels, in whatever order pixels are listed."""
    model, images = hitvit(kind), jets()
    for shuffled in (False, True):
        results = []
        for inputs in ({"pixel_values": images.clone()}, rows_of(images, shuffled)):
            model.zero_grad()
            pixels = inputs["pixel_values"] if "pixel_values" in inputs else inputs["pixel_value"]
            outputs = model(**inputs | {next(k for k in inputs if inputs[k] is pixels): pixels.requires_grad_()})
            (outputs.logits.square().sum() + outputs.mass_outputs.square().sum()).backward()
            results.append([outputs.logits, outputs.mass_outputs, *(weight.grad for weight in model.parameters())])
            results[-1].append(pixels.grad.abs().sum())
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@every_kind
def test_an_image_does_not_see_the_others(kind):
    """Alone, in a batch, in another order; an empty one, one pixel, one with all 2 500."""
    model, images = hitvit(kind), jets(6)
    images[1] = 0
    images[2] = 0
    images[2, 0, 30, 40] = 1.0
    images[3] = torch.randn(8, 50, 50, generator=torch.Generator().manual_seed(3))
    together = logits(model, images)
    assert together.isfinite().all()
    assert not torch.equal(together[1], together[2])
    for number in range(6):
        # matrix products of other sizes are summed in another order
        alone = logits(model, images[number : number + 1])[0]
        torch.testing.assert_close(alone, together[number], rtol=1e-4, atol=1e-4)
    order = torch.tensor([3, 5, 0, 2, 1, 4])
    torch.testing.assert_close(logits(model, images[order]), together[order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["windows", "patches"])
def test_a_full_image(kind):
    assert logits(hitvit(kind, image_size=125), jets(1, (125, 125), occupancy=1.1)).isfinite().all()


@every_kind
def test_empty_places_have_no_effect(kind, monkeypatch):
    """Whatever they hold at the start."""
    model, images = hitvit(kind), jets()
    expected, embed = logits(model, images), model.hitvit.embed.forward

    def embed_noise(tokens, *arguments):
        hidden_states = embed(tokens, *arguments)
        return torch.where(tokens.is_token.unsqueeze(2), hidden_states, 100 * torch.randn_like(hidden_states))

    monkeypatch.setattr(model.hitvit.embed, "forward", embed_noise)
    assert torch.equal(logits(model, images), expected)


@every_kind
def test_spare_windows_have_no_effect(kind, monkeypatch):
    model, images, results = hitvit(kind), jets(), []
    for spare in (0, 5):
        monkeypatch.setattr(modeling_tokens, "rounded_up", lambda number, spare=spare: number + spare)
        model.zero_grad()
        outputs = model(images)
        (outputs.logits.square().sum() + outputs.mass_outputs.square().sum()).backward()
        results.append([outputs.logits, *(weight.grad for weight in model.parameters())])
    # products of other sizes are summed in another order
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", [0, 1, 31, 32, 33, 1023, 1025, 1500, 2047])
def test_windows_are_rounded_up_by_a_sixteenth(number):
    rounded = modeling_tokens.rounded_up(number)
    assert number <= rounded <= number * 17 / 16


def test_batches_have_few_sizes():
    assert len({modeling_tokens.rounded_up(number) for number in range(1024, 2048)}) == 17


@pytest.mark.parametrize("kind", ["windows", "random", "gather"])
def test_products_of_windows_are_those_of_images(kind, monkeypatch):
    """A GPU multiplies windows and adds up, and has empty ones to spare."""
    model, images, gradients = hitvit(kind), jets(), []
    images[1] = 0
    for takes_images in (True, False):
        monkeypatch.setattr(modeling_packed, "USE_OPERATOR", takes_images)
        model.zero_grad()
        outputs = model(images)
        (outputs.logits.square().sum() + outputs.mass_outputs.square().sum()).backward()
        gradients.append([outputs.logits, *(weight.grad for weight in model.parameters())])
    # sums of float32 in another order
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(50, 50), (23, 36)])
@every_kind
def test_exported_graphs_add_up_otherwise(kind, size, monkeypatch):
    """As old opsets can, and so that an image never sees the others."""
    model, images = hitvit(kind), jets(size=size)
    images[1] = 0
    expected = logits(model, images)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    # sums of float32 in another order
    torch.testing.assert_close(logits(model, images), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(model, images[1:2]), expected[1:2], rtol=1e-4, atol=1e-5)
    images[2, 0, 10, 10] = torch.nan
    found = logits(model, images)
    assert found[2].isnan().all()
    torch.testing.assert_close(found[[0, 1, 3]], expected[[0, 1, 3]], rtol=1e-4, atol=1e-5)


def test_the_cost_is_that_of_a_jet():
    """About 711 tokens: what linear layers do, and some more for products of attention."""
    model = hitvit(image_size=125)
    layers = [layer for layer in model.hitvit.modules() if isinstance(layer, torch.nn.Linear)]
    assert 0.7 < count_macs(model) / (711 * sum(layer.weight.numel() for layer in layers)) < 1.6


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by dynamo
@pytest.mark.parametrize("kind", ["windows", "patches"])
def test_one_graph_serves_batches_of_any_number_of_tokens(kind):
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    model = hitvit(kind, num_hidden_layers=2)
    compiled = torch.compile(model, backend="aot_eager")
    stats = torch._dynamo.utils.counters["stats"]
    graphs = []
    for number, occupancy in [(4, 0.02), (4, 0.03), (3, 0.025), (4, 0.01), (2, 0.05), (5, 0.1)]:
        rows = rows_of(jets(number, occupancy=occupancy))
        torch.testing.assert_close(compiled(**rows).logits, model(**rows).logits, rtol=1e-4, atol=1e-5)
        graphs.append(stats["unique_graphs"])
    assert graphs[2] == graphs[-1]  # the first three meet another number of tokens, and one of images


@pytest.mark.parametrize(("kind", "number"), [("windows", 4), ("patches", 6)])
def test_hidden_states_are_padded_and_in_one_order(kind, number):
    model, images = hitvit(kind), jets()
    outputs = model.hitvit(images, output_hidden_states=True)
    tokens = make_tokens(model.config, (50, 50), pixel_values=images)
    shape = (4, int(tokens.counts.max()), 16)
    assert len(outputs.hidden_states) == number
    assert {tuple(state.shape) for state in (*outputs.hidden_states, outputs.last_hidden_state)} == {shape}
    assert torch.equal(outputs.token_counts, tokens.counts)
    first = unpack(model.hitvit.embed(tokens, 50, 50, torch.float32), unpacked_places(tokens))
    assert torch.equal(outputs.hidden_states[0], first)
    packed = model.hitvit(images, packed=True)
    assert torch.equal(unpack(packed.last_hidden_state, unpacked_places(tokens)), outputs.last_hidden_state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: {"pixel_values": jets()} | rows, "Pass either `pixel_values`, or"),
        (lambda rows: {"pixel_index": rows["pixel_index"]}, "Pass either `pixel_values`, or"),
        (lambda rows: rows | {"pixel_value": rows["pixel_value"][1:]}, "of one length"),
        (lambda rows: rows | {"pixel_index": rows["pixel_index"] + 19_000}, "reaches .* 8 x 50 x 50 pixels has 20000"),
        (
            lambda rows: rows | {"pixel_index": rows["pixel_index"].clamp(min=5000)},
            r"Image \d: `pixel_index` holds 5000 more than once",
        ),
        (lambda rows: rows | {"pixel_index": rows["pixel_index"] + 0.5}, "are whole numbers, got torch.float32"),
        (lambda rows: rows | {"row_offsets": rows["row_offsets"] + 1}, "must rise from 0 to"),
        (lambda rows: rows | {"row_offsets": rows["row_offsets"][[0, 2, 1, 3]]}, "must rise from 0 to"),
    ],
)
def test_wrong_rows_are_explained(change, message):
    with pytest.raises(ValueError, match=message):
        hitvit()(**change(rows_of(jets())))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 24, "num_attention_heads": 4}, "multiple of 4 channels"),
        ({"rotary_periods": (250.0, 4.0)}, "the shortest and the longest"),
        ({"kernel_size": 4}, "odd"),
        ({"window_size": 0}, "whole number from 1"),
        ({"num_patch_layers": 1, "patch_hidden_size": 18}, "`patch_hidden_size` 18 cannot be split into 4"),
        ({"num_patch_layers": 1, "patch_stride": 3}, "`patch_stride` must be 1 or 2"),
        ({"num_patch_layers": 1, "periodic_columns": True}, "`patch_stride` 2 must divide the image's 125 columns"),
        ({"num_masses": 1, "channel_names": ["a"], "num_channels": 1}, "is in `channel_names` a: name yours there"),
    ],
)
def test_wrong_configurations_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        HitViTConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        *({"tower_size": 3}, {"hit_tokens": False}, {"mlp_ratio": 1.0}, {"window_size": 8}, {"curve": "hilbert"}),
        *({"curve_shift": 5}, {"rotary_periods": (2.0, 100.0)}, {"global_mixing": "none"}, {"local_mixing": "none"}),
        *({"tower_channels": ()}, {"hit_tokens": False, "hit_channels": ("ecal",)}, {"pixel_features": False}),
    ],
)
def test_every_setting_has_an_effect(fields):
    assert not torch.equal(logits(hitvit(), jets()), logits(hitvit(**fields), jets()))


@pytest.mark.parametrize(
    "fields", [{"num_patch_layers": 1}, {"patch_size": 5}, {"patch_stride": 1}, {"patch_hidden_size": 16}]
)
def test_every_setting_of_patches_has_an_effect(fields):
    assert not torch.equal(logits(hitvit("patches"), jets()), logits(hitvit("patches", **fields), jets()))


def test_masses_are_read_by_the_mass_head_only():
    """And depend on the channels that are energies."""
    plain, with_masses = logits(hitvit(), jets()), logits(hitvit(num_masses=2), jets())
    assert not torch.equal(plain[:, -1], with_masses[:, -1])
    model = hitvit(num_masses=2)
    with torch.no_grad():
        model.head.mass_pooling.output.weight.mul_(2)
    changed = logits(model, jets())
    assert torch.equal(changed[:, : model.config.num_labels], with_masses[:, : model.config.num_labels])
    assert not torch.equal(changed[:, -1], with_masses[:, -1])
    others = logits(hitvit(num_masses=2, energy_channels=("trk_d0", "ecal")), jets())
    assert not torch.equal(others, logits(hitvit(num_masses=2, energy_channels=("trk_pt", "ecal")), jets()))


@pytest.mark.parametrize("layers", [0, 1, 4])
def test_patches_are_between_the_halves(layers):
    """For layer-wise learning rates too."""
    model = hitvit("patches", num_hidden_layers=layers)
    depths = model.parameter_depths()
    assert {depths[name] for name in depths if ".up." in name or ".stem." in name} == {layers // 2 + 1}
    assert max(depths.values()) == layers + 2


def test_drop_path_drops_whole_images():
    model = hitvit(drop_path_rate=0.9, global_mixing="none", local_mixing="none").train()
    block, images = model.hitvit.blocks[-1], jets()
    tokens = make_tokens(model.config, (50, 50), pixel_values=images)
    states = torch.randn(*tokens.is_token.shape, 16)
    torch.manual_seed(0)
    changed = (block(states, tokens, None, None) != states).any(-1)
    for image in range(4):
        own = changed[tokens.image == image]
        assert own.all() or not own.any()


@pytest.mark.parametrize("kind", ["rows", "one mapping", "dense"])
def test_packed_images_of_the_processor(kind):
    """The occupied pixels of its dense images, in the same order; a model reads either."""
    processor = E2EImageProcessor(CHANNELS, 50, np.arange(1.0, 9.0))
    images = jets(3).numpy()
    images[1] = 0
    flat = images.reshape(3, -1)
    rows = [{"pixel_index": np.flatnonzero(row), "pixel_value": row[row != 0]} for row in flat]
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    offsets = np.cumsum([0, *(len(row["pixel_index"]) for row in rows)])
    given = {"rows": rows, "one mapping": joined | {"row_offsets": offsets}, "dense": images}[kind]
    dense = processor(given, return_tensors="pt")
    packed = processor(given, return_tensors="pt", packed=True)
    expected = rows_of(dense["pixel_values"])
    assert packed.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(packed[name], value, rtol=0, atol=0)
    assert not processor([], packed=True)["pixel_index"].size
    model = hitvit()
    with torch.no_grad():
        assert torch.equal(model(**packed).logits, model(**dense).logits)


def test_training_reads_rows(simulated_jets, tmp_path, monkeypatch):
    """No dense image on the way, neither in training nor in validation."""
    given, make_tokens = [], HitViTModel.make_tokens

    def watched(model, *inputs):
        given.append(inputs)
        return make_tokens(model, *inputs)

    monkeypatch.setattr(HitViTModel, "make_tokens", watched)
    fields = {"model_type": "hitvit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    (tmp_path / "model.json").write_text(json.dumps(fields), encoding="utf-8")
    settings = TrainArguments(output_dir=str(tmp_path / "run"), num_train_epochs=1, per_device_batch_size=64)
    data = DataArguments(dataset_name="simulated", data_dir=str(simulated_jets))
    targets = TargetArguments(mass_column="jet_mass")
    entry = train(tmp_path / "model.json", data, settings, targets=targets).history.epochs[0]
    assert entry["validation_loss"] < 10
    assert given
    assert all(dense is None and not index.is_floating_point() for dense, index, *_ in given)


def test_batches_of_the_other_models():
    """The same batch serves all families."""
    assert make("hitvit")(**batch()).loss.isfinite()
