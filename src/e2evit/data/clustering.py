"""Anti-kt jets by FastJet: GPL software and an optional dependency, so import this module where jets are made."""

from typing import Any, cast

import awkward as ak
import fastjet
import numpy as np

from .grid import JET_RADIUS

# or each worker prints FastJet's banner over the progress bar; the README asks for the citation instead
cast(Any, fastjet)._swig.ClusterSequence.set_fastjet_banner_stream(None)

__all__ = ["cluster"]


def cluster(momentum: np.ndarray, counts: np.ndarray, min_pt: float) -> tuple[np.ndarray, np.ndarray, ak.Array]:
    """Anti-kt R = 0.8 jets above `min_pt` [GeV] of each event, hardest first.

    Args:
        momentum: `(n, 4)` px, py, pz, E [GeV] of the particles, event by event.
        counts: How many particles each event has.

    Returns:
        The event of each jet `(m,)`, its momentum `(m, 4)`, and its particles, lists of records `px`, `py`, `pz`, `E`.
    """
    particles = ak.zip(dict(zip(("px", "py", "pz", "E"), momentum.T)), with_name="Momentum4D")
    particles = ak.unflatten(particles, counts)
    clusters = fastjet.ClusterSequence(particles, fastjet.JetDefinition(fastjet.antikt_algorithm, JET_RADIUS))
    jets: Any = clusters.inclusive_jets(min_pt=min_pt)
    constituents: Any = clusters.constituents(min_pt=min_pt)
    order = ak.argsort(jets.px**2 + jets.py**2, axis=1, ascending=False)
    jets, constituents = jets[order], ak.flatten(constituents[order], axis=1)
    event = np.repeat(np.arange(len(counts)), ak.to_numpy(ak.num(jets)))
    axes = [ak.to_numpy(ak.flatten(jets[axis])) for axis in ("px", "py", "pz", "E")]
    return event, np.stack(axes, axis=1), constituents
