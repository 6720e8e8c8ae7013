"""The scripts as a user calls them, in subprocesses."""

import json
import sys
from pathlib import Path

import chaos
import pyarrow.parquet as pq
import pytest
from forked import run_python

ROOT = Path(__file__).parents[1]
MODEL = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def call(*command, ok=True):
    done = run_python(*command)
    assert (done.returncode == 0) == ok, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def launch(config, *command):
    launcher = ("-m", "accelerate.commands.launch", "--config_file", f"recipes/accelerate/{config}.yaml")
    return call(*launcher, *command)


@pytest.fixture(scope="module")
def model_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.json"
    path.write_text(json.dumps(MODEL))
    return path


@pytest.fixture(scope="module")
def runs(jets_dir, model_json, tmp_path_factory):
    """One model trained by one process and evaluated by one and two, another trained by two; logs by name."""
    folder = tmp_path_factory.mktemp("runs")
    data = ("--data_dir", jets_dir, "--mass_column", "jet_mass", "--cache_dir", folder / "cache")
    shared = (*data, "--per_device_batch_size", 16, "--mixed_precision", "no")
    logs = {}
    for config in ("one_process", "two_cpu_processes"):
        output = ("--model_config", model_json, "--output_dir", folder / config, "--num_train_epochs", 5)
        logs["train", config] = launch(config, "scripts/train.py", *output, *shared)
        results = ("--results", folder / f"{config}.json")
        logs["evaluate", config] = launch(config, "scripts/eval.py", folder / "one_process", *shared, *results)
    return folder, logs


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("config", "number"), [("one_process", "1 process"), ("two_cpu_processes", "2 processes")])
def test_processes_are_counted_and_no_jet_is_lost(runs, config, number):
    folder, logs = runs
    for script in ("train", "evaluate"):
        assert f"{number} on cpu" in logs[script, config]
        assert "precision no" in logs[script, config]
    assert "A constant reaches" in logs["train", config]
    info = json.loads((folder / config / "run_info.json").read_text())
    assert info["hardware"]["num_processes"] == int(number[0])
    assert info["images_seen"] == 5 * info["data"]["train"]["rows"]
    assert info["epochs"][-1]["loss"] < info["epochs"][0]["loss"]

    results = json.loads((folder / f"{config}.json").read_text())
    predictions = pq.read_table(folder / f"{config}.parquet")
    # each jet once, however the last batch was padded
    assert predictions.num_rows == results["data"]["test"]["rows"]
    assert len(set(predictions["event_id"].to_pylist())) == predictions.num_rows
    assert set(results["metrics"]) == {"constant", "image mass", "model"}


@pytest.mark.slow
@pytest.mark.distributed
def test_one_and_two_processes_predict_the_same(runs):
    folder, _ = runs
    one, two = (pq.read_table(folder / f"{config}.parquet") for config in ("one_process", "two_cpu_processes"))
    assert one["event_id"].equals(two["event_id"])
    assert one["labels"].equals(two["labels"])
    difference = one["model mass"].to_numpy() - two["model mass"].to_numpy()
    assert abs(difference).max() < 1e-3  # GeV; batches differ, and so does the order of summation


@pytest.mark.slow
def test_torchrun_is_refused_or_joined_never_alone():
    """On CPUs, plain torchrun starts processes that Accelerate believes to be alone; ours find each other."""
    code = (
        "from e2evit.training import start_accelerator; print(f'ranks {start_accelerator().num_processes}\\n', end='')"
    )
    script = ROOT / ".pytest_cache/torchrun_check.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(code)
    output = call("-m", "torch.distributed.run", "--nproc_per_node", 2, script)
    assert output.count("ranks 2") == 2


