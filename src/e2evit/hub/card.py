"""Model cards from a template and a results file; no number of theirs is typed."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from e2evit.data import CHANNELS, find_schema
from e2evit.results.tables import results_table

__all__ = ["render_card"]

FAMILIES = {
    "linearvit": (
        "LinearViT (L²ViT)",
        "Zheng, The Linear Attention Resurrection in Vision Transformer, arXiv 2501.16182",
    ),
    "e2e_baseline": ("An image model of transformers behind the head of e2evit", "the paper of the wrapped model"),
    "xcit": ("XCiT", "El-Nouby et al., XCiT: Cross-Covariance Image Transformers, arXiv 2106.09681"),
}
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
    template: str | Path, record: dict, model_type: str, recipe: str, model_id: str, figures: Sequence[str] = ()
) -> ModelCard:
    """The card of one checkpoint.

    Args:
        template: Jinja file.
        record: What `scripts/eval.py` wrote.
        model_type: `"linearvit"`, `"xcit"` or `"e2e_baseline"`.
        recipe: Path of the recipe within the repository.
        model_id: Hub id or folder that the card's code loads.
        figures: Names of pictures `figures/NAME.png` beside the card, of those that have a caption here.

    Raises:
        ValueError: for a `model_type` without a card.
    """
    if model_type not in FAMILIES:
        raise ValueError(f"There is no card for {model_type!r}; known ones: {', '.join(FAMILIES)}.")
    family, citation = FAMILIES[model_type]
    schema, measured = find_schema(record["dataset"]), record["metrics"]["model"]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        license="apache-2.0",
        tags=[
            *("high-energy-physics", "cms", "jet-tagging", "mass-regression"),
            *(("linear-attention",) if model_type in ("linearvit", "xcit") else ()),
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
        family=family,
        citation=citation,
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
