"""A benchmark of test jets: made once, refused where a training has seen them, scored, and found on the Hub."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import asdict, replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub_server import TOKEN, run_hub
from huggingface_hub import DatasetCard, ModelCard, constants, parse_eval_result_entries
from models import make as make_model

from e2evit import E2EImageProcessor, load_e2e
from e2evit.cli import push
from e2evit.cli.command import run
from e2evit.data import SplitRule
from e2evit.data.prepare import prepare
from e2evit.data.unseen import check_training
from e2evit.hub import assemble
from e2evit.hub.benchmark import Benchmark, describe_jets
from e2evit.hub.publish import publish_dataset
from e2evit.hub.safety import check_checkpoint
from e2evit.results.record import Result

REPO = "physics/jets"
TASKS = ["roc_auc", "accuracy", "rejection_at_50", "mae_gev", "relative_resolution"]


def make(data_dir, output_dir, *more):
    about = ("--name", "Jets", "--description", "Class & mass of jets: {both}.", "--mass_column", "jet_mass")
    run(
        "benchmark",
        ["simulated", "--data_dir", str(data_dir), "--output_dir", str(output_dir), *about, *map(str, more)],
    )


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(jets_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "out"
    make(jets_dir, folder)
    return folder


@pytest.fixture(scope="module")
def rows(jets_dir):
    return load_e2e("simulated", jets_dir, split="test")


@pytest.fixture(scope="module")
def predictions(rows, tmp_path_factory):
    """Of a model that is often right: a function that writes them, changed."""
    path = tmp_path_factory.mktemp("predictions") / "predictions.parquet"
    rng = np.random.default_rng(0)
    top = np.clip(0.3 + 0.4 * np.array(rows["labels"]) + rng.normal(0, 0.2, len(rows)), 0.01, 0.99)
    columns = {"event_id": rows["event_id"][:], "p_qcd": 1 - top, "p_top": top}
    columns["mass"] = np.array(rows["jet_mass"]) * rng.normal(1, 0.1, len(rows))

    def write(**changes):
        kept = {name: values for name, values in (columns | changes).items() if values is not None}
        pq.write_table(pa.table(kept), path)
        return path

    return write


def score(folder, predictions, results):
    """The result, which is then in the file, too."""
    command = [predictions, "--benchmark", folder, "--model_name", "theirs", "--results", results]
    run("score", [str(part) for part in command])
    return Result.from_json(results)


@pytest.fixture(scope="module")
def results(folder, predictions, rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("scored") / "a.json"
    score(folder, predictions(mass_scale=np.full(len(rows), 10.0)), path)
    return path


@pytest.fixture(scope="module")
def scored(results):
    return Result.from_json(results)


def test_what_is_made(folder, jets_dir, rows, capsys):
    plain = datasets.load_dataset(str(folder))
    assert list(plain) == ["test"], "no training jets in the folder"
    assert plain["test"]["event_id"][:] == rows["event_id"][:]
    described = yaml.safe_load((folder / "eval.yaml").read_text())
    assert described["name"] == "Jets"
    assert described["tasks"] == [{"id": task, "config": "default", "split": "test"} for task in TASKS]
    card = DatasetCard.load(folder / "README.md")
    assert card.data.configs[0]["data_files"] == [{"split": "test", "path": "data/test-*"}]
    assert "Class & mass of jets: {both}." in card.text
    assert 'split="test"' in card.text
    before = contents(folder)
    make(jets_dir, folder)
    assert contents(folder) == before
    assert "Made a benchmark of" in capsys.readouterr().out


def test_a_folder_with_other_splits_is_not_taken_for_it(folder, jets_dir, tmp_path):
    """Nor the other way round."""
    with pytest.raises(ValueError, match=r"made with other settings \(splits: \['test'\] there, None now\)"):
        prepare("simulated", jets_dir, folder)
    whole = prepare("simulated", jets_dir, tmp_path / "whole")
    assert "splits" not in json.loads((whole / "e2evit.json").read_text())
    with pytest.raises(ValueError, match=r"splits: None there, \['test'\] now"):
        prepare("simulated", jets_dir, whole, splits=["test"])


def refusal(capsys, call, *arguments):
    with pytest.raises(SystemExit):
        call(*arguments)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_training_folder_with_these_events_is_refused(jets_dir, tmp_path, capsys):
    other = prepare("simulated", jets_dir, tmp_path / "other", rule=SplitRule("other"))
    error = refusal(capsys, make, jets_dir, tmp_path / "out", "--training_dirs", other)
    assert f"The train split of {other} holds " in error
    assert "what was trained on them cannot be measured on them" in error
    assert not (tmp_path / "out").exists()
    make(jets_dir, tmp_path / "out", "--training_dirs", jets_dir)


@pytest.mark.parametrize("given", [{}, {"data_dir": 5}, {"data_dir": "no/such/folder"}, {"dataset_name": "hls4ml"}])
def test_a_training_folder_that_cannot_be_read_is_told(given, jets_dir, rows, tmp_path, caplog):
    recipe = {"data_dir": str(jets_dir)} | given if given else {}
    check_training(rows["event_id"][:], recipe)
    assert "Cannot check that these jets share no events with the training: " in caplog.text


def test_a_checkpoint_trained_on_these_events_gets_no_score(jets_dir, rows, tmp_path):
    """Its recipe names the folder."""
    other = prepare("simulated", jets_dir, tmp_path / "other", rule=SplitRule("other"))
    for folder, refused in ((jets_dir, False), (other, True)):
        with pytest.raises(ValueError, match=rf"of {other} holds \d+ events of") if refused else nullcontext():
            check_training(rows["event_id"][:], {"data_dir": str(folder), "cache_dir": str(tmp_path)})


def test_scores_are_published_with_the_model(scored, results, tmp_path, monkeypatch, caplog):
    """Those of the card, in the Hub's own form."""
    monkeypatch.setattr(assemble, "check_loads", lambda *_: None)  # as of every model
    names = {"id2label": {0: "qcd", 1: "top"}, "label2id": {"qcd": 0, "top": 1}}
    sizes = {"image_size": 125, "num_channels": 8, "num_aux_features": 0, "mass_loss": "quantile"}
    model = make_model("xcit", channel_names=scored.channel_names, **names, **sizes)
    model.save_pretrained(tmp_path / "run")
    E2EImageProcessor(scored.channel_names).save_pretrained(tmp_path / "run")
    replace(scored, seed=0, training={"hardware": {}}, parameters=model.num_parameters()).to_json(tmp_path / "a.json")
    shutil.copyfile(results.with_suffix(".parquet"), tmp_path / "a.parquet")
    jets = describe_jets(asdict(scored))
    benchmark = Benchmark(REPO, "0" * 40, ("roc_auc", "mae_gev", "speed"), jets)
    given = (tmp_path / "run", tmp_path / "model", "physics/tagger", tmp_path / "a.json")
    with pytest.raises(
        ValueError, match=rf"a.json was not measured on the benchmark {REPO}: mass_column jet_mass, not"
    ):
        assemble.assemble_model(*given, benchmark=replace(benchmark, jets=jets | {"mass_column": "mass_labels"}))
    assert not (tmp_path / "model").exists()
    folder = assemble.assemble_model(*given, benchmark=benchmark)
    assert "share no events with the training: its training folder is not known here" in caplog.text
    check_checkpoint(folder)
    entries = parse_eval_result_entries(yaml.safe_load((folder / ".eval_results/e2evit-jets.yaml").read_text()))
    text = (folder / "README.md").read_text()
    assert "Jets of the data set `simulated`" in text
    assert "held-out jets (a folder of their own)" in text
    shown = {one.metric_type: one.metric_value for one in ModelCard.load(folder / "README.md").data.eval_results}
    assert {entry.task_id: entry.value for entry in entries} == {task: shown[task] for task in ("roc_auc", "mae_gev")}
    folder = assemble.assemble_model(*given)
    assert not (folder / ".eval_results").exists()


