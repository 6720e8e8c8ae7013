"""Write ONNX files of a checkpoint (needs the `export` extra); each is kept only if it agrees with PyTorch on jets.

examples:
  e2evit export runs/xcit --output_dir onnx --data_dir data/jets
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.hf_argparser import HfArg

from e2evit.data.sparse import sparse_to_dense
from e2evit.hub.export import export_variants, parity_images
from e2evit.training import DataArguments, load_data

from .parser import parse

CHECKPOINT = ("checkpoint", "Folder or Hub id of the model.")


@dataclass
class ExportArguments:
    output_dir: str = HfArg(help="Folder for the ONNX files and parity.json.")
    data_dir: str = HfArg(help="Jets to compare on, test split first.")
    dataset_name: str = HfArg(default="simulated", help="Data set of these jets.")
    name: str | None = HfArg(default=None, help="Stem of the file names. Default: that of the checkpoint.")
    num_jets: int = HfArg(default=1000, help="Jets to compare on, besides an empty image and one with hot pixels.")


def main(arguments: Sequence[str] | None = None) -> None:
    checkpoint, options = parse("e2evit export", __doc__, arguments, ExportArguments, first=CHECKPOINT)
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    data = DataArguments(dataset_name=options.dataset_name, data_dir=options.data_dir)
    dataset, _ = load_data(data, channel_names=processor.channel_names)
    jets = concatenate_datasets([dataset[part].shuffle(seed=0) for part in ("test", "validation", "train")])
    rows = jets.select(range(min(options.num_jets, len(jets))))
    images = np.stack([sparse_to_dense(row["pixel_index"], row["pixel_value"], processor.image_shape) for row in rows])
    name = options.name or Path(checkpoint).name
    found = export_variants(model, processor, options.output_dir, name, parity_images(images))
    record = {"checkpoint": name, "jets": len(rows), "largest difference": found}
    Path(options.output_dir, "parity.json").write_text(json.dumps(record, indent=1) + "\n")
    for file, errors in found.items():
        size = (Path(options.output_dir) / file).stat().st_size / 2**20
        print(f"{file}: {size:.1f} MiB, {', '.join(f'{key} {value:.1e}' for key, value in errors.items())}")
