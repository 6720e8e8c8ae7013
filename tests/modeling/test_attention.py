"""Attention functions against plain forms that are easy to check against the papers, including gradients."""

import pytest
import torch
from e2evit.modeling.modeling_attention import (
    axial_angles,
    focused_attention,
    inline_attention,
    inner_convolution,
    inner_swiglu,
    linear_attention,
    magnitude_aware_attention,
    mamba_like_attention,
    polarity_aware_attention,
    rank_augmented_attention,
    softmax_attention,
)
from e2evit.modeling.modeling_cross_covariance import cross_covariance_attention
from e2evit.modeling.modeling_layers import fourier_positions
from e2evit.modeling.modeling_linearvit import LinearViTWindowAttention, window_merge, window_partition
from e2evit.modeling.modeling_mixers import GLOBAL_ATTENTIONS
from torch.nn import functional as F

from e2evit import LinearViTConfig


def quadratic_attention(query, key, value, denominator_floor):
    """Linear attention through the N x N matrix."""
    scores = query.relu() @ key.relu().transpose(-1, -2)  # [B, h, N, N]
    return scores @ value / scores.sum(dim=-1, keepdim=True).clamp(min=denominator_floor)


def authors_cross_covariance(query, key, value, temperature):
    """Normalise the inputs over the tokens, then multiply, as the paper's algorithm 1 does."""
    query, key, value = (x.transpose(-1, -2) for x in (query, key, value))  # [B, h, d, N]
    query, key = torch.nn.functional.normalize(query, dim=-1), torch.nn.functional.normalize(key, dim=-1)
    scores = query @ key.transpose(-1, -2) * temperature
    return (scores.softmax(dim=-1) @ value).transpose(-1, -2)


def compare(function, twin, *inputs):
    actual, expected = function(*inputs), twin(*inputs)
    # the same sums in another order: in float64 they differ by some 1e-15, a wrong formula by much more
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
    cotangent = torch.randn_like(expected)
    actual_grads = torch.autograd.grad(actual, tensors, cotangent)
    expected_grads = torch.autograd.grad(expected, tensors, cotangent)
    torch.testing.assert_close(actual_grads, expected_grads, rtol=1e-10, atol=1e-10)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("denominator_floor", [1e-6, 1e4], ids=["floor_inactive", "floor_active"])
@pytest.mark.parametrize("num_tokens", [1, 64, 625])
def test_linear_attention(num_tokens, denominator_floor):
    torch.manual_seed(0)
    query, key, value = (draw(2, 3, num_tokens, 32) for _ in range(3))
    compare(linear_attention, quadratic_attention, query, key, value, denominator_floor)


@pytest.mark.parametrize("num_tokens", [3, 63, 625])
def test_cross_covariance_attention(num_tokens):
    torch.manual_seed(0)
    inputs = [draw(2, 3, num_tokens, 16) for _ in range(3)]
    compare(cross_covariance_attention, authors_cross_covariance, *inputs, draw(3, 1, 1))


def test_window_attention_equals_fused_kernel():
    torch.manual_seed(0)
    inputs = [draw(4, 3, 25, 16) for _ in range(3)]
    compare(softmax_attention, torch.nn.functional.scaled_dot_product_attention, *inputs)


def positive(*tensors):
    return (torch.where(x > 0, x + 1, x.exp()) for x in tensors)


def rotated_scores(query, key, angles=None):
    """q_i · k_j after rotating both: as complex numbers, a product with the phase of the angle between them."""
    if angles is None:
        return query @ key.transpose(-1, -2)
    query, key = (torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) for x in (query, key))
    between = angles.unsqueeze(-2) - angles.unsqueeze(-3)  # [..., N, N, d / 2]
    phase = torch.polar(torch.ones_like(between), between)
    return (query.unsqueeze(-2) * key.conj().unsqueeze(-3) * phase).sum(-1).real


def quadratic_rala(query, key, value, angles=None):
    """Key re-weighting and attention as N x N weights that sum to one."""
    query, key = positive(query, key)
    alike = torch.einsum("bhd,bhjd->bhj", query.mean(2), key) / query.shape[-1] ** 0.5
    alike = alike.softmax(-1)[:, :, None, :]
    # the source adds its 1e-6 to a mean over tokens, N times smaller than this sum of weights
    total = (query @ key.transpose(-1, -2) * alike).sum(-1, keepdim=True) + 1e-6
    return rotated_scores(query, key, angles) * alike @ value / total


def quadratic_mala(query, key, value, angles=None):
    num_tokens, width = query.shape[-2:]
    query, key = positive(query, key)
    z = (query @ key.transpose(-1, -2)).sum(-1, keepdim=True) / num_tokens / width**0.5
    scores = rotated_scores(query, key, angles) / num_tokens / width**0.5
    return (scores * (1 + 1 / (z + 1e-6)) - z / num_tokens) @ value


