"""Pile-up is Poisson, rotated in phi, separate between splits, and survives its file."""

import numpy as np
import pytest

from e2evit.simulation.detector import Response
from e2evit.simulation.geometry import GEOMETRIES
from e2evit.simulation.pileup import MinimumBiasPool

RUN1 = GEOMETRIES["run1"]
PLAIN = RUN1.without(["all"])


def nothing(pool, num_events):
    return Response(np.zeros(num_events), **{name: hits[:0] for name, hits in pool.response.layers.items()})


def test_number_and_places(pool):
    rng = np.random.default_rng(0)
    response, number = pool.overlay(nothing(pool, 500), ["train"] * 500, 21.0, RUN1, rng)
    # standard error of the mean 0.2, of the variance 1.3
    assert number.mean() == pytest.approx(21, abs=0.8)
    assert number.var() == pytest.approx(21, abs=6)
    for name, hits in response.layers.items():
        assert (np.diff(hits["event"]) >= 0).all(), name
    columns = np.bincount(response.ecal["column"].astype(int) // 30, minlength=12)
    assert columns.std() / columns.mean() < 0.1  # the pool's own few hot spots are spread over phi
    per_event = len(response.tracks) / 500
    assert per_event == pytest.approx(21 * len(pool.response.tracks) / len(pool), rel=0.4)
    assert response.ecal["column"].max() < 360
    assert response.hcal["column"].max() < 72


def test_a_collision_stays_together(pool):
    """Tracks, showers and hits of one collision are rotated by the same angle."""
    busiest = np.bincount(pool.response.tracks["event"]).argmax()
    layers = {name: hits[hits["event"] == busiest] for name, hits in pool.response.layers.items()}
    for hits in layers.values():
        hits["event"] = 0
    one = MinimumBiasPool(Response(pool.response.vertex_z[:1], **layers))
    one._parts = dict.fromkeys(one._parts, (0, 1))
    response, number = one.overlay(nothing(one, 40), ["test"] * 40, 1.0, PLAIN, np.random.default_rng(1))
    event = np.flatnonzero(number == 1)[0]
    original, turned = one.response, response
    turn = (turned.ecal["column"][turned.ecal["event"] == event] - original.ecal["column"]) % 360
    assert np.allclose(turn, turn[0])
    towers = (turned.hcal["column"][turned.hcal["event"] == event] - original.hcal["column"]) % 72
    assert np.allclose(towers * 5, turn[0], atol=1e-3)
    phi = turned.silicon["phi"][turned.silicon["event"] == event] - original.silicon["phi"]
    assert np.allclose(np.degrees(phi), turn[0], atol=1e-3)


def test_splits_draw_from_parts_of_their_own(pool):
    tracks = pool.response.tracks.copy()
    tracks["pt"] = 1000 + tracks["event"]
    numbered = MinimumBiasPool(Response(pool.response.vertex_z, **(pool.response.layers | {"tracks": tracks})))
    seen = {}
    for split in ("train", "validation", "test"):
        response, _ = numbered.overlay(nothing(pool, 200), [split] * 200, 21.0, PLAIN, np.random.default_rng(2))
        seen[split] = set((response.tracks["pt"] - 1000).astype(int).tolist())
    assert max(seen["train"]) < min(seen["validation"]) <= max(seen["validation"]) < min(seen["test"])


def test_files(pool, tmp_path):
    path = tmp_path / "minimum_bias.npz"
    pool.save(path)
    again = MinimumBiasPool.load(path)
    assert np.array_equal(again.response.vertex_z, pool.response.vertex_z)
    assert all(np.array_equal(hits, again.response.layers[name]) for name, hits in pool.response.layers.items())
    # 8 TeV: about 5 charged particles per unit of eta, half of them above 0.5 GeV
    assert 5 < len(pool.response.tracks) / len(pool) < 16
