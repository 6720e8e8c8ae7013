"""HitViT with jets as queries of their event: each jet is seen alone, wherever in phi and in whatever batch."""

import pytest
import torch
from e2evit.modeling.modeling_curves import curve_ranks
from e2evit.modeling.modeling_events import MAX_SCORE, RADII, JetAttention, make_windows, steps_from_axes
from e2evit.modeling.modeling_local import rotary_table
from e2evit.modeling.modeling_tokens import make_tokens
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForObjectDetection

from e2evit import HitViTConfig, HitViTForJetsInEvents, HitViTModel

CHANNELS = ["trk_pt", "trk_d0", "trk_dz", "ecal", "hcal", "bpix1", "bpix2", "bpix3"]
SIZE = (50, 60)
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pixel_hidden_size": 8}
SMALL |= {"image_size": SIZE, "channel_names": CHANNELS, "num_labels": 3, "jet_reach": 12, "periodic_columns": True}
SMALL |= {"mass_mean": 120.0, "mass_std": 40.0, "initializer_range": 0.2}  # large weights, so that all parts matter
ROLLED = {"local_mixing": "convolution", "absolute_columns": False}


def model(seed=0, **fields):
    torch.manual_seed(seed)
    return HitViTForJetsInEvents(HitViTConfig(**SMALL | fields)).eval()


def events():
    """Images of three events, the last of one pixel, and their jets, one of them at the seam in phi."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 8, *SIZE, generator=generator)
    images *= torch.rand(images.shape, generator=generator) < 0.05
    images[2] = 0
    images[2, 3, 20, 0] = 1
    none = [0.0, 0.0, 0.0]
    jets = [[[500, 20.3, 59.5], [420, 10, 30.2], [900, 41, 7]], [[450, 25, 1], [700, 30.0, 40], none]]
    return images, torch.tensor([*jets, [[430, 22, 58.5], none, none]])


def predict(net, images, jets, **inputs):
    with torch.no_grad():
        outputs = net(images, jets, **inputs)
    return torch.cat([outputs.logits, outputs.mass_outputs.flatten(2)], dim=2)


def close(found, expected):
    """Up to the order of sums in float32."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"local_mixing": "both", "global_mixing": "relu_linear"},
        {"num_patch_layers": 1, "patch_hidden_size": 8, "local_mixing": "none", "num_masses": 2},
    ],
)
def test_a_jet_does_not_see_batch_mates_or_other_jets(fields):
    net, (images, jets) = model(**fields), events()
    together = predict(net, images, jets)
    for event in range(3):
        for jet in (jets[event, :, 0] > 0).nonzero().flatten():
            alone = predict(net, images[event : event + 1], jets[event : event + 1, jet : jet + 1])
            close(alone[0, 0], together[event, jet])
    order = [2, 0, 1]
    close(predict(net, images[order], jets[order].flip(1)), together[order].flip(1))
    close(predict(net, torch.cat([images, images * 0]), torch.cat([jets, jets]))[:3], together)


def test_events_without_jets_and_without_pixels():
    net, (images, jets) = model(), events()
    outputs = net(images, jets[:, :0])
    assert outputs.logits.shape == (3, 0, 3)
    assert outputs.mass_preds.shape == (3, 0)
    for empty in (images * 0, images[:0]):
        assert predict(net, empty, jets[: len(empty)]).isfinite().all()


def test_rows_and_dense_images_give_the_same():
    net, (images, jets) = model(), events()
    image, index = images.flatten(1).nonzero(as_tuple=True)
    offsets = F.pad(image.bincount(minlength=3).cumsum(0), (1, 0))
    rows = {"pixel_index": index, "pixel_value": images.flatten(1)[image, index], "row_offsets": offsets}
    close(predict(net, None, jets, **rows), predict(net, images, jets))


@pytest.mark.parametrize(
    "fields",
    [{}, {"convolution": "scatter"}, {"kernel_size": 5, "global_mixing": "relu_linear"}, {"num_masses": 2}],
)
@pytest.mark.parametrize("columns", [5, 30, 55])
def test_nothing_depends_on_where_phi_begins(fields, columns):
    """Turned by whole towers, with convolutions, which have no cuts as windows along a curve do."""
    before, after = turned(columns, **ROLLED | fields)
    close(after, before)
    for others in ({"absolute_columns": True}, {"periodic_columns": False}):
        before, after = turned(columns, **ROLLED | fields | others)
        assert (before - after).abs().max() > 1e-3


