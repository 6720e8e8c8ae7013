"""The style of all figures: that of the LHC experiments, with every figure labelled as simulation."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import mplhep
from matplotlib.figure import Figure

from e2evit.data.jobs import write_whole

__all__ = ["COLOURS", "STYLE", "label_simulation", "save_figure", "styles"]

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# few machines have the fonts of the style; matplotlib falls back and logs a line for each
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
STYLE = [
    mplhep.style.CMS,
    # legend lines long enough to show dashes
    {"font.size": 16, "axes.labelsize": 16, "legend.fontsize": 13, "legend.handlelength": 2.6, "axes.titlesize": 15},
]


def styles(names: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """A distinct colour and line style for each name: six solid colours, then the same dashed, then dotted."""
    for number, name in enumerate(names):
        line = ("-", "--", ":")[number // len(COLOURS) % 3]
        yield name, {"color": COLOURS[number % len(COLOURS)], "linestyle": line}


def label_simulation(axis, sample: str = "") -> None:
    """`Simulation` at the top left, and at the top right what the figure shows: model, sample, jets."""
    axis.set_title("Simulation", loc="left", fontweight="bold")
    axis.set_title(sample, loc="right", fontsize=10)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write `path` with the endings .png and .pdf; returns the PNG."""
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    for ending in ("pdf", "png"):
        write_whole(path.with_suffix(f".{ending}"), partial(figure.savefig, format=ending, dpi=110))
    plt.close(figure)
    return path.with_suffix(".png")
