"""One run, from its settings to a checkpoint: the library's `train`."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from accelerate.utils import set_seed

from e2evit.modeling import E2EConfig, E2EImageProcessor
from e2evit.transforms.event_jets import jets_of_events
from e2evit.transforms.targets import NO_CLASS

from .arguments import (
    AugmentationArguments,
    ContrastiveArguments,
    DataArguments,
    DecorrelationArguments,
    MaskArguments,
    MassWeightArguments,
    ModelArguments,
    Recipe,
    TargetArguments,
    TrainArguments,
)
from .checkpoint import TrainedOn, import_model_module, new_model, pretrained_model, reads_candidates
from .contrastive import ContrastiveModel
from .data import load_data, targets_of, with_defaults, with_test_fold
from .guards import check_auxiliary, check_decorrelation, check_not_empty, check_targets
from .loop import fit
from .output import claimed_output_dir, run_info, save_checkpoint
from .particles import PreparedImages
from .process import decided_by_main, end_processes, start_accelerator
from .state import History, Preempted, intact_state
from .trackers import without

__all__ = ["TrainedModel", "run_recipe", "train"]

logger = logging.getLogger(__name__)


@dataclass
class TrainedModel:
    """What [`train`] returns.

    Attributes:
        model: With the best weights, in evaluation mode; of a model that was sharded, `None` on all but the main
            process.
        output_dir: The checkpoint, a folder that `from_pretrained` reads.
        is_main_process: Of those that were launched together, the one that prints and publishes.
    """

    model: torch.nn.Module | None
    processor: E2EImageProcessor
    history: History
    output_dir: Path
    is_main_process: bool = True


def train(
    model_config: str | Path | E2EConfig | None,
    data: DataArguments | str | Path,
    settings: TrainArguments,
    *,
    model_name_or_path: str | Path | None = None,
    targets: TargetArguments | None = None,
    augmentation: AugmentationArguments | None = None,
    mass_weights: MassWeightArguments | None = None,
    decorrelation: DecorrelationArguments | None = None,
    mask: MaskArguments | None = None,
    contrastive: ContrastiveArguments | None = None,
    aux_names: Sequence[str] | None = None,
    on_epoch_end: Callable[[History], None] | None = None,
) -> TrainedModel:
    """Train a model, or fine-tune a checkpoint, and save it with its recipe.

    ```python
    trained = e2evit.train("recipes/models/xcit_nano.json", "data/jets", TrainArguments(output_dir="runs/xcit"))
    ```

    Under `accelerate launch` all processes call it.

    Args:
        model_config: JSON file with `model_type`, or a configuration; `None` with `model_name_or_path`.
        data: The data set, or the folder of simulated jets.
        model_name_or_path: Checkpoint to fine-tune, a folder or a Hub id. It keeps its channels and, unless `targets`
            says otherwise, its targets.
        mask: Pre-train on masked images instead of classes and masses.
        contrastive: Pre-train on two augmented views of each image; the model is then a bare backbone.
        aux_names: Columns that the heads read besides the image: `log_pt`, `pt`, `ieta`, `iphi`.
        on_epoch_end: Called with the history after each epoch that was validated; what it raises ends the run.

    Raises:
        ValueError: for settings or data that a run cannot have, or if all states are damaged; nothing is written then.
        InUse: if another run writes to `output_dir`.
        FloatingPointError: if the loss is no longer finite.
        Preempted: after SIGTERM; the state is saved, and `settings.resume_from_checkpoint` resumes from it.
    """
    config = model_config if isinstance(model_config, E2EConfig) else None
    recipe = Recipe(
        model=ModelArguments(
            model_config=None if model_config is None or config is not None else str(model_config),
            model_name_or_path=None if model_name_or_path is None else str(model_name_or_path),
            aux_names=None if aux_names is None else list(aux_names),
        ),
        data=data if isinstance(data, DataArguments) else DataArguments(data_dir=str(data)),
        targets=targets or TargetArguments(),
        augmentation=augmentation or AugmentationArguments(),
        mass_weights=mass_weights or MassWeightArguments(),
        decorrelation=decorrelation or DecorrelationArguments(),
        training=settings,
        mask=mask,
        contrastive=contrastive,
    )
    return run_recipe(recipe, on_epoch_end, config)


def run_recipe(
    recipe: Recipe,
    on_epoch_end: Callable[[History], None] | None = None,
    config: E2EConfig | None = None,
) -> TrainedModel:
    """As [`train`], with all settings in one object.

    Args:
        config: A configuration instead of `recipe.model.model_config`.
    """
    model_config, checkpoint = config or recipe.model.model_config, recipe.model.model_name_or_path
    if (model_config is None) == (checkpoint is None):
        raise ValueError("Pass either `model_config` (a new model) or `model_name_or_path` (fine-tuning).")
    import_model_module(recipe.model.model_module)
    settings = recipe.training
    resume, overwrite = settings.resume_from_checkpoint, settings.overwrite_output_dir
    with claimed_output_dir(settings.output_dir, resume, overwrite) as output_dir:
        return _run(recipe, output_dir, on_epoch_end, config)


def _run(
    recipe: Recipe,
    output_dir: Path,
    on_epoch_end: Callable[[History], None] | None,
    config: E2EConfig | None,
) -> TrainedModel:
    settings, aux_names = recipe.training, recipe.model.aux_names
    model_config, checkpoint = config or recipe.model.model_config, recipe.model.model_name_or_path
    accelerator = start_accelerator(
        settings.mixed_precision, settings.gradient_accumulation_steps, settings.report_to, output_dir / "logs"
    )
    state = None
    if settings.resume_from_checkpoint:
        state = decided_by_main(accelerator, lambda: intact_state(output_dir / "state"))
    set_seed(settings.seed)
    asked = targets = recipe.targets
    channel_names = None
    if checkpoint is not None:
        before = TrainedOn.of(checkpoint)
        recipe = replace(recipe, data=with_test_fold(recipe.data, before))
        targets, channel_names = targets_of(before, recipe.data, targets, fine_tuning=True), before.channel_names
        candidates = before.reads_candidates
    else:
        candidates = reads_candidates(model_config)
    if recipe.contrastive is not None and (candidates or accelerator.is_fsdp2):
        what = "images, and this model reads candidates" if candidates else "whole weights, and FSDP shards them"
        raise ValueError(f"Contrastive pre-training needs {what}.")
    if aux_names and (candidates or recipe.data.event_jets == "queries"):
        kind = "a model that reads candidates" if candidates else "`event_jets: queries`"
        raise ValueError(f"`aux_names` are for images of single jets: leave them out for {kind}.")
    recipe = replace(recipe, targets=with_defaults(targets, channel_names))
    with accelerator.main_process_first():  # one process builds the Arrow cache, the others read it
        dataset, schema = load_data(
            recipe.data, recipe.targets, channel_names, settings.fresh, ("train", "validation"), candidates
        )
    check_not_empty(dataset)
    queries = recipe.data.event_jets == "queries"
    if not recipe.is_pretraining:
        needs_masses = bool(asked.mass_column or asked.mass_classes) and asked.mass_classes != [NO_CLASS]
        jets = jets_of_events(dataset) if queries else dataset
        check_targets(jets, recipe.targets.mass_column, needs_masses, recipe.targets.mass_classes is None)
        if recipe.decorrelation.decorrelation_weight:
            share = settings.per_device_batch_size / len(dataset["train"])
            check_decorrelation(jets, recipe.decorrelation.decorrelation_mass, share, queries)
        if "jets" in schema.lists and not queries:  # with windows there are no lists left
            logger.warning(
                f"The rows are whole events of {schema.image_size[0]} x {schema.image_size[1]} pixels, and each is "
                "one image with the class and mass of its hardest jet. For all jets: `--event_jets queries`, or "
                "`windows` for a model of jets (docs/events.md)."
            )
    build, source = (new_model, model_config) if checkpoint is None else (pretrained_model, checkpoint)
    sample = dataset["train"]
    if settings.fresh:  # statistics are of images
        with accelerator.main_process_first():
            sample = PreparedImages(recipe.data, recipe.targets.transverse).sample(sample)
    kind = {"masked": recipe.mask is not None, "queries": queries, "aux_names": aux_names}
    kind["truth_columns"] = None if recipe.mask is None else recipe.mask.truth_columns
    model, processor = build(source, schema, sample, recipe.targets.mass_column, **kind)
    if recipe.is_pretraining:  # whose data may lack the scalars that the heads of a checkpoint have read
        model.config.num_aux_features = 0
        processor.aux_names, processor.aux_mean, processor.aux_std = [], [], []
    read = {part: dataset[part] for part in ("train", "validation")}
    check_auxiliary(read, processor.aux_names, recipe.augmentation.flips)
    saved = model
    if recipe.contrastive is not None:
        saved = model.base_model
        model = ContrastiveModel(saved, recipe.contrastive.contrastive_temperature, recipe.contrastive.projection_size)

    try:
        history = fit(accelerator, model, dataset, processor, recipe, on_epoch_end, state)
    except Preempted:
        end_processes(accelerator)
        raise
    info = {"seed": settings.seed} | asdict(history)
    with without("the record of its machine and data"):
        info = run_info(dataset, accelerator, saved) | info
    whole = save_checkpoint(accelerator, saved, processor, output_dir, recipe.flat(), info)
    is_main_process = accelerator.is_main_process
    end_processes(accelerator)
    return TrainedModel(whole, processor, history, output_dir, is_main_process)
