"""Dead and noisy channels and calibration constants have the published sizes, and stay where they are."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from e2evit.data.grid import ENDCAP_ROWS, eta_centres
from e2evit.simulation import channels, ecal, hcal
from e2evit.simulation.cells import IMPACT, Frames, structured
from e2evit.simulation.geometry import GEOMETRIES
from e2evit.simulation.images import jet_windows, whole_detector

RUN1 = GEOMETRIES["run1"]
NOTHING = np.zeros(0, IMPACT)


def everything(number, rows=280, columns=360):
    zero = np.zeros(number, int)
    return Frames(np.arange(number), zero, zero, rows, columns)


def test_maps_have_the_published_sizes():
    crystals, towers = channels.crystals(), channels.towers()
    assert 0.008 < 1 - crystals.alive.mean() < 0.013
    # most dead crystals are whole trigger towers
    groups = ~crystals.alive.reshape(56, 5, 72, 5).any(axis=(1, 3))
    assert 0.5 < 25 * groups.sum() / (~crystals.alive).sum() < 0.9
    assert 0 < 1 - towers.alive.mean() < 1e-3
    central = np.abs(eta_centres(np.arange(280))) < 1
    # 61 000 crystals of the barrel, 40 000 of the endcaps
    assert crystals.gain[central].std() == pytest.approx(0.004, rel=0.03)
    assert crystals.gain[:ENDCAP_ROWS].std() == pytest.approx(0.020, rel=0.03)
    assert towers.gain.std() == pytest.approx(0.025, rel=0.05)
    assert crystals.gain.mean() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("one_for_each", [False, True])
def test_noise_above_threshold_is_that_of_every_cell_drawn(one_for_each):
    """Only cells above threshold are drawn; an ordinary map beside it draws all."""
    from e2evit.simulation.streams import EventStreams

    rng = np.random.default_rng(0)
    quiet = channels.ChannelMap(np.ones((280, 360), bool), np.zeros((280, 360), bool), np.ones((280, 360)))
    frames, signal = everything(8), np.float32(0.1)
    energy = np.zeros((8, 280, 360), np.float32)
    energy[:, :5] = signal
    drawn = energy + rng.normal(0, 0.04, energy.shape)
    generator = EventStreams([np.random.default_rng([1, event]) for event in range(8)]) if one_for_each else rng
    channels.read_out(energy, frames, quiet, 0.04, 0.12, generator)
    for rows in (slice(0, 5), slice(5, 280)):  # with signal, and without
        wanted = drawn[:, rows][drawn[:, rows] >= 0.12]
        given = energy[:, rows][energy[:, rows] > 0]
        assert given.min() >= 0.12
        assert len(given) == pytest.approx(len(wanted), abs=4 * (2 * len(wanted)) ** 0.5)
        assert ks_2samp(given, wanted).pvalue > 0.01
    # everywhere alike
    lit = (energy[:, 5:] > 0).sum(axis=(0, 1))
    assert lit.mean() == pytest.approx(8 * 275 * 0.00135, rel=0.1)
    assert lit.var() == pytest.approx(lit.mean(), rel=0.3)


def test_dead_channels_are_dark_and_noisy_ones_fire():
    crystals = channels.crystals()
    energy = ecal.crystal_energy(whole_detector(np.arange(200) * 0), NOTHING, RUN1, np.random.default_rng(0))
    barrel = slice(ENDCAP_ROWS, -ENDCAP_ROWS)
    fires = (energy > 0).mean(axis=0)[barrel]
    alive, noisy = crystals.alive[barrel], crystals.noisy[barrel]
    assert not fires[~alive].any()
    assert fires[alive & ~noisy].mean() == pytest.approx(0.00135, rel=0.05)
    # its own noise and three times as much: beyond 0.12 GeV with 17 %
    assert fires[alive & noisy].mean() == pytest.approx(0.171, abs=0.01)


def test_a_window_sees_the_channels_of_its_place():
    """Across the seam in phi and at the border of the grid."""
    row, column = np.argwhere(~channels.crystals().alive)[[0, -1]].T
    ieta, iphi = np.clip(row // 5, 12, 43), column // 5
    shower = structured(
        IMPACT, event=np.arange(2), row=row + 0.5, column=column + 0.5, energy=[99.0, 99.0], width=[0.1, 0.1]
    )
    for turn in (-12, 0, 12):
        frames = jet_windows(np.arange(2), ieta, (iphi + turn) % 72)
        energy = ecal.crystal_energy(frames, shower, RUN1.without(["channels"]), np.random.default_rng(0))
        dark = ecal.crystal_energy(frames, shower, RUN1, np.random.default_rng(0))
        for frame in range(2):
            place = row[frame] - frames.row[frame], (column[frame] - frames.column[frame]) % 360
            if 55 <= row[frame] < 225:  # blocks of the endcaps share their energy
                assert energy[frame][place] > 70
                assert dark[frame][place] == 0


def test_calibration_scales_what_a_channel_measures():
    crystals, sizes = channels.crystals(), []
    rows, columns = (np.argwhere(crystals.alive)[::997] + 0.5).T
    barrel = (rows > ENDCAP_ROWS + 2) & (rows < 280 - ENDCAP_ROWS - 2)
    rows, columns = rows[barrel], columns[barrel]
    shower = structured(
        IMPACT, event=np.zeros(len(rows)), row=rows, column=columns, energy=np.full(len(rows), 1e4), width=1e-3
    )
    place = rows.astype(int), columns.astype(int)
    for without in ([], ["calibration"]):
        energy = ecal.crystal_energy(whole_detector([0]), shower, RUN1.without(without), np.random.default_rng(0))
        sizes.append(energy[0][place] / 1e4)
    np.testing.assert_allclose(sizes[0] / sizes[1], crystals.gain[place], atol=2e-4)


def test_towers_have_channels_too():
    towers = hcal.tower_energy(300, NOTHING, RUN1, np.random.default_rng(0))
    special = channels.towers()
    fires = (towers > 0).mean(axis=0)
    assert not fires[~special.alive].any()
    assert fires[12:44][(special.alive & ~special.noisy)[12:44]].mean() == pytest.approx(0.00135, rel=0.1)
    # each half of a ten-degree tower shows the same energy, and the pair fires as often as one of five degrees
    assert np.array_equal(towers[:, :8, ::2], towers[:, :8, 1::2])
    assert fires[:8].mean() == pytest.approx(0.00135, rel=0.3)
