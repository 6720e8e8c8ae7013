"""A deep set over the tokens of 5 x 5 patches: the smallest model that trains like ours."""

import torch
from e2evit.modeling.configuration_e2e import E2EConfig
from e2evit.modeling.modeling_e2e import E2EForImageClassification, E2EModelOutput, E2EPreTrainedModel
from e2evit.modeling.modeling_head import E2EHead
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification
from transformers.utils import can_return_tuple


@strict
class DeepSetConfig(E2EConfig):
    model_type = "deep_set"
    hidden_size: int = 64
    patch_size: int = 5


class DeepSetPreTrainedModel(E2EPreTrainedModel):
    config: DeepSetConfig
    config_class = DeepSetConfig
    base_model_prefix = "deep_set"
    supports_gradient_checkpointing = False


class DeepSetModel(DeepSetPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.patches = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size)
        self.layers = nn.Sequential(nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size), nn.GELU())
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool | None = None, **kwargs
    ) -> E2EModelOutput:
        """`pixel_values` `(B, C, H, W)` in network units."""
        self.wants_hidden_states(output_hidden_states, kwargs)  # it has none; checks the keywords
        tokens = self.layers(self.patches(pixel_values).flatten(2).transpose(1, 2))  # [B, N, D]
        return E2EModelOutput(last_hidden_state=tokens, pooler_output=tokens.mean(dim=1))


class DeepSetForImageClassification(DeepSetPreTrainedModel, E2EForImageClassification):
    def __init__(self, config):
        super().__init__(config)
        self.deep_set = DeepSetModel(config)
        self.head = E2EHead(config, config.hidden_size)
        self.post_init()


AutoConfig.register(DeepSetConfig.model_type, DeepSetConfig)
AutoModel.register(DeepSetConfig, DeepSetModel)
AutoModelForImageClassification.register(DeepSetConfig, DeepSetForImageClassification)
