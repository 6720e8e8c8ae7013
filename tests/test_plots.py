"""Figures show what they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from samples import row_table

from e2evit.data import CHANNELS, find_schema
from e2evit.plots import (
    calorimeter_response,
    comparison_figures,
    distributions,
    event_display,
    mass_axis,
    mass_response,
    mean_images,
    roc,
    saliency_display,
    save_figure,
    sculpting,
)
from e2evit.report import JetPredictions


@pytest.fixture
def row():
    return row_table(1).to_pylist()[0]


def test_event_display_has_all_channels_with_axes_and_units(row, tmp_path):
    figure = event_display(row, find_schema("simulated"), "title")
    titles = [axis.get_title() for axis in figure.axes]
    assert [title for title in titles if title] == [
        CHANNELS[name].title for name in find_schema("simulated").channel_names
    ]
    labels = {axis.get_ylabel() for axis in figure.axes}
    assert {"GeV", "cm", "hits", r"$\eta$"} <= labels
    path = save_figure(figure, tmp_path / "display")
    assert path.stat().st_size > 10000
    assert path.with_suffix(".pdf").exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_event_display_without_position(row):
    figure = event_display(row | {"ieta": None, "iphi": None}, find_schema("simulated"))
    assert figure.axes[0].get_xlabel() == "column (phi)"


def test_roc_and_response(tmp_path):
    rng = np.random.default_rng(0)
    labels, masses = rng.integers(0, 2, 500), rng.uniform(50, 200, 500)
    figure = roc(labels, {"good": labels + rng.normal(0, 0.5, 500), "random": rng.random(500)})
    names = [text.get_text().split(" (")[0] for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["good", "random", "random"]  # the last is the dotted line of a random tagger
    figure = mass_response(masses, {"exact": masses, "twice": 2 * masses})
    exact, twice = (container[0].get_ydata() for container in figure.axes[0].containers)
    np.testing.assert_allclose(exact, 1.0)
    np.testing.assert_allclose(twice, 2.0)


def test_figures_of_the_simulation(row, tmp_path):
    schema, rng = find_schema("simulated"), np.random.default_rng(0)
    figure = mean_images({name: rng.random(schema.image_shape) for name in ("qcd", "top")}, schema)
    assert len([axis for axis in figure.axes if axis.images]) == 16
    panels = [("Mass [GeV]", {"qcd": rng.normal(50, 9, 99), "top": rng.normal(170, 9, 99)}, np.arange(300), {"W": 80})]
    (axis,) = distributions(panels).axes
    assert axis.get_xlabel() == "Mass [GeV]"
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["qcd", "top", "W"]
    rows = [{"low": 400.0, "high": 500.0, "response": 0.9, "resolution": 0.06}]
    left, right = calorimeter_response(rows, {100.0: 0.1}).axes
    assert left.get_ylim() == (0.5, 1.2)
    assert "CMS" in right.get_legend().get_texts()[0].get_text() + right.get_legend().get_texts()[1].get_text()
    plt.close("all")


def test_sculpting_shows_what_passes():
    """A score that is the mass lets heavy background pass; all lines are fractions."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 400)
    masses = rng.uniform(20, 200, 800)
    figure = sculpting(labels, masses, masses)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names[0] == "all (400 jets)"
    everyone, half, third = (patch.get_data() for patch in figure.axes[0].patches)
    assert half.values[: len(half.values) // 3].sum() == 0
    assert third.values[: len(third.values) // 2].sum() == 0
    assert everyone.values.sum() == pytest.approx(1, abs=0.01)


def test_comparisons_have_the_figures_that_their_targets_allow():
    rng = np.random.default_rng(0)
    labels, masses = rng.integers(0, 3, 300), rng.uniform(50, 200, 300)
    predictions = {"scores": {"a": rng.random(300)}, "mass_preds": {"a": masses}}
    unknown = np.full(300, -100), np.full(300, np.nan)
    assert list(comparison_figures(JetPredictions(labels, masses, masses, **predictions))) == [
        "roc",
        "sculpting",
        "mass_response",
    ]
    assert list(comparison_figures(JetPredictions(unknown[0], masses, masses, **predictions))) == ["mass_response"]
    assert list(comparison_figures(JetPredictions(labels, unknown[1], masses, **predictions))) == ["roc", "sculpting"]


def test_saliency_and_mass_axis(tmp_path):
    schema, rng = find_schema("simulated"), np.random.default_rng(0)
    saliency = rng.normal(size=schema.image_shape) * (rng.random(schema.image_shape) < 0.01)
    saliency[1:] = 0
    figure = saliency_display(saliency, schema, "title")
    titles = [axis.get_title() for axis in figure.axes[:8]]
    assert titles[0].endswith("100%")
    assert titles[1].endswith("0%")
    assert save_figure(figure, tmp_path / "saliency").stat().st_size > 10000
    saliency_display(np.zeros(schema.image_shape), schema)  # an empty image
    axis = mass_axis(120.0, 15.0, true_mass=125.0).axes[0]
    low, high = axis.get_xlim()
    assert low == 0
    assert high == 250
    assert mass_axis(400.0).axes[0].get_xlim()[1] == pytest.approx(460)
    assert [text.get_text() for text in axis.texts] == ["W", "Z", "H", "t"]
