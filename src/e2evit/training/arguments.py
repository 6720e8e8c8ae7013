"""The settings of a run, one dataclass per subject. All names differ, so that a recipe is a flat YAML file."""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from e2evit.data import SplitRule
from e2evit.data.arguments import settle
from e2evit.modeling.image_processing_e2e import AUX_NAMES
from e2evit.simulation.effects import effects_without
from e2evit.simulation.settings import mean_range
from e2evit.transforms.augment import Augmentation

from .optim import OPTIMIZERS

__all__ = [
    "AugmentationArguments",
    "ContrastiveArguments",
    "DataArguments",
    "DecorrelationArguments",
    "MaskArguments",
    "MassWeightArguments",
    "ModelArguments",
    "Recipe",
    "TargetArguments",
    "TrainArguments",
]

MAX_WORKERS = 512  # each is a process that has imported torch
SPLITS = ("train", "validation", "test")
ALL = "all"  # the three together, to measure on jets that were simulated for this


def _field(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass
class DataArguments:
    dataset_name: str = _field("simulated", "Data set of the schema table, or custom.")
    data_dir: str | None = _field(None, "Folder with the data set's files, or with its prepared rows.")
    schema: str | None = _field(None, "YAML schema of a custom data set that is not prepared.")
    cache_dir: str | None = _field(None, "Where prepared Arrow files go. Default: the cache of `datasets`.")
    pileup: list[float] | None = field(
        default=None,
        metadata={
            "help": "Of images made of particles: mean number of pile-up collisions, or the smallest and the largest, "
            "from which each jet draws its mean. Default: the mean of their simulation."
        },
    )
    without: list[str] | None = field(
        default=None,
        metadata={
            "help": "Of images made of particles: effects of the detector to leave out; all: every one. Default: "
            "those that their simulation left out."
        },
    )
    event_jets: str | None = _field(
        None,
        "Of whole events: queries, to predict all jets of an event at once, or windows, to cut an image out for each. "
        "Default: that of the checkpoint, or neither, and an event is one image with one class.",
    )
    test_fold: int | None = _field(
        None,
        "Take this one, 0 to 4, of five fixed folds as test jets, and an eighth of the rest as validation jets. "
        "Default: the fold of the checkpoint, or the data set's splits.",
    )
    train_fraction: float = _field(1.0, "Fraction of the training jets to use.")
    validation_fraction: float = _field(1.0, "Fraction of the validation jets to use.")
    test_fraction: float = _field(1.0, "Fraction of the test jets to use.")
    fraction_seed: int = _field(0, "Seed that draws these jets; a smaller fraction is a subset of a larger one.")

    def __post_init__(self):
        settle(self)
        if self.pileup is not None:
            mean_range(self.pileup)
        effects_without(self.without or ())
        for name in (f"{split}_fraction" for split in SPLITS):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be above 0 and at most 1, got {getattr(self, name)}.")
        SplitRule(test_fold=self.test_fold)
        if self.event_jets not in (None, "queries", "windows"):
            raise ValueError(f"`event_jets` is queries or windows, got {self.event_jets!r}.")


@dataclass
class TargetArguments:
    """What is to be predicted. `None` stands for what the checkpoint was trained on, or else for the default."""

    mass_column: str | None = _field(
        None, "Column with the regression target [GeV]. Default: the checkpoint's, or mass_labels."
    )
    classes: list[str] | None = field(
        default=None,
        metadata={"help": "Classes to tell apart; other jets get no label. Default: the checkpoint's, or all."},
    )
    mass_classes: list[str] | None = field(
        default=None,
        metadata={"help": "Classes whose jets have a mass to learn, or none. Default: the checkpoint's, or all."},
    )
    contained_classes: bool | None = _field(
        None,
        "Give a class only to jets that contain all of the decay; others keep their mass. Default: as the checkpoint, "
        "or false.",
    )
    transverse: bool | None = _field(
        None,
        "Turn calorimeter energies into transverse ones, since an image does not say where on the detector it lies. "
        "Default: as the checkpoint, or false.",
    )

    def __post_init__(self):
        settle(self)


@dataclass(frozen=True)
class AugmentationArguments(Augmentation):
    flips: bool = _field(True, "Mirror training images in eta and in phi at random.")
    tower_shift: int = _field(0, "Shift training images by up to this many towers.")
    energy_smearing: float = _field(0.0, "Relative spread of each calorimeter's energy scale in training images.")
    dead_towers: float = _field(0.0, "Fraction of HCAL towers that are dead in a training image.")
    dead_crystals: float = _field(0.0, "Fraction of ECAL crystals that are dead in a training image.")
    noise_hits: float = _field(0.0, "Mean number of extra hits in each tracker layer of a training image.")
    layer_drop: float = _field(0.0, "Probability that a tracker layer is dead in a training image.")


@dataclass
class MassWeightArguments:
    flat_in: str | None = _field(None, "Weight jets in the mass loss as if they were flat in `mass` or in `mass_pt`.")
    flat_bins: int = _field(20, "Bins of these weights along each axis.")
    flat_max_weight: float = _field(10.0, "Largest weight, as a multiple of the mean.")

    def __post_init__(self):
        settle(self)
        if self.flat_in not in (None, "mass", "mass_pt"):
            raise ValueError(f"`flat_in` must be mass or mass_pt, got {self.flat_in!r}.")
        _require(self, at_least={"flat_bins": 1, "flat_max_weight": 1})


@dataclass
class DecorrelationArguments:
    decorrelation_weight: float = _field(
        0.0,
        "Weight in the loss of the distance correlation between mass and score of the background, the first class, so "
        "that the tagger does not sculpt its masses; 0: none.",
    )
    decorrelation_mass: str = _field("jet_mass", "Column with that mass; only the loss reads it.")

    def __post_init__(self):
        settle(self)
        _require(self, at_least={"decorrelation_weight": 0})


@dataclass
class MaskArguments:
    mask_ratio: float | None = _field(
        None, "Fraction of the tokens that pre-training hides. Default: 0.75 for HitViT, 0.6 for other models."
    )
    truth_columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns with numbers, such as num_pileup, that HitViT also learns to predict. Default: the "
            "checkpoint's, or none."
        },
    )

    def __post_init__(self):
        settle(self)
        if self.mask_ratio is not None and not 0 < self.mask_ratio < 1:
            raise ValueError(f"`mask_ratio` must be between 0 and 1, got {self.mask_ratio}.")


