"""Train and evaluate from Python, as a notebook does, and from the command line."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import row_table

import e2evit
from e2evit.cli import evaluate as command
from e2evit.results.predictions import MODEL
from e2evit.training import TrainedModel, evaluation

TINY = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def data(jets_dir, tmp_path_factory):
    return e2evit.DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> TrainedModel:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "model.json").write_text(json.dumps(TINY | {"mass_loss": "quantile"}))
    settings = e2evit.TrainArguments(
        output_dir=str(folder / "run"), num_train_epochs=1, mixed_precision="no", report_to="none", seed=3
    )
    return e2evit.train(folder / "model.json", data, settings, targets=e2evit.TargetArguments(mass_column="jet_mass"))


@pytest.fixture(scope="module")
def result(trained, data):
    return e2evit.evaluate(trained, data, mixed_precision="no")


def test_the_model_can_be_used_at_once(trained, data):
    assert not trained.model.training
    jets = e2evit.load_e2e("simulated", data.data_dir, split="test", cache_dir=data.cache_dir)
    outputs = trained.model(**trained.processor([jets.with_format("numpy")[0]], return_tensors="pt"))
    assert outputs.mass_preds.shape == (1,)


def test_a_result_names_model_and_targets(trained, result):
    assert (result.name, result.seed, result.mass_column) == ("run_seed3", 3, "jet_mass")
    assert result.label_names == ["qcd", "top"]
    assert {"roc_auc", "mae_gev", "coverage_68"} <= set(result.metrics[MODEL])
    assert result.training["images_seen"] == result.data["train"]["rows"]
    assert len(result.predictions["event_id"]) == result.data["test"]["rows"]


def test_the_command_writes_the_same(trained, result, data, tmp_path, capsys):
    path = tmp_path / "result.json"
    arguments = ["--data_dir", data.data_dir, "--cache_dir", data.cache_dir, "--mixed_precision", "no"]
    command.main([str(trained.output_dir), *arguments, "--results", str(path)])
    written = e2evit.Result.from_json(path)
    assert written.metrics == result.metrics
    assert written.in_bins == result.in_bins
    printed = capsys.readouterr().out
    assert "| run_seed3  |" in printed
    assert f"e2evit compare --results {path}" in printed
    assert not path.with_suffix(".pieces").exists()


def test_another_precision_in_the_same_process(trained, result, data):
    lower = e2evit.evaluate(trained.output_dir, data, mixed_precision="bf16")
    assert lower.hardware["precision"] == "bf16"
    assert lower.metrics[MODEL]["mae_gev"] == pytest.approx(result.metrics[MODEL]["mae_gev"], rel=0.05)


def test_options_override_the_checkpoint(trained, data):
    other = e2evit.evaluate(trained, data, targets=e2evit.TargetArguments(mass_column="pt"), mixed_precision="no")
    assert other.mass_column == "pt"
    assert other.metrics[MODEL]["mae_gev"] > 200  # GeV: pT is not mass


def test_weights_of_jets(trained, result, data):
    weighted = e2evit.evaluate(trained, data, weights="pt", mixed_precision="no")
    assert (weighted.weights, result.weights) == ("pt", None)
    assert weighted.metrics[MODEL]["mae_gev"] != result.metrics[MODEL]["mae_gev"]
    assert weighted.metrics[MODEL]["mae_gev"] == pytest.approx(result.metrics[MODEL]["mae_gev"], rel=0.2)
    assert weighted.predictions["weight"].mean() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="Rows that were simulated by an earlier version have none"):
        e2evit.evaluate(trained, data, weights="weight", mixed_precision="no")


def test_earlier_memory_peaks_are_not_counted(trained, data, monkeypatch):
    monkeypatch.setattr(evaluation, "peak_memory_gib", lambda device: 1e6)
    assert "peak_memory_gib" not in e2evit.evaluate(trained, data, mixed_precision="no").cost


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "holdout"}, "`split` must be train, validation, test or all, got 'holdout'"),
        ({"per_device_batch_size": 0}, "`per_device_batch_size` must be 1 or more"),
    ],
)
def test_what_cannot_be_measured(trained, data, arguments, message):
    with pytest.raises(ValueError, match=message):
        e2evit.evaluate(trained, data, **arguments)


def test_pieces_of_other_images_are_not_used(trained, data, jets_dir, tmp_path):
    """Of the same events, in another folder."""
    for path in jets_dir.iterdir():
        table = pq.read_table(path)
        larger = [[3 * value for value in row] for row in table["pixel_value"].to_pylist()]
        place = table.column_names.index("pixel_value")
        pq.write_table(
            table.set_column(place, "pixel_value", pa.array(larger, table["pixel_value"].type)), tmp_path / path.name
        )
    pieces, other = (
        tmp_path / "pieces",
        e2evit.DataArguments(data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache")),
    )
    first = e2evit.evaluate(trained, data, mixed_precision="no", pieces_dir=pieces)
    kept = sorted(path.name for path in pieces.iterdir())
    assert e2evit.evaluate(trained, data, mixed_precision="no", pieces_dir=pieces).metrics == first.metrics
    assert sorted(path.name for path in pieces.iterdir()) == kept
    again = e2evit.evaluate(trained, other, mixed_precision="no", pieces_dir=pieces)
    assert again.metrics == e2evit.evaluate(trained, other, mixed_precision="no").metrics != first.metrics


def test_pixels_of_another_scale_are_refused(trained, data, monkeypatch):
    monkeypatch.setattr(trained.processor, "normalisation", "max_scaled_255")
    folder = trained.output_dir.with_name("scaled")
    shutil.copytree(trained.output_dir, folder)
    trained.processor.save_pretrained(folder)
    with pytest.raises(ValueError, match="pixels that are 'max_scaled_255', and those of 'simulated' are 'physical'"):
        e2evit.evaluate(folder, data, mixed_precision="no")


def test_jets_without_targets(trained, tmp_path, capsys):
    unknown = {"labels": [None] * 30, "jet_mass": [None] * 30, "event_id": [f"other-{row}" for row in range(30)]}
    pq.write_table(row_table(30, **unknown), tmp_path / "part.parquet")
    arguments = ["--data_dir", str(tmp_path), "--cache_dir", str(tmp_path / "cache"), "--split", "all"]
    command.main([str(trained.output_dir), *arguments, "--results", str(tmp_path / "result.json")])
    assert "neither labels nor masses: nothing was measured. Predictions: " in capsys.readouterr().out
    assert pq.read_table(tmp_path / "result.parquet").num_rows == 30
