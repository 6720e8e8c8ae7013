"""Start the demo in a browser: class and mass of a jet, and the pixels they depend on (needs the `space` extra).

examples:
  e2evit demo runs/xcit
  e2evit demo ORG/NAME

Pick a simulated jet or upload a file (.npy, .h5, .parquet). Stop the demo with Ctrl-C.
"""

import base64
import html
import io
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
import torch
from matplotlib.figure import Figure
from transformers import AutoImageProcessor
from transformers.hf_argparser import HfArg

from e2evit.data import find_schema
from e2evit.data.extras import import_extra
from e2evit.data.packaged import packaged_folder
from e2evit.data.sparse import dense_to_sparse, sparse_to_dense
from e2evit.modeling.modeling_head import class_scores
from e2evit.plots import event_display, mass_axis, saliency_display
from e2evit.plots.saliency import gradient_times_input
from e2evit.training import find_checkpoint, import_model_module, load_model, read_config
from e2evit.transforms.transverse import TRANSVERSE, transverse_schema, transverse_table

from .parser import parse
from .upload_folder import forget, keep_uploads_apart
from .uploads import MAX_UPLOAD, read_upload, start_reader

READERS = 4  # uploads read at the same time
MAX_DRAWINGS = 8  # in progress or waiting; each takes seconds, and uploads must not wait for them to be read
VISITORS, MAX_WAITING = MAX_DRAWINGS + 2 * READERS, 8  # uploads in progress and in the queue; beyond: busy
CHECKPOINT = ("checkpoint", "Folder or Hub id of the model.")