@dataclass
class ContrastiveArguments:
    contrastive_temperature: float | None = _field(
        None,
        "Instead of filling in hidden pixels, learn to match two augmented views of each image (SimCLR), with this "
        "temperature of the loss, e.g. 0.1.",
    )
    projection_size: int | None = _field(None, "Width of the projections that this loss compares. Default: 128.")

    def __post_init__(self):
        settle(self)
        if self.contrastive_temperature is None:
            if self.projection_size is not None:
                raise ValueError("`projection_size` is for contrastive pre-training: set `contrastive_temperature`.")
            return
        if not 0 < self.contrastive_temperature < float("inf"):
            raise ValueError(
                f"`contrastive_temperature` must be above 0 and finite, got {self.contrastive_temperature}."
            )
        if self.projection_size is not None:
            _require(self, at_least={"projection_size": 1})


@dataclass
class ModelArguments:
    model_config: str | None = _field(None, "JSON file with `model_type` and the fields of its configuration.")
    model_name_or_path: str | None = _field(None, "Checkpoint to fine-tune, a folder or a Hub id.")
    model_module: str | None = _field(
        None, "Module of your own that registers the architecture with the Auto classes, e.g. my_package.my_model."
    )
    aux_names: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns that the heads read besides the image, standardised: log_pt, pt, ieta, iphi. Default: "
            "those of the checkpoint, or none."
        },
    )

    def __post_init__(self):
        settle(self)
        if unknown := sorted({*(self.aux_names or ())} - {*AUX_NAMES}):
            raise ValueError(f"`aux_names` are {', '.join(AUX_NAMES)}; got {', '.join(unknown)}.")


