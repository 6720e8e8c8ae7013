"""What every model of this repository shares: blocks, outputs, and the pass through backbone and heads.

Letters in shape comments, the same in every file: `B` batch, `C` detector channels, `H W` pixels or tokens
(eta, phi), `N` tokens, `h` heads, `d` width of a head, `D` hidden size.
"""

from dataclasses import dataclass
from functools import partial
from math import pi

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.utils import ModelOutput, can_return_tuple

from .modeling_activations import gelu
from .modeling_head import e2e_loss, mass_in_gev

__all__ = [
    "DropPath",
    "E2EBackbone",
    "E2EForImageClassification",
    "E2EModelOutput",
    "E2EOutput",
    "E2EPreTrainedModel",
    "FourierPositionEncoding",
    "Mlp",
    "fourier_positions",
    "residual_stream",
]


@dataclass
class E2EModelOutput(ModelOutput):
    r"""What a bare `*Model` returns.

    Args:
        last_hidden_state (`torch.Tensor` of shape `(batch_size, num_tokens, hidden_size)`):
            Tokens after the last layer norm, in row-major order of the grid (eta, phi).
        pooler_output (`torch.Tensor` of shape `(batch_size, hidden_size)`):
            The one vector per image that the heads read.
        hidden_states (`tuple[torch.Tensor, ...]`):
            With `output_hidden_states`: the tokens `(batch_size, num_tokens, hidden_size)` after the stem, then after
            each stage (LinearViT) or block (XCiT).
        feature_maps (`tuple[torch.Tensor, ...]`):
            With `output_hidden_states`: the same tokens as images `(batch_size, hidden_size, height, width)` in the
            form of transformers' backbones, views without a copy.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    feature_maps: tuple[torch.Tensor, ...] | None = None


@dataclass
class E2EOutput(ModelOutput):
    r"""What every `*ForImageClassification` of this repository returns; a field that was not computed is `None`.

    Args:
        loss (`torch.Tensor` of shape `()`):
            `classification_loss + config.mass_loss_weight * mass_loss`, over the targets that were passed; or with
            learned weights (`config.loss_weighting`).
        logits (`torch.Tensor` of shape `(batch_size, config.num_labels)`):
            Class scores before the softmax, in the order of `config.id2label`.
        mass_preds (`torch.Tensor` of shape `(batch_size,)`):
            Mass in GeV (the network's standardised output, scaled back with `config.mass_mean` and `mass_std`).
        mass_scale_preds (`torch.Tensor` of shape `(batch_size,)`):
            One standard deviation of that mass in GeV, unless `config.mass_loss` is `"huber"`; `scripts/train.py`
            calibrates it on validation jets (`config.mass_temperature`).
        classification_loss, mass_loss (`torch.Tensor` of shape `()`):
            The two terms of `loss`, for logging. Both are dimensionless: `mass_loss` is taken on standardised masses.
        mass_outputs (`torch.Tensor` of shape `(batch_size, 1, 2 or 3)`):
            What the mass head says on the standardised scale; [`mass_in_gev`] reads it.
        hidden_states (`tuple[torch.Tensor, ...]`):
            As in [`E2EModelOutput`].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mass_preds: torch.Tensor | None = None
    mass_scale_preds: torch.Tensor | None = None
    classification_loss: torch.Tensor | None = None
    mass_loss: torch.Tensor | None = None
    mass_outputs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


def fourier_positions(height: int, width: int, num_frequencies: int, device) -> torch.Tensor:
    """Sines and cosines of the row, then of the column, `(1, 4 * num_frequencies, height, width)`, float32.

    Positions count from 1 and are divided by the last one times 2π (XCiT appendix A), so any grid has the same range.
    """
    index = torch.arange(2 * num_frequencies, device=device, dtype=torch.float32)
    periods = 10000 ** (2 * (index // 2) / (2 * num_frequencies))

    def encode(length):
        position = torch.arange(1, length + 1, device=device, dtype=torch.float32) / (length + 1e-6) * 2 * pi
        angle = position[:, None] / periods
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)  # [length, 2 F]

    rows = encode(height)[:, None].expand(-1, width, -1)
    columns = encode(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).permute(2, 0, 1)[None]


class FourierPositionEncoding(nn.Module):
    """A learned projection of `fourier_positions` to `(1, D, H, W)`, made anew for the grid at hand."""

    num_frequencies = 16

    def __init__(self, hidden_size: int):
        super().__init__()
        self.token_projection = nn.Conv2d(4 * self.num_frequencies, hidden_size, kernel_size=1)

    def forward(self, height: int, width: int) -> torch.Tensor:
        weight = self.token_projection.weight
        positions = fourier_positions(height, width, self.num_frequencies, weight.device).to(weight.dtype)
        return self.token_projection(positions)


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(gelu(self.fc1(hidden_states)))


class DropPath(nn.Module):
    """Stochastic depth (https://arxiv.org/abs/1603.09382): drops residual branches of samples, rescales the others."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return hidden_states
        keep = hidden_states.new_empty(hidden_states.shape[0], *[1] * (hidden_states.ndim - 1))
        return hidden_states * keep.bernoulli_(1 - self.rate).div_(1 - self.rate)


def residual_stream(hidden_states: torch.Tensor) -> torch.Tensor:
    """Tokens in float32 if autocast made them float16: the gradient of a sum of many branches soon exceeds 65504."""
    is_half = hidden_states.dtype == torch.float16
    return hidden_states.float() if is_half and torch.is_autocast_enabled(hidden_states.device.type) else hidden_states


def _keep_inputs(found: dict, name: str, module, inputs: tuple) -> None:
    found[name] = (module, *inputs)


class E2EPreTrainedModel(PreTrainedModel):
    """Initialisation and loading of every model here."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    # false where the paper's code leaves convolutions at PyTorch's default
    _truncated_normal_convolutions = True

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers; the folder also tells `AutoModel` where to find the model without heads."""
        module = type(self).__module__.rpartition(".")[2]
        known = getattr(self.config, "auto_map", None) or {}
        self.config.auto_map = known | {"AutoModel": f"{module}.{type(self.base_model).__name__}"}
        super().save_pretrained(save_directory, **kwargs)

    def compile(self, *args, **kwargs):
        """As `nn.Module.compile`. On CPUs inductor is told to leave layouts as they are: where it finds a convolution
        it takes each grid of tokens `(B, H, W, D)` for an image of H channels and lays it out anew."""
        if self.device.type == "cpu" and not args and not kwargs:
            kwargs["options"] = {"layout_optimization": False}
        super().compile(*args, **kwargs)

    def get_input_embeddings(self):
        """The module that makes tokens of an image, if there is one: what transformers and FSDP call embeddings."""
        return None if self.base_model is self else self.base_model.get_input_embeddings()

    def attention_maps(
        self, pixel_values: torch.Tensor, token: tuple[int, int] | None = None
    ) -> dict[str, torch.Tensor]:
        """What each attention module looks at, by the module's name.

        * class attention (XCiT): `(B, h, H, W)`, the weights of the patches; the rest is the class token's;
        * cross-covariance attention: `(B, h, d, d)`, the weights between channels;
        * attention over the whole grid (LinearViT): `(B, h, H, W)`, the row of the N x N matrix that `token` (row,
          column; the centre by default) would have. No such matrix is made: the row is the derivative of the token's
          result with respect to the values.

        Call it in evaluation mode: one forward pass is made.

        Args:
            pixel_values: `(B, C, H, W)` in network units.
            token: Row (eta) and column (phi) on the grid of the first stage; deeper stages take what lies there.

        Raises:
            ValueError: if `token` is outside the grid, or there is no attention of this kind in the model.
        """
        inputs, handles = {}, []
        for name, module in self.named_modules():
            if hasattr(module, "attention_map"):
                handles.append(module.register_forward_pre_hook(partial(_keep_inputs, inputs, name)))
        if not handles:
            raise ValueError(f"{type(self).__name__} has no attention whose maps are known.")
        try:
            with torch.no_grad():
                stem = self.base_model(pixel_values, output_hidden_states=True).feature_maps[0]
        finally:
            for handle in handles:
                handle.remove()
        grid = stem.shape[2:]
        row, column = (side // 2 for side in grid) if token is None else token
        if not (0 <= row < grid[0] and 0 <= column < grid[1]):
            raise ValueError(f"`token` is a row and a column of a grid of {grid[0]} x {grid[1]}, got {token}.")
        place = (row / grid[0], column / grid[1])
        return {name: module.attention_map(*args, grid=grid, place=place) for name, (module, *args) in inputs.items()}

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and self._truncated_normal_convolutions):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            super()._init_weights(module)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()


class E2EBackbone(BackboneMixin):
    """Feature maps of chosen stages, for `AutoBackbone`; a subclass sets `self.<base_model_prefix>` and
    `self.num_features`, the channels of each stage."""

    has_attentions = False  # none are returned; see `attention_maps`

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool | None = None, **kwargs
    ) -> BackboneOutput:
        """`pixel_values` `(B, C, H, W)`; `feature_maps` `(B, D, H', W')`, one of each of `config.out_features`."""
        outputs = self.base_model(pixel_values, output_hidden_states=True)
        maps = zip(self.stage_names, outputs.feature_maps)
        return BackboneOutput(
            feature_maps=tuple(feature_map for name, feature_map in maps if name in self.out_features),
            hidden_states=outputs.hidden_states if output_hidden_states else None,
        )


class E2EForImageClassification(E2EPreTrainedModel):
    """Classes and mass from one backbone; a subclass sets `self.<base_model_prefix>` and `self.head`."""

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers; the folder also holds `pipeline("e2e-jets")`."""
        from .pipeline_e2e import E2EJetsPipeline  # importing transformers' pipelines takes a second

        module = E2EJetsPipeline.__module__.rpartition(".")[2]
        implementation = {"impl": f"{module}.E2EJetsPipeline", "pt": ["AutoModelForImageClassification"]}
        self.config.custom_pipelines = {"e2e-jets": implementation}
        super().save_pretrained(save_directory, **kwargs)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        aux_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        mass_labels: torch.Tensor | None = None,
        mass_weights: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> E2EOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
                Images in network units, from [`E2EImageProcessor`].
            aux_values (`torch.Tensor` of shape `(batch_size, config.num_aux_features)`, *optional*):
                Standardised scalars.
            labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Class indices; -100 drops out of the loss.
            mass_labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Masses in GeV; NaN drops out of the loss.
            mass_weights (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Weights of the samples in the mass loss.
            output_hidden_states (`bool`, *optional*): Return the tokens of each stage as well.
            return_dict (`bool`, *optional*): Return a tuple of the computed fields if false.

        Raises:
            ValueError: if the number of channels, or the shape of `aux_values`, is not what the configuration says.
        """
        outputs = self.base_model(pixel_values, output_hidden_states=output_hidden_states)
        logits, mass_outputs = self.head(outputs.pooler_output, aux_values, outputs.last_hidden_state, pixel_values)
        loss, classification_loss, mass_loss = e2e_loss(
            self.config, logits, mass_outputs, labels, mass_labels, mass_weights, self.head.loss_log_variances
        )
        mass_preds, mass_scale_preds = mass_in_gev(self.config, mass_outputs)
        return E2EOutput(
            loss=loss,
            logits=logits,
            mass_preds=mass_preds,
            mass_scale_preds=mass_scale_preds,
            classification_loss=classification_loss,
            mass_loss=mass_loss,
            mass_outputs=mass_outputs,
            hidden_states=outputs.hidden_states,
        )
