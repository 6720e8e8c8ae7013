"""Data sets changed while they are read: masked targets, transverse energies, other detectors."""

from dataclasses import replace

import numpy as np
import pytest

from e2evit.baselines.jet_features import jet_features
from e2evit.data import find_schema, load_e2e
from e2evit.data.grid import window_centres
from e2evit.data.sparse import sparse_to_dense
from e2evit.transforms.targets import select_targets
from e2evit.transforms.transverse import to_transverse
from e2evit.transforms.variations import VARIATIONS, vary


@pytest.fixture(scope="module")
def eleven_classes(simulated_jets, tmp_path_factory):
    folder = simulated_jets
    return load_e2e("simulated", folder, cache_dir=tmp_path_factory.mktemp("cache")), find_schema("simulated", folder)


def test_targets_of_other_classes_are_masked(eleven_classes):
    dataset, schema = eleven_classes
    chosen = {"classes": ["top", "qcd"], "mass_classes": ["x_qq"]}
    selected, new_schema = select_targets(dataset, schema, "jet_mass", **chosen)
    assert new_schema.label_names == ("top", "qcd")
    assert selected["train"].features["labels"].names == ["top", "qcd"]
    for part in dataset:
        names = np.array(schema.label_names)[dataset[part]["labels"]]
        expected = [{"top": 0, "qcd": 1}.get(name) for name in names]
        assert list(selected[part]["labels"]) == expected
        for name, old, new in zip(names, dataset[part]["jet_mass"], selected[part]["jet_mass"]):
            assert new == (old if name == "x_qq" else None)
        for column in ("event_id", "pixel_index", "pixel_value", "pt", "mass_labels"):
            before, after = dataset[part].with_format("arrow")[column], selected[part].with_format("arrow")[column]
            assert before.to_pylist() == after.to_pylist()


def test_nothing_changes_by_default(eleven_classes):
    dataset, schema = eleven_classes
    assert select_targets(dataset, schema, "jet_mass") == (dataset, schema)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"classes": ["qcd", "quark"]}, "`classes` has quark; the classes of 'simulated' are qcd, top"),
        ({"mass_classes": ["x"]}, "`mass_classes` has x"),
        ({"classes": ["qcd", "qcd"]}, "each once"),
        ({"mass_classes": []}, "one or more"),
    ],
)
def test_unknown_classes(eleven_classes, chosen, message):
    with pytest.raises(ValueError, match=message):
        select_targets(*eleven_classes, "jet_mass", **chosen)


def test_transverse_energies_of_pixels_at_known_places(eleven_classes):
    """Tracks and hits stay; calorimeter pixels are divided by the cosh(eta) of their row."""
    dataset, schema = eleven_classes
    converted, new_schema = to_transverse(dataset, schema)
    assert new_schema.channel_names == (*schema.channel_names[:3], "ecal_et", "hcal_et", *schema.channel_names[5:])
    for before, after in zip(dataset["train"].select(range(5)), converted["train"].select(range(5))):
        assert before["pixel_index"] == after["pixel_index"]
        eta, _ = window_centres(before["ieta"], before["iphi"])
        old, new = (
            sparse_to_dense(row["pixel_index"], row["pixel_value"], schema.image_shape) for row in (before, after)
        )
        barrel = np.abs(eta) < 1.479
        expected = old[3:5] / np.cosh(eta)[:, None]
        np.testing.assert_allclose(new[3:5, barrel], expected[:, barrel], rtol=1e-5)
        np.testing.assert_allclose(new[3, ~barrel], 4 * expected[0, ~barrel], rtol=1e-5)  # a factor in CMS's files
        np.testing.assert_allclose(new[4], expected[1], rtol=1e-5)
        kept = [0, 1, 2, 5, 6, 7]
        np.testing.assert_array_equal(old[kept], new[kept])


def test_jet_variables_do_not_depend_on_where_energies_became_transverse(eleven_classes):
    dataset, schema = eleven_classes
    converted, new_schema = to_transverse(dataset, schema)
    before, after = (jet_features(part["test"], about) for part, about in ((dataset, schema), (converted, new_schema)))
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


def test_what_cannot_become_transverse(eleven_classes):
    dataset, schema = eleven_classes
    with pytest.raises(ValueError, match="need calorimeter images in GeV"):
        to_transverse(*to_transverse(dataset, schema))
    with pytest.raises(ValueError, match="need calorimeter images in GeV"):
        to_transverse(dataset, replace(schema, normalisation="scaled"))
    lost = dataset.map(lambda row: {"ieta": None}, features=dataset["train"].features)
    with pytest.raises(ValueError, match="`ieta` of the seed tower"):
        to_transverse(lost, schema)


@pytest.mark.parametrize("name", VARIATIONS)
def test_variations_change_what_they_name_and_nothing_else(eleven_classes, name):
    dataset, schema = eleven_classes
    rows = dataset["train"].select(range(30))
    varied = vary(rows, schema, name)
    assert varied.features == rows.features
    assert (
        varied.remove_columns(["pixel_index", "pixel_value"])[:]
        == rows.remove_columns(["pixel_index", "pixel_value"])[:]
    )
    old, new = (
        np.stack([sparse_to_dense(row["pixel_index"], row["pixel_value"], schema.image_shape) for row in part])
        for part in (rows, varied)
    )
    changed = {schema.channel_names[number] for number in np.unique(np.nonzero(old != new)[1])}
    trackers, layers = {"trk_d0", "trk_dz"}, {"bpix1", "bpix2", "bpix3"}
    if name.startswith("energy scale"):
        assert changed == {"ecal", "hcal"}
        factor = 1.03 if "+" in name else 0.97
        np.testing.assert_allclose(new[:, 3:5], factor * old[:, 3:5], rtol=1e-5)
    elif "dead" in name:
        assert changed == {"hcal" if "HCAL" in name else "ecal"}
        channel = 4 if "HCAL" in name else 3
        lost = 1 - np.count_nonzero(new[:, channel]) / np.count_nonzero(old[:, channel])
        assert 0.03 < lost < 0.07
        assert np.array_equal(new[new != 0], old[new != 0])
    elif "noise" in name:
        assert changed == layers
        assert 18 < (new - old).sum(axis=(2, 3))[:, 5:].mean() < 22
    else:
        assert changed == trackers
        hit = old[:, 0] != 0
        np.testing.assert_allclose((new - old)[:, 1][hit & (old[:, 1] != 0)], 0.002, atol=1e-5)
        np.testing.assert_allclose((new - old)[:, 2][hit & (old[:, 2] != 0)], 0.01, atol=1e-5)
    again = vary(rows, schema, name)
    assert again["pixel_index"][:] == varied["pixel_index"][:]
    assert again["pixel_value"][:] == varied["pixel_value"][:]


def test_unknown_variation(eleven_classes):
    dataset, schema = eleven_classes
    with pytest.raises(ValueError, match="Unknown variation 'rain'; known ones: energy scale"):
        vary(dataset["train"], schema, "rain")
    with pytest.raises(ValueError, match="not in physical units: scaled"):
        vary(dataset["train"], replace(schema, normalisation="scaled"), "energy scale +3 %")
