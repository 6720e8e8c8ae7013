"""Effects are switched off by name; without all of them the detector is the one it was before they were added."""

import numpy as np
import pytest

from e2evit.simulation.batch import EventBatch
from e2evit.simulation.detector import detect
from e2evit.simulation.effects import EFFECTS
from e2evit.simulation.geometry import GEOMETRIES
from e2evit.simulation.hcal import tower_energy
from e2evit.simulation.images import jet_windows, render


def jets(number=4, each=150, width=0.2, radius=0.0):
    """Events of one jet at eta 0.3, phi 1: pions, photons and muons of 1 to 100 GeV, made `radius` from the beam."""
    rng = np.random.default_rng(0)
    event = np.repeat(np.arange(number), each)
    pdg_id = rng.choice([211, -211, 22, 13], len(event), p=[0.35, 0.35, 0.28, 0.02])
    pt, eta, phi = (
        10 ** rng.uniform(0, 2, len(event)),
        0.3 + rng.normal(0, width, len(event)),
        rng.normal(1, width, len(event)),
    )
    mass = np.where(np.abs(pdg_id) == 211, 0.1396, np.where(pdg_id == 13, 0.1057, 0.0))
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=1)
    energy = np.sqrt((momentum**2).sum(axis=1) + mass**2)
    charge = np.where(pdg_id == 22, 0, np.where(pdg_id == 13, -1, np.sign(pdg_id)))
    return EventBatch(
        number,
        event,
        pdg_id,
        charge,
        np.concatenate([momentum, energy[:, None]], axis=1),
        radius * momentum / pt[:, None],
    )


def images(layout, pool=None, **shape):
    """The detector's response, the towers and the images of the jets."""
    batch, rng = jets(**shape), np.random.default_rng(1)
    response = detect(batch, layout, rng)
    if pool is not None:
        response, _ = pool.overlay(response, ["train"] * batch.num_events, 21.0, layout, rng)
    towers = tower_energy(batch.num_events, response.hcal, layout, rng)
    frames = jet_windows(np.arange(4), np.full(4, 31), np.full(4, 13))
    return response, towers, *render(frames, response, towers, layout, rng)


def test_without_all_the_detector_is_the_ideal_one():
    """Recorded numbers: no effect may change them. The calorimeters' own depth and noise may."""
    response, towers, index, value = images(GEOMETRIES["run1"].without(["all"]))
    assert {name: len(hits) for name, hits in response.layers.items()} == {
        "tracks": 385,
        "ecal": 596,
        "hcal": 414,
        "silicon": 1240,
    }
    sums = [
        response.ecal["energy"].sum(),
        response.hcal["energy"].sum(),
        towers.sum(),
        np.array(value.flatten()).sum(),
    ]
    # single precision
    assert sums == pytest.approx([6095.174, 5185.8643, 5163.7812, 20336.738], rel=1e-5)
    assert np.diff(index.offsets).tolist() == [4063, 3768, 3864, 3912]


@pytest.mark.parametrize("name", EFFECTS)
def test_every_effect_can_be_switched_off(name, pool):
    """Its name reaches the simulation, which then draws other numbers; other tests measure what each effect does."""
    geometry, dense = GEOMETRIES["run1"], {"width": 0.02, "radius": 4.0}
    with_it, without = (images(detector, pool, **dense)[-1] for detector in (geometry, geometry.without([name])))
    assert not with_it.equals(without)