def quadratic_mila(query, key, value, angles):
    query, key = positive(query, key)
    total = (query @ key.transpose(-1, -2)).sum(-1, keepdim=True) + 1e-6 * query.shape[-2]
    return rotated_scores(query, key, angles) @ value / total


def inner_step(model, weights, value, scale, dims):
    """`weights` after a clipped step on the inner loss, its gradient by autograd instead of a closed formula."""
    loss = -(model(*weights) * value).sum() * scale
    steps = torch.autograd.grad(loss, weights, create_graph=True)
    return [start - step / (step.norm(dim=dims, keepdim=True) + 1) for start, step in zip(weights, steps)]


def stepwise_swiglu(query, key, value, weight, gate_weight):
    def model(x):
        return lambda w, g: (x @ w) * torch.nn.functional.silu(x @ g)

    samples = [w.expand(len(key), *w.shape) for w in (weight, gate_weight)]  # each sample trains its own weights
    trained = inner_step(model(key), samples, value, 1 / (3 * key.shape[-2]), -2)
    return model(query)(*trained)


def stepwise_convolution(query, key, value, kernel):
    results = []
    for q, k, v in zip(*(x.permute(0, 3, 1, 2) for x in (query, key, value))):

        def convolve(kernel, image=k):
            return torch.nn.functional.conv2d(image[None], kernel, padding=1, groups=len(kernel))[0]

        (trained,) = inner_step(convolve, [kernel], v, 1 / (3 * k[0].numel()), (-2, -1))
        results.append(convolve(trained, q).permute(1, 2, 0))
    return torch.stack(results)


def quadratic_inline(query, key, value):
    num_tokens, width = query.shape[-2:]
    scores = query @ key.transpose(-1, -2) / width**0.5
    return ((scores + 1 - scores.mean(-1, keepdim=True)) / num_tokens) @ value


def quadratic_focused(query, key, value):
    def sharpen(x):
        token = x.transpose(1, 2).flatten(2)  # [B, N, h d]
        token = token.norm(dim=-1, keepdim=True) * token**3 / (token**3).norm(dim=-1, keepdim=True)
        return token.unflatten(-1, (x.shape[1], -1)).transpose(1, 2)

    scores = sharpen(query) @ sharpen(key).transpose(-1, -2) / query.shape[-2]
    return scores @ value / (scores.sum(-1, keepdim=True) + 1e-6)


