"""How many tokens of a jet image are copies of each other, and how much skipping the copies could save at most.

    python benchmarks/empty_tokens.py --data_dir tests/data/jets --results results/empty_tokens.json

Tokens that see no deposit are equal until convolutions and windows tell them where the deposits are. The MLP and the
projections need to process equal tokens only once, so the number of distinct tokens before each block bounds any exact
saving. Tokens within a tenth of their length of each other bound a saving with an error of about a tenth.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from learning import MODELS, read_jets
from transformers import AutoImageProcessor, AutoModelForImageClassification, HfArgumentParser

from e2evit.results.record import write_record
from e2evit.training import DataArguments, load_data
from e2evit.training.checkpoint import read_model_config


@dataclass
class EmptyArguments:
    data_dir: str = field(metadata={"help": "Folder of simulated jets."})
    results: str = field(default="results/empty_tokens.json", metadata={"help": "JSON file to write."})
    models: list[str] = field(default_factory=lambda: ["nano", "tiny", "small"], metadata={"help": "Model sizes."})


def different_tokens(model, images: torch.Tensor, tolerance: float = 1e-3) -> dict[str, float]:
    """Fraction of tokens that differ from all earlier ones in their image by about `tolerance`, before each module.

    The tolerance keeps float32 noise of 1e-7 from making copies look different.
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
    return {name: sum(values) / len(values) for name, values in shares.items()}


def tokens_on_their_own(model, images: torch.Tensor, tolerance: float = 0.1) -> float:
    """Mean fraction of tokens before the MLPs that are not within `tolerance` of their image's most common token.

    The most common token has the most neighbours; distances are relative to its length.
    """
    shares = []

    def count(module, inputs):
        for tokens in inputs[0].flatten(1, -2):
            distances = torch.cdist(tokens, tokens) / tokens.norm(dim=-1).clamp(min=1e-12)
            shares.append(1 - float(((distances < tolerance).sum(0).max() - 1) / len(tokens)))

    handles = [
        module.register_forward_pre_hook(count)
        for name, module in model.named_modules()
        if name.endswith(".mlp") and "cls_attn" not in name
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return sum(shares) / len(shares)


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
            bound = len(at_mlp) / sum(at_mlp)  # if all blocks cost the same
            record["models"][f"{family}_{size}"] = {"different_tokens": shares, "largest_speedup": bound}
            print(f"{family}_{size}: {min(shares.values()):.2f} to {max(shares.values()):.2f}, {bound:.2f} x at most")
    for folder in sorted((MODELS.parents[1] / "checkpoints").iterdir()):  # trained, on a grid of 13 x 13
        processor = AutoImageProcessor.from_pretrained(folder)
        splits, _ = load_data(DataArguments(data_dir=arguments.data_dir), channel_names=processor.channel_names)
        rows = splits["train"].with_format("numpy")
        own_images = processor(
            [rows[i] for i in range(32)], channel_names=processor.channel_names, return_tensors="pt"
        )["pixel_values"]
        model = AutoModelForImageClassification.from_pretrained(folder).eval()
        own = tokens_on_their_own(model, own_images)
        record["models"][f"checkpoints/{folder.name}"] = {"tokens_on_their_own": own, "largest_speedup": 1 / own}
        print(f"checkpoints/{folder.name}: {own:.2f} with an error of a tenth, {1 / own:.2f} x at most")
    path = Path(arguments.results)
    write_record(path, record, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
