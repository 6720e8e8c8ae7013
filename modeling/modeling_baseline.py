"""Baselines: any image model of transformers (ViT, Swin, ConvNeXtV2, ResNet, ...) behind our heads."""

import torch
from transformers import AutoModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import can_return_tuple

from .configuration_baseline import BaselineConfig
from .modeling_checkpointing import update_statistics_once
from .modeling_e2e import E2EForImageClassification, E2EModelOutput, E2EPreTrainedModel
from .modeling_head import E2EHead
from .modeling_precision import widen_layer_norms
from .modeling_stem import PixelEmbedding

__all__ = ["BaselineForImageClassification", "BaselineModel", "BaselinePreTrainedModel"]


class BaselinePreTrainedModel(E2EPreTrainedModel):
    config: BaselineConfig
    config_class = BaselineConfig
    base_model_prefix = "baseline"
    _supports_sdpa = True
    supports_gradient_checkpointing = False  # unless the wrapped model does


class BaselineModel(BaselinePreTrainedModel):
    """The wrapped model, with its tokens or pixels averaged to one vector."""

    def __init__(self, config):
        super().__init__(config)
        self.pixels = PixelEmbedding(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        pooler = getattr(self.backbone, "pooler", None)
        if pooler is not None and any(True for _ in pooler.parameters()):
            self.backbone.pooler = None  # a projection of the class token; we average tokens
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        widen_layer_norms(self.backbone)
        update_statistics_once(self.backbone)
        self.post_init()

    def block_names(self):
        """Layers that transformers can checkpoint, the innermost ones; a ResNet or ConvNeXt has none."""
        names = [name for name, module in self.named_modules() if isinstance(module, GradientCheckpointingLayer)]
        return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> E2EModelOutput:
        """`pixel_values` `(B, C, H, W)` of the configured size; see [`E2EModelOutput`]."""
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        # the wrapped model returns attentions
        wanted = self.wants_hidden_states(output_hidden_states, kwargs | {"output_attentions": False})
        if pixel_values.shape[0] == 0:
            raise ValueError("The models of transformers need at least one image, got an empty batch.")
        pixels = self.pixels(pixel_values).to(next(self.backbone.parameters()).dtype)
        asked = {"output_attentions": True} if output_attentions else {}
        selected = output_hidden_states or wanted  # transformers' own models also take a list of layers
        outputs = self.backbone(pixels, output_hidden_states=selected, return_dict=True, **asked)
        tokens = outputs.last_hidden_state
        pooled = outputs.pooler_output  # normalised, if the model has a norm after its own average
        if tokens.ndim == 4:  # convolutional models return an image
            tokens = tokens.flatten(2).transpose(1, 2)  # [B, N, D]
        return E2EModelOutput(
            last_hidden_state=tokens,
            pooler_output=tokens.mean(dim=1) if pooled is None else pooled.flatten(1),
            hidden_states=outputs.hidden_states if wanted else None,
            attentions=outputs.get("attentions"),
        )


class BaselineForImageClassification(BaselinePreTrainedModel, E2EForImageClassification):
    """A transformers image model with class and mass heads."""

    def __init__(self, config):
        super().__init__(config)
        self.baseline = BaselineModel(config)
        self.supports_gradient_checkpointing = self.baseline.supports_gradient_checkpointing
        self.head = E2EHead(config, config.hidden_size)
        self.post_init()
