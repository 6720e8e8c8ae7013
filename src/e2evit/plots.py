"""Figures in the style of the LHC experiments; everything shown is labelled a simulation."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import mplhep
import numpy as np
from matplotlib.colors import LogNorm, SymLogNorm
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from .data import DatasetSchema
from .data.grid import WINDOW, window_centres
from .data.sparse import sparse_to_dense
from .report import JetPredictions

__all__ = [
    "calibration",
    "calorimeter_response",
    "comparison_figures",
    "distributions",
    "event_display",
    "jet_displays",
    "mass_axis",
    "mass_response",
    "mean_images",
    "quality_against_cost",
    "resolution",
    "roc",
    "saliency_display",
    "save_figure",
    "sculpting",
    "true_against_predicted",
    "tuning",
]

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
PARTICLES = {"W": 80.4, "Z": 91.2, "H": 125.2, "t": 172.6}  # GeV, Particle Data Group 2024
# the style names fonts that few machines have, and falls back with a line for each
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
STYLE = [mplhep.style.CMS, {"font.size": 16, "axes.labelsize": 16, "legend.fontsize": 13, "axes.titlesize": 15}]


def _styles(names: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """Each name with a colour and a line of its own: six colours, then the same dashed, then dotted."""
    for number, name in enumerate(names):
        line = ("-", "--", ":")[number // len(COLOURS) % 3]
        yield name, {"color": COLOURS[number % len(COLOURS)], "linestyle": line}


def _label(axis, text: str = "Simulation") -> None:
    axis.set_title(text, loc="left", fontweight="bold")


def event_display(row: Mapping, schema: DatasetSchema, title: str = "") -> Figure:
    """All channels of one image, a jet's on axes of eta and phi [radians], colours in the unit of the channel."""
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
            if np.count_nonzero(pixels) < 0.01 * pixels.size:
                # single pixels of a 125 x 125 image would be too small to see
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
            axis.set(xlabel=names[0], ylabel=names[1])
            axis.set_title(channel.title)
            axis.tick_params(labelsize=11)
        for axis in np.ravel(axes)[len(image) :]:
            axis.remove()
        figure.suptitle(f"Simulation   {title}" if title else "Simulation", fontweight="bold")
    return figure


