"""The mixers of LinearViT's global blocks, one per name in [`GLOBAL_ATTENTIONS`], all else equal.

Each is a projection to query, key and value, one function of [`modeling_attention`], what its paper adds around it
(local enhancement, a gate), and an output projection; `(B, H, W, D)` in and out.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .modeling_attention import (
    axial_angles,
    convolve_each,
    focused_attention,
    inline_attention,
    inner_convolution,
    inner_swiglu,
    linear_attention,
    linear_attention_in_blocks,
    magnitude_aware_attention,
    mamba_like_attention,
    polarity_aware_attention,
    rank_augmented_attention,
)
from .modeling_cross_covariance import MAX_BLOCK_WIDTH, CrossCovarianceAttention, split_heads
from .modeling_depthwise import DepthwiseConv, on_grid

__all__ = ["GLOBAL_ATTENTIONS", "GlobalAttention", "make_global_attention"]


class GlobalAttention(nn.Module):
    """Projections around [`mix`].

    As the mixer's paper has it, `lepe_size` adds a depthwise convolution of v and `has_gate` multiplies by a linear
    map of the input; `can_rotate` allows rotary positions (`config.rotary_positions`).
    """

    lepe_size = 0
    has_gate = False
    can_rotate = False

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.rotates = config.rotary_positions
        if self.rotates:
            _check_rotation(self.head_dim)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.lepe = DepthwiseConv.of(hidden_size, self.lepe_size) if self.lepe_size else None
        self.gate = nn.Linear(hidden_size, hidden_size) if self.has_gate else None

    def mix(self, query, key, value, **angles):
        """Attention of heads `(B, h, N, d)`."""
        raise NotImplementedError

    def mix_tokens(self, qkv):
        """[`mix`] of a grid `(B, H, W, 3 D)`, to `(B, N, D)`."""
        height, width = qkv.shape[1:3]
        heads = split_heads(qkv.flatten(1, 2), self.num_heads)
        rotary = {"angles": axial_angles(height, width, self.head_dim // 2, qkv.device)} if self.rotates else {}
        return self.mix(*heads, **rotary).transpose(1, 2).flatten(2)

    def attention_map(self, hidden_states, grid, place):
        """The attention weights of the token at `place` (fractions of height and width), `(B, h, H, W)`.

        Every mixer here is linear in the values, so the derivative with respect to them gives the weights; PolaFormer
        has two sets, one per half of a head, and returns their mean.
        """
        height, width = hidden_states.shape[1:3]
        token = int(place[0] * height) * width + int(place[1] * width)
        with torch.no_grad():
            qkv = self.qkv(hidden_states)
        with torch.inference_mode(False), torch.enable_grad():  # whatever mode the caller is in
            qkv = qkv.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.mix_tokens(qkv)[:, token].sum(), qkv)
        value_gradient = gradient.chunk(3, dim=-1)[2].unflatten(-1, (self.num_heads, -1))  # [B, H, W, h, d]
        return value_gradient.mean(dim=-1).permute(0, 3, 1, 2)

    def enhance(self, context, value, hidden_states):
        """What the paper does to the mixed tokens; all arguments are grids `(B, H, W, D)`."""
        if self.lepe is not None:
            context = context + on_grid(self.lepe, value)
        return context if self.gate is None else context * self.gate(hidden_states)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(hidden_states)
        context = self.mix_tokens(qkv).view(hidden_states.shape)
        # not by `chunk`: onnxruntime cannot leave parts unused (`check_nodes` in tests/test_export.py)
        value = qkv[..., 2 * hidden_states.shape[-1] :]
        return self.proj(self.enhance(context, value, hidden_states))


class ReluLinearAttention(GlobalAttention):
    """L2ViT's, with one learned temperature per head."""

    kernel_name = "linear"

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__(config, hidden_size, num_heads)
        self.denominator_floor = config.denominator_floor
        self.denominator_floor_per_token = config.denominator_floor_per_token
        self.temperature = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.reset_parameters()

    def reset_parameters(self):  # `_init_weights` calls it again: `from_pretrained` discards values set in `__init__`
        init.constant_(self.temperature, self.head_dim**-0.5)

    def mix(self, query, key, value):
        return linear_attention(query, key, value, self.floor(key.shape[-2])) * self.temperature

    def mix_tokens(self, qkv):
        if qkv.shape[-1] > 3 * MAX_BLOCK_WIDTH:
            return super().mix_tokens(qkv)
        tokens = qkv.flatten(1, 2)
        query, key, value = tokens.chunk(3, dim=-1)
        return linear_attention_in_blocks(query, key, value, self.temperature, self.floor(tokens.shape[1]))

    def floor(self, num_tokens: int) -> float:
        """Lower clamp of the denominator, a sum over tokens."""
        return self.denominator_floor * (num_tokens if self.denominator_floor_per_token else 1)


class SoftmaxAttention(GlobalAttention):
    """The quadratic control, by PyTorch's fused kernel."""

    def mix(self, query, key, value):
        return F.scaled_dot_product_attention(query, key, value)


class RankAugmentedAttention(GlobalAttention):
    """RALA."""

    lepe_size, has_gate, can_rotate = 5, True, True

    def mix(self, query, key, value, angles=None):
        return rank_augmented_attention(query, key, value, angles)


class MagnitudeAwareAttention(GlobalAttention):
    """MALA."""

    lepe_size, has_gate, can_rotate = 5, True, True

    def mix(self, query, key, value, angles=None):
        return magnitude_aware_attention(query, key, value, angles)


