"""Augmentations change what was asked for and nothing else."""

import numpy as np
import pytest
import torch
from e2evit.modeling.modeling_tokens import Pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import pixels_of, random_images

from e2evit.data import find_schema, load_e2e
from e2evit.data.statistics import MassWeights
from e2evit.transforms.augment import (
    Augmentation,
    add_noise_hits,
    drop_crystals,
    drop_layers,
    drop_towers,
    jet_keys,
    scale_energy,
    shift_towers,
    without_lost,
)

NAMES = find_schema("simulated").channel_names
SIZE = (125, 125)
ECAL, HCAL = (NAMES.index(name) for name in ("ecal", "hcal"))
LAYERS = [number for number, name in enumerate(NAMES) if name.startswith("bpix")]
EVERYTHING = Augmentation(True, 2, 0.05, 0.1, 0.1, 3.0, 0.2)


@pytest.fixture(scope="module")
def listed():
    """Images, and their pixels."""
    images = random_images(6, seed=3)
    return images, pixels_of(images)


def dense(pixels: Pixels) -> np.ndarray:
    images = np.zeros((pixels.num_images, len(NAMES), *SIZE), np.float32)
    image, index, value, _ = without_lost(pixels)
    images.reshape(len(images), -1)[image, index] = value
    return images


def test_shifts_are_by_whole_towers(listed):
    images, pixels = listed
    shift = torch.tensor([[0, 0], [1, 0], [0, -2], [-3, 4], [25, 0], [0, -25]])
    moved = dense(shift_towers(pixels, SIZE, shift))
    for before, after, (eta, phi) in zip(images, moved, 5 * shift.numpy()):
        expected = np.zeros_like(before)
        height, width = 125 - abs(eta), 125 - abs(phi)
        expected[:, max(0, eta) : max(0, eta) + height, max(0, phi) : max(0, phi) + width] = before[
            :, max(0, -eta) : max(0, -eta) + height, max(0, -phi) : max(0, -phi) + width
        ]
        assert np.array_equal(after, expected)


def test_energy_scales_change_calorimeters_only(listed):
    images, pixels = listed
    factors = torch.linspace(0.9, 1.1, 12).view(6, 2)
    scaled = dense(scale_energy(pixels, NAMES, SIZE, factors))
    for number, channel in enumerate((ECAL, HCAL)):
        expected = images[:, channel] * factors[:, number, None, None].numpy()
        np.testing.assert_allclose(scaled[:, channel], expected, rtol=1e-6)
    others = [channel for channel in range(len(NAMES)) if channel not in (ECAL, HCAL)]
    assert np.array_equal(scaled[:, others], images[:, others])


def test_dead_towers_crystals_and_layers(listed):
    images, pixels = listed
    dead = np.random.default_rng(0).random((6, 25, 25)) < 0.3
    expected = images.copy()
    expected[:, HCAL][dead.repeat(5, 1).repeat(5, 2)] = 0
    assert np.array_equal(dense(drop_towers(pixels, NAMES, SIZE, torch.tensor(dead))), expected)

    expected = images.copy()
    expected[:, ECAL] = 0
    everywhere = torch.ones_like(pixels.index, dtype=torch.bool)
    assert np.array_equal(dense(drop_crystals(pixels, NAMES, SIZE, everywhere)), expected)

    layers = torch.ones(6, len(NAMES), dtype=torch.bool)
    layers[0] = False
    expected = images.copy()
    expected[1:, LAYERS] = 0
    assert np.array_equal(dense(drop_layers(pixels, NAMES, SIZE, layers)), expected)


@pytest.mark.parametrize("mean", [0.5, 40.0])
def test_noise_adds_hits_and_nothing_else(mean):
    images = random_images(60, seed=3)
    pixels = pixels_of(images)
    noisy = dense(add_noise_hits(pixels, NAMES, SIZE, mean, jet_keys(pixels), 0))
    assert np.array_equal(np.delete(noisy, LAYERS, 1), np.delete(images, LAYERS, 1))
    extra = (noisy - images)[:, LAYERS]
    assert extra.min() == 0
    np.testing.assert_allclose(extra, extra.round(), atol=1e-4)
    counts = extra.sum((2, 3), dtype=float).ravel()
    assert counts.mean() == pytest.approx(mean, abs=5 * (mean / len(counts)) ** 0.5)
    assert counts.var() == pytest.approx(mean, rel=0.5)
    rows, columns = extra.sum((0, 1, 3)), extra.sum((0, 1, 2))
    for half in (rows[:62], columns[:62]):  # of 125
        assert half.sum() == pytest.approx(counts.sum() * 62 / 125, abs=3 * float(counts.sum()) ** 0.5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kinds=st.sampled_from([np.int32, np.int64]))