def turned(columns, **fields):
    """Predictions for the jets before and after turning their events in phi."""
    net, (images, jets) = model(**fields), events()
    moved = jets.clone()
    moved[..., 2] = (moved[..., 2] + columns) % SIZE[1]
    is_jet = jets[..., 0] > 0
    return predict(net, images, jets)[is_jet], predict(net, images.roll(columns, dims=3), moved)[is_jet]


@pytest.mark.parametrize(("stride", "columns"), [(1, 5), (1, 55), (2, 10), (2, 50)])
def test_patches_go_around(stride, columns):
    """Turned by whole patches."""
    fields = {"local_mixing": "none", "num_patch_layers": 2, "patch_hidden_size": 8, "patch_stride": stride}
    fields |= {"absolute_columns": False, "num_masses": 2}
    before, after = turned(columns, **fields)
    close(after, before)
    before, after = turned(columns, **fields, periodic_columns=False)
    assert (before - after).abs().max() > 1e-3


def test_patches_that_do_not_fit_around_are_refused():
    net, (images, jets) = model(num_patch_layers=1, patch_hidden_size=8), events()
    with pytest.raises(ValueError, match="Patches of 10 pixels do not fit around an image of 57 columns"):
        net(images[..., :57], jets)


def test_windows_along_a_curve_cross_the_seam():
    """In the second order, the last column lies beside the first; angles of columns divide the circle."""
    for width in (60, 360):
        ranks = curve_ranks("morton", 50, width, 26, True, True).reshape(50, width)
        assert abs(ranks[:, 0] - ranks[:, -1]).max() < 32
        open_ranks = curve_ranks("morton", 50, width, 26, True, False).reshape(50, width)
        assert abs(open_ranks[:, 0] - open_ranks[:, -1]).min() > 32
        angles = rotary_table(torch.tensor([7, 7 + width]), 2 * width, (4.0, 250.0), 8)
        one, around = (rotary_table(torch.tensor([place]), width, (4.0, 250.0), 8, True) for place in (0, width - 1))
        step = rotary_table(torch.tensor([1]), width, (4.0, 250.0), 8, True) - one
        torch.testing.assert_close((around + step).cos(), one.cos(), atol=1e-4, rtol=0)
        assert not torch.allclose(angles[0, 4:].cos(), angles[1, 4:].cos(), atol=1e-2)


def test_attention_is_a_softmax_with_a_function_of_the_distance():
    torch.manual_seed(0)
    config = HitViTConfig(**SMALL)
    attention, (images, _) = JetAttention(config), events()
    with torch.no_grad():
        attention.distance.normal_()
    tokens = make_tokens(config, SIZE, pixel_values=images)
    queries, hidden = torch.randn(3, 2, 16), torch.randn(*tokens.pixel.shape, 16)
    radii = torch.rand(*tokens.pixel.shape, 2) * 3
    bells = (-(radii.unsqueeze(3) / torch.tensor(RADII)).square()).exp()
    found = attention(queries, hidden, tokens, bells)
    for event in range(3):
        chosen = (tokens.image == event).unsqueeze(1) & tokens.is_token
        key, value = attention.key_value(hidden[chosen]).chunk(2, dim=-1)
        for jet in range(2):
            query, parts = attention.query(queries[event, jet]).view(2, 8), []
            for head in range(2):
                scores = key.view(-1, 2, 8)[:, head] @ query[head] / 8**0.5
                scores = scores + bells[chosen][:, jet] @ attention.distance[head]
                weights = (MAX_SCORE * (scores / MAX_SCORE).tanh()).softmax(0)
                parts.append(weights @ value.view(-1, 2, 8)[:, head])
            close(found[event, jet], attention.proj(torch.cat(parts)))


