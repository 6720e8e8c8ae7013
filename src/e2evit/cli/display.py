"""Draw the jets with a model's best, median and worst mass prediction: image, saliency and attention.

examples:
  e2evit display runs/xcit --results results/xcit.json --data_dir data/jets --output jets_xcit

Jets are ranked by the relative error |m̂ / m - 1| of the predictions that `e2evit eval` wrote.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import AutoImageProcessor
from transformers.hf_argparser import HfArg

from e2evit.data.sparse import sparse_to_dense
from e2evit.plots import jet_displays, save_figure
from e2evit.plots.saliency import gradient_times_input
from e2evit.results.predictions import read_event_ids, read_predictions
from e2evit.results.record import Result
from e2evit.training import (
    DataArguments,
    TargetArguments,
    TrainedOn,
    import_model_module,
    load_data,
    load_model,
    targets_of,
    with_test_fold,
)

from .parser import parse

CHECKPOINT = ("checkpoint", "Folder or Hub id of the measured model.")


@dataclass
class DisplayArguments:
    results: str = HfArg(help="Result file of `e2evit eval`, with its predictions next to it.")
    output: str = HfArg(help="Figure to write, without a file extension.")
    split: str = HfArg(default="test", help="Split that was measured: train, validation or test.")
    model_module: str | None = HfArg(
        default=None, help="Module of your own that registers the architecture with the Auto classes."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    checkpoint, data, targets, options = parse(
        "e2evit display", __doc__, arguments, DataArguments, TargetArguments, DisplayArguments, first=CHECKPOINT
    )
    import_model_module(options.model_module)
    trained_on = TrainedOn.of(checkpoint)
    data = with_test_fold(data, trained_on)
    if trained_on.reads_candidates:
        raise ValueError(f"{checkpoint} reads candidates: there is no image of which pixels it looks at.")
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    dataset, schema = load_data(
        data, targets_of(trained_on, data, targets), trained_on.channel_names, splits={options.split}
    )
    rows, result = dataset[options.split], Result.from_json(options.results)
    predictions = read_predictions({options.results: result})
    masses, mass_preds = predictions.mass_labels, predictions.mass_preds[result.name]
    if read_event_ids(options.results) != list(rows["event_id"]):
        raise ValueError(f"{options.results} was measured on other jets than the {options.split} split of the data.")
    with_mass = np.flatnonzero(np.isfinite(masses))
    if not len(with_mass):
        raise ValueError(f"No jet in {options.results} has a mass.")
    order = with_mass[np.argsort(np.abs(mass_preds[with_mass] / masses[with_mass] - 1), kind="stable")]
    chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}

    model = load_model(checkpoint)
    jets = []
    for place, number in chosen.items():
        row = rows[int(number)]
        image = sparse_to_dense(row["pixel_index"], row["pixel_value"], schema.image_shape)
        pixel_values = processor(image, channel_names=processor.channel_names, return_tensors="pt")["pixel_values"]
        jets.append(
            {
                "title": f"{place}: {mass_preds[number]:.0f} GeV predicted, {masses[number]:.0f} GeV true",
                "image": image,
                "saliency": gradient_times_input(model, pixel_values, "mass_preds")[0].numpy(),
                "attention": attention(model, pixel_values),
            }
        )
    title = f"{result.name}, {result.dataset}, {len(with_mass)} {options.split} jets with a mass"
    print(f"Wrote {save_figure(jet_displays(jets, schema, title), options.output)}")


def attention(model, pixel_values: torch.Tensor) -> dict[str, np.ndarray]:
    """The last attention map over the grid of tokens, averaged over heads; empty if the model has none."""
    try:
        maps = model.attention_maps(pixel_values)
    except ValueError:
        return {}
    with torch.no_grad():
        feature_maps = model.base_model(pixel_values, output_hidden_states=True).feature_maps or [pixel_values]
    grid = feature_maps[-1].shape[2:]
    # attention between channels has a map of another size
    spatial = [weights for weights in maps.values() if weights.shape[2:] == grid]
    return {"attention of the last block": spatial[-1][0].mean(0).detach().numpy()} if spatial else {}
