"""What HitViT's blocks compute, beside slow formulas, in values and gradients."""

from itertools import product
from math import pi

import numpy as np
import pytest
import torch
from e2evit.modeling import modeling_packed
from e2evit.modeling.modeling_attention import rank_augmented_attention
from e2evit.modeling.modeling_curves import CURVES, curve_order, curve_ranks
from e2evit.modeling.modeling_layers import LocalInteraction
from e2evit.modeling.modeling_local import WindowAttention, convolve_tokens, reorder, rotary_table, surroundings
from e2evit.modeling.modeling_packed import (
    from_segments,
    gram,
    packed_cross_covariance,
    packed_linear_attention,
    packed_rank_augmented,
    packed_softmax,
    segment_sum,
)
from e2evit.modeling.modeling_patches import PatchBlocks
from e2evit.modeling.modeling_pooling import TokenMassPooling
from e2evit.modeling.modeling_stem import LINEAR_SCALE, linear_pixels, pixel_features
from e2evit.modeling.modeling_tokens import make_tokens
from models import CHANNELS, jets
from torch.nn import functional as F

from e2evit import HitViTConfig


@pytest.mark.parametrize("curve", CURVES)
def test_curves_visit_every_pixel_once(curve):
    for shift, transposed in ((0, False), (26, True)):
        order = curve_order(curve, 20, 30, shift, transposed)
        assert sorted(order) == list(range(600))
        np.testing.assert_array_equal(curve_ranks(curve, 20, 30, shift, transposed)[order], np.arange(600))


def test_curves_are_what_they_are_called():
    rows, columns = np.divmod(curve_order("hilbert", 16, 16), 16)
    assert (abs(np.diff(rows)) + abs(np.diff(columns)) == 1).all()  # neighbours touch
    assert curve_order("morton", 4, 4).tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    rows, columns = np.divmod(curve_order("grid", 24, 24)[:144], 24)
    assert rows.max() == columns.max() == 11
    transposed = np.divmod(curve_order("morton", 16, 16, 0, True), 16)
    np.testing.assert_array_equal(np.stack(transposed), np.stack(np.divmod(curve_order("morton", 16, 16), 16))[::-1])


def random_tokens(curve="morton", convolution="gather"):
    """Tokens of three images, one of them empty, and noise for them that is zero in empty places."""
    config = HitViTConfig(
        channel_names=CHANNELS, window_size=8, curve=curve, local_mixing="both", convolution=convolution, kernel_size=5
    )
    images = jets(3, (23, 36))
    images[1] = 0
    tokens = make_tokens(config, (23, 36), pixel_values=images)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, *tokens.is_token.shape, 8, generator=generator, dtype=torch.float64)
    return config, tokens, noise * tokens.is_token.unsqueeze(2)


def places_of(tokens, image):
    return tokens.starts[image] + torch.arange(int(tokens.counts[image]))


def assert_same_with_gradients(fast, slow, *inputs):
    """Both map tensors to one tensor; cotangents are random."""
    inputs = [part.clone().requires_grad_() for part in inputs]
    results = [function(*inputs) for function in (fast, slow)]
    cotangent = torch.randn(results[0].shape, generator=torch.Generator().manual_seed(5), dtype=results[0].dtype)
    gradients = [torch.autograd.grad((result * cotangent).sum(), inputs) for result in results]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*gradients)


def slow_xca(query, key, value, temperature):
    """Of the heads `(h, N, d)` of one image."""
    query, key = (F.normalize(part, dim=1) for part in (query, key))
    return value @ (query.transpose(1, 2) @ key * temperature).softmax(-1).transpose(1, 2)


def slow_linear(query, key, value, temperature):
    weights = query.relu() @ key.relu().transpose(1, 2)
    return temperature * (weights @ value) / weights.sum(-1, keepdim=True).clamp(min=0.5 * key.shape[1])


def slow_rala(query, key, value, temperature):
    return rank_augmented_attention(query * temperature, key, value)


def slow_softmax(query, key, value, temperature):
    return F.scaled_dot_product_attention(query * temperature, key, value)