def saliency_display(saliency: np.ndarray, schema: DatasetSchema, title: str = "") -> Figure:
    """Gradient times input `(C, H, W)` of one image, a panel for each channel, one colour scale for all of them.

    Red pixels raise the output, blue ones lower it; the share of a channel is its part of the sum of absolute values.
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
        figure.suptitle(f"Simulation   {title}" if title else "Simulation", fontweight="bold")
    return figure


def mass_axis(mass: float, uncertainty: float | None = None, true_mass: float | None = None) -> Figure:
    """A predicted mass with its uncertainty [GeV] on an axis with those of W, Z, H and top."""
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 2.6), layout="constrained")
        for number, (name, value) in enumerate(PARTICLES.items()):
            axis.axvline(value, color="grey", linestyle=":")
            # W and Z are too close for labels at one height
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


def roc(labels: np.ndarray, scores: Mapping[str, np.ndarray]) -> Figure:
    """Background rejection against signal efficiency, one line per predictor, AUC in the legend."""
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        for name, style in _styles(scores):
            false_positive, true_positive, _ = roc_curve(labels, scores[name])
            passed = false_positive > 0
            auc = roc_auc_score(labels, scores[name])
            axis.plot(true_positive[passed], 1 / false_positive[passed], **style, label=f"{name} (AUC {auc:.3f})")
        efficiency = np.linspace(0.02, 1, 200)
        axis.plot(efficiency, 1 / efficiency, color="grey", linestyle=":", label="random")
        # two more decades leave room for the legend
        axis.set(yscale="log", xlim=(0, 1), ylim=(1, 100 * np.sum(labels == 0)))
        axis.set(xlabel=r"Signal efficiency $\varepsilon_S$", ylabel=r"Background rejection $1/\varepsilon_B$")
        axis.legend(fontsize=13 if len(scores) < 6 else 10)
        _label(axis)
    return figure


def mass_response(masses: np.ndarray, predictions: Mapping[str, np.ndarray], num_bins: int = 8) -> Figure:
    """Median of predicted over true mass in bins of true mass [GeV] with equal numbers of jets; bars hold 68 %."""
    edges = np.quantile(masses, np.linspace(0, 1, num_bins + 1))
    which = np.clip(np.searchsorted(edges, masses, side="right") - 1, 0, num_bins - 1)
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        for number, (name, style) in enumerate(_styles(predictions)):
            response = predictions[name] / masses
            low, middle, high = np.array(
                [np.percentile(response[which == i], [16, 50, 84]) for i in range(num_bins)]
            ).T
            centres = np.array([np.median(masses[which == i]) for i in range(num_bins)])
            # side by side, so that bars can be told apart
            centres = centres * (1 + 0.012 * (number - (len(predictions) - 1) / 2))
            errors = (middle - low, high - middle)
            axis.errorbar(centres, middle, errors, fmt="o", color=style["color"], capsize=3, label=name)
        axis.axhline(1, color="grey", linestyle=":")
        axis.set(xlabel="True mass [GeV]", ylabel="Predicted / true mass (median, 68 %)", ylim=(0, 2.5))
        axis.legend()
        _label(axis)
    return figure


def resolution(
    by: np.ndarray, masses: np.ndarray, predictions: Mapping[str, np.ndarray], label: str, num_bins: int = 8
) -> Figure:
    """Median response m̂ / m and relative resolution in bins of `by` with equal numbers of jets, a line for each model.

    Args:
        by: Of each jet what the bins are in, e.g. its mass or its pT [GeV].
        masses, predictions: In GeV.
        label: Of the horizontal axis.
    """
    parts = np.array_split(np.argsort(by, kind="stable"), num_bins)
    centres = [np.median(by[part]) for part in parts]
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(14, 6), layout="constrained")
        for name, style in _styles(predictions):
            response = predictions[name] / masses
            low, middle, high = np.array([np.percentile(response[part], [16, 50, 84]) for part in parts]).T
            axes[0].plot(centres, middle, marker="o", markersize=4, **style, label=name)
            axes[1].plot(centres, (high - low) / 2, marker="o", markersize=4, **style, label=name)
        axes[0].axhline(1, color="grey", linestyle=":")
        axes[0].set(xlabel=label, ylabel="Median of predicted / true mass")
        axes[1].set(xlabel=label, ylabel="Relative mass resolution")
        axes[1].set_ylim(0, 1.4 * axes[1].get_ylim()[1])  # room for the legend
        axes[1].legend(ncols=2, fontsize=11)
        for axis in axes:
            _label(axis)
    return figure


def true_against_predicted(masses: np.ndarray, predictions: np.ndarray, num_bins: int = 60) -> Figure:
    """Jets in the plane of true and predicted mass [GeV], and the median prediction in slices of true mass."""
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        upper = 1.02 * max(np.quantile(masses, 0.999), np.quantile(predictions, 0.99))
        edges = np.linspace(0, upper, num_bins + 1)
        counts, *_ = np.histogram2d(masses, predictions, (edges, edges))
        mesh = axis.pcolormesh(edges, edges, np.ma.masked_equal(counts.T, 0), cmap="viridis_r", norm=LogNorm(1))
        parts = np.array_split(np.argsort(masses, kind="stable"), 15)
        middle = [(np.median(masses[part]), np.median(predictions[part])) for part in parts]
        axis.plot(*zip(*middle), "o-", color=COLOURS[1], label="median prediction")
        axis.plot([0, upper], [0, upper], color="grey", linestyle=":", label="true mass")
        axis.set(xlabel="True mass [GeV]", ylabel="Predicted mass [GeV]", xlim=(0, upper), ylim=(0, upper))
        figure.colorbar(mesh, ax=axis, pad=0.02).set_label("Jets", loc="center")
        axis.legend(loc="upper left")
        _label(axis)
    return figure


def calibration(labels: np.ndarray, probabilities: Mapping[str, np.ndarray], num_bins: int = 12) -> Figure:
    """Share of right answers against the probability of the most probable class, in bins with equal numbers of jets.

    Above the diagonal a model is more often right than it says.
    """
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        for name, style in _styles(probabilities):
            confidence, right = probabilities[name].max(axis=1), probabilities[name].argmax(axis=1) == labels
            parts = np.array_split(np.argsort(confidence, kind="stable"), num_bins)
            points = [(confidence[part].mean(), right[part].mean()) for part in parts]
            axis.plot(*zip(*points), marker="o", markersize=4, **style, label=name)
        axis.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
        axis.set(xlabel="Probability of the most probable class", ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1))
        axis.legend(fontsize=13 if len(probabilities) < 6 else 10)
        _label(axis)
    return figure


def jet_displays(jets: Sequence[Mapping], schema: DatasetSchema) -> Figure:
    """A row for each jet: its energies and tracks, what a model's mass hangs on, and where its attention is.

    Args:
        jets: Each with `title`, `image` `(C, H, W)` in detector units, `saliency` `(C, H, W)` (gradient times input),
            and `attention` by title, each `(H', W')` on a grid of tokens over the whole image.
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
            for axis, (title, weights) in zip(line[2:], jet["attention"].items()):
                drawn = axis.imshow(weights, origin="lower", extent=extent, cmap="viridis")
                figure.colorbar(drawn, ax=axis, pad=0.02)
                axis.set_title(title, fontsize=13)
            for axis in line:
                axis.set(xlim=(0, width), ylim=(0, height), xlabel="column (phi)", ylabel="row (eta)", aspect="equal")
                axis.tick_params(labelsize=10)
        figure.suptitle("Simulation", fontweight="bold")
    return figure