def test_everything_at_once_leaves_valid_rows(listed, device, seed, kinds):
    """And the same ones whichever images share the batch, and on a GPU."""
    images, pixels = listed
    pixels = pixels._replace(index=torch.tensor(pixels.index.numpy().astype(kinds)))
    moved = Pixels(*(part.to(device) for part in pixels[:3]), pixels.num_images)
    found = EVERYTHING(moved, NAMES, SIZE, seed, 1)
    found = without_lost(Pixels(*(part.cpu() for part in found[:3]), found.num_images))
    place = found.image * (len(NAMES) * 125 * 125) + found.index
    assert len(place.unique()) == len(place)
    assert not len(place) or 0 <= found.index.min() <= found.index.max() < len(NAMES) * 125 * 125
    assert found.value.isfinite().all()
    assert found.value.dtype == torch.float32
    alone = dense(EVERYTHING(pixels_of(images[4:5]), NAMES, SIZE, seed, 1))[0]
    np.testing.assert_allclose(dense(found)[4], alone, rtol=0 if device == "cpu" else 1e-5)
    assert not np.array_equal(dense(EVERYTHING(pixels_of(images[4:5]), NAMES, SIZE, seed, 2))[0], alone)


def test_detectors_without_a_tracker():
    """Nothing to add to."""
    pixels, names = pixels_of(random_images(3, shape=(3, 125, 125))), ["trk_pt", "ecal", "hcal"]
    found = EVERYTHING(pixels, names, SIZE, 0, 0)
    assert found.value.isfinite().all()
    assert Augmentation(noise_hits=2)(pixels, names, SIZE, 0) is pixels


def test_shares_are_those_that_were_asked_for():
    """Of the images that are flipped and the detectors' parts that are dead, and of the distances of shifts."""
    one, number = random_images(1, seed=0), 300
    images = np.repeat(one, number, axis=0)
    images[:, 0, 0, 0] = np.arange(1, number + 1)  # different jets
    images[np.arange(number), 1, np.arange(number) % 125, np.arange(number) // 125] += 1
    pixels = pixels_of(images)
    flipped = Augmentation(flips=True).flipped(jet_keys(pixels), 0, 0).float()
    assert flipped.mean(1).tolist() == pytest.approx([0.5, 0.5], abs=0.1)
    assert (flipped[0] == flipped[1]).float().mean() == pytest.approx(0.5, abs=0.1)
    assert not Augmentation().flipped(jet_keys(pixels), 0, 0).any()
    for name, channels in {"dead_towers": [HCAL], "dead_crystals": [ECAL], "layer_drop": LAYERS}.items():
        lossy = Augmentation(**{name: 0.2})(pixels, NAMES, SIZE, 5)
        before, after = ((dense(of)[:, channels] != 0).sum() for of in (pixels, lossy))
        assert after / before == pytest.approx(0.8, abs=0.04), name
    scales = dense(Augmentation(energy_smearing=0.1)(pixels, NAMES, SIZE, 0))[:, [ECAL, HCAL]].sum((2, 3))
    scales = scales / images[:, [ECAL, HCAL]].sum((2, 3))
    assert scales.mean(0) == pytest.approx([1, 1], abs=0.03)
    assert scales.std(0) == pytest.approx([0.1, 0.1], abs=0.02)
    assert abs(np.corrcoef(scales.T)[0, 1]) < 0.2


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="dead_towers"):
        Augmentation(dead_towers=1.5)
    with pytest.raises(ValueError, match="noise_hits"):
        Augmentation(noise_hits=-1)
    with pytest.raises(ValueError, match=r"`tower_shift` is a whole number from 0 to 100, got 0\.5"):
        Augmentation(tower_shift=0.5)  # pyright: ignore[reportArgumentType]
    assert not Augmentation()


def test_weights_make_the_training_jets_flat(jets_dir, tmp_path):
    train = load_e2e("simulated", jets_dir, split="train", cache_dir=tmp_path / "cache")
    mass, pt = (np.array(train[name]) for name in ("jet_mass", "pt"))
    weights = MassWeights.of(train, "jet_mass", "mass", num_bins=4, max_weight=1000)
    found = weights(mass, pt)
    assert found.mean() == pytest.approx(1)
    clipped = np.clip(mass, weights.mass_edges[0], np.nextafter(weights.mass_edges[-1], 0))
    sums, _ = np.histogram(clipped, weights.mass_edges, weights=found)
    np.testing.assert_allclose(sums, len(train) / 4)
    both = MassWeights.of(train, "jet_mass", "mass_pt", num_bins=3, max_weight=2.0)(mass, pt)
    assert both.mean() == pytest.approx(1)
    assert both.max() / both.min() < found.max() / found.min() * 10
    with pytest.raises(ValueError, match="mass_pt"):
        MassWeights.of(train, "jet_mass", "pt")
    for bins, most in ((0, 10.0), (20, np.nan), (20, np.inf), (20, -1.0)):
        with pytest.raises(ValueError, match="`num_bins` and `max_weight` must be finite"):
            MassWeights.of(train, "jet_mass", "mass", bins, most)
