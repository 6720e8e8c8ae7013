"""Figures of predictions: taggers, masses, cost."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from e2evit.metrics import METRICS
from e2evit.metrics.bootstrap import event_numbers
from e2evit.metrics.classification import is_correct
from e2evit.metrics.mass import central_68, quantile_edges, response_in_bins
from e2evit.metrics.sculpting import passing_background
from e2evit.results.predictions import JetPredictions
from e2evit.results.record import Result

from .style import COLOURS, STYLE, label_simulation, styles

__all__ = [
    "calibration",
    "comparison_figures",
    "mass_response",
    "quality_against_cost",
    "resolution",
    "roc",
    "sculpting",
    "true_against_predicted",
    "tuning",
]

MIN_MODELS = 3  # of the figure of quality against cost: two points are no trend
WORKING_POINTS = (70, 50, 30)  # percent of the signal that a tagger keeps
MIN_PASSING = 50  # background jets that pass the tagger, to show a spectrum of them


def roc(labels: np.ndarray, scores: Mapping[str, np.ndarray], sample: str = "") -> Figure:
    """Background rejection against signal efficiency, one line per predictor, AUC in the legend."""
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        for name, style in styles(scores):
            false_positive, true_positive, _ = roc_curve(labels, scores[name])
            passed = false_positive > 0
            auc = roc_auc_score(labels, scores[name])
            axis.plot(true_positive[passed], 1 / false_positive[passed], **style, label=f"{name} (AUC {auc:.3f})")
        efficiency = np.linspace(0.02, 1, 200)
        axis.plot(efficiency, 1 / efficiency, color="grey", linestyle=":", label="random")
        # two more decades leave room for the legend
        axis.set(yscale="log", xlim=(0, 1), ylim=(1, 100 * np.sum(labels == 0)))
        axis.set(xlabel=r"Signal efficiency $\varepsilon_S$", ylabel=r"Background rejection $1/\varepsilon_B$")
        axis.legend(fontsize=13 if len(scores) < 6 else 10)
        label_simulation(axis, sample)
    return figure


def calibration(
    labels: np.ndarray, probabilities: Mapping[str, np.ndarray], sample: str = "", num_bins: int = 12
) -> Figure:
    """Accuracy against the probability of the most probable class, in bins with equal numbers of jets.

    Above the diagonal a model is underconfident.
    """
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        for name, style in styles(probabilities):
            confidence, correct = probabilities[name].max(axis=1), is_correct(labels, probabilities[name])
            parts = np.array_split(np.argsort(confidence, kind="stable"), num_bins)
            points = [(confidence[part].mean(), correct[part].mean()) for part in parts]
            axis.plot(*zip(*points), marker="o", markersize=4, **style, label=name)
        axis.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
        axis.set(xlabel="Probability of the most probable class", ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1))
        axis.legend(fontsize=13 if len(probabilities) < 6 else 10)
        label_simulation(axis, sample)
    return figure


def mass_response(
    mass_labels: np.ndarray, mass_preds: Mapping[str, np.ndarray], sample: str = "", num_bins: int = 8
) -> Figure:
    """Median of predicted over true mass in bins of true mass [GeV] with equal numbers of jets; bars hold 68 %."""
    edges = quantile_edges(mass_labels, num_bins)
    parts = [(mass_labels >= low) & (mass_labels < high) for low, high in pairwise(edges)]
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        for number, (name, style) in enumerate(styles(mass_preds)):
            response = mass_preds[name] / mass_labels
            low, middle, high = np.array([central_68(response[part]) for part in parts]).T
            centres = np.array([np.median(mass_labels[part]) for part in parts])
            # side by side, so that bars can be told apart
            centres = centres * (1 + 0.012 * (number - (len(mass_preds) - 1) / 2))
            errors = (middle - low, high - middle)
            axis.errorbar(centres, middle, errors, fmt="o", color=style["color"], capsize=3, label=name)
        axis.axhline(1, color="grey", linestyle=":")
        axis.set(xlabel="True mass [GeV]", ylabel="Predicted / true mass (median, 68 %)", ylim=(0, 2.5))
        axis.legend()
        label_simulation(axis, sample)
    return figure


def resolution(
    by: np.ndarray,
    mass_labels: np.ndarray,
    mass_preds: Mapping[str, np.ndarray],
    label: str,
    sample: str = "",
    num_bins: int = 8,
    events: np.ndarray | None = None,
) -> Figure:
    """Median response m̂ / m and relative resolution in bins of `by` with equal numbers of jets; bars are 95 %.

    Args:
        by: What the bins are in, e.g. mass or pT of the jets [GeV].
        mass_labels, mass_preds: In GeV.
        label: Label of the horizontal axis.
        events: As in [`e2evit.metrics.bootstrap.resamples`].
    """
    edges = quantile_edges(by, num_bins)
    centres = np.array([np.median(by[(by >= low) & (by < high)]) for low, high in pairwise(edges)])
    step = 0.05 * np.diff(edges).min()
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(14, 6), layout="constrained")
        for number, (name, style) in enumerate(styles(mass_preds)):
            rows = response_in_bins(mass_labels, mass_preds[name], by, edges, num_resamples=100, events=events)
            places = centres + step * (number - (len(mass_preds) - 1) / 2)  # bars side by side
            for axis, key in zip(axes, ("response", "relative_resolution")):
                # a bin of one jet has no metrics
                points = [[row.get(f"{key}{end}", np.nan) for end in ("", "_low", "_high")] for row in rows]
                value, low, high = np.array(points).T
                errors = np.maximum([value - low, high - value], 0)
                axis.errorbar(places, value, errors, marker="o", markersize=4, capsize=2, **style, label=name)
        axes[0].axhline(1, color="grey", linestyle=":")
        axes[0].set(xlabel=label, ylabel="Median of predicted / true mass")
        axes[1].set(xlabel=label, ylabel="Relative mass resolution")
        axes[1].set_ylim(0, 1.4 * axes[1].get_ylim()[1])  # room for the legend
        axes[1].legend(ncols=2, fontsize=11)
        for axis in axes:
            label_simulation(axis, sample)
    return figure


def true_against_predicted(
    mass_labels: np.ndarray, mass_preds: np.ndarray, sample: str = "", num_bins: int = 60
) -> Figure:
    """Jets in the plane of true and predicted mass [GeV], and the median prediction in slices of true mass."""
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        upper = 1.02 * max(np.quantile(mass_labels, 0.999), np.quantile(mass_preds, 0.99))
        edges = np.linspace(0, upper, num_bins + 1)
        counts, *_ = np.histogram2d(mass_labels, mass_preds, (edges, edges))
        mesh = axis.pcolormesh(edges, edges, np.ma.masked_equal(counts.T, 0), cmap="viridis_r", norm=LogNorm(1))
        parts = np.array_split(np.argsort(mass_labels, kind="stable"), 15)
        medians = [(np.median(mass_labels[part]), np.median(mass_preds[part])) for part in parts]
        axis.plot(*zip(*medians), "o-", color=COLOURS[1], label="median prediction")
        axis.plot([0, upper], [0, upper], color="grey", linestyle=":", label="true mass")
        axis.set(xlabel="True mass [GeV]", ylabel="Predicted mass [GeV]", xlim=(0, upper), ylim=(0, upper))
        figure.colorbar(mesh, ax=axis, pad=0.02).set_label("Jets", loc="center")
        axis.legend(loc="upper left")
        label_simulation(axis, sample)
    return figure


def sculpting(
    labels: np.ndarray, scores: np.ndarray, jet_masses: np.ndarray, sample: str = "", num_bins: int = 20
) -> Figure | None:
    """Mass spectrum [GeV] of the background: all of it, and what passes the tagger at ε_S = 70, 50 and 30 %.

    `labels` are 1 for signal and 0 for background. A tagger that ignores the mass keeps the shape. Bars are Poisson
    errors. A working point that fewer than 50 background jets pass is left out; None if all are.
    """
    background = jet_masses[labels == 0]
    passing = {
        rf"pass at $\varepsilon_S$ = {percent} %": passes
        for percent, passes in passing_background(labels, scores, WORKING_POINTS).items()
        if passes.sum() >= MIN_PASSING
    }
    if not passing:
        return None
    edges = np.linspace(0, np.quantile(background, 0.995), num_bins + 1)
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        spectra = {"all": np.ones(len(background), bool)} | passing
        for number, (colour, (name, passes)) in enumerate(zip(COLOURS, spectra.items())):
            counts, _ = np.histogram(background[passes], edges)
            total, label = passes.sum(), f"{name} ({passes.sum()} jets)"
            axis.stairs(counts / total, edges, color=colour, label=label, linewidth=1.8)
            if number:  # side by side, so that bars can be told apart
                places = edges[:-1] + np.diff(edges) * number / 4
                axis.errorbar(places, counts / total, np.sqrt(counts) / total, fmt="none", color=colour)
        axis.set(xlabel="Mass of background jets [GeV]", ylabel="Fraction", xlim=(edges[0], edges[-1]))
        axis.set_ylim(0, 1.3 * axis.get_ylim()[1])  # room for the legend
        axis.legend()
        label_simulation(axis, sample)
    return figure


def quality_against_cost(results: Sequence[Result], key: str) -> Figure | None:
    """A metric with its interval against the multiply-accumulates (MACs) of one image, a point for each model.

    The line is the Pareto front: models that no other beats in both. None for fewer than three models of known cost.
    """
    points = {
        result.name: (result.cost["macs"], *metric)
        for result in results
        if result.cost and (metric := result.metric(key)) is not None
    }
    if len(points) < MIN_MODELS:
        return None
    sign = 1 if METRICS[key].higher_is_better else -1
    front = [
        (macs, value)
        for macs, value, *_ in points.values()
        if not any(
            other[0] <= macs and sign * other[1] >= sign * value and other[:2] != (macs, value)
            for other in points.values()
        )
    ]
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        for number, (name, style) in enumerate(styles(points)):
            (macs, value, low, high), colour = points[name], style["color"]
            error = [[max(value - low, 0)], [max(high - value, 0)]]
            marker = "os^Dv"[number // len(COLOURS) % 5]
            axis.errorbar([macs / 1e6], [value], yerr=error, fmt=marker, color=colour, capsize=3, label=name)
        line = [(macs / 1e6, value) for macs, value in sorted(front)]
        axis.plot(*zip(*line), color="grey", linestyle=":", zorder=0)
        heading = METRICS[key].heading
        axis.set(xlabel="MACs of one image [million]", ylabel=heading[0].upper() + heading[1:])
        costs = [macs for macs, *_ in points.values()]
        if max(costs) > 5 * min(costs):  # in less than a decade the labels of a logarithmic axis overlap
            axis.set_xscale("log")
        axis.legend()
        measured = results[0]
        label_simulation(axis, f"{measured.dataset}, {measured.data[measured.split]['rows']} {measured.split} jets")
    return figure


def comparison_figures(jets: JetPredictions, result: Result) -> dict[str, Figure | None]:
    """ROC curves, calibration, mass response and resolution of all models; of the first, sculpting and true against
    predicted mass. Left out without targets; None where too few jets are left.

    Args:
        jets: Predictions of all models.
        result: Result of the first model.
    """
    known, has_mass, figures = jets.labels != -100, np.isfinite(jets.mass_labels), {}
    signal = (jets.labels[known] > 0).astype(int)

    def sample(chosen, model: str = "") -> str:
        pts = jets.pts[chosen]
        reach = rf", $p_T$ {pts.min():.0f}–{pts.max():.0f} GeV" if len(pts) and np.isfinite(pts).all() else ""
        return f"{model}{', ' * bool(model)}{result.dataset}, {chosen.sum()} {result.split} jets{reach}"

    if len(np.unique(signal)) == 2:
        scores = {name: score[known] for name, score in jets.scores.items()}
        figures["roc"] = roc(signal, scores, sample(known))
        first = sample(known, result.name)
        figures["sculpting"] = sculpting(signal, scores[result.name], jets.jet_masses[known], first)
    if jets.probabilities and known.any():
        probabilities = {name: of_classes[known] for name, of_classes in jets.probabilities.items()}
        figures["calibration"] = calibration(jets.labels[known], probabilities, sample(known))
    if has_mass.any():
        mass_preds = {name: masses[has_mass] for name, masses in jets.mass_preds.items()}
        mass_labels, shown = jets.mass_labels[has_mass], sample(has_mass)
        numbers = event_numbers(jets.event_ids)
        common = {"sample": shown, "events": None if numbers is None else numbers[has_mass]}
        if len(mass_preds) <= len(COLOURS):  # its bars have no line styles
            figures["mass_response"] = mass_response(mass_labels, mass_preds, shown)
        figures["resolution_mass"] = resolution(mass_labels, mass_labels, mass_preds, "True mass [GeV]", **common)
        pts = jets.pts[has_mass]
        if np.isfinite(pts).all():
            figures["resolution_pt"] = resolution(pts, mass_labels, mass_preds, r"Jet $p_T$ [GeV]", **common)
        first = sample(has_mass, result.name)
        figures["true_against_predicted"] = true_against_predicted(mass_labels, mass_preds[result.name], first)
    return figures


def tuning(trials: Sequence[Mapping], objective: str, direction: str) -> Figure:
    """The objective of each trial of a search: by number, and against each setting.

    Args:
        trials: With `number`, `state`, `params`, `value` (None if pruned) and `by_epoch`.
        objective: Name of `value`.
        direction: `"minimize"` or `"maximize"`.
    """
    best = min if direction == "minimize" else max
    points = []
    for trial in trials:
        value = trial["value"] if trial["value"] is not None else best(trial["by_epoch"].values(), default=None)
        if value is not None:
            points.append((trial, value))
    names = list(dict.fromkeys(name for trial, _ in points for name in trial["params"]))
    with plt.style.context(STYLE):
        columns = min(3, 1 + len(names))
        rows = -(-(1 + len(names)) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(6 * columns, 4.6 * rows), layout="constrained", squeeze=False
        )
        for axis, name in zip(np.ravel(axes), [None, *names]):
            for state, colour in (("COMPLETE", COLOURS[0]), ("PRUNED", COLOURS[1])):
                chosen = [(trial, value) for trial, value in points if trial["state"] == state]
                x = [trial["number"] if name is None else trial["params"].get(name) for trial, _ in chosen]
                x = [str(value) if isinstance(value, (str, bool)) else value for value in x]
                label = {"COMPLETE": "finished", "PRUNED": "pruned"}[state]
                axis.plot(x, [value for _, value in chosen], "o", color=colour, label=label)
            values = [trial["params"][name] for trial, _ in points if name in trial["params"]] if name else []
            if values and all(isinstance(value, float) and value > 0 for value in values):
                axis.set_xscale("log" if max(values) > 20 * min(values) else "linear")
            axis.set(xlabel=name or "trial", ylabel=objective.replace("_", " "))
            axis.tick_params(labelsize=12)
        axes[0, 0].legend()
        for axis in np.ravel(axes)[1 + len(names) :]:
            axis.remove()
        figure.suptitle("Simulation", fontweight="bold")
    return figure