def quadratic_polaformer(query, key, value, power):
    def part(x):
        return x.clamp(min=1e-12) ** power

    like = part(query) @ part(key).transpose(-1, -2) + part(-query) @ part(-key).transpose(-1, -2)
    unlike = part(query) @ part(-key).transpose(-1, -2) + part(-query) @ part(key).transpose(-1, -2)
    halves = []
    for scores, half in ((like, value[..., : value.shape[-1] // 2]), (unlike, value[..., value.shape[-1] // 2 :])):
        scores = scores / query.shape[-2]
        halves.append(scores @ half / (scores.sum(-1, keepdim=True) + 1e-6))
    return torch.cat(halves, -1)


@pytest.mark.parametrize("num_tokens", [1, 63, 625])
@pytest.mark.parametrize(
    ("function", "twin"),
    [
        (rank_augmented_attention, quadratic_rala),
        (magnitude_aware_attention, quadratic_mala),
        (inline_attention, quadratic_inline),
    ],
)
def test_newer_linear_attentions(function, twin, num_tokens):
    torch.manual_seed(0)
    compare(function, twin, *(draw(2, 3, num_tokens, 16) for _ in range(3)))


@pytest.mark.parametrize("grid", [(1, 1), (5, 9)])
@pytest.mark.parametrize(
    ("function", "twin"),
    [
        (rank_augmented_attention, quadratic_rala),
        (magnitude_aware_attention, quadratic_mala),
        (mamba_like_attention, quadratic_mila),
    ],
)
def test_rotary_positions(function, twin, grid):
    torch.manual_seed(0)
    angles = axial_angles(*grid, 8).double()
    inputs = [draw(2, 3, len(angles), 16) for _ in range(3)]
    compare(lambda *x: function(*x, angles), lambda *x: twin(*x, angles), *inputs)


def test_rotary_angles_count_rows_and_columns():
    angles = axial_angles(3, 4, 4).view(3, 4, 4)
    assert torch.equal(angles[:, :, 0], torch.arange(3.0)[:, None].expand(3, 4))
    assert torch.equal(angles[:, :, 2], torch.arange(4.0)[None].expand(3, 4))
    torch.testing.assert_close(angles[2, 3], torch.tensor([2.0, 0.02, 3.0, 0.03]))


@pytest.mark.parametrize("num_tokens", [1, 63])
def test_inner_swiglu(num_tokens):
    torch.manual_seed(0)
    tokens, weights = [draw(2, 3, num_tokens, 8) for _ in range(3)], [draw(3, 8, 8) for _ in range(2)]
    compare(inner_swiglu, stepwise_swiglu, *tokens, *weights)


@pytest.mark.parametrize("grid", [(1, 1), (5, 9)])
def test_inner_convolution(grid):
    torch.manual_seed(0)
    compare(inner_convolution, stepwise_convolution, *(draw(2, *grid, 6) for _ in range(3)), draw(6, 1, 3, 3))


@pytest.mark.parametrize("num_tokens", [1, 63, 625])
def test_focused_attention(num_tokens):
    torch.manual_seed(0)
    given = [(torch.rand(2, 3, num_tokens, 16, dtype=torch.float64) + 0.01).requires_grad_() for _ in range(2)]
    compare(focused_attention, quadratic_focused, *given, draw(2, 3, num_tokens, 16))


@pytest.mark.parametrize("num_tokens", [1, 63, 625])
def test_polarity_aware_attention(num_tokens):
    torch.manual_seed(0)
    power = (1 + 4 * torch.rand(3, 1, 16, dtype=torch.float64)).requires_grad_()
    compare(polarity_aware_attention, quadratic_polaformer, *(draw(2, 3, num_tokens, 16) for _ in range(3)), power)


@pytest.mark.parametrize("function", [rank_augmented_attention, magnitude_aware_attention, inline_attention])
def test_weights_sum_to_one(function):
    torch.manual_seed(0)
    query, key = (torch.randn(1, 2, 50, 16, dtype=torch.float64) for _ in range(2))
    ones = torch.ones(1, 2, 50, 16, dtype=torch.float64)
    # the guards against a division by zero are 1e-6
    torch.testing.assert_close(function(query, key, ones), ones, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", GLOBAL_ATTENTIONS)
@pytest.mark.parametrize("grid", [(5, 5), (3, 7)])
def test_mixer_modules(name, grid):
    """Any grid, a gradient for every parameter, finite in bfloat16 with empty tokens."""
    torch.manual_seed(0)
    config = LinearViTConfig(global_attention=name)
    module = GLOBAL_ATTENTIONS[name](config, 16, 2)
    hidden_states = torch.randn(2, *grid, 16)
    hidden_states[0] = 0.0
    with torch.autocast("cpu", torch.bfloat16):
        result = module(hidden_states)
    assert result.shape == hidden_states.shape
    assert result.isfinite().all()
    result.float().square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())


def test_windows_return_to_their_places():
    qkv = torch.randn(2, 10, 15, 3 * 8)
    windows = window_partition(qkv, 5, 2)
    assert all(part.shape == (2 * 6, 2, 25, 4) and part.is_contiguous() for part in windows)
    # image 1, second row and third column of windows, second head
    assert torch.equal(windows[1][11, 1], qkv[1, 5:, 10:, 12:16].flatten(0, 1))
    for part, expected in zip(windows, qkv.chunk(3, dim=-1), strict=True):
        assert torch.equal(window_merge(part, 5, 10, 15), expected)


@pytest.mark.parametrize("shape", [(25, 25), (13, 13), (7, 12), (3, 2)])
def test_windows_are_padded_with_zeros_before_the_projection(shape):
    torch.manual_seed(0)
    module = LinearViTWindowAttention(8, 2, 5).double()
    hidden_states = torch.randn(2, *shape, 8, dtype=torch.double)
    height, width = (-(-side // 5) * 5 for side in shape)
    padded = F.pad(hidden_states, (0, 0, 0, width - shape[1], 0, height - shape[0]))
    context = window_merge(softmax_attention(*window_partition(module.qkv(padded), 5, 2)), 5, height, width)
    expected = module.proj(context)[:, : shape[0], : shape[1]]
    torch.testing.assert_close(module(hidden_states), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spread", [1e-4, 1.0, 10.0])
def test_half_precision_is_finite(dtype, spread):
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 625, 32).mul(spread).to(dtype).requires_grad_() for _ in range(3))
    result = linear_attention(query, key, value, 0.5 * 625)
    result.float().square().mean().backward()
    assert result.dtype == dtype
    assert all(tensor.isfinite().all() for tensor in (result, query.grad, key.grad, value.grad))


def test_no_positive_key_gives_zero():
    query = key = -torch.ones(1, 1, 5, 4)
    assert torch.equal(linear_attention(query, key, torch.ones(1, 1, 5, 4), 0.5), torch.zeros(1, 1, 5, 4))


def test_fourier_positions_end_at_a_full_turn():
    positions = fourier_positions(4, 7, 16, "cpu")
    assert positions.shape == (1, 64, 4, 7)
    # the last row's angle of the lowest period is 2π, up to the authors' 1e-6 in the denominator
    torch.testing.assert_close(positions[0, :2, -1, 0], torch.tensor([0.0, 1.0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(positions[0, 32:34, 0, -1], torch.tensor([0.0, 1.0]), rtol=0, atol=1e-5)
