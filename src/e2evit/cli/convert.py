"""Turn a checkpoint file of the L2ViT or XCiT authors, or of timm, into a folder that `from_pretrained` reads.

    python scripts/convert_checkpoint.py --checkpoint xcit_nano.pth --model_type xcit --output_dir runs/xcit \\
        --fields '{"tokens_norm": false, "image_size": 224}'
"""

import json
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from e2evit.hub.conversion import adapt_stem, convert_reference, read_state_dict
from e2evit.training import check_output_dir


@dataclass
class ConvertArguments:
    checkpoint: str = field(metadata={"help": "A .safetensors file, or a PyTorch file, opened as weights only."})
    model_type: str = field(metadata={"help": "xcit or linearvit."})
    output_dir: str = field(metadata={"help": "Folder to write."})
    num_channels: int | None = field(default=None, metadata={"help": "Detector layers, if not the three colours."})
    fields: str = field(default="{}", metadata={"help": "JSON with fields that shapes cannot tell."})


def main() -> None:
    (arguments,) = HfArgumentParser(ConvertArguments).parse_args_into_dataclasses()
    output_dir = check_output_dir(arguments.output_dir, resume=False, overwrite=False)
    state_dict = read_state_dict(arguments.checkpoint)
    if arguments.num_channels is not None:
        state_dict = adapt_stem(state_dict, arguments.num_channels)
    model = convert_reference(state_dict, arguments.model_type, **json.loads(arguments.fields))
    model.save_pretrained(output_dir)
    print(f"Wrote {type(model).__name__} with {model.num_parameters():,} parameters to {output_dir}")


if __name__ == "__main__":
    main()
