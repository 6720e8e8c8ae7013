"""The jets of whole events, as columns of their rows: what a model of events predicts."""

import numpy as np
import pyarrow as pa

from e2evit.data.columns import LISTS
from e2evit.data.sparse import list_array

from .cells import join
from .jets import Jets

__all__ = ["event_jet_columns"]


def event_jet_columns(events: np.ndarray, jets: Jets, labels: tuple[int, int]) -> dict[str, pa.ListArray]:
    """Columns of rows, one for each of `events`.

    Args:
        jets: All jets, of these events and others.
        labels: Numbers of the class of jets without a heavy particle, and of those with one.
    """
    row, jet = join(events, jets.event)
    counts, jets = np.bincount(row, minlength=len(events)), jets.select(jet)
    eta, phi = jets.eta_phi
    values = {
        "jets_pt": jets.pt,
        "jets_eta": eta,
        "jets_phi": phi,
        "jets_labels": np.where(np.isnan(jets.heavy_mass), *labels),
        "jets_mass_labels": jets.heavy_mass,
        "jets_mass": jets.mass,
        "jets_merged": jets.merged,
    }
    return {name: list_array(values[name].astype(kind), counts) for name, kind in LISTS["jets"].items()}
