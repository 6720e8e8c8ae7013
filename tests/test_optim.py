"""Which update rule and learning rate each parameter gets."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from e2evit.modeling import XCiTConfig, XCiTForImageClassification
from torch.optim import AdamW, Muon
from transformers import AutoModelForImageClassification
from transformers.modeling_layers import GradientCheckpointingLayer

from e2evit.training.checkpoint import read_model_config
from e2evit.training.muon import BatchedMuon
from e2evit.training.optim import OPTIMIZERS, make_optimizer, make_schedule

ROOT = Path(__file__).parents[1]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return XCiTForImageClassification(XCiTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_spares_vectors(optimizer, model):
    groups = make_optimizer(model, 1e-3, 0.05, name=optimizer).param_groups
    for group in groups:
        assert all((parameter.ndim > 1) == (group["weight_decay"] == 0.05) for parameter in group["params"])
        assert group["lr"] == 1e-3
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["xcit_nano", "linearvit_nano"])
def test_layer_decay_follows_the_blocks(name, optimizer):
    """The head has the full rate, the stem the smallest, and each block lies between its neighbours."""
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(read_model_config(ROOT / f"recipes/models/{name}.json"))
    groups = make_optimizer(model, 1.0, 0.05, layer_decay=0.5, name=optimizer).param_groups
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    rates = [(parameter_name, rate[id(parameter)]) for parameter_name, parameter in model.named_parameters()]
    assert all(value == 1.0 for parameter_name, value in rates if parameter_name.startswith("head."))
    blocks = sum(isinstance(module, GradientCheckpointingLayer) for module in model.modules())
    assert len({value for _, value in rates}) == blocks + 2
    assert [value for _, value in rates] == sorted(value for _, value in rates)
    assert rates[0][1] == 0.5 ** (blocks + 1)


def test_batched_muon_is_pytorchs():
    """Matrices of any shape, in groups with their own rates, some without a gradient."""
    torch.manual_seed(0)
    shapes = [(16, 48), (48, 16), (16, 16), (16, 48), (16, 16), (8, 8), (5, 1)]
    expected, found = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    optimizers = []
    for kind, parameters, options in ((Muon, expected, {"adjust_lr_fn": "match_rms_adamw"}), (BatchedMuon, found, {})):
        groups = [{"params": parameters[:3]}, {"params": parameters[3:], "lr": 3e-2, "weight_decay": 0.0}]
        optimizers.append(kind(groups, lr=1e-2, weight_decay=0.05, **options))
    for step in range(4):
        for number, (one, other) in enumerate(zip(expected, found)):
            one.grad = other.grad = None if (step, number) == (2, 3) else torch.randn_like(one)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(expected, found):
        assert (one - 1).abs().max() > 0.01
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
    assert optimizers[0].state_dict().keys() == optimizers[1].state_dict().keys()
    optimizers[1].load_state_dict(optimizers[0].state_dict())  # of an earlier version


def test_muon_is_for_matrices_outside_the_heads(model):
    """Each parameter moves as it does under PyTorch's Muon or AdamW alone."""
    alone = deepcopy(model)
    is_matrix = {name: p.ndim == 2 and not name.startswith("head.") for name, p in model.named_parameters()}
    assert {"xcit.blocks.0.mlp.fc1.weight", "xcit.blocks.0.attn.qkv.weight"} < {n for n in is_matrix if is_matrix[n]}
    both = make_optimizer(model, 1e-2, 0.05, name="muon")
    matrices = [p for name, p in alone.named_parameters() if is_matrix[name]]
    vectors = [p for name, p in alone.named_parameters() if not is_matrix[name] and p.ndim < 2]
    kernels = [p for name, p in alone.named_parameters() if not is_matrix[name] and p.ndim >= 2]
    adamw = [{"params": vectors, "weight_decay": 0.0}, {"params": kernels, "weight_decay": 0.05}]
    parts = [Muon(matrices, 1e-2, 0.05, adjust_lr_fn="match_rms_adamw"), AdamW(adamw, 1e-2)]
    for _ in range(3):
        for (_, one), (_, other) in zip(model.named_parameters(), alone.named_parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in (both, *parts):
            optimizer.step()
        for (name, one), (_, other) in zip(model.named_parameters(), alone.named_parameters(), strict=True):
            atol = 1e-4 if is_matrix[name] else 1e-6  # of movements of 1e-2, whose directions are in bfloat16
            torch.testing.assert_close(one, other, rtol=1e-5, atol=atol, msg=name)
    both.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_schedule_warms_up_and_ends_at_zero():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = make_schedule(optimizer, 100, 0.1)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates[:10], np.linspace(0.2, 2.0, 10))
    assert rates[10] == 2.0
    assert (np.diff(rates[10:]) < 0).all()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
