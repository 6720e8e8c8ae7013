"""The demo: pick a simulated jet or upload one, and see what the model makes of it.

python space/app.py

`E2EVIT_CHECKPOINT` names another checkpoint (folder or Hub id) than the bundled one.
"""

import os
from pathlib import Path

import e2evit.modeling  # noqa: F401  (registers the models)
import gradio as gr
import matplotlib
import numpy as np
import pyarrow.parquet as pq
import torch
from reading import MAX_UPLOAD, read_upload
from transformers import AutoImageProcessor, AutoModelForImageClassification

from e2evit.data import find_schema
from e2evit.data.sparse import dense_to_sparse, sparse_to_dense
from e2evit.plots import event_display, mass_axis, saliency_display
from e2evit.plots.saliency import gradient_times_input
from e2evit.transforms.transverse import TRANSVERSE, transverse_schema, transverse_table

matplotlib.use("Agg")
HERE = Path(__file__).parent
CHECKPOINT = os.environ.get("E2EVIT_CHECKPOINT", str(HERE.parent / "checkpoints/linearvit"))
processor = AutoImageProcessor.from_pretrained(CHECKPOINT)
model = AutoModelForImageClassification.from_pretrained(CHECKPOINT).eval()
schema, table = find_schema("simulated"), pq.read_table(HERE / "examples.parquet")
if {*processor.channel_names} & {*TRANSVERSE.values()}:
    table, schema = transverse_table(table, schema), transverse_schema(schema)
examples = table.to_pylist()
titles = [f"{row['process']}, pT = {row['pt']:.0f} GeV, jet mass {row['jet_mass']:.0f} GeV" for row in examples]


def show(image: np.ndarray, row: dict, title: str, true_mass: float | None = None):
    """Figures and numbers of one image."""
    inputs = processor(image, data_format="channels_first", channel_names=processor.channel_names, return_tensors="pt")
    pixel_values = inputs["pixel_values"]
    with torch.no_grad():
        outputs = model(pixel_values=pixel_values)
    probabilities = outputs.logits[0].softmax(-1).tolist()
    scores = {model.config.id2label[number]: value for number, value in enumerate(probabilities)}
    label = max(scores, key=scores.get)
    mass = outputs.mass_preds[0].item()
    uncertainty = None if outputs.mass_scale_preds is None else outputs.mass_scale_preds[0].item()
    found = gradient_times_input(model, pixel_values)[0].numpy()
    text = f"**{label}** with probability {scores[label]:.2f}; mass **{mass:.0f}"
    text += f" ± {uncertainty:.0f} GeV**" if uncertainty is not None else " GeV**"
    return (
        text,
        scores,
        mass_axis(mass, uncertainty, true_mass),
        event_display(row, schema, title),
        saliency_display(found, schema, f"what speaks for {label}"),
    )


def show_example(title: str):
    row = examples[titles.index(title)]
    image = sparse_to_dense(row["pixel_index"], row["pixel_value"], schema.image_shape)
    return show(image, row, title, row["jet_mass"])


def show_upload(path: str | None):
    if path is None:
        raise gr.Error("Choose a file first: .npy, .h5 or .parquet.", title="No file")
    try:
        image = read_upload(path, processor.image_shape)
    except (OSError, ValueError) as error:
        raise gr.Error(str(error), title="This file cannot be read", duration=None) from error
    index, value = dense_to_sparse(image[None])
    row = {"pixel_index": index[0].as_py(), "pixel_value": value[0].as_py(), "ieta": None, "iphi": None}
    return show(image, row, os.path.basename(path))


with gr.Blocks(title="e2evit: what made this jet?") as demo:
    gr.Markdown(
        "# What made this jet, and what is its mass?\n"
        f"A {model.config.model_type} model reads the hits of a jet in tracker, ECAL and HCAL as an image of "
        f"{processor.image_size[0]} x {processor.image_size[1]} pixels in {len(processor.channel_names)} channels. "
        "Everything here is **simulation** (Pythia 8 with a parametrised detector): no CMS data, no CMS result."
    )
    with gr.Row():
        with gr.Column(scale=1):
            choice = gr.Dropdown(titles, value=titles[0], label="A simulated jet", elem_id="choice")
            predict = gr.Button("Predict", variant="primary", elem_id="predict")
            upload = gr.File(
                label=f"Or a file: .npy, .h5 or .parquet; its first image, of {', '.join(schema.channel_names)} "
                "[GeV, cm, hits]",
                file_types=[".npy", ".h5", ".hdf5", ".parquet"],
                elem_id="upload",
            )
            predict_upload = gr.Button("Predict the file", elem_id="predict_upload")
        with gr.Column(scale=2):
            summary = gr.Markdown(elem_id="summary")
            classes = gr.Label(label="Probability of each class", elem_id="classes")
            mass_plot = gr.Plot(label="Mass", elem_id="mass")
    with gr.Tab("Image"):
        display = gr.Plot(label="Event display")
    with gr.Tab("Saliency"):
        salient = gr.Plot(label="Gradient times input of the winning class")
    outputs = [summary, classes, mass_plot, display, salient]
    predict.click(show_example, choice, outputs)
    predict_upload.click(show_upload, upload, outputs)

if __name__ == "__main__":
    demo.queue(max_size=16).launch(max_file_size=MAX_UPLOAD, show_error=True)
