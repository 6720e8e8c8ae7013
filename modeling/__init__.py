"""Models, configurations, image processor and pipelines, registered with transformers on import."""

if __name__ == "modeling":
    raise ImportError(
        "`import modeling` from the repository root would make a second, unequal set of classes; "
        "install the package (`pip install -e .`) and `import e2evit.modeling`."
    )

from dataclasses import dataclass

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    AutoModelForObjectDetection,
)
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_baseline import BaselineConfig
from .configuration_candidates import (
    CandidatesConfig,
    ParticleFlowNetworkConfig,
    ParticleNetConfig,
    ParticleTransformerConfig,
)
from .configuration_e2e import E2EConfig
from .configuration_hitvit import HitViTConfig
from .configuration_linearvit import LinearViTConfig
from .configuration_xcit import XCiTConfig
from .image_processing_e2e import E2EImageProcessor
from .modeling_baseline import BaselineForImageClassification, BaselineModel
from .modeling_candidates import (
    CANDIDATE_FIELDS,
    CandidatesForJetClassification,
    CandidatesModel,
    ParticleFlowNetworkForJetClassification,
    ParticleFlowNetworkModel,
)
from .modeling_e2e import E2EForImageClassification, E2EModelOutput, E2EOutput, E2EPreTrainedModel
from .modeling_events import HitViTForJetsInEvents
from .modeling_hitvit import HitViTForImageClassification, HitViTModel
from .modeling_hitvit_masked import HitViTForMaskedImageModeling
from .modeling_linearvit import (
    LinearViTBackbone,
    LinearViTForImageClassification,
    LinearViTForMaskedImageModeling,
    LinearViTModel,
)
from .modeling_masked import E2EForMaskedImageModeling, E2EMaskedImageModelingOutput
from .modeling_particle_net import ParticleNetForJetClassification, ParticleNetModel
from .modeling_particle_transformer import ParticleTransformerForJetClassification, ParticleTransformerModel
from .modeling_xcit import XCiTBackbone, XCiTForImageClassification, XCiTForMaskedImageModeling, XCiTModel
from .pipeline_e2e import E2EFeaturesPipeline, E2EJetsPipeline

__all__ = [
    "CANDIDATE_FAMILIES",
    "CANDIDATE_FIELDS",
    "FAMILIES",
    "BaselineConfig",
    "BaselineForImageClassification",
    "BaselineModel",
    "CandidatesConfig",
    "CandidatesForJetClassification",
    "CandidatesModel",
    "E2EConfig",
    "E2EFeaturesPipeline",
    "E2EForImageClassification",
    "E2EForMaskedImageModeling",
    "E2EImageProcessor",
    "E2EJetsPipeline",
    "E2EMaskedImageModelingOutput",
    "E2EModelOutput",
    "E2EOutput",
    "E2EPreTrainedModel",
    "HitViTConfig",
    "HitViTForImageClassification",
    "HitViTForJetsInEvents",
    "HitViTForMaskedImageModeling",
    "HitViTModel",
    "LinearViTBackbone",
    "LinearViTConfig",
    "LinearViTForImageClassification",
    "LinearViTForMaskedImageModeling",
    "LinearViTModel",
    "ModelFamily",
    "ParticleFlowNetworkConfig",
    "ParticleFlowNetworkForJetClassification",
    "ParticleFlowNetworkModel",
    "ParticleNetConfig",
    "ParticleNetForJetClassification",
    "ParticleNetModel",
    "ParticleTransformerConfig",
    "ParticleTransformerForJetClassification",
    "ParticleTransformerModel",
    "XCiTBackbone",
    "XCiTConfig",
    "XCiTForImageClassification",
    "XCiTForMaskedImageModeling",
    "XCiTModel",
]


