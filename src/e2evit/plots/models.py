"""Figures of what models say: taggers, masses, cost."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from e2evit.metrics.sculpting import passing_background
from e2evit.results.tables import JetPredictions

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


def roc(labels: np.ndarray, scores: Mapping[str, np.ndarray]) -> Figure:
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
        label_simulation(axis)
    return figure


def calibration(labels: np.ndarray, probabilities: Mapping[str, np.ndarray], num_bins: int = 12) -> Figure:
    """Share of right answers against the probability of the most probable class, in bins with equal numbers of jets.

    Above the diagonal a model is more often right than it says.
    """
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        for name, style in styles(probabilities):
            confidence, right = probabilities[name].max(axis=1), probabilities[name].argmax(axis=1) == labels
            parts = np.array_split(np.argsort(confidence, kind="stable"), num_bins)
            points = [(confidence[part].mean(), right[part].mean()) for part in parts]
            axis.plot(*zip(*points), marker="o", markersize=4, **style, label=name)
        axis.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
        axis.set(xlabel="Probability of the most probable class", ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1))
        axis.legend(fontsize=13 if len(probabilities) < 6 else 10)
        label_simulation(axis)
    return figure


def mass_response(masses: np.ndarray, predictions: Mapping[str, np.ndarray], num_bins: int = 8) -> Figure:
    """Median of predicted over true mass in bins of true mass [GeV] with equal numbers of jets; bars hold 68 %."""
    edges = np.quantile(masses, np.linspace(0, 1, num_bins + 1))
    which = np.clip(np.searchsorted(edges, masses, side="right") - 1, 0, num_bins - 1)
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        for number, (name, style) in enumerate(styles(predictions)):
            response = predictions[name] / masses
            low, middle, high = np.array(
                [np.percentile(response[which == i], [16, 50, 84]) for i in range(num_bins)]
            ).T
            centres = np.array([np.median(masses[which == i]) for i in range(num_bins)])
            # side by side, so that bars can be told apart
            centres = centres * (1 + 0.012 * (number - (len(predictions) - 1) / 2))
            errors = (middle - low, high - middle)
            axis.errorbar(centres, middle, errors, fmt="o", color=style["color"], capsize=3, label=name)
        axis.axhline(1, color="grey", linestyle=":")
        axis.set(xlabel="True mass [GeV]", ylabel="Predicted / true mass (median, 68 %)", ylim=(0, 2.5))
        axis.legend()
        label_simulation(axis)
    return figure


def resolution(
    by: np.ndarray, masses: np.ndarray, predictions: Mapping[str, np.ndarray], label: str, num_bins: int = 8
) -> Figure:
    """Median response m̂ / m and relative resolution in bins of `by` with equal numbers of jets, a line for each model.

    Args:
        by: Of each jet what the bins are in, e.g. its mass or its pT [GeV].
        masses, predictions: In GeV.
        label: Of the horizontal axis.
    """
    parts = np.array_split(np.argsort(by, kind="stable"), num_bins)
    centres = [np.median(by[part]) for part in parts]
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(14, 6), layout="constrained")
        for name, style in styles(predictions):
            response = predictions[name] / masses
            low, middle, high = np.array([np.percentile(response[part], [16, 50, 84]) for part in parts]).T
            axes[0].plot(centres, middle, marker="o", markersize=4, **style, label=name)
            axes[1].plot(centres, (high - low) / 2, marker="o", markersize=4, **style, label=name)
        axes[0].axhline(1, color="grey", linestyle=":")
        axes[0].set(xlabel=label, ylabel="Median of predicted / true mass")
        axes[1].set(xlabel=label, ylabel="Relative mass resolution")
        axes[1].set_ylim(0, 1.4 * axes[1].get_ylim()[1])  # room for the legend
        axes[1].legend(ncols=2, fontsize=11)
        for axis in axes:
            label_simulation(axis)
    return figure


def true_against_predicted(masses: np.ndarray, predictions: np.ndarray, num_bins: int = 60) -> Figure:
    """Jets in the plane of true and predicted mass [GeV], and the median prediction in slices of true mass."""
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        upper = 1.02 * max(np.quantile(masses, 0.999), np.quantile(predictions, 0.99))
        edges = np.linspace(0, upper, num_bins + 1)
        counts, *_ = np.histogram2d(masses, predictions, (edges, edges))
        mesh = axis.pcolormesh(edges, edges, np.ma.masked_equal(counts.T, 0), cmap="viridis_r", norm=LogNorm(1))
        parts = np.array_split(np.argsort(masses, kind="stable"), 15)
        middle = [(np.median(masses[part]), np.median(predictions[part])) for part in parts]
        axis.plot(*zip(*middle), "o-", color=COLOURS[1], label="median prediction")
        axis.plot([0, upper], [0, upper], color="grey", linestyle=":", label="true mass")
        axis.set(xlabel="True mass [GeV]", ylabel="Predicted mass [GeV]", xlim=(0, upper), ylim=(0, upper))
        figure.colorbar(mesh, ax=axis, pad=0.02).set_label("Jets", loc="center")
        axis.legend(loc="upper left")
        label_simulation(axis)
    return figure


def sculpting(labels: np.ndarray, scores: np.ndarray, jet_masses: np.ndarray, num_bins: int = 20) -> Figure:
    """Masses [GeV] of the background: of all of it, and of what passes the tagger at ε_S = 50 and 30 %.

    `labels` are 1 for signal and 0 for background. A tagger that ignores the mass leaves the shape as it is. Bars are
    the square root of what passes.
    """
    background = jet_masses[labels == 0]
    edges = np.linspace(0, np.quantile(background, 0.995), num_bins + 1)
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
        chosen = {"all": np.ones(len(background), bool)}
        for percent, passes in sorted(passing_background(labels, scores).items(), reverse=True):
            chosen[rf"pass at $\varepsilon_S$ = {percent} %"] = passes
        for number, (colour, (name, which)) in enumerate(zip(COLOURS, chosen.items())):
            counts, _ = np.histogram(background[which], edges)
            total, label = max(which.sum(), 1), f"{name} ({which.sum()} jets)"
            axis.stairs(counts / total, edges, color=colour, label=label, linewidth=1.8)
            if number:  # side by side, so that bars can be told apart
                places = edges[:-1] + np.diff(edges) * number / 3
                axis.errorbar(places, counts / total, np.sqrt(counts) / total, fmt="none", color=colour)
        axis.set(xlabel="Mass of background jets [GeV]", ylabel="Fraction", xlim=(edges[0], edges[-1]))
        axis.set_ylim(0, 1.3 * axis.get_ylim()[1])  # room for the legend
        axis.legend()
        label_simulation(axis)
    return figure


def quality_against_cost(records: Mapping[str, Mapping], quantity: str, label: str, is_better_high: bool) -> Figure:
    """A quantity with its interval against the multiplications of one image, a point for each record that knows them.

    The line joins the records that no other beats in both.
    """
    points = {
        name: (
            record["cost"]["macs"],
            *(record["metrics"]["model"][f"{quantity}{end}"] for end in ("", "_low", "_high")),
        )
        for name, record in records.items()
        if record.get("cost") and quantity in record["metrics"]["model"]
    }
    sign = 1 if is_better_high else -1
    front = [
        name
        for name, (macs, value, *_) in points.items()
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
        line = sorted(points[name][:2] for name in front)
        axis.plot(
            [macs / 1e6 for macs, _ in line], [value for _, value in line], color="grey", linestyle=":", zorder=0
        )
        axis.set(xlabel="Multiplications of one image [million]", ylabel=label)
        costs = [macs for macs, *_ in points.values()]
        if max(costs, default=0) > 5 * min(
            costs, default=0
        ):  # in less than a decade the labels of a logarithmic axis overlap
            axis.set_xscale("log")
        axis.legend()
        label_simulation(axis)
    return figure


def comparison_figures(found: JetPredictions) -> dict[str, Figure]:
    """As far as there are targets for them: ROC curves, calibration, mass response and resolution of all models;
    sculpting, and true against predicted masses, of the first."""
    known, has_mass, figures = found.labels != -100, np.isfinite(found.masses), {}
    signal = (found.labels[known] > 0).astype(int)
    if len(np.unique(signal)) == 2:
        scores = {name: score[known] for name, score in found.scores.items()}
        figures["roc"] = roc(signal, scores)
        figures["sculpting"] = sculpting(signal, next(iter(scores.values())), found.jet_masses[known])
    if found.probabilities and known.any():
        probabilities = {name: of_classes[known] for name, of_classes in found.probabilities.items()}
        figures["calibration"] = calibration(found.labels[known], probabilities)
    if has_mass.any():
        mass_preds = {name: mass[has_mass] for name, mass in found.mass_preds.items()}
        masses = found.masses[has_mass]
        if len(mass_preds) <= len(COLOURS):  # its bars have no line styles
            figures["mass_response"] = mass_response(masses, mass_preds)
        figures["resolution_mass"] = resolution(masses, masses, mass_preds, "True mass [GeV]")
        if np.isfinite(found.pts[has_mass]).all():
            figures["resolution_pt"] = resolution(found.pts[has_mass], masses, mass_preds, r"Jet $p_T$ [GeV]")
        figures["true_against_predicted"] = true_against_predicted(masses, next(iter(mass_preds.values())))
    return figures


def tuning(trials: Sequence[Mapping], objective: str, direction: str) -> Figure:
    """What each trial of a search reached: by its number, and against each of its settings.

    Args:
        trials: With `number`, `state`, `params`, `value` (None if it was pruned) and `by_epoch`.
        objective: What `value` is.
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
