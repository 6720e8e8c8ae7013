"""Report what an unknown file holds and which data sets it fits, and draw its mean images.

examples:
  e2evit inspect top_gun_opendata_0.parquet
  e2evit inspect ntuple.root
  e2evit inspect mine.h5 --schema_out mine.yaml
  e2evit inspect mine.h5 --schema mine.yaml --figure mine.png

`--schema_out` drafts a schema of an unknown file: check it, name its channels, and train on the file's folder with
`--dataset_name custom --schema mine.yaml`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from e2evit.data.draft import draft_schema
from e2evit.data.inspect import inspect_file

from .parser import parse

FILE = ("file", "HDF5, Parquet, npz or ROOT file.")


@dataclass
class InspectArguments:
    dataset_name: str | None = HfArg(default=None, help="Read the file as this data set.")
    schema: str | None = HfArg(default=None, help="YAML schema of a custom data set to try as well.")
    schema_out: str | None = HfArg(default=None, help="Write a draft schema of the file to this new YAML file.")
    figure: str | None = HfArg(default=None, help="Where to draw the mean images. Default: FILE.png.")


def main(arguments: Sequence[str] | None = None) -> None:
    file, options = parse("e2evit inspect", __doc__, arguments, InspectArguments, first=FILE)
    lines, survey, schema = inspect_file(file, options.dataset_name, options.schema)
    print("\n".join(lines))
    if options.schema_out is not None:
        text = draft_schema(file)
        with Path(options.schema_out).open("x", encoding="utf-8") as draft:  # never over a schema that was edited
            draft.write(text)
        print(f"Draft schema: {options.schema_out}")
        print(f"Next: edit it, then e2evit inspect {file} --schema {options.schema_out}")
    if survey is not None and survey.means:
        from e2evit.plots import mean_images, save_figure  # takes seconds, and many reports need no figure

        path = Path(options.figure or f"{Path(file).name}.png")
        figure = mean_images(survey.means, schema, Path(file).name.replace("_", " "))
        print(f"Mean images: {save_figure(figure, path)}")
