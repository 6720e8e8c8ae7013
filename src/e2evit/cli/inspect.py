"""Report what an unknown file holds and which data sets it fits, and draw its mean images.

examples:
  e2evit inspect top_gun_opendata_0.parquet
  e2evit inspect mine.h5 --schema mine.yaml --figure mine.png
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from e2evit.data.inspect import inspect_file

from .parser import parse

FILE = ("file", "HDF5, Parquet or npz file.")


@dataclass
class InspectArguments:
    dataset_name: str | None = HfArg(default=None, help="Read the file as this data set.")
    schema: str | None = HfArg(default=None, help="YAML schema of a custom data set to try as well.")
    figure: str | None = HfArg(default=None, help="Where to draw the mean images. Default: FILE.png.")


def main(arguments: Sequence[str] | None = None) -> None:
    file, options = parse("e2evit inspect", __doc__, arguments, InspectArguments, first=FILE)
    lines, survey, schema = inspect_file(file, options.dataset_name, options.schema)
    print("\n".join(lines))
    if survey is not None and survey.means:
        from e2evit.plots import mean_images, save_figure  # takes seconds, and many reports need no figure

        path = Path(options.figure or f"{Path(file).name}.png")
        figure = mean_images(survey.means, schema, Path(file).name.replace("_", " "))
        print(f"Mean images: {save_figure(figure, path)}")
