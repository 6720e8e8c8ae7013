"""Compiled trainings: one graph for training and one for validation, whatever the size of the last batch."""

import json

import pytest
import torch
from accelerate import Accelerator
from models import make

from e2evit.cli.parser import parse
from e2evit.training import AugmentationArguments, DataArguments, TargetArguments, TrainArguments, compiled, train

MODEL = {"model_type": "xcit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def run(jets_dir, tmp_path):
    path = tmp_path / "model.json"

    def start(name, model_type="xcit", **overrides):
        path.write_text(json.dumps(MODEL | {"model_type": model_type}))
        settings = {"output_dir": str(tmp_path / name), "num_train_epochs": 2, "per_device_batch_size": 10}
        settings |= {"mixed_precision": "no", "report_to": "none", "ema_decay": 0.5}
        data = DataArguments(data_dir=str(jets_dir), cache_dir=str(tmp_path / "cache"))
        targets, augmentation = TargetArguments(mass_column="jet_mass"), AugmentationArguments()
        return train(
            str(path), data, TrainArguments(**settings | overrides), targets=targets, augmentation=augmentation
        )

    return start


@pytest.fixture
def graphs(monkeypatch):
    """The batch sizes of all graphs that are made, on CPUs as on a GPU, and the calls of `torch.compile`."""
    sizes, given, compile_with = [], [], torch.compile

    def backend(graph, inputs):
        sizes.append(next(x.shape[0] for x in inputs if getattr(x, "ndim", 0) == 4 and x.shape[1] == 8))
        return graph.forward

    def recorded(function, **options):
        given.append(options)
        return compile_with(function, backend=backend, dynamic=options.get("dynamic"))

    monkeypatch.setattr(torch, "compile", recorded)
    monkeypatch.setattr(compiled, "GRAPHS", {"cpu"})
    yield sizes, given
    torch.compiler.reset()


def weights(trained):
    return torch.cat([tensor.flatten().double() for tensor in trained.model.state_dict().values()])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_only_whole_batches_make_graphs(run, graphs, precision):
    sizes, given = graphs
    plain = run("plain", torch_compile=False, mixed_precision=precision)
    assert not given
    other = run("compiled", torch_compile=True, mixed_precision=precision)
    assert given == [{"mode": "reduce-overhead", "dynamic": False}]
    assert sizes == [10, 10]  # training and validation
    close = {"rtol": 1e-3, "atol": 1e-4} if precision == "no" else {"rtol": 0.1, "atol": 0.02}
    torch.testing.assert_close(weights(other), weights(plain), **close)
    # the model of the user is not compiled any more
    assert other.model(torch.rand(10, 8, 125, 125)).logits.shape == (10, 2)
    assert len(sizes) == 2


def test_when_a_model_is_compiled(monkeypatch, tmp_path):
    accelerator, images, many = Accelerator(cpu=True), make("xcit"), 10**6

    def chosen(model=images, number=many, **settings):
        return compiled.is_worth_compiling(accelerator, model, TrainArguments(**settings), number)

    assert not chosen()
    assert chosen(torch_compile=True)
    monkeypatch.setattr(compiled, "GRAPHS", {"cpu"})
    monkeypatch.setattr(compiled, "find_spec", lambda name: object())
    monkeypatch.setattr(compiled.sysconfig, "get_path", lambda name: tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setenv("CC", "gcc")
    assert not chosen()  # without Python's headers
    (tmp_path / "Python.h").touch()
    assert chosen()
    assert not chosen(torch_compile=False)
    assert not chosen(number=10**5)
    assert not chosen(make("hitvit"))
    assert not chosen(gradient_accumulation_steps=2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert not chosen()
    assert chosen(torch_compile=True)  # whose error then says what is missing


def test_the_bare_option():
    (settings,) = parse("e2evit train", "", ["--torch_compile"], TrainArguments)
    assert settings.torch_compile is True
    (settings,) = parse("e2evit train", "", ["--torch_compile", "false"], TrainArguments)
    assert settings.torch_compile is False
    assert parse("e2evit train", "", [], TrainArguments)[0].torch_compile is None
