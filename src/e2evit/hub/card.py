"""Model cards from a template and a results file; no number is typed by hand."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from e2evit.data import CHANNELS, SCHEMAS, DatasetSchema
from e2evit.data.columns import Channel
from e2evit.metrics import METRICS
from e2evit.modeling import FAMILIES
from e2evit.results.predictions import MODEL
from e2evit.results.record import Result
from e2evit.results.tables import interval_cell, results_table
from e2evit.transforms.transverse import TRANSVERSE

__all__ = ["listed_metrics", "render_card"]

_PLAIN = {transverse: plain for plain, transverse in TRANSVERSE.items()}
CAPTIONS = {
    "roc": "Background rejection against signal efficiency: all classes but the first against the first.",
    "mass_response": "Predicted over true mass in bins of true mass; bars hold 68 % of the jets.",
    "true_against_predicted": "Predicted against true mass, with the median prediction.",
    "calibration": "Accuracy against the probability of the most probable class.",
    "sculpting": "Masses of background jets that pass the tagger: a tagger that knows the mass shapes them.",
}
CARD_FIELDS = (  # of the result, that the template reads
    *("dataset", "split", "mass_column", "mass_classes", "contained_classes", "label_names", "image_size", "data"),
    *("parameters", "seed", "training", "aux_names"),
)


def render_card(
    template: str | Path,
    result: Result,
    model_type: str,
    recipe: str,
    model_id: str,
    figures: Sequence[str] = (),
    has_code: bool = False,
) -> ModelCard:
    """The card of one checkpoint.

    Args:
        template: Jinja file.
        result: Result of the checkpoint.
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
    schema = SCHEMAS[result.dataset][0] if result.dataset in SCHEMAS else None  # of a custom one its owner knows more
    listed = listed_metrics(result)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        license="apache-2.0",
        tags=[
            *("high-energy-physics", "cms", "jet-tagging", "mass-regression"),
            *(("linear-attention",) if family.backbone else ()),
            model_type,
        ],
        datasets=[result.dataset],
        metrics=list(listed),
        model_name=model_id.rsplit("/", 1)[-1],
        eval_results=[
            EvalResult(
                task_type=METRICS[key].hub_task,
                dataset_type=result.dataset,
                dataset_name=f"e2evit {result.dataset} ({result.split})",
                metric_type=key,
                metric_name=METRICS[key].heading,
                metric_value=value,
            )
            for key, value in listed.items()
        ],
    )
    return ModelCard.from_template(
        data,
        template_path=str(template),
        title=data.model_name,
        family=family.title,
        citation=family.citation,
        has_code=has_code,
        input_names=[_PLAIN.get(name, name) for name in result.channel_names],
        model_id=model_id,
        recipe=recipe,
        figures={name: CAPTIONS[name] for name in figures},
        is_simulated=result.dataset in ("simulated", "particles"),
        pileup=result.pileup_text,
        table=results_table({data.model_name: result}),
        example=json.dumps(_example(result)),
        aux_columns=_aux_columns(result),
        containment=_containment(result),
        has_uncontained="uncontained_response" in result.metrics[MODEL],
        channels={name: _channel(name, schema) for name in result.channel_names},
        dataset_description=schema and schema.description.rstrip("."),
        has_physical_units=schema is not None and schema.has_physical_units,
        mass_definition="particle-level mass of the jet"
        if result.mass_column == "jet_mass"
        else schema and schema.mass_definition,
        **{name: getattr(result, name) for name in CARD_FIELDS},
    )


def listed_metrics(result: Result) -> dict[str, float]:
    """The metrics of the model that the Hub lists, as it shows them."""
    keys = [key for key, metric in METRICS.items() if metric.hub_task]
    return {key: round(measured.value, 4) for key in keys if (measured := result.metric(key))}


def _aux_columns(result: Result) -> list[str]:
    """Columns of the scalars that the model reads besides images."""
    return list(dict.fromkeys(name.removeprefix("log_") for name in result.aux_names or ()))


def _example(result: Result) -> dict:
    """A row with a single pixel and all else that the model needs."""
    others = {"ieta": 28, "iphi": 20, "pt": 500.0}  # the middle of the detector
    needed = [*_aux_columns(result), *(["ieta"] if {*result.channel_names} & {*_PLAIN} else [])]
    return {"pixel_index": [54687], "pixel_value": [25.0]} | {k: v for k, v in others.items() if k in needed}


def _containment(result: Result) -> str:
    """How well the model knows which jets contain all of the decay; empty if that was not measured."""
    keys = [key for key in ("containment_auc", "containment_calibration_error") if result.metric(key)]
    return ", ".join(f"{METRICS[key].title} {interval_cell(result.metric(key), METRICS[key].format)}" for key in keys)


def _channel(name: str, schema: DatasetSchema | None) -> Channel:
    if schema is not None:
        return schema.channel(name)
    return replace(CHANNELS.get(name, Channel("", name)), unit="as in the data")