def test_windows_of_jets():
    """The tokens whose pixels' middles lie in the window, across the seam, and no others."""
    net, (images, jets) = model(), events()
    tokens = make_tokens(net.config, SIZE, pixel_values=images)
    windows = make_windows(tokens, steps_from_axes(tokens, jets, SIZE[1], True), jets, 12)
    near = windows.tokens
    assert torch.equal(near.pixel.flatten()[windows.place], tokens.pixel.flatten()[windows.origin])
    for event in range(3):
        pixels = tokens.pixel[(tokens.image == event).unsqueeze(1) & tokens.is_token]
        for jet in range(3):
            pt, row, column = jets[event, jet]
            across = (pixels % 60 + 0.5 - column + 30) % 60 - 30
            inside = ((pixels // 60 + 0.5 - row).abs() <= 12) & (across.abs() <= 12) & (pt > 0)
            found = near.pixel[(near.image == 3 * event + jet).unsqueeze(1) & near.is_token]
            assert sorted(found.tolist()) == sorted(pixels[inside].tolist())
            assert near.counts[3 * event + jet] == inside.sum()
    assert near.counts.max() > 0


def test_losses_are_those_of_jets():
    net, (images, jets) = model(), events()
    is_jet = jets[..., 0] > 0
    labels, masses = torch.arange(9).view(3, 3) % 3, torch.linspace(80, 180, 9).view(3, 3)
    outputs = net(images, jets, labels=labels, mass_labels=masses)
    expected = F.cross_entropy(outputs.logits[is_jet], labels[is_jet])
    torch.testing.assert_close(outputs.classification_loss, expected)
    error = (outputs.mass_preds[is_jet] - masses[is_jet]) / 40
    torch.testing.assert_close(outputs.mass_loss, F.smooth_l1_loss(error, 0 * error), rtol=1e-4, atol=1e-5)
    outputs.loss.backward()
    assert not [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    with pytest.raises(ValueError, match=r"Expected `jets` of shape \(3, jets, 3\): pT, row, column; got none"):
        net(images)
    for name, values in {"labels": labels[:, :2], "mass_labels": masses[0], "mass_weights": masses.flatten()}.items():
        with pytest.raises(ValueError, match=rf"Expected `{name}` of shape \(3, 3\), for each event and jet, got"):
            net(images, jets, **{name: values})


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"problem_type": "multi_label_classification"}, torch.rand(3, 3, 3).round()),
        ({"num_labels": 1}, torch.linspace(0.2, 1, 9).view(3, 3)),
    ],
)
def test_labels_of_other_kinds(fields, labels):
    """Jets without a pT have no loss, whatever their labels."""
    net, (images, jets) = model(**fields), events()
    is_jet = jets[..., 0] > 0
    found = net(images, jets, labels=labels).classification_loss
    others = labels.masked_fill(~is_jet.view(3, 3, *[1] * (labels.ndim - 2)), 7)
    assert torch.equal(net(images, jets, labels=others).classification_loss, found)
    logits = net(images, jets).logits[is_jet]
    loss = F.mse_loss if "num_labels" in fields else F.binary_cross_entropy_with_logits
    torch.testing.assert_close(found, loss(logits, labels[is_jet].view(logits.shape)))


def test_jets_of_other_kinds():
    net, (images, jets) = model(), events()
    expected = predict(net, images, jets)
    assert torch.equal(predict(net, images, jets.double()), expected)
    for place, value in ((1, float("nan")), (0, float("inf"))):
        wrong = jets.clone()
        wrong[2, 1, place] = value
        with pytest.raises(ValueError, match=r"`jets`: jet 1 of event 2 is \[.*\] \(pT, row, column\)"):
            net(images, wrong)


def test_models_of_images_are_not_those_of_events(tmp_path):
    """transformers would drop the decoder and go on."""
    model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"load it with `HitViTForJetsInEvents.from_pretrained`"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
    assert isinstance(AutoModel.from_pretrained(tmp_path), HitViTModel)


@pytest.mark.parametrize(
    "fields", [{"num_query_layers": 1}, {"jet_reach": 6}, {"absolute_columns": False}, {"mass_loss": "quantile"}]
)
def test_settings_matter(fields, tmp_path):
    """And come back from a folder."""
    net, (images, jets) = model(**fields), events()
    found = predict(net, images, jets)
    assert not torch.allclose(found[..., :4], predict(model(), images, jets)[..., :4], atol=1e-3)
    net.save_pretrained(tmp_path)
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert type(loaded) is HitViTForJetsInEvents
    close(predict(loaded, images, jets), found)


def test_bfloat16_changes_little():
    net, (images, jets) = model(initializer_range=0.05), events()
    expected = predict(net, images, jets)
    with torch.autocast("cpu", torch.bfloat16):
        found = predict(net, images, jets)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)  # 2⁻⁸ of values up to 3, over a dozen layers
