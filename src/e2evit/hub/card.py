"""Model cards from a template and a results file; no number of theirs is typed."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from e2evit.data import CHANNELS, find_schema
from e2evit.modeling import FAMILIES
from e2evit.results.tables import results_table
from e2evit.transforms.transverse import TRANSVERSE

__all__ = ["render_card"]

_PLAIN = {transverse: plain for plain, transverse in TRANSVERSE.items()}
CAPTIONS = {
    "roc": "Background rejection against signal efficiency: all classes but the first against the first.",
    "mass_response": "Predicted over true mass in bins of true mass; bars hold 68 % of the jets.",
    "true_against_predicted": "Predicted against true mass, with the median prediction.",
    "calibration": "Accuracy against the probability of the most probable class.",
    "sculpting": "Masses of background jets that pass the tagger: a tagger that knows the mass shapes them.",
}
HEADLINES = (
    ("roc_auc", "ROC AUC", "image-classification"),
    ("roc_auc_macro", "mean ROC AUC of each class against the rest", "image-classification"),
    ("accuracy", "accuracy", "image-classification"),
    ("rejection_at_50", "background rejection at 50 % signal efficiency", "image-classification"),
    ("mae_gev", "mass MAE [GeV]", "tabular-regression"),
    ("relative_resolution", "relative mass resolution", "tabular-regression"),
)


def render_card(
    template: str | Path,
    record: dict,
    model_type: str,
    recipe: str,
    model_id: str,
    figures: Sequence[str] = (),
    has_code: bool = False,
) -> ModelCard:
    """The card of one checkpoint.

    Args:
        template: Jinja file.
        record: What `scripts/eval.py` wrote.
        model_type: A key of [`FAMILIES`].
        recipe: Path of the recipe within the repository.
        model_id: Hub id or folder that the card's code loads.
        figures: Names of the pictures `figures/NAME.png` beside the card; each has a caption here.
        has_code: Whether the folder holds the model's code, so that e2evit is not needed to load it.

    Raises:
        ValueError: for a `model_type` without a card.
    """
    if model_type not in FAMILIES:
        raise ValueError(f"There is no card for {model_type!r}; known ones: {', '.join(FAMILIES)}.")
    family = FAMILIES[model_type]
    schema, measured = find_schema(record["dataset"]), record["metrics"]["model"]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        license="apache-2.0",
        tags=[
            *("high-energy-physics", "cms", "jet-tagging", "mass-regression"),
            *(("linear-attention",) if family.backbone else ()),
            model_type,
        ],
        datasets=[record["dataset"]],
        metrics=[key for key, *_ in HEADLINES if key in measured],
        model_name=model_id.rsplit("/", 1)[-1],
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type=record["dataset"],
                dataset_name=f"e2evit {record['dataset']} ({record['split']})",
                metric_type=key,
                metric_name=name,
                metric_value=round(measured[key], 4),
            )
            for key, name, task in HEADLINES
            if key in measured
        ],
    )
    return ModelCard.from_template(
        data,
        template_path=str(template),
        title=data.model_name,
        family=family.title,
        citation=family.citation,
        has_code=has_code,
        input_names=[_PLAIN.get(name, name) for name in record["channel_names"]],
        model_id=model_id,
        recipe=recipe,
        figures={name: CAPTIONS[name] for name in figures},
        training=record.get("training", {}),
        mass_classes=record.get("mass_classes"),
        hardware=record["hardware"],
        table=results_table({data.model_name: record}),
        channels={name: CHANNELS[name] for name in record["channel_names"]},
        image_size=record["image_size"],
        label_names=record["label_names"],
        dataset_description=schema.description.rstrip("."),
        mass_definition="particle-level mass of the jet"
        if record["mass_column"] == "jet_mass"
        else schema.mass_definition,
        **{key: record[key] for key in ("dataset", "split", "mass_column", "data", "parameters", "seed")},
    )
