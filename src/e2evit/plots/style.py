"""The look of all figures: that of the LHC experiments, and everything shown is labelled a simulation."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import mplhep
from matplotlib.figure import Figure

__all__ = ["COLOURS", "STYLE", "label_simulation", "save_figure", "styles"]

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# the style names fonts that few machines have, and falls back with a line for each
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
STYLE = [
    mplhep.style.CMS,
    # legend lines are long enough to show dashes
    {"font.size": 16, "axes.labelsize": 16, "legend.fontsize": 13, "legend.handlelength": 2.6, "axes.titlesize": 15},
]


def styles(names: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """Each name with a colour and a line of its own: six colours, then the same dashed, then dotted."""
    for number, name in enumerate(names):
        line = ("-", "--", ":")[number // len(COLOURS) % 3]
        yield name, {"color": COLOURS[number % len(COLOURS)], "linestyle": line}


def label_simulation(axis) -> None:
    axis.set_title("Simulation", loc="left", fontweight="bold")


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
