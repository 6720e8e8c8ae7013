"""Figures show the data they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from samples import make_result, row_table

from e2evit.data import CHANNELS, find_schema
from e2evit.plots import (
    calibration,
    calorimeter_response,
    comparison_figures,
    distributions,
    event_display,
    jet_displays,
    mass_axis,
    mass_response,
    mean_images,
    resolution,
    roc,
    saliency_display,
    save_figure,
    sculpting,
    true_against_predicted,
)
from e2evit.results.predictions import JetPredictions


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


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
    hits = [axis for axis in figure.axes if axis.get_ylabel() == "hits"]
    assert len(hits) == 3
    for bar in hits:
        assert all(float(tick).is_integer() for tick in bar.get_yticks())
        assert len(bar.yaxis.get_minorticklocs()) == 0
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
    assert names == ["good", "random", "random"]  # the last is a random tagger's dotted line
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
    lines, bands = axis.patches[::2], axis.patches[1::2]
    for line, band in zip(lines, bands):
        heights = line.get_data().values
        np.testing.assert_allclose(band.get_data().values - heights, np.sqrt(heights / 99))
    rows = [{"low": 400.0, "high": 500.0, "response": 0.9, "resolution": 0.06}]  # one jet has no interval
    rows += [{"low": 500.0, "high": 600.0} | {"response": 0.9, "response_low": 0.8, "response_high": 1.1}]
    rows[1] |= {"resolution": 0.06, "resolution_low": 0.05, "resolution_high": 0.07}
    left, right = calorimeter_response(rows, {100.0: 0.1}).axes
    _, bar = left.collections
    np.testing.assert_allclose(bar.get_segments()[1][:, 1], [0.8, 1.1])
    assert left.get_ylim() == (0.5, 1.2)
    assert "CMS" in right.get_legend().get_texts()[0].get_text() + right.get_legend().get_texts()[1].get_text()


def test_mean_images_of_an_empty_channel():
    schema = find_schema("quark_gluon")
    means = np.zeros(schema.image_shape)
    means[0] = 1.0
    figure = mean_images({"quark": means}, schema)
    figure.canvas.draw()
    plt.close(figure)


def test_sculpting_shows_what_passes():
    """A score equal to the mass passes heavy background; all lines are fractions."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 400)
    masses = rng.uniform(20, 200, 800)
    figure = sculpting(labels, masses, masses)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names[0] == "all (400 jets)"
    assert "70 %" in names[1]
    everyone, _, half, third = (patch.get_data() for patch in figure.axes[0].patches)
    assert half.values[: len(half.values) // 3].sum() == 0
    assert third.values[: len(third.values) // 2].sum() == 0
    assert everyone.values.sum() == pytest.approx(1, abs=0.01)


def test_comparisons_draw_the_figures_their_targets_allow():
    rng = np.random.default_rng(0)
    labels, masses = rng.integers(0, 3, 300), rng.uniform(50, 200, 300)
    probabilities = {"a": rng.dirichlet(np.ones(3), 300)}
    predictions = {"scores": {"a": rng.random(300)}, "mass_preds": {"a": masses}, "probabilities": probabilities}
    no_labels, no_masses = np.full(300, -100), np.full(300, np.nan)

    def figures(labels, true_masses, pts):
        jets = JetPredictions(labels, true_masses, masses, pts, **predictions)
        return list(comparison_figures(jets, make_result("a", None, {})))

    of_classes = ["roc", "sculpting", "calibration"]
    of_masses = ["mass_response", "resolution_mass", "resolution_pt", "true_against_predicted"]
    assert figures(labels, masses, masses) == of_classes + of_masses
    assert figures(no_labels, masses, masses) == of_masses
    assert figures(labels, no_masses, masses) == of_classes
    assert "resolution_pt" not in figures(labels, masses, no_masses)


def test_figures_name_model_sample_and_jets():
    rng = np.random.default_rng(0)
    labels, masses, pts = rng.integers(0, 2, 400), rng.uniform(50, 200, 400), rng.uniform(410, 990, 400)
    labels[:100], masses[100:], pts[:2] = -100, np.nan, (400, 1000)
    predictions = {name: {"a_seed1": rng.uniform(10, 20, 400)} for name in ("scores", "mass_preds")}
    result = make_result("a", 1, {})
    figures = comparison_figures(JetPredictions(labels, masses, rng.uniform(1, 9, 400), pts, **predictions), result)
    titles = {name: figure.axes[0].get_title(loc="right") for name, figure in figures.items()}
    assert titles["resolution_mass"] == titles["mass_response"] == r"simulated, 100 test jets, $p_T$ 400–1000 GeV"
    assert titles["true_against_predicted"].startswith("a_seed1, simulated, 100 test jets")
    assert "300 test jets" in titles["roc"]


def test_too_few_jets_give_no_spectrum():
    labels, scores = np.repeat([0, 1], 60), np.r_[np.zeros(20), np.full(40, 0.9), np.ones(60)]
    assert sculpting(labels, scores, np.arange(120.0)) is None  # no background passes
    scores[:60] = np.linspace(1, 2, 60)  # 60 pass all cuts, 59 those above a score of 1
    assert len(sculpting(labels, scores, np.arange(120.0)).axes[0].patches) == 4
    scores[:60] = np.linspace(0, 1.99, 60)  # 30 pass
    assert sculpting(labels, scores, np.arange(120.0)) is None


def test_every_model_has_a_line_of_its_own():
    """Even with more models than colours."""
    rng = np.random.default_rng(0)
    labels, masses = rng.integers(0, 2, 400), rng.uniform(50, 200, 400)
    names = [f"model {number}" for number in range(9)]
    scores, mass_preds = {name: rng.random(400) for name in names}, dict.fromkeys(names, 1.1 * masses)
    for figure, random in ((roc(labels, scores), 1), (calibration(labels, {n: np.eye(2)[labels] for n in names}), 1)):
        lines = figure.axes[0].get_lines()
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(names) + random
    left, right = resolution(masses, masses, mass_preds, "True mass [GeV]").axes
    lines = [[container[0] for container in axis.containers] for axis in (left, right)]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines[0]}) == len(names)
    np.testing.assert_allclose([line.get_ydata() for line in lines[0]], 1.1)
    np.testing.assert_allclose([line.get_ydata() for line in lines[1]], 0, atol=1e-12)
    assert len(mass_response(masses, mass_preds).axes[0].containers) == 9


