"""Write ONNX files of a checkpoint, and compare them with PyTorch on real rows before they are kept.

python scripts/export_onnx.py CHECKPOINT --output_dir onnx --data_dir data/jets
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets
from transformers import AutoImageProcessor, AutoModelForImageClassification

from e2evit.data.sparse import sparse_to_dense
from e2evit.hub.export import export_variants, parity_images
from e2evit.training import DataArguments, load_data, parse_recipe


@dataclass
class ExportArguments:
    output_dir: str = field(metadata={"help": "Folder of the ONNX files and of parity.json."})
    data_dir: str = field(metadata={"help": "Jets to compare on; those of the test split come first."})
    dataset_name: str = field(default="simulated", metadata={"help": "Entry of the data schema."})
    name: str | None = field(default=None, metadata={"help": "Of the files; the checkpoint's if not given."})
    num_jets: int = field(default=1000, metadata={"help": "To compare on, beside an empty and a hot image."})


def main() -> None:
    checkpoint, arguments = parse_recipe(ExportArguments, first="checkpoint")
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    data = DataArguments(dataset_name=arguments.dataset_name, data_dir=arguments.data_dir)
    dataset, _ = load_data(data, channel_names=processor.channel_names)
    jets = concatenate_datasets([dataset[part].shuffle(seed=0) for part in ("test", "validation", "train")])
    rows = jets.select(range(min(arguments.num_jets, len(jets))))
    images = np.stack([sparse_to_dense(row["pixel_index"], row["pixel_value"], processor.image_shape) for row in rows])
    name = arguments.name or Path(checkpoint).name
    found = export_variants(model, processor, arguments.output_dir, name, parity_images(images))
    record = {"checkpoint": name, "jets": len(rows), "largest difference": found}
    Path(arguments.output_dir, "parity.json").write_text(json.dumps(record, indent=1) + "\n")
    for file, errors in found.items():
        size = (Path(arguments.output_dir) / file).stat().st_size / 2**20
        print(f"{file}: {size:.1f} MiB, {', '.join(f'{key} {value:.1e}' for key, value in errors.items())}")


if __name__ == "__main__":
    main()
