"""Rows that stay on a device, lists of pixels that become images where they arrive, and losses that are read later."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from e2evit.modeling import modeling_e2e
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from e2evit import E2EImageProcessor, load_e2e
from e2evit.data import find_schema
from e2evit.training import (
    AugmentationArguments,
    DataArguments,
    TargetArguments,
    TrainArguments,
    loaders,
    read_model_config,
    rewind,
    train,
)
from e2evit.training.collate import E2ECollator, RowTables
from e2evit.training.loaders import ImagesOnDevice, make_loader
from e2evit.training.resident import ResidentRows, choose_resident
from e2evit.training.rewind import reads_losses_later
from e2evit.training.tasks import MaskedCollator

MODEL = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
EVERYTHING = AugmentationArguments(True, 2, 0.05, 0.1, 0.1, 3.0, 0.2)
SCHEMA = find_schema("simulated")


@pytest.fixture
def rows(jets_dir, tmp_path):
    return load_e2e("simulated", jets_dir, split="train", cache_dir=tmp_path / "cache")


def collators(packed: bool):
    processor = E2EImageProcessor(
        SCHEMA.channel_names, channel_scale=[0.5] * 8, aux_names=["log_pt"], aux_mean=[6.0], aux_std=[1.0]
    )
    own = {"augmentation": EVERYTHING, "packed": packed}
    labelled = E2ECollator(processor, "jet_mass", **own)
    return labelled, MaskedCollator(E2ECollator(processor, truth_columns=["pt"], **own), (25, 25), 0.6)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("packed", [False, True])
def test_resident_batches_are_those_of_the_host(rows, packed, device):
    accelerator, chosen = Accelerator(cpu=device == "cpu"), [5, 0, 17, 5]
    for collator in collators(packed):
        collator.seed(3, 1)
        expected = collator(RowTables(rows, collator.columns).__getitems__(chosen))
        resident = ResidentRows(accelerator, rows, collator)
        assert len(resident) == len(rows)
        found = collator.finish(resident.__getitems__(chosen))
        assert found.keys() == expected.keys()
        for name, values in found.items():
            assert values.device.type == device
            assert values.dtype == expected[name].dtype
            close = {"rtol": 0, "atol": 0} if device == "cpu" else {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(values.cpu(), expected[name], equal_nan=True, **close)


def test_the_formula_is_that_of_the_processor(rows):
    processor = E2EImageProcessor(SCHEMA.channel_names, channel_scale=np.geomspace(0.01, 10, 8).tolist())
    table = rows.with_format("arrow")[:9]
    for packed in (False, True):
        batch = E2ECollator(processor, packed=packed)(table)
        expected = processor(rows[:9], return_tensors="pt", packed=packed)
        for name, values in expected.items():
            assert batch[name].dtype == values.dtype
            torch.testing.assert_close(batch[name], values, rtol=3e-7, atol=0)


def test_batches_without_pixels(rows):
    """Even if all images of a split are empty."""
    accelerator = Accelerator(cpu=True)
    table = rows.select(range(4)).to_dict() | {"pixel_index": [[]] * 4, "pixel_value": [[]] * 4}
    empty = type(rows).from_dict(table, features=rows.features)
    for collator in collators(packed=False):
        batch = collator.finish(ResidentRows(accelerator, empty, collator).__getitems__([2, 1]))
        layers = [number for number, name in enumerate(SCHEMA.channel_names) if name.startswith("bpix")]
        assert not np.delete(batch["pixel_values"].numpy(), layers, axis=1).any()


@pytest.fixture
def run(jets_dir, tmp_path):
    path = tmp_path / "model.json"

    def start(name, model_type="xcit", **overrides):
        path.write_text(json.dumps(MODEL | {"model_type": model_type}))
        settings = {"output_dir": str(tmp_path / name), "num_train_epochs": 2, "per_device_batch_size": 16}
        settings |= {"mixed_precision": "no", "report_to": "none", "logging_steps": 3}
        data = DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache"))
        targets = TargetArguments(mass_column="jet_mass")
        return train(str(path), data, TrainArguments(**settings | overrides), targets=targets, augmentation=EVERYTHING)

    return start


def as_on_a_gpu(monkeypatch):
    """Lists of pixels are sent and become images where they arrive; losses are read when they are logged."""
    monkeypatch.setattr(rewind, "DEFERRED", {"cpu"})
    monkeypatch.setattr(loaders, "SENT_AS_LISTS", {"cpu"})


def weights(trained):
    return torch.cat([tensor.flatten().double() for tensor in trained.model.state_dict().values()])


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
@pytest.mark.parametrize("model_type", ["xcit", "hitvit"])
def test_the_way_of_the_data_changes_no_number(run, monkeypatch, model_type):
    plain = run("plain", model_type)
    resident = run("resident", model_type, device_data="yes")
    as_on_a_gpu(monkeypatch)
    sent = run("sent", model_type)
    both = run("both", model_type, device_data="yes")
    for other in (resident, sent, both):
        assert torch.equal(weights(other), weights(plain))
        for epoch, expected in zip(other.history.epochs, plain.history.epochs, strict=True):
            assert {key: value for key, value in epoch.items() if "second" not in key} == {
                key: value for key, value in expected.items() if "second" not in key
            }


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
@pytest.mark.parametrize("device_data", ["yes", "no"])
def test_a_loss_that_is_read_later_can_be_replayed(run, monkeypatch, device_data, tmp_path):
    as_on_a_gpu(monkeypatch)
    loss, steps = modeling_e2e.e2e_loss, []

    def sick(config, logits, *others):
        """Not finite from the fifth step on, however often it is repeated: each has another first logit."""
        seen = logits[0, 0].item()
        steps.append(seen) if seen not in steps else None
        return tuple(x * (float("nan") if steps.index(seen) >= 4 else 1) for x in loss(config, logits, *others))

    with monkeypatch.context() as patch:
        patch.setattr(modeling_e2e, "e2e_loss", sick)
        with pytest.raises(FloatingPointError, match="step 5 of epoch 1"):
            run("sick", device_data=device_data, per_device_batch_size=4, optimizer="muon")
    folder = tmp_path / "sick/not_finite_process_0"
    assert json.loads((folder / "step.json").read_text())["step"] == 5
    batch = load_file(folder / "batch.safetensors")
    model = AutoModelForImageClassification.from_config(read_model_config(str(tmp_path / "model.json")))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    torch.set_rng_state(batch.pop("random_state"))
    outputs = model.train()(**batch)
    assert outputs.logits[0, 0].item() == pytest.approx(steps[4], abs=1e-6)
    assert outputs.loss.isfinite()


def test_a_loss_that_is_finite_when_repeated(run, monkeypatch):
    as_on_a_gpu(monkeypatch)
    loss, calls = modeling_e2e.e2e_loss, []

    def sick_once(*arguments):
        calls.append(None)
        return tuple(x * (float("nan") if len(calls) == 2 else 1) for x in loss(*arguments))

    monkeypatch.setattr(modeling_e2e, "e2e_loss", sick_once)
    with pytest.raises(FloatingPointError, match="in one of steps 1 to 3 of epoch 1, but it was finite when"):
        run("sick", device_data="yes", per_device_batch_size=4)


def test_where_rows_stay(rows):
    def chosen(setting, fresh=False, kind="cpu"):
        return choose_resident(setting, torch.device(kind), [rows], fresh)

    assert chosen("yes")
    assert not chosen("auto")
    assert not chosen("no", kind="cuda")
    assert not chosen("auto", fresh=True, kind="cuda")
    with pytest.raises(ValueError, match="needs a CUDA GPU, and this process runs on mps"):
        chosen("yes", kind="mps")
    with pytest.raises(ValueError, match="`device_data` must be auto, yes or no, got 'true'"):
        TrainArguments(device_data="true")
    with pytest.raises(ValueError, match="leave one of them out"):
        TrainArguments(device_data="yes", fresh=True)


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_rows_stay_on_a_gpu_that_has_room(rows, monkeypatch, share):
    pixels = sum(map(len, rows["pixel_index"]))
    free = int(2 * 8 * pixels / share)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    assert choose_resident("auto", torch.device("cuda"), [rows], False) == (share < 1)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
@pytest.mark.parametrize("resident", [True, False])
def test_a_loader_that_begins_later(rows, resident, monkeypatch):
    accelerator, (collator, _) = Accelerator(cpu=True), collators(packed=False)
    monkeypatch.setattr(loaders, "SENT_AS_LISTS", {"cpu"})
    rows = ResidentRows(accelerator, rows, collator) if resident else rows
    loader = make_loader(rows, collator, 8, shuffle_seed=0, accelerator=accelerator)
    loader = ImagesOnDevice(accelerator.prepare(loader), collator)
    loader.set_epoch(0)
    whole = [batch["rows"].tolist() for batch in loader]
    loader.set_epoch(0)
    assert [batch["rows"].tolist() for batch in loader.from_batch(accelerator, 2)] == whole[2:]
    assert len(loader) == len(whole)


def test_what_waits_for_its_loss(monkeypatch):
    monkeypatch.setattr(rewind, "DEFERRED", {"cpu"})
    assert reads_losses_later(Accelerator(cpu=True))
    assert not reads_losses_later(Accelerator(cpu=True, gradient_accumulation_steps=2))
    monkeypatch.undo()
    assert not reads_losses_later(Accelerator(cpu=True))


def test_some_of_the_rows(rows):
    accelerator, (collator, _) = Accelerator(cpu=True), collators(packed=False)
    resident = ResidentRows(accelerator, rows, collator)
    part, chosen = resident.part(np.array([7, 3, 9])), [2, 0]
    assert len(part) == 3
    expected = resident.__getitems__([9, 7])
    for name, values in part.__getitems__(chosen).items():
        torch.testing.assert_close(values, expected[name], rtol=0, atol=0, equal_nan=True)
