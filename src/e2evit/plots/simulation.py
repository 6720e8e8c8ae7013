"""Figures of the simulation: distributions and calorimeter response."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from .style import COLOURS, STYLE, label_simulation

__all__ = ["calorimeter_response", "distributions"]


def distributions(
    panels: Sequence[tuple[str, Mapping[str, np.ndarray], np.ndarray, Mapping[str, float]]],
    log: bool = False,
    columns: int = 2,
) -> Figure:
    """Normalised histograms, one panel per `(axis label, values by class, bin edges, values to mark)`.

    The first and last bins include underflow and overflow; bands are ± √N of the entries, too
    narrow where those of one jet are correlated.
    """
    rows = -(-len(panels) // columns)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(6.2 * columns, 4.8 * rows), layout="constrained")
        for axis, (label, values, edges, marks) in zip(np.ravel(axes), panels):
            for colour, (name, sample) in zip(COLOURS, values.items()):
                heights, _ = np.histogram(np.clip(sample, edges[0], edges[-1]), edges)
                low, middle, high = ((heights + sign * np.sqrt(heights)) / len(sample) for sign in (-1, 0, 1))
                axis.stairs(middle, edges, color=colour, label=name, linewidth=1.6)
                axis.stairs(high, edges, baseline=low, color=colour, fill=True, alpha=0.25)
            for name, place in marks.items():
                axis.axvline(place, color="black", linestyle="--", linewidth=1.2, label=name)
            axis.set(xlabel=label, ylabel="Fraction", xlim=(edges[0], edges[-1]))
            if log:
                axis.set_yscale("log")
            else:
                axis.set_ylim(0, 1.45 * axis.get_ylim()[1])  # room for the legend
            axis.legend(ncols=2, fontsize=11)
            axis.tick_params(labelsize=12)
            label_simulation(axis)
        for axis in np.ravel(axes)[len(panels) :]:
            axis.remove()
    return figure


def calorimeter_response(rows: Sequence[Mapping[str, float]], published: Mapping[float, float]) -> Figure:
    """Response and resolution of the calorimeter jet pT in bins of particle-level pT [GeV].

    Args:
        rows: With `low` and `high`, `response` and `resolution`, and of these `..._low` and `..._high`, if known.
        published: CMS's particle-flow jet resolution by pT.
    """
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
        middle = np.array([(row["low"] + row["high"]) / 2 for row in rows])
        width = np.array([(row["high"] - row["low"]) / 2 for row in rows])
        for axis, key, label in zip(axes, ("response", "resolution"), ("Median response", "Relative resolution")):
            bounds = [[row[key], row.get(f"{key}_low", np.nan), row.get(f"{key}_high", np.nan)] for row in rows]
            value, low, high = np.array(bounds).T
            errors = {"xerr": width, "yerr": np.maximum([value - low, high - value], 0)}
            axis.errorbar(middle, value, **errors, fmt="o", color=COLOURS[0], label="calorimeter image")
            axis.set(xlabel=r"Particle-level jet $p_T$ [GeV]", ylabel=label)
            label_simulation(axis)
        axes[0].set_ylim(0.5, 1.2)
        axes[0].axhline(1, color="grey", linestyle=":")
        axes[1].plot(*zip(*published.items()), "s", color=COLOURS[1], label="CMS, particle flow (arXiv 1607.03663)")
        axes[1].set(ylim=(0, 0.16), xscale="log", xlim=(80, 1200))
        for axis in axes:
            axis.legend()
    return figure
