"""Training on images made anew in every epoch: whatever the workers and the batches, and resumed to the bit."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from e2evit.modeling import E2EImageProcessor
from killed import resume_until_done

from e2evit import DataArguments, TargetArguments, TrainArguments, evaluate, load_e2e, train
from e2evit.data import find_schema, training_statistics
from e2evit.data.sparse import table_to_dense
from e2evit.plots import event_display
from e2evit.simulation import ParticleImages, particle_images
from e2evit.simulation.pileup import MinimumBiasPool
from e2evit.training.collate import E2ECollator
from e2evit.training.data import describe_data, load_data
from e2evit.training.loaders import make_loader
from e2evit.training.particles import PreparedImages

FOLDER = Path(__file__).parent / "data/particles"
MODEL = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def small_pool(simulated_jets, monkeypatch):
    """The committed collisions instead of 50 000 that Pythia would have to make."""
    pool = MinimumBiasPool.load(simulated_jets / "minimum_bias.npz")
    monkeypatch.setattr(particle_images, "cached_pool", lambda *settings: pool)


@pytest.fixture
def data(tmp_path):
    return DataArguments(data_dir=str(FOLDER), cache_dir=str(tmp_path / "cache"), pileup=[0.0, 40.0])


@pytest.fixture
def run(data, tmp_path):
    model_json = tmp_path / "model.json"
    model_json.write_text(json.dumps(MODEL))

    def start(name, transverse=False, **overrides):
        settings = {"num_train_epochs": 2, "per_device_batch_size": 16, "save_steps": 1, "fresh": True}
        settings |= {"mixed_precision": "no", "report_to": "none", "overwrite_output_dir": True}
        return train(
            model_json,
            data,
            TrainArguments(output_dir=str(tmp_path / name), **(settings | overrides)),
            targets=TargetArguments(mass_column="jet_mass", transverse=transverse),
        )

    return start


def losses(trained):
    return [{name: value for name, value in epoch.items() if "second" not in name} for epoch in trained.history.epochs]


def test_a_run_resumes_at_the_next_batch_to_the_bit(run, monkeypatch):
    whole = run("whole")
    resumed = resume_until_done(lambda: run("parts", resume_from_checkpoint=True), monkeypatch)
    assert losses(whole) == losses(resumed)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_energies_can_be_transverse(run, data):
    trained = run("run", transverse=True)
    assert "ecal_et" in trained.processor.channel_names
    assert "ecal_et" in evaluate(trained, data, split="validation").channel_names


def pixels(collator, dataset, seed, epoch, batch_size, num_workers=0):
    collator.seed(seed, epoch)
    batches = list(make_loader(dataset, collator, batch_size, num_workers))
    return torch.cat([batch["pixel_values"] for batch in batches])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_images_depend_on_the_epoch_and_not_on_workers_or_batches(data):
    dataset, schema = load_data(data, fresh=True)
    processor = E2EImageProcessor(
        channel_names=schema.channel_names, image_size=schema.image_size, channel_scale=[1.0] * 8
    )
    collator = E2ECollator(processor, images=PreparedImages(data))
    rows = dataset["train"]
    first = pixels(collator, rows, 0, 0, 8)
    assert torch.equal(pixels(collator, rows, 0, 0, 5, num_workers=2), first)
    assert (pixels(collator, rows, 0, 1, 8) != first).flatten(1).any(1).all()
    assert (pixels(collator, rows, 1, 0, 8) != first).flatten(1).any(1).all()
    fixed = [load_data(data, fresh=fresh)[0]["validation"] for fresh in (False, True)]
    assert fixed[0]["pixel_index"] == fixed[1]["pixel_index"]
    assert "particle_pt" not in fixed[0].column_names


def test_only_splits_that_are_read_become_images(data):
    dataset, _ = load_data(data, splits={"validation"})
    is_image = {split: "pixel_index" in rows.column_names for split, rows in dataset.items()}
    assert is_image == {"train": False, "validation": True, "test": False}


def test_two_runs_at_once_make_the_same_images_once(data, monkeypatch):
    rows, _ = load_data(data, fresh=True)
    calls, make = [], PreparedImages.__call__
    monkeypatch.setattr(PreparedImages, "__call__", lambda *words, **more: (calls.append(1), make(*words, **more))[1])
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda _: PreparedImages(data).fixed(rows["train"])["pixel_index"], range(2))
    assert first == second
    assert len(calls) == 1


@pytest.mark.slow
def test_evaluation_is_fixed(run, data):
    trained = run("run", num_train_epochs=1)
    results = [evaluate(trained, data) for _ in range(2)]
    assert results[0].metrics == results[1].metrics
    data.pileup = [60.0]
    assert evaluate(trained, data).metrics != results[0].metrics


def test_users_of_datasets_transform_rows(data):
    jets = load_e2e("particles", FOLDER, split="train")
    images = ParticleImages.of(FOLDER, pileup=21)
    made = jets.with_transform(images)
    first = made[:3]
    assert first["pixel_index"] == made[:3]["pixel_index"]
    assert made[2]["pixel_index"] == first["pixel_index"][2]
    assert first["event_id"] == jets[:3]["event_id"]
    images.set_epoch(1)
    assert made[2]["pixel_index"] != first["pixel_index"][2]


def test_images_cannot_be_made_anew(data, simulated_jets):
    data.data_dir = str(simulated_jets)
    with pytest.raises(ValueError, match=r"`pileup` needs particles, and .* holds images"):
        load_data(data)
    with pytest.raises(ValueError, match=r"`fresh` needs particles, and .* holds images"):
        load_data(data, fresh=True)
    data.data_dir, data.pileup = str(FOLDER), [60.0, 0.0]
    with pytest.raises(ValueError, match="the smallest and the largest"):
        load_data(data)
    with pytest.raises(ValueError, match="holds the data set 'simulated', not 'particles'"):
        load_e2e("particles", simulated_jets)


def test_particles_are_not_handed_out_as_images(simulated_jets):
    """Nor rows of them drawn, made dense or averaged."""
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"holds particles, not images: .*ParticleImages"):
            load_e2e("simulated", FOLDER, streaming=streaming)
    rows, schema = load_e2e("particles", FOLDER, split="test"), find_schema("simulated", simulated_jets)
    for use in (
        lambda: event_display(rows[0], schema),
        lambda: table_to_dense(rows.with_format("arrow")[:2], schema.image_shape),
        lambda: training_statistics(rows, schema.image_shape),
    ):
        with pytest.raises(ValueError, match=r"without `pixel_index`: .*ParticleImages"):
            use()


@pytest.mark.parametrize(
    ("given", "pileup", "without"), [({}, [21.0], []), ({"pileup": 60, "without": "fakes"}, [60.0], ["fakes"])]
)
def test_results_say_which_response_was_measured(given, pileup, without):
    """That of the simulation, unless another was asked for."""
    data, targets = DataArguments(data_dir=str(FOLDER), **given), TargetArguments("jet_mass")
    described = describe_data(data, targets, find_schema("particles", FOLDER), "test")
    assert [described[name] for name in ("dataset", "pileup", "without")] == ["particles", pileup, without]


def test_the_name_simulated_covers_particles():
    assert find_schema("simulated", FOLDER) == find_schema("particles", FOLDER)
    assert find_schema("particles", FOLDER).label_names == ("qcd", "x_bb")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("particle_pt", lambda values: values[:-1], "entries in particle_id and"),
        ("particle_x", lambda values: [*values[:-1], float("nan")], "nan in particle_x"),
        ("particle_eta", lambda values: [*values[:-1], 800.0], "800 in particle_eta"),
        ("particle_phi", lambda values: [*values[:-1], None], "a null in particle_phi"),
    ],
)
def test_damaged_particles_are_refused(tmp_path, name, change, message):
    folder = tmp_path / "jets"
    shutil.copytree(FOLDER, folder)
    path = sorted(folder.glob("*.parquet"))[0]
    table = pq.read_table(path, page_checksum_verification=True)
    lists = table[name].to_pylist()
    lists[2] = change(lists[2])
    column = table.column_names.index(name)
    table = table.set_column(column, table.field(name), pa.array(lists, table.field(name).type))
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=f"row 2: .*{message}"):
        load_e2e("particles", folder, cache_dir=tmp_path / "cache")


def test_a_column_that_is_missing_is_named(tmp_path):
    path = sorted(FOLDER.glob("*.parquet"))[0]
    table = pq.read_table(path, page_checksum_verification=True).drop_columns(["particle_z"])
    pq.write_table(table, tmp_path / "qcd-00000-40.parquet")
    with pytest.raises(ValueError, match="missing key 'particle_z'"):
        load_e2e("particles", tmp_path, cache_dir=tmp_path / "cache")


def test_the_committed_particles_are_small():
    assert np.mean([path.stat().st_size / 40 for path in FOLDER.glob("*.parquet")]) < 3000
