"""Show the jets whose masses a model gets best, as well as half of them, and worst: image, saliency and attention.

python scripts/display_jets.py runs/study/xcit_seed0 --results results/study/xcit_seed0.json \
    --data_dir runs/study/data --output docs/study/jets_xcit

Jets are chosen by |m̂ / m - 1| of the predictions that scripts/eval.py wrote.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from e2evit.data.sparse import sparse_to_dense
from e2evit.plots import jet_displays, save_figure
from e2evit.plots.saliency import gradient_times_input
from e2evit.results.tables import read_predictions
from e2evit.training import DataArguments, TargetArguments, TrainedOn, load_data, parse_recipe, targets_of


@dataclass
class DisplayArguments:
    results: str = field(metadata={"help": "What scripts/eval.py wrote, with its predictions beside it."})
    output: str = field(metadata={"help": "Figure to write, without an ending."})
    split: str = field(default="test", metadata={"help": "That the results are of."})


def main() -> None:
    checkpoint, data, targets, arguments = parse_recipe(
        DataArguments, TargetArguments, DisplayArguments, first="checkpoint"
    )
    trained_on = TrainedOn.of(checkpoint)
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    dataset, schema = load_data(data, targets_of(trained_on, data, targets), trained_on.channel_names)
    rows, found = dataset[arguments.split], read_predictions([arguments.results])
    masses, mass_preds = found.masses, found.mass_preds[Path(arguments.results).stem]
    measured = pq.read_table(Path(arguments.results).with_suffix(".parquet"), columns=["event_id"])["event_id"]
    if measured.to_pylist() != list(rows["event_id"]):
        sys.exit(
            f"display_jets.py: {arguments.results} is of other jets than the {arguments.split} split of the data."
        )
    with_mass = np.flatnonzero(np.isfinite(masses))
    if not len(with_mass):
        sys.exit(f"display_jets.py: no jet of {arguments.results} has a mass.")
    order = with_mass[np.argsort(np.abs(mass_preds[with_mass] / masses[with_mass] - 1), kind="stable")]
    chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}

    model = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    jets = []
    for title, number in chosen.items():
        row = rows[int(number)]
        image = sparse_to_dense(row["pixel_index"], row["pixel_value"], schema.image_shape)
        pixel_values = processor(image, channel_names=processor.channel_names, return_tensors="pt")["pixel_values"]
        jets.append(
            {
                "title": f"{title}: {mass_preds[number]:.0f} GeV for {masses[number]:.0f} GeV",
                "image": image,
                "saliency": gradient_times_input(model, pixel_values, "mass_preds")[0].numpy(),
                "attention": attention(model, pixel_values),
            }
        )
    print(f"Wrote {save_figure(jet_displays(jets, schema), arguments.output)}")


def attention(model, pixel_values: torch.Tensor) -> dict[str, np.ndarray]:
    """The last map over the grid of tokens, averaged over heads; none of a model without attention of ours."""
    try:
        maps = model.attention_maps(pixel_values)
    except ValueError:
        return {}
    with torch.no_grad():
        grid = model.base_model(pixel_values, output_hidden_states=True).feature_maps[-1].shape[2:]
    # attention between channels has a map of another size
    spatial = [weights for weights in maps.values() if weights.shape[2:] == grid]
    return {"attention of the last block": spatial[-1][0].mean(0).detach().numpy()} if spatial else {}


if __name__ == "__main__":
    main()
