"""What all configurations share: the detector image, the mass scale and the heads."""

from collections.abc import Mapping
from math import log, prod
from typing import Literal

from transformers import PreTrainedConfig

from .limits_e2e import (
    COUNTS,
    FRACTION,
    MAX_WEIGHTS,
    NON_NEGATIVE,
    POSITIVE,
    REAL,
    check_limits,
    limited,
    strict_config,
)

__all__ = ["E2EConfig"]

EXCLUSIVE = (None, "single_label_classification")  # values of `problem_type`
PROBLEM_TYPES = (*EXCLUSIVE, "multi_label_classification", "regression")
MAX_LOG_MASS = 40  # of ln(mass / GeV): its exponential is a finite mass
# an override of the first alone makes the stored value of the second stale
STALE = {"id2label": "label2id", "label2id": "id2label", "out_features": "out_indices", "out_indices": "out_features"}


@strict_config
class E2EConfig(PreTrainedConfig):
    r"""Fields that every E2E model has, whatever its backbone.

    Numbers have limits (`limits_e2e.py`); one outside of them, NaN included, is a `ValueError`.

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
        containment (`bool`):
            Also estimate whether the jet contains all decay products of its heavy particle (`containment_logits`).
        label_smoothing (`float`): Fraction of the target probability that is spread over all classes.
        class_weights (`tuple[float, ...]`, *optional*): Weights of the classes in the cross-entropy.
        problem_type (`str`, *optional*):
            What `labels` are, as in transformers: `"single_label_classification"`, `"multi_label_classification"` or
            `"regression"`. By default, one output is a regression, and several with floating-point labels are
            multi-label.
        initializer_range (`float`): Standard deviation of the truncated normal initialisation.
    """

    # `Trainer` returns the others as predictions: logits and masses
    keys_to_ignore_at_inference = [
        *("loss", "mass_scale_preds", "classification_loss", "mass_loss", "mass_outputs"),
        *("containment_logits", "containment_loss"),
        *("hidden_states", "attentions"),
    ]

    image_size: int | tuple[int, int] | list[int] = limited(125, COUNTS["pixels"])
    num_channels: int = limited(8, COUNTS["channels"])
    channel_names: tuple[str, ...] | list[str] | None = None
    num_aux_features: int = limited(0, COUNTS["features"])
    pixel_features: bool = False
    pixel_hidden_size: int = limited(0, COUNTS["features"])
    energy_pooling: bool = False
    mass_mean: float | int | None = limited(None, REAL)
    mass_std: float | int | None = limited(None, POSITIVE)
    log_mass: bool = False
    mass_loss: Literal["huber", "gaussian", "quantile"] = "huber"
    mass_temperature: float | int = limited(1.0, POSITIVE)
    loss_weighting: Literal["fixed", "uncertainty"] = "fixed"
    mass_loss_weight: float | int = limited(1.0, NON_NEGATIVE)
    containment: bool = False
    label_smoothing: float | int = limited(0.0, FRACTION)
    class_weights: tuple[float, ...] | list[float] | None = limited(None, POSITIVE)
    initializer_range: float | int = limited(0.02, NON_NEGATIVE)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As in transformers, but overrides become fields before the others are derived and all are checked."""
        # properties without a setter: as fields they are refused
        derived = {name for name in kwargs if getattr(getattr(cls, name, None), "fset", "") is None}
        known = {*cls.__dataclass_fields__, *STALE, *derived} - {"dtype"}  # which may be "auto"
        overrides = {name: kwargs.pop(name) for name in known & kwargs.keys()}
        stale = {STALE[name] for name in overrides if name in STALE} - overrides.keys()
        stored = config_dict.get("id2label")
        if stored and "id2label" not in overrides and kwargs.get("num_labels", len(stored)) != len(stored):
            stale |= {"id2label", "label2id"}
        return super().from_dict({k: v for k, v in config_dict.items() if k not in stale} | overrides, **kwargs)

    def __setattr__(self, name, value):
        known = type(self).__dataclass_fields__.get(name)
        if known is not None and "limits" in known.metadata:
            check_limits(name, value, known.metadata["limits"])
        super().__setattr__(name, value)

    def __post_init__(self, **kwargs):
        self._settle_labels(kwargs.get("num_labels"))
        if self.mass_mean is None:
            self.mass_mean = log(100.0) if self.log_mass else 100.0
        if self.mass_std is None:
            self.mass_std = 0.5 if self.log_mass else 50.0
        # a class that does not come from the checkpoint's code will not save that code
        if self._auto_class is None:
            for name in ("auto_map", "custom_pipelines"):
                kwargs.pop(name, None)
        try:
            super().__post_init__(**kwargs)
        except (AttributeError, TypeError) as error:  # of transformers' own fields
            raise ValueError(f"The configuration has an invalid field: {error}.") from error

    def _settle_stages(self, number: int, fields: dict) -> None:
        """Name the stages of a backbone, and choose those it returns, from `fields`; by default the last one."""
        stored = fields.pop("stage_names", None) or []
        self.stage_names = ["stem", *(f"stage{i + 1}" for i in range(number))]
        features, indices = fields.pop("out_features", None), fields.pop("out_indices", None)
        if features and features == stored[-1:]:
            features = indices = None  # the default, perhaps of a model with more stages
        if features and all(name in stored for name in features):
            # the first XCiT checkpoints name a stage after its block
            features = [name.replace("block", "stage") for name in features]
        self.set_output_features_output_indices(out_features=features, out_indices=indices)

    def _settle_labels(self, num_labels: int | None) -> None:
        """Check the classes, and derive `id2label` or `label2id` if only the other is given."""
        check_limits("num_labels", num_labels, COUNTS["labels"])
        if self.id2label is None and isinstance(self.label2id, Mapping):
            self.id2label = {number: name for name, number in self.label2id.items()}  # pyright: ignore
        if self.id2label is None:
            return
        if not isinstance(self.id2label, Mapping):
            raise ValueError(f"`id2label` must map numbers to class names, got {str(self.id2label)[:200]}.")
        names = {str(number): name for number, name in self.id2label.items()}
        check_limits("num_labels", len(names), COUNTS["labels"])
        if names.keys() != {str(number) for number in range(len(names))}:
            raise ValueError(
                f"`id2label` must number its {len(names)} classes from 0 to {len(names) - 1}, got "
                f"{', '.join(list(names)[:20])}."
            )
        if num_labels not in (None, len(names)):
            raise ValueError(f"`num_labels` is {num_labels}, but `id2label` names {len(names)} classes.")
        numbers = {name: int(number) for number, name in names.items()}
        if len(numbers) < len(names):
            raise ValueError(f"`id2label` gives two classes one name, got {', '.join(list(names.values())[:20])}.")
        if self.label2id is None:
            self.label2id = numbers
        elif {name: str(number) for name, number in self.label2id.items()} != {n: i for i, n in names.items()}:
            raise ValueError(f"`label2id` must be the inverse of `id2label`, got {str(self.label2id)[:200]}.")

    @property
    def has_exclusive_classes(self) -> bool:
        """Whether each image has one class, whose probabilities are a softmax."""
        return self.problem_type in EXCLUSIVE

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

    @property
    def num_weights(self) -> int:
        """A lower bound on the number of weights of the backbone; each family counts its own."""
        return 0

    def validate_image(self):
        if len(self.image_shape) != 2:
            raise ValueError(f"`image_size` is one side or (height, width), got {self.image_size}.")
        check_limits("num_channels * height * width", self.num_channels * prod(self.image_shape), COUNTS["image"])
        if self.channel_names is not None and len(self.channel_names) != self.num_channels:
            raise ValueError(
                f"`channel_names` needs one name for each of the {self.num_channels} channels (`num_channels`), "
                f"got {len(self.channel_names)}: {', '.join(self.channel_names)}."
            )

    def validate_mass_scale(self):
        assert self.mass_mean is not None
        assert self.mass_std is not None
        if self.log_mass and max(abs(self.mass_mean), self.mass_std) > MAX_LOG_MASS:
            raise ValueError(
                f"With `log_mass`, `mass_mean` and `mass_std` are those of ln(mass / GeV), at most {MAX_LOG_MASS}; "
                f"got {self.mass_mean} and {self.mass_std}."
            )

    def validate_size(self):
        if self.num_weights > MAX_WEIGHTS:
            raise ValueError(
                f"This model would have about {self.num_weights:.2g} weights, more than {MAX_WEIGHTS:.2g}: check its "
                "widths, its number of blocks and its patch size."
            )

    def validate_loss(self):
        if self.mass_loss == "gaussian" and self.loss_weighting == "uncertainty":
            raise ValueError(
                "A negative log-likelihood has no lower bound, so a learned weight would grow without limit: combine "
                '`mass_loss="gaussian"` with `loss_weighting="fixed"`.'
            )
        if self.class_weights is not None and len(self.class_weights) != self.num_labels:
            raise ValueError(
                f"`class_weights` needs one positive number for each of the {self.num_labels} classes, "
                f"got {self.class_weights}."
            )
        self.check_problem_type(self.problem_type)

    def check_problem_type(self, problem_type: str | None) -> None:
        """Refuse unknown losses, and settings of the cross-entropy for others."""
        if problem_type not in PROBLEM_TYPES:
            raise ValueError(f"`problem_type` is one of {', '.join(map(str, PROBLEM_TYPES))}; got {problem_type!r}.")
        if problem_type not in EXCLUSIVE and (self.class_weights is not None or self.label_smoothing):
            raise ValueError(
                "`class_weights` and `label_smoothing` are for images of one class each, "
                f"got `problem_type` {problem_type!r}."
            )
