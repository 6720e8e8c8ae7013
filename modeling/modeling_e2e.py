"""What all models share: outputs, initialisation, and the pass through backbone and heads.

Letters in shape comments, in every file: `B` batch, `C` detector channels, `H W` pixels or tokens
(eta, phi), `N` tokens, `h` heads, `d` width of a head, `D` hidden size.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import ModelOutput, TransformersKwargs, can_return_tuple

from .modeling_head import E2EHead, containment_loss, e2e_loss, mass_in_gev
from .modeling_trainer import add_loss_to_smoothed, shown_to_trainer, zero_loss

__all__ = [
    "E2EBackbone",
    "E2EForImageClassification",
    "E2EModelOutput",
    "E2EOutput",
    "E2EPreTrainedModel",
    "TokenStates",
]

# keywords of transformers' models, which ours accept as they do
KEYWORDS = {*TransformersKwargs.__annotations__, "interpolate_pos_encoding", "use_cache"}


@dataclass
class E2EModelOutput(ModelOutput):
    r"""What a bare `*Model` returns.

    Args:
        last_hidden_state (`torch.Tensor` of shape `(batch_size, num_tokens, hidden_size)`):
            Tokens after the last layer norm, in row-major order of the grid (eta, phi).
        pooler_output (`torch.Tensor` of shape `(batch_size, hidden_size)`):
            One vector per image, which the heads read.
        hidden_states (`tuple[torch.Tensor, ...]`):
            With `output_hidden_states`: the tokens `(batch_size, num_tokens, hidden_size)` after the stem, then after
            each stage (LinearViT) or block (XCiT).
        feature_maps (`tuple[torch.Tensor, ...]`):
            With `output_hidden_states`: the same tokens as images `(batch_size, hidden_size, height, width)`, as
            transformers' backbones return them; views, not copies.
        attentions (`tuple[torch.Tensor, ...]`):
            With `output_attentions`, those of a wrapped model that has them; see `attention_maps` for the others.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    feature_maps: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class TokenStates:
    """The tokens after the stem and each stage, kept where the gradient passes.

    Continue with what `keep` returns: it is computed from the kept states, so that gradients of the result reach them
    (Grad-CAM). All three are views of one tensor.
    """

    def __init__(self, wanted: bool):
        self.wanted, self.hidden_states, self.feature_maps = wanted, [], []

    def keep(self, grid: torch.Tensor) -> torch.Tensor:
        """`grid` `(B, H, W, D)`, the same tokens."""
        if not self.wanted:
            return grid
        self.hidden_states.append(grid.flatten(1, 2))
        self.feature_maps.append(self.hidden_states[-1].transpose(1, 2).unflatten(2, grid.shape[1:3]))
        return self.feature_maps[-1].permute(0, 2, 3, 1)

    def fields(self) -> dict[str, tuple[torch.Tensor, ...]]:
        """Those of [`E2EModelOutput`]."""
        if not self.wanted:
            return {}
        return {"hidden_states": tuple(self.hidden_states), "feature_maps": tuple(self.feature_maps)}


