"""Models, configurations and image processor; registered with the Auto classes of transformers on import."""

if __name__ == "modeling":
    raise ImportError(
        "`import modeling` from the repository root would make a second, unequal set of classes; "
        "install the package (`pip install -e .`) and `import e2evit.modeling`."
    )

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
)

from .configuration_baseline import BaselineConfig
from .configuration_e2e import E2EConfig
from .configuration_linearvit import LinearViTConfig
from .configuration_xcit import XCiTConfig
from .image_processing_e2e import E2EImageProcessor
from .modeling_baseline import BaselineForImageClassification, BaselineModel
from .modeling_e2e import E2EModelOutput, E2EOutput
from .modeling_linearvit import (
    LinearViTBackbone,
    LinearViTForImageClassification,
    LinearViTForMaskedImageModeling,
    LinearViTModel,
)
from .modeling_masked import E2EMaskedImageModelingOutput
from .modeling_xcit import XCiTBackbone, XCiTForImageClassification, XCiTForMaskedImageModeling, XCiTModel

__all__ = [
    "BaselineConfig",
    "BaselineForImageClassification",
    "BaselineModel",
    "E2EConfig",
    "E2EImageProcessor",
    "E2EMaskedImageModelingOutput",
    "E2EModelOutput",
    "E2EOutput",
    "LinearViTBackbone",
    "LinearViTConfig",
    "LinearViTForImageClassification",
    "LinearViTForMaskedImageModeling",
    "LinearViTModel",
    "XCiTBackbone",
    "XCiTConfig",
    "XCiTForImageClassification",
    "XCiTForMaskedImageModeling",
    "XCiTModel",
]

for _config, _model, _classifier in (
    (LinearViTConfig, LinearViTModel, LinearViTForImageClassification),
    (XCiTConfig, XCiTModel, XCiTForImageClassification),
    (BaselineConfig, BaselineModel, BaselineForImageClassification),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
    AutoModelForImageClassification.register(_config, _classifier)
    AutoImageProcessor.register(_config, slow_image_processor_class=E2EImageProcessor)
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
    _classifier.register_for_auto_class("AutoModelForImageClassification")
for _config, _masked in (
    (LinearViTConfig, LinearViTForMaskedImageModeling),
    (XCiTConfig, XCiTForMaskedImageModeling),
):
    AutoModelForMaskedImageModeling.register(_config, _masked)
    _masked.register_for_auto_class("AutoModelForMaskedImageModeling")
AutoBackbone.register(LinearViTConfig, LinearViTBackbone)
AutoBackbone.register(XCiTConfig, XCiTBackbone)
E2EImageProcessor.register_for_auto_class("AutoImageProcessor")
