"""The table of metrics: what tables, figures and model cards print of each."""

from dataclasses import dataclass, replace

__all__ = ["CONTAINMENT", "METRICS", "Metric"]

CONTAINMENT = ("contained", "uncontained")  # prefixes of metrics of such jets alone


@dataclass(frozen=True)
class Metric:
    """How one metric is shown.

    Attributes:
        key: Its name in results.
        title: Heading of a column, without the unit.
        format: Of its value, for `format`.
        higher_is_better: None where the best value lies in the middle, as for a slope.
        unit: Empty for ratios.
        hub_task: Task of the Hub that model cards list it under, if they do.
    """

    key: str
    title: str
    format: str
    higher_is_better: bool | None
    unit: str = ""
    hub_task: str | None = None

    @property
    def heading(self) -> str:
        return f"{self.title} [{self.unit}]" if self.unit else self.title


_TAGGING, _REGRESSION = "image-classification", "tabular-regression"

_OF_MASS = (  # of all jets, and of contained and uncontained ones
    Metric("mae_gev", "mass MAE", ".1f", False, "GeV", _REGRESSION),
    Metric("rmse_gev", "mass RMSE", ".1f", False, "GeV"),
    Metric("r2", "R²", ".3f", True),
    Metric("mean_relative_error", "mean relative mass error", ".4f", False),
    Metric("relative_resolution", "rel. mass resolution", ".4f", False, hub_task=_REGRESSION),
    Metric("corrected_resolution", "resolution over response", ".4f", False),
    Metric("tail_share", "share beyond 3 widths", ".3f", False),
    Metric("slope", "slope", ".2f", None),
    Metric("resolution_over_slope", "resolution over slope", ".4f", False),
    Metric("response", "median response", ".3f", None),
    Metric("mean_response", "mean response", ".3f", None),
    Metric("response_low_edge", "median response, lightest tenth", ".3f", None),
    Metric("response_high_edge", "median response, heaviest tenth", ".3f", None),
    Metric("linearity", "spread of the response over the mass", ".3f", False),
    Metric("coverage_68", "coverage of 1 σ", ".3f", None),
    Metric("pull_width", "pull width", ".2f", None),
    Metric("mean_scale_gev", "mean predicted σ", ".1f", None, "GeV"),
)

METRICS = {
    metric.key: metric
    for metric in (
        Metric("roc_auc", "ROC AUC", ".3f", True, hub_task=_TAGGING),
        Metric("roc_auc_macro", "mean AUC of classes", ".4f", True, hub_task=_TAGGING),
        Metric("accuracy", "accuracy", ".3f", True, hub_task=_TAGGING),
        Metric("rejection_at_30", "rejection at 30 %", ".1f", True),
        Metric("rejection_at_50", "rejection at 50 %", ".1f", True, hub_task=_TAGGING),
        Metric("rejection_at_70", "rejection at 70 %", ".1f", True),
        Metric("calibration_error", "calibration error", ".4f", False),
        Metric("mass_divergence_at_30", "mass sculpting at 30 %", ".2f", False),
        Metric("mass_divergence_at_50", "mass sculpting at 50 %", ".2f", False),
        *_OF_MASS,
        *(
            replace(metric, key=f"{kind}_{metric.key}", title=f"{metric.title}, {kind}", hub_task=None)
            for kind in CONTAINMENT
            for metric in _OF_MASS
        ),
        Metric("closure", "closure", ".3f", None),  # of a process, as w_closure
        Metric("containment_auc", "AUC of containment", ".3f", True),
        Metric("containment_calibration_error", "calibration error of containment", ".4f", False),
    )
}