@dataclass
class E2EOutput(ModelOutput):
    r"""What every `*ForImageClassification` returns; a field that was not computed is `None`.

    Args:
        loss (`torch.Tensor` of shape `()`):
            `classification_loss + config.mass_loss_weight * mass_loss`, or a sum with learned weights
            (`config.loss_weighting`), plus `containment_loss`, over the targets passed.
        logits (`torch.Tensor` of shape `(batch_size, config.num_labels)`):
            Class scores before the softmax, in the order of `config.id2label`.
        mass_preds (`torch.Tensor` of shape `(batch_size,)`):
            Mass in GeV: the network's standardised output, scaled with `config.mass_mean` and `mass_std`.
        mass_scale_preds (`torch.Tensor` of shape `(batch_size,)`):
            One standard deviation of that mass in GeV, unless `config.mass_loss` is `"huber"`; training calibrates it
            on validation jets (`config.mass_temperature`).
        classification_loss, mass_loss (`torch.Tensor` of shape `()`):
            Terms of `loss`, for logging. Both are dimensionless: `mass_loss` is of standardised masses.
        mass_outputs (`torch.Tensor` of shape `(batch_size, 1, 2 or 3)`):
            The mass head's output on the standardised scale; [`mass_in_gev`] reads it.
        hidden_states, attentions (`tuple[torch.Tensor, ...]`):
            As in [`E2EModelOutput`].
        containment_logits (`torch.Tensor` of shape `(batch_size,)`):
            With `config.containment`, the log-odds that the jet contains all decay products of its heavy particle;
            without meaning for jets that come from none.
        containment_loss (`torch.Tensor` of shape `()`): Its term of `loss`, a binary cross-entropy.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mass_preds: torch.Tensor | None = None
    mass_scale_preds: torch.Tensor | None = None
    classification_loss: torch.Tensor | None = None
    mass_loss: torch.Tensor | None = None
    mass_outputs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    containment_logits: torch.Tensor | None = None
    containment_loss: torch.Tensor | None = None


def _keep_inputs(kept: dict, name: str, module, inputs: tuple) -> None:
    kept[name] = (module, *inputs)


class E2EPreTrainedModel(PreTrainedModel):
    """Initialisation, compilation, and what tools ask of any model."""

    base_model: Any  # the model without heads: a property of transformers
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # a `Trainer` divides the loss by its accumulation steps
    reads_rows = False  # whether lists of pixels may take the place of `pixel_values`
    reads_candidates = False  # whether `candidate_values` take it
    # false where the paper's code leaves convolutions at PyTorch's default
    _truncated_normal_convolutions = True

    def __init__(self, config, *args, **kwargs):
        config.validate()  # fields may have changed since it was made
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """As in transformers, but a checkpoint of this very class must hold all weights: missing ones would be random.

        A caller who asks for `output_loading_info` gets their names instead.

        Raises:
            ValueError: naming the first that it lacks; or for a model of jets in events, if `cls` is one of images.
        """
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # pyright: ignore[reportGeneralTypeIssues]
        architectures = model.config.architectures or ()
        of_events = [name for name in architectures if name.endswith("ForJetsInEvents")]
        if of_events and cls.__name__.endswith("ForImageClassification"):
            raise ValueError(
                f"{model.name_or_path} predicts the jets of whole events: load it with "
                f"`{of_events[0]}.from_pretrained`, and pass the jets too."
            )
        missing = sorted(info["missing_keys"])
        if missing and not output_loading_info and cls.__name__ in architectures:
            raise ValueError(f"{model.name_or_path} lacks {len(missing)} of its weights, such as {missing[0]}.")
        return (model, info) if output_loading_info else model

    def base_outputs(self, *args, **kwargs) -> Any:
        """The outputs of `base_model` by name, whatever `config.return_dict` asks of this model."""
        by_name = {} if self.config.return_dict else {"return_dict": True}
        return self.base_model(*args, **kwargs, **by_name)

    def wants_hidden_states(self, output_hidden_states: bool | None, keywords: dict) -> bool:
        """Whether to return hidden states, by default as the configuration says; checks the other keywords of a call.

        As in transformers, those that do not concern a model are accepted.
        """
        if unknown := keywords.keys() - KEYWORDS:
            raise TypeError(f"{type(self).__name__} does not know {', '.join(sorted(unknown))}.")
        if keywords.get("output_attentions", self.config.output_attentions):
            raise ValueError(f"{type(self).__name__} returns no attentions: see `attention_maps`.")
        return bool(self.config.output_hidden_states if output_hidden_states is None else output_hidden_states)

    def compile(self, *args, **kwargs):
        """Like `nn.Module.compile`, but on CPUs inductor is told to keep layouts: near a convolution it mistakes
        each grid of tokens `(B, H, W, D)` for an image of H channels and changes its layout."""
        if self.device.type == "cpu" and not args and not kwargs:
            kwargs["options"] = {"layout_optimization": False}
        super().compile(*args, **kwargs)

    def get_input_embeddings(self):
        """The module that turns an image into tokens, if there is one: what transformers and FSDP call embeddings."""
        return None if self.base_model is self else self.base_model.get_input_embeddings()

    def block_names(self) -> list[str]:
        """Names of the residual blocks of `base_model`, from the stem to the heads, for layer-wise learning rates."""
        return []

    def parameter_depths(self) -> dict[str, int]:
        """Depth of each parameter, for layer-wise learning rates.

        0 up to the first block, i in the i-th block, one more than the last after it (the final norm and the heads). A
        parameter between two blocks has the depth of the first of them.
        """
        prefix = "" if self.base_model is self else f"{self.base_model_prefix}."
        blocks = [f"{prefix}{name}." for name in self.base_model.block_names()]
        depth, depths = 0, {}
        for name, _ in self.named_parameters():
            own = next((number for number, block in enumerate(blocks, 1) if name.startswith(block)), None)
            depth = max(depth, own or 0)
            depths[name] = own or depth + (depth == len(blocks))
        return depths

    def attention_maps(
        self, pixel_values: torch.Tensor, token: tuple[int, int] | None = None
    ) -> dict[str, torch.Tensor]:
        """The weights of each attention module, by the module's name.

        * class attention (XCiT): `(B, h, H, W)`, the weights of the patches; the class token gets the rest;
        * cross-covariance attention: `(B, h, d, d)`, the weights between channels;
        * attention over the whole grid (LinearViT): `(B, h, H, W)`, the row of `token` in the N x N attention matrix.
          The matrix is never computed: the row is the derivative of the token's result with respect to the values.

        Runs one forward pass; call it in evaluation mode.

        Args:
            pixel_values: `(B, C, H, W)` in network units.
            token: Row (eta) and column (phi) on the grid of the first stage, the centre by default; deeper stages use
                the token at the same place.

        Raises:
            ValueError: if `token` is outside the grid, or the model has no attention with a known map.
        """
        inputs, handles = {}, []
        for name, module in self.named_modules():
            if hasattr(module, "attention_map"):
                handles.append(module.register_forward_pre_hook(partial(_keep_inputs, inputs, name)))
        if not handles:
            raise ValueError(f"{type(self).__name__} has no attention module with a known map.")
        try:
            with torch.no_grad():
                feature_maps = self.base_outputs(pixel_values, output_hidden_states=True).feature_maps
        finally:
            for handle in handles:
                handle.remove()
        grid = (feature_maps or [pixel_values])[0].shape[2:]  # HitViT's tokens are pixels
        row, column = (side // 2 for side in grid) if token is None else token
        if not (0 <= row < grid[0] and 0 <= column < grid[1]):
            raise ValueError(f"`token` is (row, column) on a grid of {grid[0]} x {grid[1]}, got {token}.")
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
    """Feature maps of selected stages, for `AutoBackbone`.

    A subclass sets `self.<base_model_prefix>` and `self.num_features`, the channels of each stage.
    """

    has_attentions = False  # none are returned; see `attention_maps`
    base_model: Any
    base_outputs: Any

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool | None = None, **kwargs
    ) -> BackboneOutput:
        """`pixel_values` `(B, C, H, W)`; `feature_maps` `(B, D, H', W')`, one for each of `config.out_features`."""
        wanted = self.base_model.wants_hidden_states(output_hidden_states, kwargs)
        outputs = self.base_outputs(pixel_values, output_hidden_states=True)
        maps = zip(self.stage_names, outputs.feature_maps)
        return BackboneOutput(
            feature_maps=tuple(feature_map for name, feature_map in maps if name in self.out_features),
            hidden_states=outputs.hidden_states if wanted else None,
        )


class E2EForImageClassification(E2EPreTrainedModel):
    """Class and mass from one backbone; a subclass sets `self.<base_model_prefix>` and `self.head`."""

    head: E2EHead

    @property
    def accepts_loss_kwargs(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """False, as in the base class. Only a `Trainer` asks, when it is made."""
        add_loss_to_smoothed(E2EOutput)
        return False

    @shown_to_trainer
    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        aux_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        mass_labels: torch.Tensor | None = None,
        mass_weights: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        containment_labels: torch.Tensor | None = None,
        **kwargs,
    ) -> E2EOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
                Images in network units, from [`E2EImageProcessor`].
            aux_values (`torch.Tensor` of shape `(batch_size, config.num_aux_features)`, *optional*):
                Standardised scalars.
            labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Class indices; -100 is left out of the loss. For other values of `config.problem_type`, numbers of the
                shape of the logits; NaN is left out.
            mass_labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Masses in GeV; NaN is left out of the loss.
            mass_weights (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Weights of the samples in the mass loss.
            output_hidden_states (`bool`, *optional*): Also return the tokens of each stage.
            containment_labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                With `config.containment`: 1 for jets that contain all of the decay, 0 for others; NaN is left out.
            return_dict (`bool`, *optional*): If false, return a tuple of the computed fields.

        Raises:
            ValueError: if the number of channels, the shape of `aux_values` or the targets do not match the
                configuration.
        """
        outputs = self.base_outputs(pixel_values, output_hidden_states=output_hidden_states, **kwargs)
        predictions = self.head(outputs.pooler_output, aux_values, outputs.last_hidden_state, pixel_values)
        return self.with_losses(outputs, predictions, labels, mass_labels, mass_weights, containment_labels)

    def with_losses(
        self, outputs, predictions, labels, mass_labels, mass_weights, containment_labels=None
    ) -> E2EOutput:
        """What `forward` returns for `outputs` of the backbone and `predictions` of the head."""
        logits, mass_outputs, log_variances, containment_logits = predictions
        loss, classification_loss, mass_loss = e2e_loss(
            self.config, logits, mass_outputs, labels, mass_labels, mass_weights, log_variances
        )
        of_containment = containment_loss(containment_logits, containment_labels)
        if of_containment is not None:
            loss = of_containment if loss is None else loss + of_containment
        if self.training and loss is not None:
            if labels is None:
                loss = loss + zero_loss(logits)
            if mass_labels is None:
                loss = loss + zero_loss(mass_outputs)
            if containment_logits is not None and containment_labels is None:
                loss = loss + zero_loss(containment_logits)
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
            attentions=outputs.attentions,
            containment_logits=containment_logits,
            containment_loss=of_containment,
        )
