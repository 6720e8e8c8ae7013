"""Jets without a class, jets without a mass."""

import numpy as np
import pytest

from e2evit.data import find_schema, load_e2e
from e2evit.data.targets import select_targets


@pytest.fixture(scope="module")
def eleven_classes(simulated_jets, tmp_path_factory):
    folder = simulated_jets
    return load_e2e("simulated", folder, cache_dir=tmp_path_factory.mktemp("cache")), find_schema("simulated", folder)


def test_targets_of_other_classes_are_taken_away(eleven_classes):
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


def test_nothing_changes_unasked(eleven_classes):
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
