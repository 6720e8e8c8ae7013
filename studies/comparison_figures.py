"""Figures of docs/comparison.md, from results/comparison: how the losses fell, and what more jets are worth.

python studies/comparison_figures.py
"""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from comparison_tables import STUDY, Training, training_jets, trainings
from matplotlib.figure import Figure

from e2evit.data.packaged import read_recipe
from e2evit.data.texts import read_mapping
from e2evit.plots import save_figure
from e2evit.plots.style import STYLE, label_simulation, styles

ROOT = Path(__file__).parents[1]
RESULTS, FOLDER = ROOT / "results/comparison", ROOT / "docs/comparison"
SAMPLE = "8 TeV, pile-up 21, AK8 jets of 400 to 1000 GeV"
TITLES = {
    "hitvit": "HitViT",
    "particle_transformer": "Particle Transformer",
    "vit": "ViT",
    "resnet15": "ResNet-15",
    "linearvit": "LinearViT",
    "xcit": "XCiT",
    "particle_net": "ParticleNet",
}
BACKWARD = 3  # cost of a training step, in forward passes


def loss_curves(runs: Mapping[Training, dict], steps: Mapping) -> Figure:
    """The loss of training jets before they were learned from, against jets, MACs and minutes of one core: the mean
    over the trainings of each model on all jets, with a band of their extremes.
    """
    models = list(dict.fromkeys(one.model for one in runs if one.share == 1))
    scales = {
        "Jets seen [thousands]": lambda model: 1e-3,
        r"Training MACs [$10^{12}$]": lambda model: BACKWARD * steps["macs"][model] * 1e-12,
        "Minutes on one core": lambda model: 1 / steps["jets_per_second"][model] / 60,
    }
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(18, 6.5), sharey=True, layout="constrained")
        for model, style in styles(models):
            curves = [runs[one]["training"]["training_curve"] for one in runs if one.model == model and one.share == 1]
            seen, losses = np.array(curves[0])[:, 0], np.array([np.array(curve)[:, 1] for curve in curves])
            for axis, scale in zip(axes, scales.values()):
                x = seen * scale(model)
                axis.plot(x, losses.mean(axis=0), **style, label=f"{TITLES.get(model, model)} ({len(curves)})")
                axis.fill_between(x, losses.min(axis=0), losses.max(axis=0), color=style["color"], alpha=0.2, lw=0)
        for axis, label in zip(axes, scales):
            axis.set(xlabel=label)
        axes[0].set(ylabel="Loss on unseen jets")
        axes[2].legend(title="Model (trainings)")
        label_simulation(axes[0])
        label_simulation(axes[2], SAMPLE)
    return figure


def worth_of_jets(runs: Mapping[Training, dict], jets: float, metrics: Mapping[str, str]) -> Figure:
    """Metrics on validation jets against the number of training jets, of models trained on several; one point per
    training. All trainings saw the same number of jets.
    """
    shares: dict[str, set] = {}
    for one in runs:
        shares.setdefault(one.model, set()).add(one.share)
    models = [model for model, found in shares.items() if len(found) > 1]
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, len(metrics), figsize=(7 * len(metrics), 6.5), layout="constrained")
        for axis, (key, label) in zip(axes, metrics.items()):
            for model, style in styles(models):
                points = sorted(
                    (one.share * jets, runs[one]["metrics"][key])
                    for one in runs
                    if one.model == model and key in runs[one]["metrics"]
                )
                axis.plot(*zip(*points), marker="o", **style | {"linestyle": ""}, label=TITLES.get(model, model))
            axis.set(xscale="log", xlabel="Training jets", ylabel=label)
        axes[0].legend()
        label_simulation(axes[0])
        label_simulation(axes[-1], SAMPLE)
    return figure


def main() -> None:
    plan, found = read_recipe(STUDY), read_mapping(RESULTS / "validation.json", "JSON")["runs"]
    runs = {one: found[one.name] for one in trainings(plan) if one.name in found}
    networks = {one: run for one, run in runs.items() if "training_curve" in run["training"]}
    curves = loss_curves(networks, read_mapping(RESULTS / "steps.json", "JSON"))
    figures = {"curves": curves}
    if any(one.share < 1 for one in networks):
        labels = {"roc_auc_macro": "Mean AUC", "corrected_resolution": "Mass resolution, all jets"}
        figures["jets"] = worth_of_jets(networks, training_jets(plan), labels)
    for name, figure in figures.items():
        print(f"Wrote {save_figure(figure, FOLDER / name)}")


if __name__ == "__main__":
    main()
