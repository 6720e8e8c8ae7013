"""Jets as lists of candidates: batches of them, and models trained and measured on them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from e2evit.modeling import CANDIDATE_FAMILIES, CANDIDATE_FIELDS, E2EImageProcessor
from e2evit.modeling.modeling_candidates import KINDS
from e2evit.modeling.modeling_particle_transformer import MASSES
from killed import resume_until_done

from e2evit import DataArguments, TargetArguments, TrainArguments, evaluate, train
from e2evit.data.columns import CANDIDATE_COLUMNS
from e2evit.simulation import particle_flow, particle_images
from e2evit.simulation.batch import SPECIES
from e2evit.simulation.pileup import MinimumBiasPool
from e2evit.training.candidates import CandidateCollator
from e2evit.training.cost import count_macs
from e2evit.training.data import load_data
from e2evit.training.resident import ResidentRows
from e2evit.transforms.augment import Augmentation

FOLDER = Path(__file__).parent / "data/particles"
MODEL = {"model_type": "particle_flow_network", "hidden_size": 16}
LEPTONS = (particle_flow.ELECTRON, particle_flow.MUON)


@pytest.fixture(autouse=True)
def small_pool(simulated_jets, monkeypatch):
    """The committed collisions instead of 50 000 that Pythia would have to make."""
    pool = MinimumBiasPool.load(simulated_jets / "minimum_bias.npz")
    monkeypatch.setattr(particle_images, "cached_pool", lambda *settings: pool)


@pytest.fixture
def data(tmp_path):
    return DataArguments(data_dir=str(FOLDER), cache_dir=str(tmp_path / "cache"))


def rows(counts=(3, 1), **columns):
    """Charged candidates whose numbers differ."""
    number = sum(counts)
    flat = {name: np.arange(1.0, number + 1) + place for place, name in enumerate(CANDIDATE_COLUMNS)}
    flat |= {"candidate_id": np.full(number, -211), "candidate_charge": np.full(number, -1)} | columns
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    lists = {name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in flat.items()}
    return pa.table(lists | {"labels": [0] * len(counts), "mass_labels": [80.0] * len(counts)})


def collator(**options):
    return CandidateCollator(E2EImageProcessor(), **options)


def test_models_and_simulation_mean_the_same_candidates():
    assert list(CANDIDATE_COLUMNS) == [f"candidate_{name}" for name in CANDIDATE_FIELDS]
    of_simulation = {code: SPECIES[code][1] for code in (particle_flow.CHARGED_HADRON, *LEPTONS)}
    assert of_simulation == pytest.approx(MASSES, rel=1e-3)
    assert {*KINDS} == {*of_simulation, particle_flow.PHOTON, particle_flow.NEUTRAL_HADRON}


def test_batches_hold_the_candidates_of_rows():
    batch = collator()(rows())
    values = batch["candidate_values"]
    assert values.shape == (2, 3, len(CANDIDATE_FIELDS))
    assert values[0, :, CANDIDATE_FIELDS.index("pt")].tolist() == [3.0, 4.0, 5.0]
    assert values[1, 0, CANDIDATE_FIELDS.index("pt")] == 6.0
    assert not values[1, 1:].any()
    assert batch["labels"].tolist() == [0, 0]
    one_by_one = collator()(rows().to_pylist())
    assert torch.equal(one_by_one["candidate_values"], values)


def test_flips_change_signs_and_depend_on_the_jet_alone():
    flips = collator(augmentation=Augmentation(flips=True))
    plain, many = collator()(rows((1,) * 40))["candidate_values"], rows((1,) * 40)
    flips.seed(0, 0)
    signs = (flips(many)["candidate_values"] / plain)[:, 0]
    of = {name: signs[:, place] for place, name in enumerate(CANDIDATE_FIELDS)}
    for names in (("eta", "dz"), ("phi", "d0", "charge", "id")):
        first, *others = (of[name] for name in names)
        assert set(first.tolist()) == {-1.0, 1.0}
        assert all(torch.equal(first, other) for other in others)
    assert all((of[name] == 1).all() for name in ("pt", "energy", "d0_error", "dz_error"))
    assert torch.equal(flips(many.slice(7, 5))["candidate_values"][:, 0], (signs * plain[:, 0])[7:12])
    flips.seed(0, 1)
    assert not torch.equal((flips(many)["candidate_values"] / plain)[:, 0], signs)
    photons = rows((1,) * 40, candidate_id=np.full(40, 22), candidate_charge=np.zeros(40))
    assert (flips(photons)["candidate_values"][..., 0] == 22).all()


@pytest.mark.parametrize("family", CANDIDATE_FAMILIES.values(), ids=CANDIDATE_FAMILIES)
def test_operations_are_counted(family):
    assert count_macs(family.classifier(family.config())) > 1e6


def test_refusals():
    with pytest.raises(ValueError, match="mirrored at most: leave out all augmentations but `flips`"):
        collator(augmentation=Augmentation(layer_drop=0.1))(rows())
    with pytest.raises(ValueError, match=r"Row 1: a candidate is .*nan"):
        collator()(rows(candidate_d0=np.array([0, 0, 0, np.nan])))
    short = pa.ListArray.from_arrays(pa.array([0, 2, 3], pa.int32()), pa.array([1.0, 2.0, 3.0]))
    table = rows()
    table = table.set_column(table.column_names.index("candidate_eta"), "candidate_eta", short)
    with pytest.raises(ValueError, match="Row 0: 3 entries in candidate_id and 2 in candidate_eta"):
        collator()(table)


def test_rows_without_candidates_are_refused(simulated_jets, tmp_path):
    with pytest.raises(ValueError, match=r"reads candidates, which the rows in .* do not have: simulate with"):
        load_data(DataArguments(data_dir=str(simulated_jets), cache_dir=str(tmp_path)), candidates=True)


def test_resident_rows_make_the_same_batches(data):
    dataset, _ = load_data(data, candidates=True)
    collate, accelerator = collator(mass_column="jet_mass"), Accelerator(cpu=True)
    resident = ResidentRows(accelerator, dataset["train"], collate)
    chosen = [5, 0, 11]
    got = collate.finish(resident.__getitems__(chosen))
    expected = collate(dataset["train"].select(chosen).with_format("arrow")[:])
    assert got.keys() - {"rows"} == expected.keys()
    assert all(torch.equal(got[name], values) for name, values in expected.items())


@pytest.fixture
def run(data, tmp_path):
    model_json = tmp_path / "model.json"
    model_json.write_text(json.dumps(MODEL))

    def start(name, **overrides):
        settings = {"num_train_epochs": 2, "per_device_batch_size": 16, "save_steps": 1, "fresh": True}
        settings |= {"mixed_precision": "no", "report_to": "none", "overwrite_output_dir": True}
        settings |= {"output_dir": str(tmp_path / name)} | overrides
        return train(model_json, data, TrainArguments(**settings), targets=TargetArguments(mass_column="jet_mass"))

    return start


def test_compiled_training_knows_the_size_of_a_batch(run, monkeypatch):
    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: compile_with(model, backend="eager"))
    assert len(run("compiled", num_train_epochs=1, torch_compile=True).history.epochs) == 1


def test_models_of_candidates_train_resume_and_are_measured(run, data, tmp_path, monkeypatch):
    whole = run("whole")
    resumed = resume_until_done(lambda: run("parts", resume_from_checkpoint=True), monkeypatch)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    result = evaluate(whole, data, split="validation")
    assert result.metric("mae_gev").value > 0
    assert result.cost["macs"] > 0
    assert "image mass" in result.metrics  # of the same jets' images
    with pytest.raises(ValueError, match=r"was trained on jets of .*: measure it on their test split"):
        evaluate(whole, data, split="all")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(FOLDER, elsewhere)
    others = DataArguments(data_dir=str(elsewhere), cache_dir=data.cache_dir, pileup=[0.0])
    with pytest.raises(ValueError, match=r"The train split of .* holds \d+ events of the jets to measure on"):
        evaluate(whole, others, split="all")
    for path in elsewhere.glob("*.parquet"):
        jets = pq.read_table(path)
        ids = pa.array([f"other {event}" for event in jets["event_id"].to_pylist()])
        pq.write_table(jets.set_column(jets.column_names.index("event_id"), "event_id", ids), path)
    result = evaluate(whole, others, split="all")
    assert len(result.predictions["labels"]) == 80
    assert list(result.metrics) == ["model"]


def test_all_jets_of_a_folder_are_measured_with_pileup_of_the_test_part(data):
    parts, _ = load_data(data, splits={"test"})
    whole, _ = load_data(data, splits={"all"})
    assert list(whole) == ["all"]
    assert len(whole["all"]) == sum(map(len, parts.values()))
    of_test = dict(zip(parts["test"]["event_id"], parts["test"]["pixel_index"]))
    of_all = dict(zip(whole["all"]["event_id"], whole["all"]["pixel_index"]))
    assert all(of_all[event] == pixels for event, pixels in of_test.items())
