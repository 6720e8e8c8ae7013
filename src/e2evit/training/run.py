"""One run from its recipe to its checkpoint: what `scripts/train.py` and `scripts/pretrain.py` do."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

from accelerate.utils import set_seed

from .arguments import DataArguments, ModelArguments, TrainArguments
from .checkpoint import check_output_dir, load_model, run_info, save_checkpoint
from .loop import train
from .process import end_processes, start_accelerator
from .recipe import parse_recipe
from .state import History, Preempted

__all__ = ["run_training"]


def run_training(
    arguments: Sequence[str] | None = None,
    masked: bool = False,
    on_epoch_end: Callable[[History], None] | None = None,
) -> History:
    """Train as the recipe and the command line say, and save the checkpoint.

    Args:
        arguments: `[RECIPE.yaml] [--field value ...]`; those of the command line if not given.
        masked: Reconstruct hidden pixels instead of learning classes and masses.
        on_epoch_end: As in [`train`].

    Raises:
        As [`parse_recipe`], [`check_output_dir`], [`DataArguments.load`], [`load_model`] and [`train`].
    """
    groups = parse_recipe(DataArguments, ModelArguments, TrainArguments, arguments=arguments)
    data_args, model_args, train_args = groups
    output_dir = check_output_dir(
        train_args.output_dir, train_args.resume_from_checkpoint, train_args.overwrite_output_dir
    )
    accelerator = start_accelerator(
        train_args.mixed_precision, train_args.gradient_accumulation_steps, train_args.report_to, output_dir / "logs"
    )
    set_seed(train_args.seed)
    with accelerator.main_process_first():  # one process builds the Arrow cache, the others read it
        dataset, schema = data_args.load()
    model, processor = load_model(model_args, data_args, schema, dataset["train"], masked)
    settings = {name: value for group in groups for name, value in asdict(group).items() if value is not None}
    if accelerator.log_with and accelerator.is_main_process:
        (output_dir / "logs").mkdir(parents=True, exist_ok=True)  # wandb takes the current folder if it is not there
    accelerator.init_trackers("e2evit", config=settings, init_kwargs={"wandb": {"dir": str(output_dir / "logs")}})

    try:
        history = train(accelerator, model, dataset, processor, data_args, train_args, on_epoch_end)
    except Preempted:
        end_processes(accelerator)
        raise
    info = run_info(dataset, accelerator, model) | {"seed": train_args.seed} | asdict(history)
    save_checkpoint(accelerator, model, processor, output_dir, groups, info)
    end_processes(accelerator)
    return history
