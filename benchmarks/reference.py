"""Plain transcriptions of the authors' models, the baseline for the speed of ours.

Tokens are `(B, N, D)` and become an image for each convolution, as in the authors' code. State dict keys are theirs,
so `e2evit.convert_reference` gives our model with the same weights. `tests/modeling/test_parity.py` checks both
against the golden files. The only addition is a stem for patches of 5 pixels: one convolution instead of a chain.
"""

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["L2ViT", "XCiT"]


class Mlp(nn.Module):
    def __init__(self, dim, ratio):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, int(dim * ratio)), nn.GELU(), nn.Linear(int(dim * ratio), dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class TokenConv(nn.Module):
    """Depthwise convolution of tokens, reshaped to an image and back."""

    def __init__(self, dim, kernel_size=3):
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x, size):
        batch, _, dim = x.shape
        image = self.proj(x.transpose(1, 2).contiguous().view(batch, dim, *size))
        return x + image.flatten(2).transpose(1, 2)


class LocalMixing(nn.Module):
    """XCiT's local patch interaction (3 x 3) and L2ViT's local concentration (7 x 7)."""

    def __init__(self, dim, kernel_size):
        super().__init__()
        convs = [nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim) for _ in range(2)]
        self.conv1, self.act, self.bn, self.conv2 = convs[0], nn.GELU(), nn.BatchNorm2d(dim), convs[1]

    def forward(self, x, size):
        batch, tokens, dim = x.shape
        x = x.permute(0, 2, 1).reshape(batch, dim, *size)
        x = self.conv2(self.bn(self.act(self.conv1(x))))
        return x.reshape(batch, dim, tokens).permute(0, 2, 1)


