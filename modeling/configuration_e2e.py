"""What all configurations share: the detector image, the mass scale and the two heads."""

from math import log, prod
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

__all__ = ["E2EConfig"]


@strict
class E2EConfig(PreTrainedConfig):
    r"""Fields that every E2E model has, whatever its backbone.

    Args:
        image_size (`int` or `tuple[int, int]`):
            Height (eta) and width (phi) in pixels, or one number for a square. LinearViT and XCiT accept other sizes
            too; this is the size they are made for.
        num_channels (`int`): Detector layers of the image.
        channel_names (`tuple[str, ...]`, *optional*): Their names in order, e.g. `("trk_pt", "trk_d0", ...)`.
        num_aux_features (`int`):
            Number of scalars besides the image (`aux_values`), e.g. the standardised log pT; they enter both heads.
        pixel_features (`bool`):
            Show the network every channel three times: compressed, as the processor returns it; its absolute value,
            because signed impact parameters cancel in the first convolution's sum over a patch; and linear, so that
            this sum is an energy.
        pixel_hidden_size (`int`):
            Width of a layer that sees the channels of a single pixel before the first convolution sums over a patch:
            whether a track is displaced depends on d0 and dz together, which the sum hides. 0 for no such layer.
        energy_pooling (`bool`):
            Add a second pooling to the backbone's own: tokens weighted by their patches' content ([`EnergyPooling`]).
        log_mass (`bool`): Predict the logarithm of the mass, so that the loss counts relative errors.
        mass_mean (`float`, *optional*):
            Mean mass of the training jets [GeV], or with `log_mass` mean of ln(mass / GeV); 100 or ln 100 by default.
        mass_std (`float`, *optional*): Standard deviation of the same; 50, or with `log_mass` 0.5, by default.
        mass_loss (`str`):
            `"huber"`; `"gaussian"`, a negative log-likelihood with a predicted width; `"quantile"`, the pinball loss
            of the 16, 50 and 84 % quantiles. The last two predict `mass_scale_preds`.
        mass_temperature (`float`): Factor on `mass_scale_preds`, calibrated on validation jets.
        loss_weighting (`str`):
            `"fixed"`: the mass loss has weight `mass_loss_weight`; `"uncertainty"`: both terms have learned weights.
        mass_loss_weight (`float`): Weight of the mass loss relative to the cross-entropy; 0 makes a pure classifier.
        label_smoothing (`float`): Fraction of the target probability that is spread over all classes.
        class_weights (`tuple[float, ...]`, *optional*): Weights of the classes in the cross-entropy.
        initializer_range (`float`): Standard deviation of the truncated normal initialisation.
    """

    image_size: int | tuple[int, int] | list[int] = 125
    num_channels: int = 8
    channel_names: tuple[str, ...] | list[str] | None = None
    num_aux_features: int = 0
    pixel_features: bool = False
    pixel_hidden_size: int = 0
    energy_pooling: bool = False
    mass_mean: float | int | None = None
    mass_std: float | int | None = None
    log_mass: bool = False
    mass_loss: Literal["huber", "gaussian", "quantile"] = "huber"
    mass_temperature: float | int = 1.0
    loss_weighting: Literal["fixed", "uncertainty"] = "fixed"
    mass_loss_weight: float | int = 1.0
    label_smoothing: float | int = 0.0
    class_weights: tuple[float, ...] | list[float] | None = None
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs):
        if self.mass_mean is None:
            self.mass_mean = log(100.0) if self.log_mass else 100.0
        if self.mass_std is None:
            self.mass_std = 0.5 if self.log_mass else 50.0
        # a class that does not come from the checkpoint's code will not save that code
        if self._auto_class is None:
            for name in ("auto_map", "custom_pipelines"):
                kwargs.pop(name, None)
        super().__post_init__(**kwargs)

    @property
    def num_inputs(self) -> int:
        """Number of channels that the first layer sees."""
        return self.pixel_hidden_size or self.num_pixel_features

    @property
    def num_pixel_features(self) -> int:
        """Number of values per pixel, before `pixel_hidden_size`."""
        return self.num_channels * (3 if self.pixel_features else 1)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height (eta) and width (phi) in pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else tuple(size)  # pyright: ignore[reportReturnType]

    def validate_image(self):
        if len(self.image_shape) != 2 or prod(self.image_shape) <= 0 or min(self.image_shape) <= 0:
            raise ValueError(f"`image_size` is one positive side or (height, width), got {self.image_size}.")
        if self.channel_names is not None and len(self.channel_names) != self.num_channels:
            raise ValueError(
                f"`channel_names` needs one name for each of the {self.num_channels} channels (`num_channels`), "
                f"got {len(self.channel_names)}: {', '.join(self.channel_names)}."
            )

    def validate_mass_scale(self):
        if self.mass_std is None or self.mass_std <= 0:
            raise ValueError(f"`mass_std` [GeV] must be positive, got {self.mass_std}.")
        if self.mass_temperature <= 0:
            raise ValueError(f"`mass_temperature` must be positive, got {self.mass_temperature}.")

    def validate_loss(self):
        if self.mass_loss_weight < 0:
            raise ValueError(f"`mass_loss_weight` must not be negative, got {self.mass_loss_weight}.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"`label_smoothing` is at least 0 and below 1, got {self.label_smoothing}.")
        if self.mass_loss == "gaussian" and self.loss_weighting == "uncertainty":
            raise ValueError(
                "A negative log-likelihood has no lower bound, so a learned weight would grow without limit: combine "
                '`mass_loss="gaussian"` with `loss_weighting="fixed"`.'
            )
        if self.class_weights is not None and (
            len(self.class_weights) != self.num_labels or min(self.class_weights) <= 0
        ):
            raise ValueError(
                f"`class_weights` needs one positive number for each of the {self.num_labels} classes, "
                f"got {self.class_weights}."
            )
