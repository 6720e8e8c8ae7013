"""Write ONNX files of a checkpoint (needs the `export` extra); each is kept only if it agrees with PyTorch on jets.

examples:
  e2evit export runs/xcit --output_dir onnx --data_dir data/jets
  build/cpp/e2e_predict onnx/xcit_nhwc.onnx onnx/xcit_row.txt
  e2evit export runs/xcit --output_dir onnx --data_dir data/jets --cmssw 13_0 --triton models
  e2evit export runs/xcit --output_dir onnx --data_dir data/jets --int8 --triton models

NAME_row.txt is one of these jets in the format that the C++ example `deploy/cpp` reads.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets
from transformers import AutoImageProcessor
from transformers.hf_argparser import HfArg

from e2evit.data.jobs import write_whole_text
from e2evit.data.sparse import sparse_to_dense
from e2evit.data.storage import absolute
from e2evit.hub.cmssw import runtime_of
from e2evit.hub.export import check_name, export_variants, parity_images, write_row
from e2evit.hub.triton import check_target, write_triton
from e2evit.training import DataArguments, find_checkpoint, import_model_module, load_data, load_model, read_config

from .parser import parse

CHECKPOINT = ("checkpoint", "Folder or Hub id of the model.")


@dataclass
class ExportArguments:
    output_dir: str = HfArg(help="Folder for the ONNX files, parity.json and the example row.")
    name: str | None = HfArg(default=None, help="Stem of the file names. Default: that of the checkpoint.")
    num_jets: int = HfArg(default=1000, help="Jets to compare on, besides an empty image and one with hot pixels.")
    cmssw: str | None = HfArg(default=None, help="Release of CMSSW that must read the files, such as 13_0.")
    int8: bool = HfArg(
        default=False,
        help="Compute matrix products of tokens with 8-bit integers: smaller and faster. NAME becomes NAME_int8.",
    )
    triton: str | None = HfArg(
        default=None, help="Model repository of a Triton server to write NAME_nchw.onnx to, as NAME, too."
    )
    model_module: str | None = HfArg(
        default=None, help="Module of your own that registers the architecture with the Auto classes."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    checkpoint, data, options = parse(
        "e2evit export", __doc__, arguments, DataArguments, ExportArguments, first=CHECKPOINT
    )
    if options.num_jets < 1:
        raise ValueError(f"`num_jets` must be 1 or more, got {options.num_jets}.")
    if options.cmssw is not None:
        runtime_of(options.cmssw)
    import_model_module(options.model_module)
    checkpoint = find_checkpoint(checkpoint)
    name, folder = options.name or Path(absolute(checkpoint)).name, Path(options.output_dir)
    name += "_int8" * options.int8
    check_name(name)
    if options.triton is not None:
        check_target(options.triton, name)
    config = read_config(checkpoint)
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    model = load_model(checkpoint, config)
    dataset, _ = load_data(data, channel_names=processor.channel_names)
    jets = concatenate_datasets([dataset[part].shuffle(seed=0) for part in ("test", "validation", "train")])
    rows = jets.select(range(min(options.num_jets, len(jets))))
    images = np.stack([sparse_to_dense(row["pixel_index"], row["pixel_value"], processor.image_shape) for row in rows])
    folder.mkdir(parents=True, exist_ok=True)
    differences = export_variants(model, processor, folder, name, parity_images(images), options.cmssw, options.int8)
    made_for = f" for CMSSW {options.cmssw}" if options.cmssw else ""
    kind = "mean" if options.int8 else "largest"
    record = {"checkpoint": name, "jets": len(rows), f"{kind} difference": differences}
    write_whole_text(folder / "parity.json", json.dumps(record, indent=1) + "\n")
    for file, errors in differences.items():
        size = (folder / file).stat().st_size / 2**20
        worst = ", ".join(f"{key} {value:.1e}" for key, value in errors.items())
        by = "on average" if options.int8 else "at most"
        print(f"{file}{made_for}: {size:.1f} MiB; differs from PyTorch by {by}: {worst}")
    print(f"Wrote {write_row(rows[0], folder / f'{name}_row.txt')}, a jet for deploy/cpp")
    if options.triton is not None:
        print(f"Wrote {write_triton(folder / f'{name}_nchw.onnx', options.triton, name)}, a model for Triton")
