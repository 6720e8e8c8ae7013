"""What windows see of events with pile-up is what whole events show there."""

import numpy as np
import pytest

from e2evit.data.grid import SEED_ROWS, seed_towers
from e2evit.simulation.detector import detect
from e2evit.simulation.events import generate
from e2evit.simulation.geometry import GEOMETRIES
from e2evit.simulation.hcal import tower_energy
from e2evit.simulation.images import jet_windows, render
from e2evit.simulation.jets import find_jets
from e2evit.simulation.overlay import Overlay, PileUp
from e2evit.simulation.particle_flow import find_candidates
from e2evit.simulation.processes import PROCESSES


class AllFound:
    """Finds each electron and muon, whatever other tracks there are."""

    def random(self, size):
        return np.zeros(size)


@pytest.mark.parametrize("geometry", ["run1", "run3"])
@pytest.mark.parametrize("mean", [0.0, 40.0])
def test_windows_show_what_whole_events_show(pool, geometry, mean):
    """With all effects but the two that draw a number for each track or hit of an event; two jets of an event too."""
    layout = GEOMETRIES[geometry].without(["fakes", "lost_hits"])
    batch = next(generate(PROCESSES["top"], 7, 8000.0, (400.0, 1000.0), batch_size=25))
    jets = find_jets(batch, 6, 400.0, 1000.0)
    assert len(jets.event) > len(np.unique(jets.event))
    rng = np.random.default_rng(1)
    pileup = PileUp(pool, ["train"] * batch.num_events, mean) if mean else None
    overlay = Overlay(detect(batch, layout, rng), layout, rng, pileup)
    towers = tower_energy(batch.num_events, overlay.hcal, layout, rng)
    windows = jet_windows(jets.event, *seed_towers(towers, jets.event, *jets.eta_phi, SEED_ROWS))
    views = (windows, overlay.whole(), towers), (windows.alone(), overlay.within(windows), towers[jets.event])
    made = []
    for frames, response, energy in views:
        image = render(frames, response, energy, layout, np.random.default_rng(2))
        made.append((*image, find_candidates(frames, *jets.eta_phi, image, response, energy, layout, AllFound())))
        assert len(image[0].flatten()) > 500 * len(jets.event)
    (index, value, candidates), (near_index, near_value, near_candidates) = made
    assert index.equals(near_index)
    assert value.equals(near_value)
    assert np.array_equal(candidates, near_candidates)