def test_resolution_of_a_few_jets():
    """Bins with one jet have no point, and do not stop the figure."""
    masses = np.linspace(80.0, 160.0, 9)
    left, _ = resolution(masses, masses, {"model": 1.1 * masses}, "True mass [GeV]").axes
    heights = left.lines[0].get_ydata()
    assert np.isnan(heights[:-1]).all()
    assert heights[-1] == pytest.approx(1.1)


def test_true_against_predicted_and_calibration():
    rng = np.random.default_rng(0)
    masses = rng.uniform(50, 200, 900)
    axis = true_against_predicted(masses, 2 * masses).axes[0]
    median = axis.get_lines()[0]
    np.testing.assert_allclose(median.get_ydata(), 2 * median.get_xdata())
    labels = (rng.random(6000) < 0.7).astype(int)  # a model that predicts 70 % for each is calibrated
    line = calibration(labels, {"a": np.tile([0.3, 0.7], (6000, 1))}, num_bins=2).axes[0].get_lines()[0]
    np.testing.assert_allclose(line.get_xdata(), 0.7)
    np.testing.assert_allclose(line.get_ydata(), 0.7, atol=0.03)


def test_jet_displays_show_what_they_are_given():
    schema, rng = find_schema("simulated"), np.random.default_rng(0)
    image = rng.random(schema.image_shape) * (rng.random(schema.image_shape) < 0.01)
    jets = [
        {"title": "one", "image": image, "saliency": image, "attention": {"class attention": rng.random((13, 13))}},
        {"title": "empty", "image": 0 * image, "saliency": 0 * image, "attention": {}},
    ]
    figure = jet_displays(jets, schema, "model, sample")
    assert figure.get_suptitle() == "Simulation   model, sample"
    titles = [axis.get_title() for axis in figure.axes]
    assert "one\ntracks and calorimeters" in titles
    assert "class attention" in titles


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