@dataclass
class TrainArguments:
    output_dir: str | None = _field(None, "Folder of the checkpoint.")
    resume_from_checkpoint: bool = _field(False, "Resume the run in `output_dir` from its newest state, if any.")
    overwrite_output_dir: bool = _field(False, "Start over in an `output_dir` that is not empty.")
    save_steps: int = _field(0, "Optimizer steps between saved states, besides one per epoch; 0: only those.")
    keep_states: int = _field(2, "Number of states to keep; the older one is resumed if the newest is damaged.")
    fresh: bool = _field(
        False,
        "Draw the response of the detector, noise and pile-up of each training jet anew in every epoch; the data are "
        "particles, from `e2evit simulate --keep particles`.",
    )
    num_train_epochs: int = _field(10, "Passes over the training split.")
    per_device_batch_size: int = _field(64, "Jets in a batch of one process.")
    gradient_accumulation_steps: int = _field(1, "Batches per optimizer step.")
    num_workers: int = _field(0, "Worker processes that load batches; 0: the training process itself.")
    device_data: str = _field(
        "auto",
        "yes: keep all rows on the GPU, and make images there; no: send rows batch by batch; auto: yes if they "
        "take at most half of its free memory.",
    )
    optimizer: str = _field("adamw", "adamw, or muon: Muon for matrices outside the heads, AdamW for the rest.")
    learning_rate: float = _field(1e-3, "Peak learning rate of the schedule.")
    weight_decay: float = _field(0.05, "Weight decay of matrices and kernels; vectors and biases are exempt.")
    layer_decay: float = _field(1.0, "Factor on the learning rate per block of distance from the head.")
    head_first_epochs: int = _field(0, "Epochs in which only the heads are trained.")
    ema_decay: float = _field(0.0, "Decay of the running mean of the weights, which is evaluated and saved; 0: none.")
    validation_interval: int = _field(1, "Epochs between validations; the last epoch is always validated.")
    early_stopping_epochs: int = _field(0, "Stop after this many epochs without a better validation loss; 0: never.")
    warmup_ratio: float = _field(0.1, "Fraction of the steps with a linear warm-up; a cosine follows.")
    max_grad_norm: float = _field(1.0, "Norm at which gradients are clipped; 0: no clipping.")
    mixed_precision: str = _field("auto", "no, bf16, fp16, or auto: bf16 where it is faster than float32.")
    torch_compile: bool | None = _field(
        None,
        "Compile the model, on a GPU into CUDA graphs; this slows the start. Default: on a single GPU, if a model "
        "of images sees half a million of them.",
    )
    report_to: str = _field("auto", "tensorboard, wandb, trackio, none, or auto: TensorBoard if it is installed.")
    seed: int = _field(0, "Seed of the initial weights, the order of the jets and the augmentation.")
    logging_steps: int = _field(20, "Optimizer steps between log lines.")

    def __post_init__(self):
        settle(self)
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"`optimizer` must be {' or '.join(OPTIMIZERS)}, got {self.optimizer!r}.")
        if self.device_data not in ("auto", "yes", "no"):
            raise ValueError(f"`device_data` must be auto, yes or no, got {self.device_data!r}.")
        if self.device_data == "yes" and self.fresh:
            raise ValueError(
                "`device_data: yes` keeps images on the device, but `fresh` draws new ones in every epoch, on the "
                "host: leave one of them out."
            )
        positive = ("per_device_batch_size", "gradient_accumulation_steps", "num_train_epochs", "logging_steps")
        positive += ("keep_states", "validation_interval")
        others = ("save_steps", "head_first_epochs", "early_stopping_epochs", "max_grad_norm", "weight_decay")
        others += ("learning_rate", "layer_decay", "ema_decay", "warmup_ratio", "num_workers")
        _require(self, at_least=dict.fromkeys(positive, 1) | dict.fromkeys(others, 0))
        if self.num_workers > MAX_WORKERS:
            raise ValueError(f"`num_workers` must be at most {MAX_WORKERS}, got {self.num_workers}.")
        if self.ema_decay >= 1 or self.warmup_ratio > 1:
            raise ValueError(
                "`ema_decay` must be below 1 and `warmup_ratio` at most 1, "
                f"got {self.ema_decay} and {self.warmup_ratio}."
            )
        if 0 < self.early_stopping_epochs < self.validation_interval:
            raise ValueError(
                f"`early_stopping_epochs` ({self.early_stopping_epochs}) is less than `validation_interval` "
                f"({self.validation_interval}): the run would stop before it is validated."
            )


