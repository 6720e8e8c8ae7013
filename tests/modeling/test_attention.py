"""Attention functions against plain forms that are easy to check against the papers, gradients included."""

import pytest
import torch
from e2evit.modeling.modeling_linearvit import linear_attention, softmax_attention, window_merge, window_partition
from e2evit.modeling.modeling_xcit import cross_covariance_attention, fourier_positions


def quadratic_attention(query, key, value, denominator_floor):
    """Linear attention through the N x N matrix."""
    scores = query.relu() @ key.relu().transpose(-1, -2)  # [B, h, N, N]
    return scores @ value / scores.sum(dim=-1, keepdim=True).clamp(min=denominator_floor)


def authors_cross_covariance(query, key, value, temperature):
    """Normalise the inputs over the tokens, then multiply, as the paper's algorithm 1 does."""
    query, key, value = (x.permute(0, 2, 3, 1) for x in (query, key, value))  # [B, h, d, N]
    query, key = torch.nn.functional.normalize(query, dim=-1), torch.nn.functional.normalize(key, dim=-1)
    scores = query @ key.transpose(-1, -2) * temperature
    return (scores.softmax(dim=-1) @ value).permute(0, 3, 1, 2)


def compare(function, twin, *inputs):
    actual, expected = function(*inputs), twin(*inputs)
    # both sides are the same sums in another order; in float64 they differ by some 1e-15, a wrong formula by much more
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
    inputs = [draw(2, num_tokens, 3, 16) for _ in range(3)]
    compare(cross_covariance_attention, authors_cross_covariance, *inputs, draw(3, 1, 1))


def test_window_attention_equals_fused_kernel():
    torch.manual_seed(0)
    inputs = [draw(4, 3, 25, 16) for _ in range(3)]
    compare(softmax_attention, torch.nn.functional.scaled_dot_product_attention, *inputs)


@pytest.mark.parametrize("shape", [(25, 25), (13, 13), (7, 12), (3, 2)])
def test_windows_come_back_where_they_were(shape):
    tokens = torch.randn(2, *shape, 4)
    windows = window_partition(tokens, 5)
    assert windows.shape[1:] == (25, 4)
    assert torch.equal(window_merge(windows, 5, *shape), tokens)


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