def test_push_asks_the_hub_for_the_benchmark(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr("e2evit.cli.push.Benchmark.of_hub", lambda repo: f"the benchmark {repo}")
    monkeypatch.setattr("e2evit.cli.push.assemble_model", lambda *_, **more: seen.update(more) or tmp_path)
    push.push("run", push.PushArguments("physics/tagger", "results.json", benchmark=REPO, dry_run=True))
    assert seen == {"benchmark": f"the benchmark {REPO}"}


def test_what_is_no_benchmark(jets_dir, simulated_jets, tmp_path, capsys):
    out = tmp_path / "out"
    assert "`classes` has susy" in refusal(capsys, make, jets_dir, out, "--classes", "susy")
    particles = simulated_jets.parent / "particles"
    assert "holds particles: a benchmark is of images of single jets" in refusal(capsys, make, particles, out)
    error = refusal(capsys, make, jets_dir, out, "--classes", "qcd", "--mass_classes", "none")
    assert "have neither two classes nor masses: there is nothing to measure" in error
    assert not out.exists()
    with pytest.raises(SystemExit):
        run("score", ["x.parquet", "--benchmark", str(jets_dir), "--model_name", "a", "--results", str(out)])
    assert "holds no benchmark.json: it is not a benchmark" in capsys.readouterr().err


def test_scores(scored, predictions, rows):
    right = (pq.read_table(predictions())["p_top"].to_numpy() > 0.5) == np.array(rows["labels"])
    assert scored.metric("accuracy").value == pytest.approx(right.mean())
    errors = pq.read_table(predictions())["mass"].to_numpy() - np.array(rows["jet_mass"])
    assert scored.metric("mae_gev").value == pytest.approx(abs(errors).mean(), rel=1e-6)  # masses are float32
    assert scored.metric("coverage_68").value == pytest.approx((abs(errors) < 10).mean())
    assert all(scored.metric(task) for task in TASKS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mass": None}, "has no mass. Its columns are event_id, p_qcd, p_top, mass."),
        ({"p_w": lambda rows: np.ones(len(rows))}, "has p_w, which is unknown. Its columns are"),
        ({"event_id": lambda rows: rows["event_id"][::-1]}, "and from row 0 on they are of other events"),
        ({"p_top": lambda rows: np.ones(len(rows))}, "they must be non-negative and add up to one"),
        ({"mass": lambda rows: np.full(len(rows), np.nan)}, "mass is nan in row 0, and must be finite"),
        ({"mass": lambda rows: ["80"] * len(rows)}, "the column mass holds string, not numbers"),
        ({"mass_scale": lambda rows: np.zeros(len(rows))}, "mass_scale is 0 in row 0, and must be positive"),
    ],
)
def test_predictions_that_are_refused(folder, predictions, rows, changes, message, tmp_path, capsys):
    changes = {name: value and value(rows) for name, value in changes.items()}
    assert message in refusal(capsys, score, folder, predictions(**changes), tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_jets_that_were_changed_are_not_scored(jets_dir, predictions, tmp_path, capsys):
    make(jets_dir, tmp_path / "out")
    record = json.loads((tmp_path / "out/benchmark.json").read_text())
    (tmp_path / "out/benchmark.json").write_text(json.dumps(record | {"rows": 7}))
    error = refusal(capsys, score, tmp_path / "out", predictions(), tmp_path / "a.json")
    assert "does not hold the jets that it describes" in error
    (tmp_path / "out/benchmark.json").write_text("{}")
    error = refusal(capsys, score, tmp_path / "out", predictions(), tmp_path / "a.json")
    assert "benchmark.json does not say dataset, pileup" in error


@pytest.mark.filterwarnings("ignore:Use 'content=")  # of the client's uploads
def test_on_the_hub(folder, scored, tmp_path, monkeypatch):
    """The real client finds what was published, and the scores are in the form that it reads."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with run_hub() as (hub, endpoint):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        address = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        publish_dataset(folder, REPO, token=TOKEN)
        assert {"eval.yaml", "benchmark.json"} <= set(hub.files(REPO))
        benchmark = Benchmark.of_hub(REPO, token=TOKEN)
        assert benchmark.revision == hub.repositories[REPO].branches["main"]
        with pytest.raises(OSError, match=r"The benchmark physics/none cannot be read: .*404|401"):
            Benchmark.of_hub("physics/none", token=TOKEN)
    assert list(benchmark.tasks) == TASKS
    benchmark.check(scored, "a.json")
    entries = parse_eval_result_entries(yaml.safe_load(benchmark.eval_results(scored)))
    assert {entry.task_id: entry.value for entry in entries} == {
        task: round(scored.metric(task).value, 4) for task in TASKS
    }
    assert {(e.dataset_id, e.dataset_revision, e.date) for e in entries} == {(REPO, benchmark.revision, scored.date)}
    with pytest.raises(ValueError, match=r"ranks speed, which the result lacks"):
        replace(benchmark, tasks=("speed",)).eval_results(scored)
    data = {"all": {"rows": 3, "event_ids": "0"}}
    for change, told in (
        ({"mass_column": "mass_labels"}, "mass_column mass_labels, not jet_mass"),
        ({"weights": "weight"}, "weights weight, not None"),
        ({"data": data}, "rows 3, not "),
    ):
        with pytest.raises(ValueError, match=f"a.json was not measured on the benchmark {REPO}: {told}"):
            benchmark.check(Result(**asdict(scored) | change), "a.json")
