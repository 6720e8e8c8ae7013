"""Train a jet classifier with mass regression, or fine-tune one from `--model_name_or_path`.

accelerate launch scripts/train.py recipes/quickstart/xcit_nano.yaml --data_dir data/jets --output_dir runs/xcit
"""

from dataclasses import asdict

from accelerate.utils import set_seed

from e2evit.data import find_schema, load_e2e
from e2evit.training import (
    DataArguments,
    ModelArguments,
    TrainArguments,
    check_output_dir,
    load_model,
    parse_recipe,
    run_info,
    save_checkpoint,
    start_accelerator,
    train,
)


def main() -> None:
    arguments = parse_recipe(DataArguments, ModelArguments, TrainArguments)
    data_args, model_args, train_args = arguments
    output_dir = check_output_dir(
        train_args.output_dir, train_args.resume_from_checkpoint, train_args.overwrite_output_dir
    )
    accelerator = start_accelerator(train_args.mixed_precision, train_args.gradient_accumulation_steps)
    set_seed(train_args.seed)
    with accelerator.main_process_first():  # one process builds the Arrow cache, the others read it
        dataset = load_e2e(
            data_args.dataset_name, data_args.data_dir, schema=data_args.schema, cache_dir=data_args.cache_dir
        )
    schema = find_schema(data_args.dataset_name, data_args.data_dir, data_args.schema)
    model, processor = load_model(model_args, data_args, schema, dataset["train"])

    history = train(accelerator, model, dataset, processor, data_args, train_args)
    info = run_info(accelerator, dataset, model) | {"seed": train_args.seed} | asdict(history)
    save_checkpoint(accelerator, model, processor, output_dir, arguments, info)
    accelerator.end_training()


if __name__ == "__main__":
    main()
