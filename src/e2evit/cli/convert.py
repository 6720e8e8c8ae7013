"""Convert a checkpoint file of the XCiT or L2ViT authors, or of timm, to a folder that `from_pretrained` reads.

examples:
  e2evit convert xcit_nano.pth --model_type xcit --output_dir runs/xcit \\
      --fields '{"tokens_norm": false, "image_size": 224}'
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from e2evit.hub.conversion import adapt_stem, convert_reference, read_state_dict
from e2evit.training import claimed_output_dir, write_files

from .parser import parse

CHECKPOINT = ("checkpoint", "A .safetensors file, or a PyTorch file (loaded as weights only).")


@dataclass
class ConvertArguments:
    model_type: str = HfArg(help="xcit or linearvit.")
    output_dir: str = HfArg(help="Folder to write.")
    num_channels: int | None = HfArg(
        default=None,
        help="Adapt the stem to this many detector channels; by default it keeps the three colours.",
    )
    fields: str = HfArg(
        default="{}",
        help="JSON with the configuration fields that cannot be read off the weights' shapes.",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    checkpoint, options = parse("e2evit convert", __doc__, arguments, ConvertArguments, first=CHECKPOINT)
    with claimed_output_dir(options.output_dir) as output_dir:
        state_dict = read_state_dict(checkpoint)
        if options.num_channels is not None:
            state_dict = adapt_stem(state_dict, options.num_channels)
        model = convert_reference(state_dict, options.model_type, **json.loads(options.fields))
        write_files(output_dir, model.save_pretrained)
    print(f"Wrote {type(model).__name__} with {model.num_parameters():,} parameters to {output_dir}")
