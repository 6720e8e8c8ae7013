"""Figures of images: all channels, the pixels a prediction depends on, class means."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from e2evit.data import DatasetSchema
from e2evit.data.grid import WINDOW, window_centres
from e2evit.data.sparse import check_has_image, sparse_to_dense

from .style import COLOURS, STYLE

__all__ = ["event_display", "jet_displays", "mass_axis", "mean_images", "saliency_display"]

PARTICLES = {"W": 80.4, "Z": 91.2, "H": 125.2, "t": 172.6}  # GeV, Particle Data Group 2024


def event_display(row: Mapping, schema: DatasetSchema, title: str = "") -> Figure:
    """All channels of one image; a jet window has axes in eta and phi [radians]. Colours are in the channel's unit.

    Raises:
        ValueError: for a row without an image.
    """
    check_has_image(row)
    image = sparse_to_dense(row["pixel_index"], row["pixel_value"], schema.image_shape)
    if schema.image_size == (WINDOW, WINDOW) and row["ieta"] is not None and row["iphi"] is not None:
        eta, phi = window_centres(row["ieta"], row["iphi"])
        extent, names = (phi[0], phi[-1], eta[0], eta[-1]), (r"$\phi$ [rad]", r"$\eta$")
    else:
        _, height, width = schema.image_shape
        extent, names = (0, width, 0, height), ("column (phi)", "row (eta)")
    with plt.style.context(STYLE):
        columns = min(4, len(image))
        rows = -(-len(image) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 4.1 * rows), layout="constrained")
        for axis, pixels, name in zip(np.ravel(axes), image, schema.channel_names):
            channel = schema.channel(name)
            shown = np.ma.masked_equal(pixels, 0)
            largest = max(float(np.abs(pixels).max()), 1e-3)
            if channel.signed:
                norm, colours = SymLogNorm(1e-3, vmin=-largest, vmax=largest), "RdBu_r"
            elif channel.unit == "hits":
                norm, colours = plt.Normalize(0, max(largest, 2)), "viridis_r"
            else:
                norm, colours = LogNorm(max(largest * 1e-4, 1e-3), largest), "viridis_r"
            # single pixels of a 125 x 125 image are too small to see; crystals form clusters, hits do not
            if np.count_nonzero(pixels) < (0.02 if channel.unit == "hits" else 0.01) * pixels.size:
                row_of, column_of = np.nonzero(pixels)
                along = np.linspace(extent[0], extent[1], pixels.shape[1])[column_of]
                across = np.linspace(extent[2], extent[3], pixels.shape[0])[row_of]
                style = {"s": 16, "marker": "s", "edgecolors": "black", "linewidths": 0.3}
                drawn = axis.scatter(along, across, c=pixels[row_of, column_of], norm=norm, cmap=colours, **style)
                axis.set(xlim=extent[:2], ylim=extent[2:])
            else:
                drawn = axis.imshow(shown, origin="lower", extent=extent, aspect="auto", norm=norm, cmap=colours)
            bar = figure.colorbar(drawn, ax=axis, pad=0.02)
            bar.set_label(channel.unit, loc="center")
            bar.ax.tick_params(labelsize=11)
            if channel.unit == "hits":
                bar.locator = MaxNLocator(integer=True)
                bar.update_ticks()
                bar.minorticks_off()
            axis.set(xlabel=names[0], ylabel=names[1])
            axis.set_title(channel.title)
            axis.tick_params(labelsize=11)
        for axis in np.ravel(axes)[len(image) :]:
            axis.remove()
        _set_title(figure, title)
    return figure


def saliency_display(saliency: np.ndarray, schema: DatasetSchema, title: str = "") -> Figure:
    """Gradient times input `(C, H, W)` of one image, one panel per channel, all on one colour scale.

    Red pixels raise the output, blue ones lower it. Titles give each channel's share of the sum of absolute values.
    """
    shares = np.abs(saliency).sum(axis=(1, 2))
    shares = shares / max(shares.sum(), 1e-30)
    largest = max(float(np.quantile(np.abs(saliency[saliency != 0]), 0.99)) if saliency.any() else 0.0, 1e-30)
    with plt.style.context(STYLE):
        columns = min(4, len(saliency))
        rows = -(-len(saliency) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(4.2 * columns + 0.8, 4.1 * rows), layout="constrained", sharex=True, sharey=True
        )
        for axis, pixels, name, share in zip(np.ravel(axes), saliency, schema.channel_names, shares):
            row, column = np.nonzero(pixels)
            order = np.argsort(np.abs(pixels[row, column]))
            values = pixels[row, column][order]
            style = {"s": 14, "marker": "s", "edgecolors": "black", "linewidths": 0.2}
            drawn = axis.scatter(
                column[order], row[order], c=values, vmin=-largest, vmax=largest, cmap="RdBu_r", **style
            )
            axis.set(xlim=(0, pixels.shape[1]), ylim=(0, pixels.shape[0]), xlabel="column (phi)", ylabel="row (eta)")
            axis.set_title(f"{schema.channel(name).title}: {share:.0%}")
            axis.tick_params(labelsize=11)
        for axis in np.ravel(axes)[len(saliency) :]:
            axis.remove()
        bar = figure.colorbar(drawn, ax=axes, pad=0.01, aspect=40)
        bar.set_label("gradient x input", loc="center")
        _set_title(figure, title)
    return figure


def jet_displays(jets: Sequence[Mapping], schema: DatasetSchema, title: str = "") -> Figure:
    """One row per jet: energies and tracks, the pixels the predicted mass depends on, and attention maps.

    Args:
        jets: Each with `title`, `image` `(C, H, W)` in detector units, `saliency` `(C, H, W)` (gradient times input),
            and `attention` by title, each `(H', W')` on a grid of tokens over the whole image.
        schema: Of the images.
        title: Of the figure: model, sample, number of jets.
    """
    columns = 2 + max(len(jet["attention"]) for jet in jets)
    energies = [n for n, name in enumerate(schema.channel_names) if name.startswith(("ecal", "hcal", "trk_pt"))]
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(
            len(jets), columns, figsize=(4.9 * columns, 4.4 * len(jets)), layout="constrained", squeeze=False
        )
        for line, jet in zip(axes, jets):
            _, height, width = jet["image"].shape
            extent = (0, width, 0, height)
            total = jet["image"][energies].sum(axis=0)
            drawn = line[0].imshow(
                np.ma.masked_equal(total, 0), origin="lower", extent=extent, norm=LogNorm(0.05, 100), cmap="viridis_r"
            )
            figure.colorbar(drawn, ax=line[0], pad=0.02).set_label("GeV", loc="center")
            line[0].set_title(f"{jet['title']}\ntracks and calorimeters", fontsize=13)
            saliency = jet["saliency"].sum(axis=0)
            row, column = np.nonzero(saliency)
            values = saliency[row, column]
            order = np.argsort(np.abs(values))
            largest = max(float(np.quantile(np.abs(values), 0.99)) if len(values) else 0.0, 1e-30)
            style = {"s": 9, "marker": "s", "cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
            drawn = line[1].scatter(
                column[order] + 0.5, row[order] + 0.5, c=values[order], edgecolors="black", linewidths=0.1, **style
            )
            figure.colorbar(drawn, ax=line[1], pad=0.02).set_label("GeV", loc="center")
            line[1].set_title("gradient of the mass x input", fontsize=13)
            for axis, (name, weights) in zip(line[2:], jet["attention"].items()):
                drawn = axis.imshow(weights, origin="lower", extent=extent, cmap="viridis")
                figure.colorbar(drawn, ax=axis, pad=0.02)
                axis.set_title(name, fontsize=13)
            for axis in line:
                axis.set(xlim=(0, width), ylim=(0, height), xlabel="column (phi)", ylabel="row (eta)", aspect="equal")
                axis.tick_params(labelsize=10)
        _set_title(figure, title)
    return figure


def _set_title(figure: Figure, title: str) -> None:
    figure.suptitle(f"Simulation   {title}".rstrip(), fontweight="bold")


def mass_axis(mass: float, uncertainty: float | None = None, true_mass: float | None = None) -> Figure:
    """A predicted mass with its uncertainty [GeV], beside the masses of W, Z, H and top."""
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 2.6), layout="constrained")
        for number, (name, value) in enumerate(PARTICLES.items()):
            axis.axvline(value, color="grey", linestyle=":")
            # W and Z are too close for labels at the same height
            axis.text(value, 1.03 + 0.12 * (number % 2), name, ha="center", transform=axis.get_xaxis_transform())
        error = None if uncertainty is None else [[uncertainty], [uncertainty]]
        axis.errorbar([mass], [0], xerr=error, fmt="o", color=COLOURS[0], capsize=6, markersize=10, label="predicted")
        if true_mass is not None:
            axis.plot([true_mass], [0], "D", color=COLOURS[1], markersize=9, label="true")
        upper = max(250.0, 1.15 * (mass + (uncertainty or 0.0)))
        axis.set(xlim=(0, upper), ylim=(-1, 1), yticks=[], xlabel="Mass [GeV]")
        axis.legend(loc="lower right", fontsize=12)
        axis.minorticks_off()
    return figure


def mean_images(means: Mapping[str, np.ndarray], schema: DatasetSchema, title: str = "Simulation") -> Figure:
    """Mean image `(C, H, W)` of each class: one row per class, one column per channel.

    Axes are eta and phi [radians] relative to the seed tower. For signed channels pass means of absolute values.
    """
    half = schema.image_size[0] / 2 * np.pi / 180
    with plt.style.context(STYLE):
        shape = (len(means), len(schema.channel_names))
        figure, axes = plt.subplots(
            *shape, figsize=(2.5 * shape[1] + 1, 2.5 * shape[0] + 0.6), layout="constrained", sharex=True, sharey=True
        )
        axes = np.reshape(axes, shape)
        for column, name in enumerate(schema.channel_names):
            channel = schema.channel(name)
            largest = max(float(image[column].max()) for image in means.values()) or 1.0  # an empty channel
            smallest = max(largest * 1e-4, min(float(np.quantile(image[column], 0.05)) for image in means.values()))
            norm = LogNorm(smallest, largest, clip=True)
            for axis, (class_name, image) in zip(axes[:, column], means.items()):
                drawn = axis.imshow(
                    np.maximum(image[column], smallest),
                    origin="lower",
                    extent=(-half, half, -half, half),
                    norm=norm,
                    cmap="viridis",
                )
                axis.tick_params(labelsize=9)
                if column == 0:
                    axis.set_ylabel(class_name, fontsize=15)
            bars = f"|{channel.title}|" if channel.signed else channel.title
            axes[0, column].set_title(bars, fontsize=12)
            bar = figure.colorbar(drawn, ax=axes[:, column], orientation="horizontal", pad=0.01, aspect=12)
            bar.set_label(f"mean [{channel.unit}]", fontsize=11)
            bar.ax.tick_params(labelsize=8)
        figure.suptitle(rf"{title}   rows: $\Delta\eta$, columns: $\Delta\phi$ [rad]", fontweight="bold", fontsize=15)
    return figure