class InlineAttention(GlobalAttention):
    """InLine plus a 3 x 3 depthwise convolution of v, whose kernels a small network predicts from the mean token."""

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__(config, hidden_size, num_heads)
        self.kernels = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, 9 * hidden_size)
        )

    def mix(self, query, key, value):
        return inline_attention(query, key, value)

    def enhance(self, context, value, hidden_states):
        kernels = self.kernels(hidden_states.mean(dim=(1, 2))).view(-1, 1, 3, 3)
        return context + convolve_each(value, kernels.to(value.dtype))


class FocusedAttention(GlobalAttention):
    """FLatten's focused linear attention, with one learned scale per channel."""

    lepe_size = 5

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__(config, hidden_size, num_heads)
        self.scale = nn.Parameter(torch.empty(num_heads, 1, self.head_dim))
        self.reset_parameters()

    def reset_parameters(self):
        init.zeros_(self.scale)

    def mix(self, query, key, value):
        query, key = ((x.relu() + 1e-6) / F.softplus(self.scale) for x in (query, key))
        return focused_attention(query, key, value)


class PolarityAwareAttention(GlobalAttention):
    """PolaFormer's, with a learned scale and power per channel."""

    lepe_size, has_gate = 5, True

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__(config, hidden_size, num_heads)
        self.scale = nn.Parameter(torch.empty(num_heads, 1, self.head_dim))
        self.power = nn.Parameter(torch.empty(num_heads, 1, self.head_dim))
        self.reset_parameters()

    def reset_parameters(self):
        init.zeros_(self.scale)
        init.zeros_(self.power)

    def mix(self, query, key, value):
        query, key = (x / F.softplus(self.scale) for x in (query, key))
        return polarity_aware_attention(query, key, value, 1 + 4 * self.power.sigmoid())


class MambaLikeAttention(nn.Module):
    """MILA's token mixer: attention between a depthwise convolution and a gate, laid out like a Mamba block.

    W_o [attention(SiLU(DW(W_in x))) ⊙ SiLU(W_gate x)]; the value is the attention's input itself, and every channel
    pair has its own rotary frequency.
    """

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        _check_rotation(hidden_size // num_heads)
        self.input, self.gate = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.conv = DepthwiseConv.of(hidden_size, 3)
        self.qk = nn.Linear(hidden_size, 2 * hidden_size)
        self.lepe = DepthwiseConv.of(hidden_size, 3)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        height, width, hidden_size = hidden_states.shape[1:]
        value = F.silu(on_grid(self.conv, self.input(hidden_states)))
        query, key, heads = (
            x.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x in (*self.qk(value).chunk(2, dim=-1), value)
        )
        angles = axial_angles(height, width, hidden_size // 2, value.device)  # [N, D / 2]
        angles = angles.unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        context = mamba_like_attention(query, key, heads, angles)
        context = context.transpose(1, 2).reshape(hidden_states.shape) + on_grid(self.lepe, value)
        return self.proj(context * F.silu(self.gate(hidden_states)))


class InnerTrainingAttention(nn.Module):
    """ViT³'s: heads whose inner model is a small gated map, plus one whose inner model is a convolution."""

    def __init__(self, config, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.initializer_range = config.initializer_range
        self.qkv = nn.Linear(hidden_size, 3 * (hidden_size + self.head_dim))
        self.weight = nn.Parameter(torch.empty(num_heads, self.head_dim, self.head_dim))
        self.gate_weight = nn.Parameter(torch.empty(num_heads, self.head_dim, self.head_dim))
        self.kernel = nn.Parameter(torch.empty(self.head_dim, 1, 3, 3))
        self.proj = nn.Linear(hidden_size + self.head_dim, hidden_size)
        self.reset_parameters()

    def reset_parameters(self):
        for parameter in (self.weight, self.gate_weight, self.kernel):
            init.trunc_normal_(parameter, std=self.initializer_range)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_size = hidden_states.shape[-1]
        heads, local = self.qkv(hidden_states).split([3 * hidden_size, 3 * self.head_dim], dim=-1)
        query, key, value = split_heads(heads.flatten(1, 2), self.num_heads)
        context = inner_swiglu(query, key, value, self.weight, self.gate_weight)
        context = context.transpose(1, 2).reshape(hidden_states.shape)
        query, key, value = local.chunk(3, dim=-1)
        local = inner_convolution(query, key, value, self.kernel)
        return self.proj(torch.cat([context, local], dim=-1))


GLOBAL_ATTENTIONS = {
    "relu_linear": ReluLinearAttention,
    "softmax": SoftmaxAttention,
    "xca": CrossCovarianceAttention,
    "rala": RankAugmentedAttention,
    "mala": MagnitudeAwareAttention,
    "inline": InlineAttention,
    "focused": FocusedAttention,
    "polaformer": PolarityAwareAttention,
    "mila": MambaLikeAttention,
    "ttt": InnerTrainingAttention,
}


def make_global_attention(config, hidden_size: int, num_heads: int) -> nn.Module:
    """The mixer that `config.global_attention` names.

    Raises:
        ValueError: for an unknown name, or rotary positions that the mixer does not have.
    """
    name = config.global_attention
    if name not in GLOBAL_ATTENTIONS:
        raise ValueError(f"`global_attention` is one of {', '.join(GLOBAL_ATTENTIONS)}, got {name!r}.")
    mixer = GLOBAL_ATTENTIONS[name]
    if config.rotary_positions and not getattr(mixer, "can_rotate", False):
        able = [key for key, value in GLOBAL_ATTENTIONS.items() if getattr(value, "can_rotate", False)]
        raise ValueError(f"`rotary_positions` work with {' and '.join(able)}, got `global_attention` {name!r}.")
    return mixer(config, hidden_size, num_heads)


def _check_rotation(head_dim: int) -> None:
    if head_dim % 4:
        raise ValueError(f"Rotary positions need heads of a multiple of 4 channels, got {head_dim}.")