@pytest.fixture
def nan_in_new_tensors():
    """Memory that nobody has written holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def packed_attention(kind, tokens):
    return {
        "xca": lambda q, k, v, t: packed_cross_covariance(torch.cat([q, k], dim=2), v, t, tokens),
        "relu_linear": lambda q, k, v, t: packed_linear_attention(q, k, v, t, tokens, 0.5),
        "rala": lambda q, k, v, t: packed_rank_augmented(q * t.flatten().repeat_interleave(4), k, v, 2, tokens),
        "softmax": lambda q, k, v, t: packed_softmax(q * t.flatten().repeat_interleave(4), k, v, 2, tokens),
    }[kind]


@pytest.mark.usefixtures("nan_in_new_tensors")
@pytest.mark.parametrize(
    ("kind", "takes_images"),
    [*product(("xca", "relu_linear", "rala"), (True, False)), ("softmax", True)],
)
def test_what_empty_places_hold_has_no_effect(kind, takes_images, monkeypatch):
    monkeypatch.setattr(modeling_packed, "USE_OPERATOR", takes_images)
    _, tokens, noise = random_tokens()
    temperature, results = torch.ones(2, 1, 1, dtype=torch.float64), []
    for empty in (0.0, 3.0):
        parts = noise[:3].where(tokens.is_token.unsqueeze(2), empty).requires_grad_()
        results.append(packed_attention(kind, tokens)(*parts, temperature)[tokens.is_token])
        (gradient,) = torch.autograd.grad(results[-1].square().sum(), parts)
        assert not gradient[:, ~tokens.is_token].any()
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("takes_images", [True, False])
def test_a_channel_of_zeros_has_finite_gradients(takes_images, monkeypatch):
    monkeypatch.setattr(modeling_packed, "USE_OPERATOR", takes_images)
    _, tokens, noise = random_tokens()
    parts = noise[:3].clone()
    parts[0, ..., 0] = 0
    parts.requires_grad_()
    outputs = packed_attention("xca", tokens)(*parts, torch.ones(2, 1, 1, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(outputs.square().sum(), parts)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("takes_images", [True, False])
def test_sums_are_in_float32_beside_bfloat16_tokens(takes_images, monkeypatch):
    """Weights of a pooling, and their gradients, which a softmax subtracts from each other."""
    monkeypatch.setattr(modeling_packed, "USE_OPERATOR", takes_images)
    _, tokens, noise = random_tokens()
    states, results = noise[0].bfloat16(), []
    for dtype in (torch.float32, torch.float64):
        weights = noise[1].to(dtype).requires_grad_()
        sums = gram(weights, states if dtype == torch.float32 else states.double(), tokens)
        (gradient,) = torch.autograd.grad((sums * sums.detach().cos()).sum(), weights)
        results.append((sums, gradient))
    (sums, gradient), expected = results
    assert sums.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close((sums.double(), gradient.double()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["xca", "relu_linear", "rala", "softmax"])
def test_attention_over_an_image(kind):
    """Beside a loop over images and heads, with zeros in empty places."""
    _, tokens, (query, key, value, _) = random_tokens()
    temperature = torch.tensor([0.5, 2.0], dtype=torch.float64).view(2, 1, 1)
    fast = packed_attention(kind, tokens)
    slow_one = {"xca": slow_xca, "relu_linear": slow_linear, "rala": slow_rala, "softmax": slow_softmax}[kind]

    def slow(query, key, value, temperature):
        result = torch.zeros_like(query).flatten(0, 1)
        for image in (0, 2):
            places = places_of(tokens, image)
            heads = (part.flatten(0, 1)[places].view(-1, 2, 4).transpose(0, 1) for part in (query, key, value))
            result = result.index_put((places,), slow_one(*heads, temperature).transpose(0, 1).flatten(1))
        return result.view(query.shape)

    is_token = tokens.is_token.unsqueeze(2)
    assert_same_with_gradients(lambda *parts: fast(*parts) * is_token, slow, query, key, value, temperature)


@pytest.mark.parametrize("in_second", [False, True])
@pytest.mark.parametrize("curve", CURVES)
def test_windows(curve, in_second):
    """Beside a loop over windows, with angles and masks from rows and columns."""
    config, tokens, noise = random_tokens(curve)
    config.hidden_size, config.num_attention_heads = 8, 2
    layer = WindowAttention(config).double()
    around = surroundings(config, tokens, 36, 23, torch.float64, in_second)
    order = tokens.to_second if in_second else torch.arange(tokens.is_token.numel())
    pixel = tokens.pixel.flatten()[order].view(tokens.is_token.shape)

    def slow(hidden_states):
        windows = []
        for window, (states, pixels) in enumerate(zip(hidden_states, pixel)):
            number = int(tokens.is_token[window].sum())
            row, column = pixels[:number] // 36, pixels[:number] % 36
            heads = layer.qkv(states[:number]).view(number, 3, 2, 4)
            angles = torch.stack([row, column], dim=1)[:, None, None] * (2 * pi / 4.0)  # one pair each: period 4
            one, other = heads[:, :2, :, :2], heads[:, :2, :, 2:]
            turned = [one * angles.cos() - other * angles.sin(), one * angles.sin() + other * angles.cos()]
            query, key = torch.cat(turned, dim=-1).permute(1, 2, 0, 3)  # [h, n, d]
            scores = query @ key.transpose(1, 2) / 2
            if curve == "grid":
                shift = config.curve_shift if in_second else 0
                cell = torch.stack([(row + shift) // 12, (column + shift) // 12], dim=1)
                scores = scores.masked_fill((cell.unsqueeze(1) != cell).any(-1), float("-inf"))
            context = (scores.softmax(-1) @ heads[:, 2].transpose(0, 1)).transpose(0, 1).flatten(1)
            windows.append(F.pad(layer.proj(context), (0, 0, 0, len(states) - number)))
        return torch.stack(windows)

    is_token = tokens.is_token.unsqueeze(2)
    assert_same_with_gradients(lambda states: layer(states, around) * is_token, slow, noise[0])


@pytest.mark.parametrize("in_second", [False, True])
@pytest.mark.parametrize("convolution", ["gather", "scatter"])
def test_convolution_of_occupied_pixels(convolution, in_second):
    """Beside a dense convolution of each image, read at its occupied pixels."""
    config, tokens, noise = random_tokens(convolution=convolution)
    around = surroundings(config, tokens, 36, 23, torch.float64, in_second)
    order = tokens.to_second if in_second else torch.arange(tokens.is_token.numel())
    pixel = tokens.pixel.flatten()[order]
    weight = torch.randn(8, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def slow(hidden_states, weight):
        result = torch.zeros_like(hidden_states).flatten(0, 1)
        for image in (0, 2):
            places = places_of(tokens, image)
            dense = torch.zeros(23 * 36, 8, dtype=torch.float64)
            dense = dense.index_put((pixel[places],), hidden_states.flatten(0, 1)[places])
            dense = F.conv2d(dense.t().view(1, 8, 23, 36), weight, padding=2, groups=8)
            result = result.index_put((places,), dense.view(8, -1).t()[pixel[places]])
        return result.view(hidden_states.shape)

    is_token = tokens.is_token.unsqueeze(2)

    def fast(hidden_states, weight):
        return convolve_tokens(hidden_states, weight, around, (3, 23, 36)) * is_token

    assert_same_with_gradients(fast, slow, noise[0], weight)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("has_features", [True, False])
def test_patches(has_features, stride):
    """Beside a loop over images and a dense convolution, with the same blocks; 23 x 36 pixels are 4 x 6 cells, and
    those 4 x 6 or 2 x 3 patches."""
    config, tokens, noise = random_tokens()
    config.hidden_size, config.num_patch_layers, config.patch_hidden_size = 8, 2, 12
    config.patch_size, config.patch_stride, config.pixel_features = 6, stride, has_features
    torch.manual_seed(0)
    layer = PatchBlocks(config).double().eval()
    tokens = tokens._replace(values=tokens.values.double())
    stem, around = layer.stem, surroundings(config, tokens, 36, 23, torch.float64, False)
    pixel, values = tokens.pixel.flatten(), tokens.values.flatten(0, 1)
    features = pixel_features(values) if has_features else values
    weights = {"stem.of_pixel.weight": stem.of_pixel.weight, "stem.place_weight": torch.rand(36, 12).double() + 0.5}
    weights = {name: weight.detach() for name, weight in weights.items()}

    def slow(hidden_states, of_pixel, place_weight):
        result = hidden_states.flatten(0, 1)
        kernel = place_weight.t().view(12, 1, 6, 6)
        for image in range(3):
            places = places_of(tokens, image)
            given = F.gelu(stem.of_state(stem.norm(hidden_states.flatten(0, 1)[places])))
            given = given + F.linear(features[places], of_pixel, stem.of_pixel.bias).relu()
            dense = torch.zeros(24 * 36, 12, dtype=torch.float64).index_put((pixel[places],), given)
            cells = F.conv2d(dense.t().view(1, 12, 24, 36), kernel, stride=6, groups=12)
            patches = stem.conv(F.gelu(stem.batch_norm(cells)))
            rows, columns = patches.shape[2:]
            patches = patches[0].flatten(1).t() + layer.pos_embed(rows, columns, pixel.device)[0].flatten(1).t()
            for block in layer.blocks:
                patches = block(patches.unsqueeze(0), rows, columns)[0]
            patch = pixel[places] // 36 // (6 * stride) * columns + pixel[places] % 36 // (6 * stride)
            result = result.index_add(0, places, layer.up(layer.norm(patches[patch])))
        return result.view(hidden_states.shape) * is_token

    is_token = tokens.is_token.unsqueeze(2)

    def fast(hidden_states, *changed):
        inputs = (hidden_states, tokens, around, (3, 23, 36))
        return torch.func.functional_call(layer, dict(zip(weights, changed)), inputs) * is_token

    assert_same_with_gradients(fast, slow, noise[0], *weights.values())


def test_sums_of_patches_in_bfloat16():
    """Neither a sum nor the gradient of its inverse stops growing at 256."""
    segment, ones = torch.zeros(1000, dtype=torch.long), torch.ones(1000, 1, dtype=torch.bfloat16)
    assert segment_sum(ones, segment, 2).tolist() == [[1000.0], [0.0]]
    values = torch.ones(2, 1, dtype=torch.bfloat16, requires_grad=True)
    from_segments(values, segment).backward(ones)
    assert values.grad.tolist() == [[1000.0], [0.0]]


def four_momenta(energies, rows, columns):
    """`(n, 4)`, of massless particles in the middle of pixels of 1 degree."""
    eta, phi = (pi / 180 * part.double() for part in (rows, columns))
    return energies.unsqueeze(1) * torch.stack([eta.cosh(), phi.cos(), phi.sin(), eta.sinh()], dim=1)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("takes_images", [True, False])
def test_masses(named, takes_images, monkeypatch):
    """Beside four-momenta of each image. Channels without names are all energies."""
    monkeypatch.setattr(modeling_packed, "USE_OPERATOR", takes_images)
    config, tokens, noise = random_tokens()
    config.num_masses, config.energy_channels = 2, ("trk_pt", "ecal")
    config.channel_names = CHANNELS if named else None
    torch.manual_seed(0)
    layer = TokenMassPooling(config, 8).double()
    tokens = tokens._replace(values=tokens.values.double())
    content = linear_pixels(tokens.values.flatten(0, 1))
    content = content[:, [CHANNELS.index("trk_pt"), CHANNELS.index("ecal")]] if named else content
    rows, columns = tokens.pixel.flatten() // 36 - 11, tokens.pixel.flatten() % 36 - 18

    def slow(hidden_states, weight):
        result = []
        for image in range(3):
            places = places_of(tokens, image)
            scores = F.linear(hidden_states.flatten(0, 1)[places], weight, layer.weights.bias)
            energies = (F.softplus(scores).unflatten(1, (-1, 2)) * content[places].unsqueeze(2)).sum(1)
            for mass in range(2):
                total = four_momenta(energies[:, mass], rows[places], columns[places]).sum(0)
                squared = (total[0] ** 2 - total[1:].square().sum()).clamp(min=0)
                result.append((1 + squared).log() - 2 * np.log(100))
        return layer.output(torch.stack(result).view(3, 2))

    def fast(hidden_states, weight):
        return torch.func.functional_call(layer, {"weights.weight": weight}, (hidden_states, tokens))

    assert_same_with_gradients(fast, slow, noise[0], layer.weights.weight.detach())


@pytest.mark.parametrize(("size", "row", "column"), [((125, 125), 60, 70), ((280, 360), 60, 300)])
def test_mass_of_two_pixels(size, row, column):
    """m² = 2 E E' (cosh Δη - cos Δφ), in float32, although m is 2 % of the energy."""
    config = HitViTConfig(channel_names=CHANNELS, num_masses=1)
    layer, images = TokenMassPooling(config, 4), torch.zeros(1, len(CHANNELS), *size)
    images[0, CHANNELS.index("ecal"), [row, row + 2], [column, column + 1]] = 1000.0
    images = (images * LINEAR_SCALE).log1p()
    tokens = make_tokens(config, size, pixel_values=images)
    with torch.no_grad():
        layer.weights.weight.zero_()
        layer.weights.bias.fill_(np.log(np.e - 1))  # a weight of one
        squared = layer.masses(torch.zeros(*tokens.pixel.shape, 4), tokens).item()
    expected = 2 * 1000**2 * (np.cosh(2 * pi / 180) - np.cos(pi / 180))
    # near the middle, where jets are, and as far from it as images reach
    assert squared == pytest.approx(expected, rel=1e-4 if size == (125, 125) else 0.02)