@dataclass
class Recipe:
    """Everything that defines a run. `mask` turns it into pre-training on masked images, `contrastive` with a
    temperature into pre-training on two views of each image.
    """

    model: ModelArguments = field(default_factory=ModelArguments)
    data: DataArguments = field(default_factory=DataArguments)
    targets: TargetArguments = field(default_factory=TargetArguments)
    augmentation: AugmentationArguments = field(default_factory=AugmentationArguments)
    mass_weights: MassWeightArguments = field(default_factory=MassWeightArguments)
    decorrelation: DecorrelationArguments = field(default_factory=DecorrelationArguments)
    training: TrainArguments = field(default_factory=TrainArguments)
    mask: MaskArguments | None = None
    contrastive: ContrastiveArguments | None = None

    def __post_init__(self):
        if self.contrastive is not None and self.contrastive.contrastive_temperature is None:
            self.contrastive = None
        if self.contrastive is not None:
            if given := [name for name, value in asdict(self.mask or MaskArguments()).items() if value is not None]:
                raise ValueError(f"Contrastive pre-training hides nothing: leave out {', '.join(given)}.")
            self.mask = None
            if not self.augmentation or self.augmentation.only_flips:
                raise ValueError(
                    "Contrastive pre-training needs views that differ in more than `flips`: choose e.g. "
                    "`tower_shift: 2`, `energy_smearing: 0.2`, `dead_crystals: 0.1` and `layer_drop: 0.1`."
                )
            if self.training.per_device_batch_size < 2:
                raise ValueError(
                    "Contrastive pre-training compares the images of a batch: `per_device_batch_size` must be 2 or "
                    "more."
                )
        unread = {"decorrelation_weight": self.decorrelation.decorrelation_weight, "aux_names": self.model.aux_names}
        if self.is_pretraining and (given := [name for name, value in unread.items() if value]):
            raise ValueError(f"Pre-training learns from images alone: leave out {', '.join(given)}.")

    @property
    def is_pretraining(self) -> bool:
        """Whether it learns from images without labels."""
        return self.mask is not None or self.contrastive is not None

    @property
    def groups(self) -> list:
        """The dataclasses it consists of."""
        return [group for group in vars(self).values() if group is not None]

    def flat(self) -> dict[str, Any]:
        """All settings by name, as in a YAML file."""
        return {name: value for group in self.groups for name, value in asdict(group).items()}

    def replaced(self, **settings) -> "Recipe":
        """A copy in which these settings differ.

        Raises:
            ValueError: for a name that is not a setting.
        """
        if unknown := sorted(settings.keys() - self.flat().keys()):
            raise ValueError(f"There is no setting {', '.join(unknown)}.")
        parts = {}
        for name, group in vars(self).items():
            own = [] if group is None else [known.name for known in fields(group) if known.name in settings]
            parts[name] = replace(group, **{key: settings[key] for key in own}) if own else group
        return Recipe(**parts)


def _require(arguments, at_least: dict[str, float]) -> None:
    for name, lowest in at_least.items():
        value = getattr(arguments, name)
        if not lowest <= value < float("inf"):
            finite = " and finite" if value == float("inf") else ""
            raise ValueError(f"`{name}` must be {lowest} or more{finite}, got {value}.")