def test_errors_come_before_anything_is_written(jets_dir, model_json, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious").write_text("kept")
    arguments = ("--model_config", model_json, "--data_dir", jets_dir, "--output_dir", full)
    assert "is not empty" in call("scripts/train.py", *arguments, ok=False)
    assert [path.name for path in full.iterdir()] == ["precious"]

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "jets.parquet").write_bytes((jets_dir / "part-0.parquet").read_bytes()[:5000])
    arguments = ("--model_config", model_json, "--data_dir", broken, "--output_dir", tmp_path / "run")
    assert "jets.parquet: not a readable Parquet file" in call("scripts/train.py", *arguments, ok=False)
    assert not (tmp_path / "run").exists()


def test_eleven_classes(simulated_jets, model_json, tmp_path):
    """Train and evaluate on all eleven; model and results list them by name."""
    data = ("--data_dir", simulated_jets, "--cache_dir", tmp_path / "cache", "--mixed_precision", "no")
    model = tmp_path / "model"
    arguments = ("--model_config", model_json, "--output_dir", model, "--num_train_epochs", 1, *data)
    call("scripts/train.py", *arguments)
    call("scripts/eval.py", model, "--results", tmp_path / "found.json", *data)
    record = json.loads((tmp_path / "found.json").read_text())
    assert len(record["label_names"]) == 11
    assert {"accuracy", "calibration_error", "roc_auc_x_gammagamma"} <= set(record["metrics"]["model"])
    probabilities = pq.read_table(tmp_path / "found.parquet").select(
        [f"model p_{name}" for name in record["label_names"]]
    )
    assert abs(sum(column.to_numpy() for column in probabilities.columns) - 1).max() < 1e-5


def test_validation_of_the_simulation(simulated_jets, tmp_path):
    for folder, processes in (("sm", ("qcd", "top")), ("gun", ("x_qq",))):
        (tmp_path / folder).mkdir()
        for process in processes:
            (tmp_path / folder / f"{process}.parquet").symlink_to(simulated_jets / f"{process}-00000-20.parquet")
        (tmp_path / folder / "simulation.json").symlink_to(simulated_jets / "simulation.json")
    outputs = ("--results", tmp_path / "found.json", "--figures", tmp_path / "figures")
    call(
        "studies/validate_simulation.py",
        "--data_dir",
        tmp_path / "sm",
        "--gun_dir",
        tmp_path / "gun",
        *outputs,
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["tagging"]) == ["qcd / top", "all classes"]
    assert list(found["mass"]) == ["x_qq, contained", "x_qq, all"]
    assert found["masses"]["top"]["jet"]["median"] > found["masses"]["qcd"]["jet"]["median"]
    names = ("mean_images", "occupancy", "masses", "impact_parameters", "response")
    assert all((tmp_path / f"figures/{name}.png").stat().st_size > 10000 for name in names)


def test_chaos_removes_only_its_own_files(tmp_path, monkeypatch):
    """A part that an earlier call finished counts only with the same settings."""
    done = []

    def stand_in(name):
        def part(arguments, folder):
            if name == fails:
                raise KeyboardInterrupt
            (folder / "file").touch()
            done.append(name)
            return {"kills": arguments.kills}

        part.__name__ = name
        return part

    names = ["killed_training", "killed_simulation", "damaged_states"]
    for name in names:
        monkeypatch.setattr(chaos, name, stand_in(name))
    monkeypatch.setattr(chaos.FORKS, "set_forkserver_preload", lambda modules: None)
    (tmp_path / "mine.txt").touch()
    results = tmp_path / "results/chaos.json"

    def run(kills):
        words = ["chaos.py", "--folder", tmp_path, "--results", results, "--kills", kills]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        chaos.main()

    fails = names[1]
    with pytest.raises(KeyboardInterrupt):
        run(2)
    fails = None
    with pytest.raises(SystemExit, match="False"):
        run(3)
    assert done == [names[0], *names]
    fails = names[2]
    with pytest.raises(KeyboardInterrupt):
        run(3)
    fails = None
    with pytest.raises(SystemExit, match="False"):
        run(3)
    assert done == [names[0], *names, *names]
    assert all(json.loads(results.read_text())[name] == {"kills": 3} for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "results"]
