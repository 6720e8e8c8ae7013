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
    channels.read_out(energy, frames, quiet, 0.04, 3.0, generator)
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
    dead = np.argwhere(~channels.crystals().alive)
    dead = dead[(dead[:, 0] >= ENDCAP_ROWS) & (dead[:, 0] < 280 - ENDCAP_ROWS)]  # blocks of the endcaps share energy
    seam = np.minimum(dead[:, 1], 359 - dead[:, 1])
    row, column = dead[[0, -1, seam.argmin()]].T
    assert seam.min() < 5
    ieta, iphi = np.clip(row // 5, 12, 43), column // 5
    shower = structured(
        IMPACT, event=np.arange(3), row=row + 0.5, column=column + 0.5, energy=np.full(3, 99.0), width=0.1
    )
    for turn in (-12, 0, 12):
        frames = jet_windows(np.arange(3), ieta, (iphi + turn) % 72)
        energy = ecal.crystal_energy(frames, shower, RUN1.without(["channels"]), np.random.default_rng(0))
        dark = ecal.crystal_energy(frames, shower, RUN1, np.random.default_rng(0))
        for frame in range(3):
            place = row[frame] - frames.row[frame], (column[frame] - frames.column[frame]) % 360
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
    assert fires[12:44][(special.alive & ~special.noisy)[12:44]].mean() == pytest.approx(0.00135, rel=0.1)
    # each half of a ten-degree tower shows the same energy, and the pair fires as often as one of five degrees
    assert np.array_equal(towers[:, :8, ::2], towers[:, :8, 1::2])
    assert fires[:8][~special.noisy[:8]].mean() == pytest.approx(0.00135, rel=0.3)


@pytest.fixture
def many_special_towers(monkeypatch):
    """A map with so many dead and noisy towers that some are ten degrees wide, odd and even."""
    for cached in (channels.towers, hcal._channels):
        monkeypatch.setattr(cached.__module__ + "." + cached.__name__, cached.__wrapped__)
    monkeypatch.setattr(hcal, "towers", channels.towers)
    monkeypatch.setattr(channels, "DEAD_TOWERS", 400)
    monkeypatch.setattr(channels, "NOISY_TOWERS", 400)
    return channels.towers()


def test_dead_towers_are_dark_whatever_falls_into_them(many_special_towers):
    row, column = np.indices((56, 72)).reshape(2, -1) + 0.5
    everywhere = structured(
        IMPACT, event=np.zeros(row.size), row=row, column=column, energy=np.full(row.size, 50.0), width=0.1
    )
    lit = hcal.tower_energy(1, everywhere, RUN1, np.random.default_rng(0))[0] > 0
    assert np.array_equal(lit, many_special_towers.alive)
    wide = many_special_towers.alive[channels.COARSE]
    assert 100 < (~wide).sum() < 200  # a tenth of 16 x 72
    assert np.array_equal(wide[:, ::2], wide[:, 1::2])


def test_noisy_towers_fire_wide_or_not(many_special_towers):
    fires = (hcal.tower_energy(300, NOTHING, RUN1, np.random.default_rng(0)) > 0).mean(axis=0)
    coarse = np.isin(np.arange(56), channels.COARSE)
    for rows in (coarse, ~coarse):
        noisy, quiet = (many_special_towers.noisy & many_special_towers.alive)[rows], ~many_special_towers.noisy[rows]
        # its own noise and three times as much: beyond three times its own with 17 %
        assert fires[rows][noisy].mean() == pytest.approx(0.171, abs=0.01)
        assert fires[rows][noisy].min() > 0.08
        assert fires[rows][quiet].max() < 0.04


@pytest.mark.parametrize("without", [[], ["channels"]])
def test_endcaps_have_noise_of_their_own(without):
    """Four times that of the barrel, in as many channels; the converter makes 2 x 2 pixels of a sixteenth of it."""
    energy = ecal.crystal_energy(
        whole_detector(np.arange(20) * 0), NOTHING, RUN1.without(without), np.random.default_rng(0)
    )
    barrel = energy[:, ENDCAP_ROWS:-ENDCAP_ROWS]
    assert barrel[barrel > 0].min() == pytest.approx(0.12, rel=0.01)
    for endcap in (energy[:, :ENDCAP_ROWS], energy[:, -ENDCAP_ROWS:]):
        assert endcap[endcap > 0].min() == pytest.approx(0.45 / 16, rel=0.01)
        assert (endcap > 0).mean() == pytest.approx(4 * (barrel > 0).mean(), rel=0.2)