def quality_against_cost(records: Mapping[str, Mapping], quantity: str, label: str, is_better_high: bool) -> Figure:
    """A quantity with its interval against the multiplications of one image, a point for each record that knows them.

    The line joins the records that no other beats in both.
    """
    points = {
        name: (
            record["cost"]["macs"],
            *(record["metrics"]["model"][f"{quantity}{end}"] for end in ("", "_low", "_high")),
        )
        for name, record in records.items()
        if record.get("cost") and quantity in record["metrics"]["model"]
    }
    sign = 1 if is_better_high else -1
    front = [
        name
        for name, (macs, value, *_) in points.items()
        if not any(
            other[0] <= macs and sign * other[1] >= sign * value and other[:2] != (macs, value)
            for other in points.values()
        )
    ]
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        for number, (name, style) in enumerate(_styles(points)):
            (macs, value, low, high), colour = points[name], style["color"]
            error = [[max(value - low, 0)], [max(high - value, 0)]]
            marker = "os^Dv"[number // len(COLOURS) % 5]
            axis.errorbar([macs / 1e6], [value], yerr=error, fmt=marker, color=colour, capsize=3, label=name)
        line = sorted(points[name][:2] for name in front)
        axis.plot(
            [macs / 1e6 for macs, _ in line], [value for _, value in line], color="grey", linestyle=":", zorder=0
        )
        axis.set(xscale="log", xlabel="Multiplications of one image [million]", ylabel=label)
        axis.legend()
        _label(axis)
    return figure


def sculpting(labels: np.ndarray, scores: np.ndarray, jet_masses: np.ndarray, num_bins: int = 40) -> Figure:
    """Masses [GeV] of the background: of all of it, and of what passes the tagger at ε_S = 50 and 30 %.

    `labels` are 1 for signal and 0 for background. A tagger that ignores the mass leaves the shape as it is.
    """
    background = jet_masses[labels == 0]
    edges = np.linspace(0, np.quantile(background, 0.995), num_bins + 1)
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        chosen = {"all": np.ones(len(background), bool)}
        for percent in (50, 30):
            threshold = np.quantile(scores[labels == 1], 1 - percent / 100)
            chosen[rf"pass at $\varepsilon_S$ = {percent} %"] = scores[labels == 0] > threshold
        for colour, (name, which) in zip(COLOURS, chosen.items()):
            heights, _ = np.histogram(background[which], edges)
            label = f"{name} ({which.sum()} jets)"
            axis.stairs(heights / max(which.sum(), 1), edges, color=colour, label=label, linewidth=1.8)
        axis.set(xlabel="Mass of background jets [GeV]", ylabel="Fraction", xlim=(edges[0], edges[-1]))
        axis.set_ylim(0, 1.3 * axis.get_ylim()[1])  # room for the legend
        axis.legend()
        _label(axis)
    return figure


def comparison_figures(found: JetPredictions) -> dict[str, Figure]:
    """As far as there are targets for them: ROC curves, calibration, mass response and resolution of all models;
    sculpting, and true against predicted masses, of the first."""
    known, has_mass, figures = found.labels != -100, np.isfinite(found.masses), {}
    signal = (found.labels[known] > 0).astype(int)
    if len(np.unique(signal)) == 2:
        scores = {name: score[known] for name, score in found.scores.items()}
        figures["roc"] = roc(signal, scores)
        figures["sculpting"] = sculpting(signal, next(iter(scores.values())), found.jet_masses[known])
    if found.probabilities and known.any():
        probabilities = {name: of_classes[known] for name, of_classes in found.probabilities.items()}
        figures["calibration"] = calibration(found.labels[known], probabilities)
    if has_mass.any():
        mass_preds = {name: mass[has_mass] for name, mass in found.mass_preds.items()}
        masses = found.masses[has_mass]
        figures["mass_response"] = mass_response(masses, mass_preds)
        figures["resolution_mass"] = resolution(masses, masses, mass_preds, "True mass [GeV]")
        if np.isfinite(found.pts[has_mass]).all():
            figures["resolution_pt"] = resolution(found.pts[has_mass], masses, mass_preds, r"Jet $p_T$ [GeV]")
        figures["true_against_predicted"] = true_against_predicted(masses, next(iter(mass_preds.values())))
    return figures


def mean_images(means: Mapping[str, np.ndarray], schema: DatasetSchema, title: str = "Simulation") -> Figure:
    """Mean image of each class, `(C, H, W)`, a row for each class and a column for each channel.

    Axes are eta and phi [radians] relative to the seed tower; give means of the absolute value for signed channels.
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
            largest = max(float(image[column].max()) for image in means.values())
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


def distributions(
    panels: Sequence[tuple[str, Mapping[str, np.ndarray], np.ndarray, Mapping[str, float]]],
    log: bool = False,
    columns: int = 2,
) -> Figure:
    """Normalised histograms, one panel each of `(label of the axis, values by class, bin edges, lines to mark)`.

    The first and the last bin hold what lies beyond them too.
    """
    rows = -(-len(panels) // columns)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(6.2 * columns, 4.8 * rows), layout="constrained")
        for axis, (label, values, edges, marks) in zip(np.ravel(axes), panels):
            for colour, (name, sample) in zip(COLOURS, values.items()):
                heights, _ = np.histogram(np.clip(sample, edges[0], edges[-1]), edges)
                axis.stairs(heights / len(sample), edges, color=colour, label=name, linewidth=1.6)
            for name, place in marks.items():
                axis.axvline(place, color="black", linestyle="--", linewidth=1.2, label=name)
            axis.set(xlabel=label, ylabel="Fraction", xlim=(edges[0], edges[-1]))
            if log:
                axis.set_yscale("log")
            else:
                axis.set_ylim(0, 1.45 * axis.get_ylim()[1])  # room for the legend
            axis.legend(ncols=2, fontsize=11)
            axis.tick_params(labelsize=12)
            _label(axis)
        for axis in np.ravel(axes)[len(panels) :]:
            axis.remove()
    return figure


def calorimeter_response(rows: Sequence[Mapping[str, float]], published: Mapping[float, float]) -> Figure:
    """Response and resolution of the calorimeters' jet pT in bins of particle-level pT [GeV].

    Args:
        rows: With `low`, `high`, `response`, `resolution`.
        published: CMS's resolution of particle-flow jets by pT.
    """
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
        middle = np.array([(row["low"] + row["high"]) / 2 for row in rows])
        width = np.array([(row["high"] - row["low"]) / 2 for row in rows])
        for axis, key, label in zip(axes, ("response", "resolution"), ("Median response", "Relative resolution")):
            values = [row[key] for row in rows]
            axis.errorbar(middle, values, xerr=width, fmt="o", color=COLOURS[0], label="calorimeter image")
            axis.set(xlabel=r"Particle-level jet $p_T$ [GeV]", ylabel=label)
            _label(axis)
        axes[0].set_ylim(0.5, 1.2)
        axes[0].axhline(1, color="grey", linestyle=":")
        axes[1].plot(*zip(*published.items()), "s", color=COLOURS[1], label="CMS, particle flow (arXiv 1607.03663)")
        axes[1].set(ylim=(0, 0.16), xscale="log", xlim=(80, 1200))
        for axis in axes:
            axis.legend()
    return figure


def tuning(trials: Sequence[Mapping], objective: str, direction: str) -> Figure:
    """What each trial of a search reached: by its number, and against each of its settings.

    Args:
        trials: With `number`, `state`, `params`, `value` (None if it was pruned) and `by_epoch`.
        objective: What `value` is.
        direction: `"minimize"` or `"maximize"`.
    """
    best = min if direction == "minimize" else max
    points = []
    for trial in trials:
        value = trial["value"] if trial["value"] is not None else best(trial["by_epoch"].values(), default=None)
        if value is not None:
            points.append((trial, value))
    names = list(dict.fromkeys(name for trial, _ in points for name in trial["params"]))
    with plt.style.context(STYLE):
        columns = min(3, 1 + len(names))
        rows = -(-(1 + len(names)) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(6 * columns, 4.6 * rows), layout="constrained", squeeze=False
        )
        for axis, name in zip(np.ravel(axes), [None, *names]):
            for state, colour in (("COMPLETE", COLOURS[0]), ("PRUNED", COLOURS[1])):
                chosen = [(trial, value) for trial, value in points if trial["state"] == state]
                x = [trial["number"] if name is None else trial["params"].get(name) for trial, _ in chosen]
                x = [str(value) if isinstance(value, (str, bool)) else value for value in x]
                label = {"COMPLETE": "finished", "PRUNED": "pruned"}[state]
                axis.plot(x, [value for _, value in chosen], "o", color=colour, label=label)
            values = [trial["params"][name] for trial, _ in points if name in trial["params"]] if name else []
            if values and all(isinstance(value, float) and value > 0 for value in values):
                axis.set_xscale("log" if max(values) > 20 * min(values) else "linear")
            axis.set(xlabel=name or "trial", ylabel=objective.replace("_", " "))
            axis.tick_params(labelsize=12)
        axes[0, 0].legend()
        for axis in np.ravel(axes)[1 + len(names) :]:
            axis.remove()
        figure.suptitle("Simulation", fontweight="bold")
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """PNG and PDF under `path` without its ending; returns the PNG."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for ending in (".pdf", ".png"):
        temporary = path.with_suffix(f".tmp{ending}")
        figure.savefig(temporary, dpi=110)
        temporary.replace(path.with_suffix(ending))
    plt.close(figure)
    return path.with_suffix(".png")