@dataclass
class DemoArguments:
    model_module: str | None = HfArg(
        default=None, help="Module of your own that registers the architecture with the Auto classes."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    checkpoint, options = parse("e2evit demo", __doc__, arguments, DemoArguments, first=CHECKPOINT)
    import_model_module(options.model_module)
    launch(build_demo(checkpoint))


def launch(demo) -> None:
    """Serve what [`build_demo`] returned until the process is stopped."""
    demo.queue(max_size=MAX_WAITING).launch(max_file_size=MAX_UPLOAD, show_error=True)


class Demo:
    """What the demo shows of one checkpoint."""

    def __init__(self, checkpoint: str):
        checkpoint = find_checkpoint(checkpoint)
        config = read_config(checkpoint)
        self.drawn: dict[str, tuple] = {}  # examples, which take seconds
        self.start_pools()
        self.processor = AutoImageProcessor.from_pretrained(checkpoint)
        self.model = load_model(checkpoint, config)
        self.schema = find_schema("simulated")
        table = pq.read_table(packaged_folder("space") / "examples.parquet", page_checksum_verification=True)
        if {*self.processor.channel_names} & {*TRANSVERSE.values()}:
            table, self.schema = transverse_table(table, self.schema), transverse_schema(self.schema)
        if self.processor.channel_names != list(self.schema.channel_names):
            raise ValueError(
                f"{checkpoint} reads the channels {', '.join(self.processor.channel_names)}; the demo's jets have "
                f"{', '.join(self.schema.channel_names)}."
            )
        self.examples = {
            f"{row['process']}, pT = {row['pt']:.0f} GeV, jet mass {row['jet_mass']:.0f} GeV": row
            for row in table.to_pylist()
        }

    def start_pools(self) -> None:
        self.reading = ThreadPoolExecutor(READERS)
        self.drawing = ThreadPoolExecutor(1)  # matplotlib is not made for several threads
        self.drawings = threading.BoundedSemaphore(MAX_DRAWINGS)

    def show(self, image: np.ndarray, row: dict, title: str, true_mass: float | None = None) -> tuple:
        """Text, scores and pictures of one image, unless too many others wait for theirs."""
        import gradio as gr

        if not self.drawings.acquire(blocking=False):
            raise gr.Error("The demo is busy. Try again in a minute.", title="Busy", print_exception=False)
        try:
            return self.drawing.submit(self._show, image, row, title, true_mass).result()
        finally:
            self.drawings.release()

    def _show(self, image: np.ndarray, row: dict, title: str, true_mass: float | None) -> tuple:
        inputs = self.processor(
            image,
            data_format="channels_first",
            channel_names=self.processor.channel_names,
            return_tensors="pt",
        )
        with torch.no_grad():
            outputs = self.model(pixel_values=inputs["pixel_values"])
        scores = class_scores(self.model.config, outputs.logits[0]).tolist()
        scores = {self.model.config.id2label[number]: value for number, value in enumerate(scores)}
        label = max(scores, key=scores.get)
        mass = outputs.mass_preds[0].item()
        uncertainty = None if outputs.mass_scale_preds is None else outputs.mass_scale_preds[0].item()
        saliency = gradient_times_input(self.model, inputs["pixel_values"])[0].numpy()
        text = f"**{label}** with probability {scores[label]:.2f}; mass **{mass:.0f}"
        text += f" ± {uncertainty:.0f} GeV**" if uncertainty is not None else " GeV**"
        figures = (
            mass_axis(mass, uncertainty, true_mass),
            event_display(row, self.schema, title),
            saliency_display(saliency, self.schema, f"evidence for {label}"),
        )
        return text, scores, *map(picture, figures)

    def show_example(self, title: str) -> tuple:
        if title in self.drawn:
            return self.drawn[title]
        row = self.examples[title]
        image = sparse_to_dense(row["pixel_index"], row["pixel_value"], self.schema.image_shape)
        return self.drawn.setdefault(title, self.show(image, row, title, row["jet_mass"]))

    def show_upload(self, path: str | None) -> tuple:
        import gradio as gr

        if path is None:
            raise gr.Error("Choose a file first: .npy, .h5 or .parquet.", title="No file")
        try:
            names, size = self.processor.channel_names, self.processor.image_size
            image = self.reading.submit(read_upload, path, names, size).result()
        except FileNotFoundError:
            raise gr.Error("The file is no longer here: upload it again.", title="No file") from None
        except (OSError, ValueError) as error:  # shown as HTML
            message = html.escape(str(error), quote=False)
            raise gr.Error(message, duration=None, title="This file cannot be read", print_exception=False) from error
        finally:
            forget(path)
        index, value = dense_to_sparse(image[None])
        row = {"pixel_index": index[0].as_py(), "pixel_value": value[0].as_py(), "ieta": None, "iphi": None}
        return self.show(image, row, os.path.basename(path))


def picture(figure: Figure):
    """A figure as Gradio sends it."""
    from gradio.components.plot import PlotData

    for axis in figure.axes:
        axis.minorticks_off()  # they take two fifths of the time
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    plt.close(figure)
    return PlotData(type="matplotlib", plot=f"data:image/png;base64,{base64.b64encode(drawn.getvalue()).decode()}")


def build_demo(checkpoint: str):
    """The page of the demo, a `gradio.Blocks`.

    Args:
        checkpoint: Folder or Hub id of a model of simulated jets.

    Raises:
        ImportError: without the `space` extra.
        ValueError: for a checkpoint that is missing or reads other channels than simulated jets have.
    """
    gr = import_extra("gradio", "The demo", "space")
    matplotlib.use("Agg")  # figures are drawn outside the main thread
    keep_uploads_apart()
    start_reader()
    shown = Demo(checkpoint)
    height, width = shown.processor.image_size
    titles = list(shown.examples)
    with gr.Blocks(title="e2evit: what made this jet?") as demo:
        gr.Markdown(
            "# What made this jet, and what is its mass?\n"
            f"A {shown.model.config.model_type} model reads the hits of a jet in tracker, ECAL and HCAL as an image "
            f"of {height} x {width} pixels in {len(shown.processor.channel_names)} channels. "
            "Everything here is **simulation** (Pythia 8 with a parametrised detector): no CMS data, no CMS result."
        )
        with gr.Row():
            with gr.Column(scale=1):
                choice = gr.Dropdown(titles, value=titles[0], label="A simulated jet", elem_id="choice")
                predict = gr.Button("Predict", variant="primary", elem_id="predict")
                upload = gr.File(
                    label="Or the first image of a file (.npy, .h5, .parquet), with the channels "
                    f"{', '.join(shown.schema.channel_names)} [GeV, cm, hits]",
                    file_types=[".npy", ".h5", ".hdf5", ".parquet"],
                    elem_id="upload",
                )
                upload.preprocess = lambda file: file and file.path  # Gradio's leaves an empty file behind
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
        predict.click(shown.show_example, choice, outputs)
        read = predict_upload.click(shown.show_upload, upload, outputs, concurrency_limit=VISITORS)
        read.then(None, None, upload, js="() => null")  # the file is gone
    return demo
