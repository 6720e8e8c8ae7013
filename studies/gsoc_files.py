"""Simulated jets in a file of the layout of the linear-ViT task, for those who do not have the public ones.

python studies/gsoc_files.py --data_dir runs/gsoc/simulated/labelled --output runs/gsoc/labelled/jets.h5 --labelled

One contiguous HDF5 data set `jet` (N, 125, 125, 8), and with `--labelled` `Y`, `m` [GeV] and `pT` [GeV], all (N, 1).
As in the public files, no pixel is negative and the largest value of each channel of an image is 255; what else was
done to those is not imitated (docs/gsoc.md).
"""

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from datasets import concatenate_datasets
from tqdm import tqdm
from transformers import HfArgumentParser

from e2evit import load_e2e
from e2evit.cli.errors import one_line_errors
from e2evit.data import SCHEMAS
from e2evit.data.jobs import write_whole
from e2evit.data.sparse import table_to_dense

AT_ONCE = 256  # jets, 128 MB
SMALLEST = 1e-3  # as in the published pipeline: smaller and negative values become zero
LARGEST = 255
LABELS = {"Y": "labels", "m": "jet_mass", "pT": "pt"}


@dataclass
class FileArguments:
    data_dir: str = field(metadata={"help": "Simulated jets."})
    output: str = field(metadata={"help": "HDF5 file to write."})
    labelled: bool = field(default=False, metadata={"help": "Write labels, masses and pT too."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where prepared Arrow files go."})


def max_scaled(images: np.ndarray) -> np.ndarray:
    """Images `(B, C, H, W)`, each channel from 0 to 255."""
    images = np.where(images < SMALLEST, 0, images)
    largest = images.max(axis=(2, 3), keepdims=True)
    return (images / np.where(largest > 0, largest, 1) * LARGEST).astype(np.float32)


def write_file(path: Path, rows, labelled: bool, seed: int = 0) -> None:
    """Write rows of [`load_e2e`] in a random order; the file is whole or not there."""
    (schema,) = SCHEMAS["labelled"]
    channels, height, width = schema.image_shape
    jets = rows.shuffle(seed=seed).with_format("arrow")

    def fill(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            images = file.create_dataset("jet", (len(jets), height, width, channels), "<f4")
            for start in tqdm(range(0, len(jets), AT_ONCE), desc=f"Writing {path.name}", unit="batch", disable=None):
                dense = max_scaled(table_to_dense(jets[start : start + AT_ONCE], schema.image_shape))
                images[start : start + len(dense)] = np.moveaxis(dense, 1, -1)
            for key, column in LABELS.items() if labelled else ():
                file.create_dataset(key, data=jets[column].to_numpy().astype("<f4")[:, None])

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, fill)


def main() -> None:
    (options,) = HfArgumentParser(FileArguments).parse_args_into_dataclasses()
    path = Path(options.output)
    if path.exists():
        print(f"{path} is there already")
        return
    parts = load_e2e("simulated", options.data_dir, cache_dir=options.cache_dir)
    rows = concatenate_datasets(list(parts.values()))
    names = [rows.features["labels"].int2str(label) for label in sorted(rows.unique("labels"))]
    if names != ["qcd", "top"]:
        raise ValueError(f"{options.data_dir} holds {', '.join(names)}: simulate `--processes qcd top`.")
    write_file(path, rows, options.labelled)
    print(f"Wrote {path} with {len(rows)} jets")


if __name__ == "__main__":
    with one_line_errors("gsoc_files.py"):
        main()
