"""Feature maps and attention maps show what the models really compute."""

import pytest
import torch
from e2evit.modeling.modeling_mixers import GLOBAL_ATTENTIONS
from models import batch, make
from transformers import AutoBackbone

from e2evit import LinearViTBackbone, LinearViTConfig, XCiTBackbone
from e2evit.cli.display import attention

LINEAR_IN_VALUES = [name for name in GLOBAL_ATTENTIONS if name not in ("xca", "mila", "ttt", "polaformer")]


@pytest.mark.parametrize("name", LINEAR_IN_VALUES)
def test_a_tokens_attention_row_gives_its_output(name):
    """Σ_j w_ij v_j over the whole grid, head by head, equals the mixer's output for the chosen token."""
    torch.manual_seed(0)
    module = GLOBAL_ATTENTIONS[name](LinearViTConfig(global_attention=name), 16, 2).double()
    hidden_states = torch.randn(2, 4, 6, 16, dtype=torch.float64)
    weights = module.attention_map(hidden_states, (4, 6), (0.5, 0.5))  # row 2, column 3
    qkv = module.qkv(hidden_states)
    value = qkv.chunk(3, dim=-1)[2].unflatten(-1, (2, 8))
    expected = module.mix_tokens(qkv)[:, 2 * 6 + 3].unflatten(-1, (2, 8))
    torch.testing.assert_close(torch.einsum("bhyx,byxhd->bhd", weights, value), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["linearvit", "linearvit_softmax", "linearvit_xca", "xcit", "hitvit_patches"])
def test_maps_of_a_model(name):
    model, inputs = make(name), batch()
    before = model(**inputs).logits
    maps = model.attention_maps(inputs["pixel_values"], token=(1, 2))
    assert maps
    assert all(
        weights.shape[0] == 3 and weights.isfinite().all() and not weights.requires_grad for weights in maps.values()
    )
    assert torch.equal(model(**inputs).logits, before)  # all hooks are removed
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            again = model.attention_maps(inputs["pixel_values"], token=(1, 2))
        assert all(torch.equal(again[key], weights) for key, weights in maps.items())
    channels = [
        weights
        for key, weights in maps.items()
        if name in ("xcit", "linearvit_xca", "hitvit_patches") and "cls" not in key
    ]
    for weights in channels:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    if name == "xcit":
        assert 0 < maps["xcit.cls_attn_blocks.0.attn"].sum((2, 3)).max() < 1  # the rest goes to the class token itself
    side = 50 if name == "hitvit_patches" else 5
    with pytest.raises(ValueError, match=rf"grid of {side} x {side}, got \({side}, 0\)"):
        model.attention_maps(inputs["pixel_values"], token=(side, 0))


@pytest.mark.parametrize(("name", "number"), [("xcit", 1), ("hitvit", 0), ("hitvit_patches", 0)])
def test_maps_for_a_display(name, number):
    """Of class attention; those between channels have no place on an image."""
    assert len(attention(make(name, num_aux_features=0), batch()["pixel_values"])) == number


def test_models_without_known_attention_say_so():
    with pytest.raises(ValueError, match="no attention"):
        make("convnextv2").attention_maps(batch()["pixel_values"])


@pytest.mark.parametrize("name", ["linearvit", "xcit"])
def test_feature_maps_are_the_tokens_on_their_grid(name):
    outputs = make(name).base_model(batch(2, (50, 35))["pixel_values"], output_hidden_states=True)
    assert outputs.feature_maps[0].shape[2:] == (5, 4)
    for tokens, image in zip(outputs.hidden_states, outputs.feature_maps, strict=True):
        assert torch.equal(image.flatten(2).transpose(1, 2), tokens)
        assert image.untyped_storage().data_ptr() == tokens.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", ["linearvit", "xcit"])
def test_gradient_checkpointing_changes_nothing_but_memory(name):
    plain, checkpointed = make(name).train(), make(name).train()
    # transformers 5.23 renamed it
    getattr(checkpointed, "activation_checkpointing_enable", checkpointed.gradient_checkpointing_enable)()
    for model in (plain, checkpointed):
        torch.manual_seed(0)
        model(**batch()).loss.backward()
    for (key, one), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), key


@pytest.mark.parametrize(
    ("name", "cls", "chosen"),
    [("linearvit", LinearViTBackbone, ["stem", "stage2"]), ("xcit", XCiTBackbone, ["stem", "stage2"])],
)
def test_a_checkpoint_is_a_backbone(name, cls, chosen, tmp_path):
    """As in transformers' detection and segmentation: feature maps of chosen stages, equal to the model's own.

    `AutoBackbone.from_pretrained` takes every folder for a timm model, so folders are loaded with the class itself.
    """
    model, pixel_values = make(name), batch()["pixel_values"]
    model.save_pretrained(tmp_path / "model")
    expected = model.base_model(pixel_values, output_hidden_states=True).feature_maps
    last = cls.from_pretrained(tmp_path / "model")
    assert last.out_features == [last.stage_names[-1]]
    (found,) = last(pixel_values).feature_maps
    torch.testing.assert_close(found, expected[-1])
    backbone = cls.from_pretrained(tmp_path / "model", out_features=chosen)
    outputs = backbone(pixel_values)
    assert outputs.hidden_states is None
    for found, number in zip(outputs.feature_maps, (0, 2), strict=True):
        torch.testing.assert_close(found, expected[number])
    assert [found.shape[1] for found in outputs.feature_maps] == backbone.channels
    backbone.save_pretrained(tmp_path / "backbone")
    assert cls.from_pretrained(tmp_path / "backbone").out_features == chosen
    assert isinstance(AutoBackbone.from_config(model.config), cls)
    with pytest.raises(ValueError, match="out_features must be a subset of stage_names"):
        cls.from_pretrained(tmp_path / "model", out_features=["stage9"])