def test_masses_of_empty_images_have_finite_gradients():
    config = HitViTConfig(channel_names=CHANNELS, num_masses=2)
    layer, images = TokenMassPooling(config, 4), torch.zeros(2, len(CHANNELS), 20, 20)
    images[1, CHANNELS.index("ecal"), 10, 10] = 1.0
    tokens = make_tokens(config, (20, 20), pixel_values=images)
    hidden_states = torch.randn(*tokens.pixel.shape, 4, requires_grad=True)
    layer(hidden_states, tokens).sum().backward()
    assert all(part.grad.isfinite().all() for part in (hidden_states, *layer.parameters()))


@pytest.mark.parametrize("columns", [1, 7])
def test_local_interaction_goes_around(columns):
    """Beside circular padding of the whole image."""
    torch.manual_seed(0)
    layer = LocalInteraction(4, kernel_size=3, periodic=True).double()
    hidden_states = torch.randn(2, 5, columns, 4, dtype=torch.float64)

    def convolve(convolution, image):
        padded = F.pad(F.pad(image, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1))
        return F.conv2d(padded, convolution.weight, convolution.bias, groups=4)

    def slow(hidden_states):
        image = F.gelu(convolve(layer.conv1, hidden_states.permute(0, 3, 1, 2)))
        return convolve(layer.conv2, layer.bn(image)).permute(0, 2, 3, 1)

    assert_same_with_gradients(layer, slow, hidden_states)


def test_orders_of_tokens():
    _, tokens, noise = random_tokens()
    there = (tokens.to_second, tokens.to_first)

    def back_and_forth(values):
        return reorder(reorder(values, *there), *reversed(there)) + 2 * reorder(values, *there)

    def slow(values):
        return values + 2 * values.flatten(0, 1)[tokens.to_second].view(values.shape)

    assert_same_with_gradients(back_and_forth, slow, noise[0])


def test_rotary_periods():
    """From 4 to 250 pixels in the default model: at both ends of the range, a period later the angle is 2π larger."""
    angles = rotary_table(torch.tensor([0, 4, 250, 4 * 300, 250 * 300]), 300, (4.0, 250.0), 8)
    assert angles.shape == (5, 8)
    full = torch.tensor(2 * pi)
    torch.testing.assert_close(angles[[1, 2, 3, 4], [4, 7, 0, 3]], full.expand(4))
    assert not angles[1, :4].any()  # of the row
