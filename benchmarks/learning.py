"""Whether a new model of each configuration learns: training AUC of top against QCD after 100 steps on 512 jets.

    python scripts/simulate.py --output_dir data/learning --processes qcd top --num_jets 256 --merged_only
    python benchmarks/learning.py --data_dir data/learning --results results/learning.json

AdamW, one-cycle schedule, batch 16, bfloat16; our configurations in recipes/models (those for the whole detector see
jets of 125 x 125 too) and the nano LinearViT with every mixer. The peak learning rate is 1e-3 at a width of 96 and
scales with the inverse width (https://arxiv.org/abs/2203.03466, table 8): at 1e-3, LinearViT small hardly learned.
This checks that gradients reach the weights, not how good a model becomes.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import torch
from e2evit.modeling.modeling_mixers import GLOBAL_ATTENTIONS
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F
from tqdm import tqdm
from transformers import AutoModelForImageClassification, HfArgumentParser

from e2evit import E2EImageProcessor, load_e2e
from e2evit.data import find_schema
from e2evit.results.record import write_record
from e2evit.training.checkpoint import read_model_config

MODELS = Path(__file__).parents[1] / "recipes/models"
SIZES = ("nano", "tiny", "small", "pixel", "full_detector")


@dataclass
class LearningArguments:
    data_dir: str = field(metadata={"help": "Folder of simulated QCD and top jets."})
    results: str = field(default="results/learning.json", metadata={"help": "JSON file to write."})
    num_steps: int = field(default=100, metadata={"help": "Steps of each model."})


def read_jets(folder: str | Path, signal: tuple[str, ...] = ("top",)) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of a folder in network units `(N, C, H, W)`, and whether each belongs to a `signal` class."""
    splits = load_e2e("simulated", folder)
    jets = datasets.concatenate_datasets(list(splits.values())).with_format("numpy")
    schema = find_schema("simulated")
    processor = E2EImageProcessor(schema.channel_names)
    names = jets.features["labels"].names
    images = processor([jets[i] for i in range(len(jets))], return_tensors="pt")["pixel_values"]
    return images, torch.tensor([names[label] in signal for label in jets["labels"]]).long()


def learn(config, images, labels, num_steps: int = 100, batch_size: int = 16, seed: int = 0) -> float:
    """Training AUC of a new model after `num_steps` steps."""
    torch.manual_seed(seed)
    model = AutoModelForImageClassification.from_config(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    width = config.hidden_sizes[-1] if config.model_type == "linearvit" else config.hidden_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3 * 96 / width, total_steps=num_steps)
    rows = torch.cat([torch.randperm(len(images)) for _ in range(-(-num_steps * batch_size // len(images)))])
    for batch in rows[: num_steps * batch_size].split(batch_size):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images[batch]).logits
        F.cross_entropy(logits.float(), labels[batch]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = torch.cat([model(part).logits.float() for part in images.split(64)])
    return float(roc_auc_score(labels, (scores[:, 1] - scores[:, 0]).numpy()))


def main() -> None:
    (arguments,) = HfArgumentParser(LearningArguments).parse_args_into_dataclasses()
    images, labels = read_jets(arguments.data_dir)
    nano = MODELS / "linearvit_nano.json"
    configs = {
        f"linearvit_nano, {mixer}": read_model_config(nano, num_labels=2, global_attention=mixer)
        for mixer in GLOBAL_ATTENTIONS
    }
    configs |= {
        f"{family}_{size}": read_model_config(MODELS / f"{family}_{size}.json", num_labels=2)
        for size in SIZES
        for family in ("xcit", "linearvit")
        if (family, size) != ("linearvit", "nano")
    }
    path = Path(arguments.results)
    settings = {"num_jets": len(images), "num_steps": arguments.num_steps}
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if {name: record.get(name) for name in settings} != settings:
        record = settings | {"training_auc": {}}
    for name, config in tqdm(configs.items(), disable=None):
        if name not in record["training_auc"]:  # resumes an interrupted run
            record["training_auc"][name] = auc = learn(config, images, labels, arguments.num_steps)
            print(f"{name}: training AUC {auc:.3f}", flush=True)
            write_record(path, record, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
