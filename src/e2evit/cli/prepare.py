"""Turn the files of an E2E data set into a Parquet repository for `datasets.load_dataset`, or look into one file.

python scripts/prepare_data.py --inspect top_gun_opendata_0.parquet
python scripts/prepare_data.py top_mass --data_dir downloads/top_gun --output_dir data/top_mass --num_proc 8
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from e2evit.data import SCHEMAS, SplitRule
from e2evit.data.inspect import inspect_file
from e2evit.data.prepare import prepare
from e2evit.hub.publish import publish_dataset
from e2evit.plots import mean_images, save_figure


@dataclass
class PrepareArguments:
    inspect: str | None = field(default=None, metadata={"help": "Only report on this file, and draw its mean images."})
    figure: str | None = field(default=None, metadata={"help": "Where `--inspect` draws; FILE.png here if not given."})
    dataset_name: str | None = field(default=None, metadata={"help": "Entry of the data schema, or custom."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder (or address) of the files."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder to write; an interrupted call goes on."})
    schema: str | None = field(default=None, metadata={"help": "YAML file of a custom data set."})
    salt: str = field(default=SplitRule.salt, metadata={"help": "Another salt is another division into splits."})
    shard_megabytes: float = field(default=200.0, metadata={"help": "Size of the training split's shards."})
    on_bad_rows: str = field(default="error", metadata={"help": "error, or skip: leave out, count and list them."})
    num_proc: int = field(default=1, metadata={"help": "Local worker processes."})
    scheduler: str | None = field(default=None, metadata={"help": "Dask scheduler, tcp://..., instead."})
    push_to_hub: str | None = field(default=None, metadata={"help": "Upload to this data set repository, ORG/NAME."})
    private: bool = field(default=False, metadata={"help": "Make that repository private if it is new."})


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    given = sys.argv[1:]
    if given and given[0] in (*SCHEMAS, "custom"):
        given = ["--dataset_name", *given]
    (arguments,) = HfArgumentParser(PrepareArguments).parse_args_into_dataclasses(given)
    try:
        if arguments.inspect is not None:
            report(arguments)
        else:
            run(arguments)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"prepare_data.py: {error}")


def report(arguments: PrepareArguments) -> None:
    lines, survey, schema = inspect_file(arguments.inspect, arguments.dataset_name, arguments.schema)
    print("\n".join(lines))
    if survey is not None and survey.means:
        path = Path(arguments.figure or f"{Path(arguments.inspect).name}.png")
        figure = mean_images(survey.means, schema, Path(arguments.inspect).name.replace("_", " "))
        print(f"Mean images: {save_figure(figure, path)}")


def run(arguments: PrepareArguments) -> None:
    if None in (arguments.dataset_name, arguments.data_dir, arguments.output_dir):
        raise ValueError(f"Pass a data set ({', '.join(SCHEMAS)}, custom), `--data_dir` and `--output_dir`.")
    folder = prepare(
        arguments.dataset_name,
        arguments.data_dir,
        arguments.output_dir,
        schema=arguments.schema,
        rule=SplitRule(arguments.salt),
        shard_megabytes=arguments.shard_megabytes,
        on_bad_rows=arguments.on_bad_rows,
        num_proc=arguments.num_proc,
        scheduler=arguments.scheduler,
    )
    print(f"Prepared {arguments.dataset_name} in {folder}")
    if arguments.push_to_hub:
        print(f"Published {publish_dataset(folder, arguments.push_to_hub, private=arguments.private)}")


if __name__ == "__main__":
    main()
