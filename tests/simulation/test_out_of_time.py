"""Other bunch crossings leave the published share of their energy in the calorimeters, and nothing in the tracker."""

from dataclasses import replace

import numpy as np
import pytest

from e2evit.simulation import ecal, out_of_time
from e2evit.simulation.cells import IMPACT, structured
from e2evit.simulation.detector import Response
from e2evit.simulation.geometry import GEOMETRIES
from e2evit.simulation.images import whole_detector
from e2evit.simulation.pileup import MinimumBiasPool

RUN1, RUN3 = (replace(GEOMETRIES[name], effects=frozenset({"out_of_time"})) for name in ("run1", "run3"))
IDEAL = RUN1.without(["all"])


def test_shares_follow_from_the_pulse():
    """The weights of the ECAL subtract the pedestal: earlier collisions take energy away, and in sum the mean stays
    almost what it is without pile-up."""
    assert out_of_time._ecal(0.0) == pytest.approx(1)
    late = {time: out_of_time._ecal(time) for time in (-150.0, -100.0, -50.0, 50.0, 100.0)}
    assert late[-100.0] < late[-150.0] < -0.5
    assert late[100.0] == pytest.approx(0, abs=0.01)
    assert late[-50.0] == pytest.approx(late[50.0], abs=0.05)
    everything = sum(out_of_time._ecal(50.0 * number) for number in range(-10, 11))
    assert everything == pytest.approx(0, abs=0.1)
    assert [out_of_time._hcal(time) for time in (-50.0, 0.0, 50.0)] == pytest.approx([0.111, 1.0, 0.0], abs=0.001)


def test_earlier_crossings_cancel_the_mean_of_the_one_in_time(pool):
    """With those that are followed, and of the showers that are followed."""
    shares = out_of_time.fractions(50.0)[:, 0]
    assert 1 + shares.sum() == pytest.approx(0, abs=0.05)
    energy = pool.response.ecal["energy"]
    left = shares[:, None] * energy
    # showers of less than 50 MeV are missing
    assert 1 + left[np.abs(left) > out_of_time.LEAST].sum() / energy.sum() == pytest.approx(0, abs=0.1)


def overlaid(pool, layout, number=400, mean=21.0):
    nothing = Response(np.zeros(number), **{name: hits[:0] for name, hits in pool.response.layers.items()})
    return pool.overlay(nothing, ["train"] * number, mean, layout, np.random.default_rng(0))


@pytest.mark.parametrize("layout", [RUN1, RUN3], ids=["run1", "run3"])
def test_other_crossings_leave_their_share(pool, layout):
    without, number = overlaid(pool, IDEAL)
    response, same = overlaid(pool, layout)
    assert np.array_equal(number, same)
    for name in ("tracks", "silicon"):
        assert np.array_equal(vars(response)[name], vars(without)[name])
    (low, high), shares = pool._parts["train"], out_of_time.fractions(layout.bunch_spacing)
    for name, share in zip(("ecal", "hcal"), shares.T):
        hits = vars(pool.response)[name]
        energy = hits["energy"][(hits["event"] >= low) & (hits["event"] < high)] * share[:, None]
        wanted = 21 * energy[np.abs(energy) > out_of_time.LEAST].sum() / (high - low)
        late = vars(response)[name][vars(response)[name]["width"] < 0]
        # fluctuations of single collisions in a pool of sixty
        assert late["energy"].sum() / 400 == pytest.approx(wanted, rel=0.15, abs=0.3)
        assert late["pileup"].all()
        assert (np.diff(vars(response)[name]["event"]) >= 0).all()


def test_other_crossings_stay_within_their_split(pool):
    hits = pool.response.ecal.copy()
    hits["energy"] = 1000 + hits["event"]
    numbered = MinimumBiasPool(Response(pool.response.vertex_z, **(pool.response.layers | {"ecal": hits})))
    for split, (low, high) in numbered._parts.items():
        nothing = Response(np.zeros(100), **{name: hits[:0] for name, hits in pool.response.layers.items()})
        response, _ = numbered.overlay(nothing, [split] * 100, 21.0, RUN3, np.random.default_rng(1))
        late = response.ecal["energy"][response.ecal["width"] < 0] / out_of_time.TEMPLATES_LEAVE - 1000
        assert low <= late.min()
        assert late.max() < high


def test_crystals_that_are_mostly_late_are_dropped():
    shower = structured(
        IMPACT,
        event=np.zeros(5),
        row=np.array([100.5, 100.5, 120.5, 140.5, 140.5]),
        column=np.full(5, 50.5),
        energy=np.array([2.0, -0.5, 3.0, 1.0, 5.0]),
        width=np.array([0.0, out_of_time.WIDTH, out_of_time.WIDTH, 0.0, out_of_time.WIDTH]),
    )
    energy = ecal.crystal_energy(whole_detector([0]), shower, RUN1, np.random.default_rng(0))[0]
    assert energy[100, 50] == pytest.approx(1.5, abs=0.2)
    assert energy[120, 50] < 0.2
    assert energy[140, 50] < 0.2