class WindowAttention(nn.Module):
    def __init__(self, dim, heads, window):
        super().__init__()
        self.heads, self.window, self.scale = heads, window, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, size):
        batch, tokens, dim = x.shape
        height, width, side = *size, self.window
        x = F.pad(x.view(batch, height, width, dim), (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        x = x.view(batch, rows, side, columns, side, dim).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, side**2, dim)
        qkv = self.qkv(x).reshape(len(x), side**2, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attention = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        x = self.proj((attention @ v).transpose(1, 2).reshape(len(x), side**2, dim))
        x = x.view(batch, rows, columns, side, side, dim).permute(0, 1, 3, 2, 4, 5).contiguous()
        x = x.view(batch, rows * side, columns * side, dim)[:, :height, :width].contiguous()
        return x.view(batch, tokens, dim)


class LinearAttention(nn.Module):
    def __init__(self, dim, heads, clamp):
        super().__init__()
        self.heads, self.clamp = heads, clamp
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.temperature = nn.Parameter(torch.full((heads, 1, 1), (dim // heads) ** -0.5))

    def forward(self, x):
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0].relu(), qkv[1].relu(), qkv[2]
        denominator = (q @ k.sum(dim=-2, keepdim=True).transpose(-2, -1)).clamp(min=self.clamp)
        x = q @ ((k.transpose(-2, -1) @ v) * self.temperature) / denominator
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))


class L2ViTBlock(nn.Module):
    def __init__(self, dim, heads, ratio, window, clamp, kernel_size, is_global):
        super().__init__()
        self.is_global = is_global
        self.cpe = nn.ModuleList(TokenConv(dim) for _ in range(1 if is_global else 2))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = LinearAttention(dim, heads, clamp) if is_global else WindowAttention(dim, heads, window)
        self.mlp = Mlp(dim, ratio)
        if is_global:
            self.norm3, self.local_mp = nn.LayerNorm(dim), LocalMixing(dim, kernel_size)

    def forward(self, x, size):
        x = self.cpe[0](x, size)
        if self.is_global:
            x = x + self.attn(self.norm1(x))
            x = x + self.local_mp(self.norm3(x), size)
        else:
            x = x + self.attn(self.norm1(x), size)
            x = self.cpe[1](x, size)
        return x + self.mlp(self.norm2(x))


class L2ViTStem(nn.Module):
    def __init__(self, channels, dim, patch_size):
        super().__init__()
        self.patch_size = patch_size
        if patch_size == 4:
            layers = [nn.Conv2d(channels, dim // 2, 3, 2, 1), nn.BatchNorm2d(dim // 2), nn.ReLU()]
            layers += [nn.Conv2d(dim // 2, dim, 3, 2, 1), nn.BatchNorm2d(dim)]
        else:
            layers = [nn.Conv2d(channels, dim, patch_size, patch_size), nn.BatchNorm2d(dim)]
        self.proj = nn.Sequential(*layers)

    def forward(self, x):
        height, width = x.shape[-2:]
        x = self.proj(F.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size)))
        return x.flatten(2).transpose(1, 2), x.shape[-2:]


class L2ViTDownsample(nn.Module):
    def __init__(self, in_dim, dim, patch_size=None):
        super().__init__()
        self.is_stem = patch_size is not None
        self.proj = L2ViTStem(in_dim, dim, patch_size) if self.is_stem else nn.Conv2d(in_dim, dim, 2, 2)
        self.norm = nn.LayerNorm(dim if self.is_stem else in_dim)

    def forward(self, x, size=None):
        if self.is_stem:
            x, size = self.proj(x)
            return self.norm(x), size
        x = self.norm(x).transpose(1, 2).reshape(len(x), -1, *size)
        x = self.proj(F.pad(x, (0, size[1] % 2, 0, size[0] % 2)))
        return x.flatten(2).transpose(1, 2), x.shape[-2:]


class L2ViT(nn.Module):
    """L2ViT (arXiv 2501.16182); logits `(B, num_classes)` of images `(B, C, H, W)`."""

    def __init__(
        self, channels, dims, depths, heads, ratios, window, clamp=100.0, patch_size=4, num_classes=2, kernel_size=7
    ):
        super().__init__()
        sizes = [channels, *dims]
        self.downsample_layers = nn.ModuleList(
            L2ViTDownsample(sizes[i], dims[i], patch_size if i == 0 else None) for i in range(len(dims))
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(
                L2ViTBlock(dim, head, ratio, window, clamp, kernel_size, is_global=i % 2 == 1) for i in range(depth)
            )
            for dim, depth, head, ratio in zip(dims, depths, heads, ratios)
        )
        self.norm, self.head = nn.LayerNorm(dims[-1]), nn.Linear(dims[-1], num_classes)

    def forward(self, x):
        size = None
        for downsample, stage in zip(self.downsample_layers, self.stages):
            x, size = downsample(x, size)
            for block in stage:
                x = block(x, size)
        return self.head(self.norm(x).mean(dim=1))


class PositionEncoding(nn.Module):
    def __init__(self, dim, hidden=32, temperature=10000):
        super().__init__()
        self.hidden, self.temperature = hidden, temperature
        self.token_projection = nn.Conv2d(2 * hidden, dim, kernel_size=1)

    def forward(self, batch, height, width):
        device = self.token_projection.weight.device
        y = torch.arange(1, height + 1, dtype=torch.float32, device=device)[None, :, None].repeat(1, 1, width)
        x = torch.arange(1, width + 1, dtype=torch.float32, device=device)[None, None, :].repeat(1, height, 1)
        y, x = y / (y[:, -1:, :] + 1e-6) * 2 * torch.pi, x / (x[:, :, -1:] + 1e-6) * 2 * torch.pi
        index = torch.arange(self.hidden, dtype=torch.float32, device=device)
        period = self.temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / self.hidden)
        parts = []
        for angle in (y[..., None] / period, x[..., None] / period):
            parts.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=4).flatten(3))
        position = self.token_projection(torch.cat(parts, dim=3).permute(0, 3, 1, 2))
        return position.repeat(batch, 1, 1, 1).reshape(batch, -1, height * width).permute(0, 2, 1)


class XCA(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.temperature = heads, nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = (part.transpose(-2, -1) for part in qkv)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        attention = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(dim=-1)
        return self.proj((attention @ v).permute(0, 3, 1, 2).reshape(batch, tokens, dim))


class XCABlock(nn.Module):
    def __init__(self, dim, heads, ratio, eta):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.attn, self.mlp, self.local_mp = XCA(dim, heads), Mlp(dim, ratio), LocalMixing(dim, 3)
        self.gamma1, self.gamma2, self.gamma3 = (nn.Parameter(torch.full((dim,), eta)) for _ in range(3))

    def forward(self, x, size):
        x = x + self.gamma1 * self.attn(self.norm1(x))
        x = x + self.gamma3 * self.local_mp(self.norm3(x), size)
        return x + self.gamma2 * self.mlp(self.norm2(x))


class ClassAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attention = ((q[:, :, :1] * k).sum(dim=-1) * self.scale).softmax(dim=-1)
        class_token = self.proj((attention.unsqueeze(2) @ v).transpose(1, 2).reshape(batch, 1, dim))
        return torch.cat([class_token, x[:, 1:]], dim=1)


class ClassAttentionBlock(nn.Module):
    def __init__(self, dim, heads, ratio, eta, tokens_norm):
        super().__init__()
        self.tokens_norm = tokens_norm
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = ClassAttention(dim, heads), Mlp(dim, ratio)
        self.gamma1, self.gamma2 = (nn.Parameter(torch.full((dim,), eta)) for _ in range(2))

    def forward(self, x):
        x = x + self.gamma1 * self.attn(self.norm1(x))
        x = self.norm2(x) if self.tokens_norm else torch.cat([self.norm2(x[:, :1]), x[:, 1:]], dim=1)
        return x + torch.cat([self.gamma2 * self.mlp(x[:, :1]), x[:, 1:]], dim=1)


class XCiTStem(nn.Module):
    def __init__(self, channels, dim, patch_size):
        super().__init__()
        if patch_size & (patch_size - 1):
            self.proj = nn.Sequential(
                nn.Sequential(nn.Conv2d(channels, dim, patch_size, patch_size, bias=False), nn.BatchNorm2d(dim))
            )
            return
        layers, width = [], channels
        for i in reversed(range(patch_size.bit_length() - 1)):
            conv = nn.Conv2d(width, dim // 2**i, 3, 2, 1, bias=False)
            layers += [nn.Sequential(conv, nn.BatchNorm2d(dim // 2**i)), nn.GELU()]
            width = dim // 2**i
        self.proj = nn.Sequential(*layers[:-1])

    def forward(self, x):
        x = self.proj(x)
        return x.flatten(2).transpose(1, 2), x.shape[-2:]


class XCiT(nn.Module):
    """XCiT (arXiv 2106.09681); logits `(B, num_classes)` of images `(B, C, H, W)`."""

    def __init__(self, channels, dim, depth, heads, patch_size, eta=1.0, tokens_norm=True, num_classes=2, ratio=4):
        super().__init__()
        self.patch_embed, self.pos_embeder = XCiTStem(channels, dim, patch_size), PositionEncoding(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(XCABlock(dim, heads, ratio, eta) for _ in range(depth))
        self.cls_attn_blocks = nn.ModuleList(ClassAttentionBlock(dim, heads, ratio, eta, tokens_norm) for _ in "12")
        self.norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, num_classes)

    def forward(self, x):
        x, size = self.patch_embed(x)
        x = x + self.pos_embeder(len(x), *size)
        for block in self.blocks:
            x = block(x, size)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.cls_attn_blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])
