"""Augmentations change what was asked for and nothing else."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import random_images

from e2evit.data import find_schema, load_e2e
from e2evit.data.sparse import dense_to_sparse
from e2evit.data.statistics import MassWeights
from e2evit.transforms.augment import (
    Augmentation,
    add_noise_hits,
    drop_layers,
    drop_towers,
    scale_energy,
    shift_towers,
)

NAMES = find_schema("simulated").channel_names
SIZE = (125, 125)
ECAL, HCAL, LAYER = (NAMES.index(name) for name in ("ecal", "hcal", "bpix2"))
EVERYTHING = Augmentation(True, 2, 0.05, 0.1, 0.1, 3.0, 0.2)


@pytest.fixture(scope="module")
def pixels():
    """Images, and their pixels: image, index, value."""
    images = random_images(6, seed=3)
    index, value = dense_to_sparse(images)
    image = np.repeat(np.arange(6), np.diff(index.offsets.to_numpy()))
    return images, image, index.flatten().to_numpy(), value.flatten().to_numpy()


def dense(image, index, value, number=6):
    images = np.zeros((number, len(NAMES), *SIZE), np.float32)
    images.reshape(number, -1)[image, index] = value
    return images


def test_shifts_are_by_whole_towers(pixels):
    images, *sparse = pixels
    shift = np.array([[0, 0], [1, 0], [0, -2], [-3, 4], [25, 0], [0, -25]])
    moved = dense(*shift_towers(*sparse, SIZE, shift))
    for before, after, (eta, phi) in zip(images, moved, 5 * shift):
        expected = np.zeros_like(before)
        height, width = 125 - abs(eta), 125 - abs(phi)
        expected[:, max(0, eta) : max(0, eta) + height, max(0, phi) : max(0, phi) + width] = before[
            :, max(0, -eta) : max(0, -eta) + height, max(0, -phi) : max(0, -phi) + width
        ]
        assert np.array_equal(after, expected)


def test_energy_scales_change_calorimeters_only(pixels):
    images, *sparse = pixels
    factors = np.linspace(0.9, 1.1, 12).reshape(6, 2)
    scaled = dense(sparse[0], sparse[1], scale_energy(*sparse, NAMES, SIZE, factors))
    for number, channel in enumerate((ECAL, HCAL)):
        np.testing.assert_allclose(scaled[:, channel], images[:, channel] * factors[:, number, None, None], rtol=1e-6)
    others = [channel for channel in range(len(NAMES)) if channel not in (ECAL, HCAL)]
    assert np.array_equal(scaled[:, others], images[:, others])


def test_dead_towers_and_layers(pixels):
    images, *sparse = pixels
    dead = np.random.default_rng(0).random((6, 25, 25)) < 0.3
    dropped = dense(*drop_towers(*sparse, NAMES, SIZE, dead))
    expected = images.copy()
    expected[:, HCAL][dead.repeat(5, 1).repeat(5, 2)] = 0
    assert np.array_equal(dropped, expected)

    dead = np.ones((6, len(NAMES)), bool)
    dead[0] = False
    dropped = dense(*drop_layers(*sparse, NAMES, SIZE, dead))
    expected = images.copy()
    expected[1:, [number for number, name in enumerate(NAMES) if name.startswith("bpix")]] = 0
    assert np.array_equal(dropped, expected)


def test_noise_adds_hits_and_nothing_else(pixels):
    images, *sparse = pixels
    noisy = dense(*add_noise_hits(*sparse, NAMES, SIZE, 40.0, 6, np.random.default_rng(0)))
    extra = noisy - images
    layers = [number for number, name in enumerate(NAMES) if name.startswith("bpix")]
    assert np.array_equal(np.delete(noisy, layers, 1), np.delete(images, layers, 1))
    assert extra[:, layers].min() == 0
    np.testing.assert_allclose(extra[:, layers], extra[:, layers].round(), atol=1e-4)
    assert extra[:, layers].sum() == pytest.approx(40 * 6 * len(layers), rel=0.15)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_everything_at_once_leaves_valid_rows(pixels, seed):
    _, image, index, value = pixels
    offsets = np.searchsorted(image, np.arange(7))
    found = EVERYTHING(index, value, offsets, NAMES, SIZE, np.random.default_rng(seed))
    again = EVERYTHING(index, value, offsets, NAMES, SIZE, np.random.default_rng(seed))
    assert all(np.array_equal(first, second) for first, second in zip(found, again))
    index, value, offsets = found
    assert offsets[0] == 0
    assert offsets[-1] == len(index) == len(value)
    for start, stop in itertools.pairwise(offsets):
        assert len(np.unique(index[start:stop])) == stop - start
        assert not stop - start or index[start:stop].max() < len(NAMES) * 125 * 125
    assert np.isfinite(value).all()
    assert value.dtype == np.float32


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
