"""How many tokens of a jet image are copies of each other, and what skipping the copies could save at most.

    python benchmarks/empty_tokens.py --data_dir tests/data/jets --results results/empty_tokens.json

Tokens that see no deposit are equal until convolutions and windows tell them where the deposits are. Equal tokens
need the MLP and the projections once, so the number of different tokens before each block bounds every exact saving.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from learning import MODELS, read_jets
from transformers import AutoModelForImageClassification, HfArgumentParser

from e2evit.training.checkpoint import read_model_config


@dataclass
class EmptyArguments:
    data_dir: str = field(metadata={"help": "Folder of scripts/simulate.py."})
    results: str = field(default="results/empty_tokens.json", metadata={"help": "JSON file to write."})
    models: list[str] = field(default_factory=lambda: ["nano", "tiny", "small"], metadata={"help": "Sizes."})


def different_tokens(model, images: torch.Tensor, tolerance: float = 1e-3) -> dict[str, float]:
    """Share of tokens that differ from all earlier ones of their image by about `tolerance`, before each module.

    Float32 noise of 1e-7 must not make copies look different, hence no smaller tolerance.
    """
    shares: dict[str, list[float]] = {}

    def count(name):
        def hook(module, inputs):
            for tokens in inputs[0].flatten(1, -2):
                rounded = (tokens / tolerance).round()
                shares.setdefault(name, []).append(len(rounded.unique(dim=0)) / len(rounded))

        return hook

    handles = [
        module.register_forward_pre_hook(count(name))
        for name, module in model.named_modules()
        if name.endswith((".cpe1", ".norm1", ".mlp")) and "cls_attn" not in name
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return {name: sum(found) / len(found) for name, found in shares.items()}


def main() -> None:
    (arguments,) = HfArgumentParser(EmptyArguments).parse_args_into_dataclasses()
    images, _ = read_jets(arguments.data_dir)
    patches = images.unfold(2, 5, 5).unfold(3, 5, 5).abs().sum(dim=(1, 4, 5))  # [N, 25, 25]
    record = {"num_jets": len(images), "empty_patches_of_5": float((patches == 0).float().mean()), "models": {}}
    for size in arguments.models:
        for family in ("linearvit", "xcit"):
            torch.manual_seed(0)
            config = read_model_config(MODELS / f"{family}_{size}.json", num_labels=2)
            model = AutoModelForImageClassification.from_config(config).eval()
            shares = different_tokens(model, images[:32])
            at_mlp = [share for name, share in shares.items() if name.endswith(".mlp")]
            bound = len(at_mlp) / sum(at_mlp)  # every block as dear as the others
            record["models"][f"{family}_{size}"] = {"different_tokens": shares, "largest_speedup": bound}
            print(f"{family}_{size}: {min(shares.values()):.2f} to {max(shares.values()):.2f}, {bound:.2f} x at most")
    path = Path(arguments.results)
    path.with_suffix(".tmp").write_text(json.dumps(record, indent=2) + "\n")
    path.with_suffix(".tmp").replace(path)


if __name__ == "__main__":
    main()
