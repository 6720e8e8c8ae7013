"""Weights are used by calling their layer: adapters, hooks, offloading and quantisation act in every model."""

from copy import deepcopy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from e2evit.modeling import modeling_linearvit, modeling_stem
from e2evit.modeling.modeling_depthwise import DepthwiseConv
from e2evit.modeling.modeling_wrapped import is_plain
from models import MODELS, OURS, batch, make
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.modules import module as all_modules
from torch.nn.utils import parametrizations, prune

# PEFT asks transformers under a name that is about to change
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
# HitViT calls each layer, and without patches has no `DepthwiseConv`
PATCHED = [name for name in OURS if name != "hitvit"]
every_model = pytest.mark.parametrize("name", MODELS)


def complete(name):
    """With a layer for single pixels and learned weights of the loss; windows of 7 overhang the grids of 10 and 5."""
    return make(name, pixel_hidden_size=4, loss_weighting="uncertainty")


def layers(model, kinds=(nn.Linear, nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d)):
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def assert_near(outputs, expected):
    """Sums in another order, of numbers near 1; measured: 3e-7."""
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=1e-5, atol=1e-5)


@every_model
def test_hooks_of_every_layer_fire(name):
    model, fired = complete(name), set()
    expected = model(**batch())
    for key, layer in layers(model).items():
        layer.register_forward_hook(lambda *_, key=key: fired.add(key))
    assert_near(model(**batch()), expected)
    assert fired == set(layers(model))


@every_model
def test_adapters_of_every_linear_layer(name):
    model, linear = complete(name), layers(complete(name), nn.Linear)
    plain = model(**batch())
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()
    outputs = model(**batch())
    assert not torch.allclose(outputs.logits, plain.logits)
    outputs.loss.backward()
    adapters = {key: weight for key, weight in model.named_parameters() if "lora_" in key}
    assert len(adapters) == 2 * len(linear)
    assert not [key for key, weight in adapters.items() if weight.grad is None or not weight.grad.any()]
    assert_near(model.merge_and_unload()(**batch()), outputs)


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups:UserWarning")
@pytest.mark.parametrize("lora_bias", [False, True])
@pytest.mark.parametrize("name", [*PATCHED, "linearvit_rala", "hitvit_periodic"])
def test_adapters_of_depthwise_convolutions(name, lora_bias):
    """PEFT makes them with the arguments of `nn.Conv2d`, and cannot merge them."""
    model, targets = complete(name), layers(complete(name), DepthwiseConv)
    lora = LoraConfig(target_modules=list(targets), r=32, lora_bias=lora_bias, init_lora_weights=False)
    model = get_peft_model(model, lora).eval()
    model(**batch()).loss.backward()
    adapters = {key: weight for key, weight in model.named_parameters() if "lora_" in key}
    assert len(adapters) == (3 if lora_bias else 2) * len(targets) > 0
    assert not [key for key, weight in adapters.items() if weight.grad is None or not weight.grad.any()]


@pytest.mark.parametrize("name", ["linearvit_study", "xcit", "hitvit_periodic"])
def test_adapters_of_positions(name):
    model = complete(name)
    plain, lora = model(**batch()), LoraConfig(target_modules=["token_projection"], init_lora_weights=False)
    assert not torch.allclose(get_peft_model(model, lora).eval()(**batch()).logits, plain.logits)


@every_model
def test_gradients_of_functional_calls(name):
    model, inputs = complete(name), batch()
    weights = {key: weight.detach() for key, weight in model.named_parameters()}
    gradients = torch.func.grad(lambda weights: torch.func.functional_call(model, weights, (), inputs).loss)(weights)
    model(**inputs).loss.backward()
    for key, weight in model.named_parameters():
        # sums in another order, of numbers near 1
        torch.testing.assert_close(gradients[key], weight.grad, rtol=1e-3, atol=1e-5)


@every_model
@torch.no_grad()
def test_offloaded_weights(name, tmp_path):
    model = complete(name)
    expected = model(**batch())
    assert_near(cpu_offload(deepcopy(model), execution_device="cpu")(**batch()), expected)
    assert_near(disk_offload(deepcopy(model), tmp_path / "weights", execution_device="cpu")(**batch()), expected)


@every_model
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor.*deprecated:UserWarning")
@torch.no_grad()
def test_dynamic_quantisation(name):
    model = complete(name)
    quantised = torch.ao.quantization.quantize_dynamic(deepcopy(model), {nn.Linear})
    # weights and inputs in 8 bits; measured: 1.5e-3, and .025 with the larger initial weights of HitViT
    tolerance = 0.05 if name.startswith("hitvit") else 0.01
    torch.testing.assert_close(quantised(**batch()).logits, model(**batch()).logits, rtol=0, atol=tolerance)


def hook(module, *_):
    return None


def watch_all(layer):
    return all_modules.register_module_forward_hook(hook)


class TensorOfAnotherKind(nn.Parameter):
    """Stands for quantised and sharded weights."""


def give_other_weight(layer):
    layer.weight = TensorOfAnotherKind(layer.weight.data)


def replace_class(layer):
    layer.__class__ = type("Linear", (nn.Linear,), {})


WRAPPERS = {
    "a forward hook": lambda layer: layer.register_forward_hook(hook),
    "a hook before it": lambda layer: layer.register_forward_pre_hook(hook),
    "a backward hook": lambda layer: layer.register_full_backward_hook(hook),
    "a hook before that": lambda layer: layer.register_full_backward_pre_hook(hook),
    "a hook of all modules": watch_all,
    "another method": lambda layer: add_hook_to_module(layer, ModelHook()),
    "another class": replace_class,
    "another kind of weight": give_other_weight,
    "weight normalisation": parametrizations.weight_norm,
    "pruning": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrapped_layers_are_noticed(wrap):
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer)
    assert is_plain(layer)
    handle = wrap(layer)
    try:
        assert not is_plain(layer)
        assert not is_plain(*model)
    finally:
        if wrap is watch_all:
            handle.remove()


@pytest.mark.parametrize("name", PATCHED)
def test_fast_paths_are_taken_by_plain_models(name, monkeypatch):
    model, taken = complete(name), []
    assert all(is_plain(module) for module in layers(model).values())
    for module in (modeling_stem, modeling_linearvit):
        monkeypatch.setattr(module, "is_plain", lambda *modules: taken.append(is_plain(*modules)) or taken[-1])
    model(**batch())
    assert taken
    assert all(taken)