@dataclass(frozen=True)
class ModelFamily:
    """A configuration and its models.

    Args:
        title: Name of the architecture, for model cards.
        citation: Its paper.
        of_events: Classes and masses of all jets of an event.
    """

    config: type[E2EConfig]
    model: type[E2EPreTrainedModel]
    classifier: type[E2EForImageClassification]
    masked: type[E2EPreTrainedModel] | None
    backbone: type[E2EPreTrainedModel] | None
    title: str
    citation: str
    of_events: type[E2EPreTrainedModel] | None = None

    @property
    def auto_classes(self) -> dict[str, type]:
        """Classes by the Auto class of transformers that builds them."""
        classes = {
            "AutoModel": self.model,
            "AutoModelForImageClassification": self.classifier,
            "AutoModelForMaskedImageModeling": self.masked,
            "AutoBackbone": self.backbone,
            "AutoModelForObjectDetection": self.of_events,
        }
        return {name: value for name, value in classes.items() if value is not None}


_FAMILIES = (
    ModelFamily(
        LinearViTConfig,
        LinearViTModel,
        LinearViTForImageClassification,
        LinearViTForMaskedImageModeling,
        LinearViTBackbone,
        "LinearViT (L²ViT)",
        "Zheng, The Linear Attention Resurrection in Vision Transformer, arXiv 2501.16182",
    ),
    ModelFamily(
        XCiTConfig,
        XCiTModel,
        XCiTForImageClassification,
        XCiTForMaskedImageModeling,
        XCiTBackbone,
        "XCiT",
        "El-Nouby et al., XCiT: Cross-Covariance Image Transformers, arXiv 2106.09681",
    ),
    ModelFamily(
        HitViTConfig,
        HitViTModel,
        HitViTForImageClassification,
        HitViTForMaskedImageModeling,
        None,
        "HitViT",
        "this repository: no paper yet; its attention is that of XCiT, arXiv 2106.09681",
        HitViTForJetsInEvents,
    ),
    ModelFamily(
        BaselineConfig,
        BaselineModel,
        BaselineForImageClassification,
        None,
        None,
        "An image model of transformers with the heads of e2evit",
        "the paper of the wrapped model",
    ),
)
FAMILIES = {family.config.model_type: family for family in _FAMILIES}
# baselines of the field, which read candidates instead of images: they are trained and measured as the others are, but
# have neither pipeline nor card
CANDIDATE_FAMILIES = {
    config.model_type: ModelFamily(config, model, classifier, None, None, title, citation)
    for config, model, classifier, title, citation in (
        (
            ParticleTransformerConfig,
            ParticleTransformerModel,
            ParticleTransformerForJetClassification,
            "Particle Transformer",
            "Qu et al., Particle Transformer for Jet Tagging, arXiv 2202.03772",
        ),
        (
            ParticleNetConfig,
            ParticleNetModel,
            ParticleNetForJetClassification,
            "ParticleNet",
            "Qu, Gouskos, ParticleNet: Jet Tagging via Particle Clouds, arXiv 1902.08570",
        ),
        (
            ParticleFlowNetworkConfig,
            ParticleFlowNetworkModel,
            ParticleFlowNetworkForJetClassification,
            "particle flow network",
            "Komiske et al., Energy Flow Networks: Deep Sets for Particle Jets, arXiv 1810.05165",
        ),
    )
}

_AUTO_CLASSES = {
    auto_class.__name__: auto_class
    for auto_class in (
        AutoModel,
        AutoModelForImageClassification,
        AutoModelForMaskedImageModeling,
        AutoModelForObjectDetection,
        AutoBackbone,
    )
}
for _model_type, _family in (FAMILIES | CANDIDATE_FAMILIES).items():
    AutoConfig.register(_model_type, _family.config)
    AutoImageProcessor.register(_family.config, slow_image_processor_class=E2EImageProcessor)
    # there is none, but pipelines would guess its name and ask whether to run code from the checkpoint
    VIDEO_PROCESSOR_MAPPING.register(_family.config, {})  # pyright: ignore[reportArgumentType]
    for _name, _class in _family.auto_classes.items():
        _AUTO_CLASSES[_name].register(_family.config, _class)
for _task, _pipeline, _model in (
    ("e2e-jets", E2EJetsPipeline, AutoModelForImageClassification),
    ("e2e-features", E2EFeaturesPipeline, AutoModel),
):
    PIPELINE_REGISTRY.register_pipeline(_task, pipeline_class=_pipeline, pt_model=_model, type="image")
