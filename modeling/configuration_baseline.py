"""Configuration of the baselines: any image model of transformers with the E2E heads."""

from transformers import AutoConfig, PreTrainedConfig

from .configuration_e2e import E2EConfig
from .limits_e2e import COUNTS, POSITIVE, REAL, Limits, check_limits, strict_config

__all__ = ["BaselineConfig"]

IMAGE_FIELDS = {"num_channels", "image_size", "pixel_features", "pixel_hidden_size"}


@strict_config
class BaselineConfig(E2EConfig):
    r"""A transformers image model (ViT, Swin, ConvNeXtV2, ResNet, ...) that reads E2E images.

    Args:
        backbone_config (`PreTrainedConfig` or `dict`):
            Configuration of the image model; a dictionary needs its `model_type`. `num_channels` and `image_size`
            default to those of the E2E image and must match it if given. A small ViT by default.
    """

    model_type = "e2e_baseline"
    sub_configs = {"backbone_config": AutoConfig}  # pyright: ignore[reportAssignmentType]

    backbone_config: PreTrainedConfig | dict | None = None

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As in transformers, but what an override changes of the image holds for the wrapped model too; one of
        `backbone_config` without a `model_type` changes single fields of it."""
        stored, changed = config_dict.get("backbone_config"), kwargs.get("backbone_config", {})
        if isinstance(stored, dict) and isinstance(changed, dict) and "model_type" not in changed:
            stale = {"num_channels", "image_size"} if IMAGE_FIELDS & kwargs.keys() else set()
            kwargs["backbone_config"] = {key: value for key, value in stored.items() if key not in stale} | changed
        return super().from_dict(config_dict, **kwargs)

    def __post_init__(self, **kwargs):
        self.validate_image()
        if self.backbone_config is None:
            self.backbone_config = {
                "model_type": "vit",
                "hidden_size": 96,
                "num_hidden_layers": 6,
                "num_attention_heads": 4,
                "intermediate_size": 384,
                "patch_size": 5,
            }
        if isinstance(self.backbone_config, dict):
            fields = dict(self.backbone_config)
            if "model_type" not in fields:
                raise ValueError(f"`backbone_config` needs a `model_type`, got the keys {sorted(fields)}.")
            model_type = fields.pop("model_type")
            for name, value in fields.items():
                if _is_numeric(value):
                    check_limits(name, value, _limits_of(name))
            height, width = self.image_shape
            image = {"num_channels": self.num_inputs, "image_size": height if height == width else [height, width]}
            known = type(AutoConfig.for_model(model_type)).__dataclass_fields__
            image = {name: value for name, value in image.items() if name in known}
            self.backbone_config = AutoConfig.for_model(model_type, **(image | fields))
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the tokens that the wrapped model returns."""
        sizes = getattr(self.backbone_config, "hidden_sizes", None)
        return sizes[-1] if sizes else getattr(self.backbone_config, "hidden_size")  # noqa: B009

    @property
    def num_weights(self) -> int:
        backbone = self.backbone_config
        blocks, width = (getattr(backbone, name, 0) for name in ("num_hidden_layers", "hidden_size"))
        return blocks * width * (4 * width + 2 * getattr(backbone, "intermediate_size", 0))

    def validate_backbone(self):
        backbone = self.backbone_config
        assert isinstance(backbone, PreTrainedConfig)
        if backbone.num_channels != self.num_inputs:
            raise ValueError(
                f"The backbone reads {backbone.num_channels} channels but the images have {self.num_inputs}: "
                "give `backbone_config` and `BaselineConfig` the same `num_channels`."
            )
        size = getattr(backbone, "image_size", None)
        expected = (size, size) if isinstance(size, int) else size and tuple(size)
        if expected and expected != self.image_shape:
            raise ValueError(
                f"The backbone reads images of {expected} pixels but these have {self.image_shape}: "
                "give `backbone_config` and `BaselineConfig` the same `image_size`."
            )


def _is_numeric(value) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in values)


def _limits_of(name: str) -> Limits:
    """Limits of a field by the habits of transformers' names."""
    if name in ("depths", "num_hidden_layers", "num_layers"):
        return COUNTS["blocks"]
    if name == "num_labels":
        return COUNTS["labels"]
    if name.endswith(("_size", "_sizes", "_dim", "heads")):
        return COUNTS["width"]
    if name.endswith("_eps"):
        return POSITIVE
    return COUNTS["features"] if name.startswith("num_") else REAL
