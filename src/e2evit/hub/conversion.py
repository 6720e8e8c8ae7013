"""Published weights (the L2ViT authors', the XCiT authors' or timm's) to models of e2evit."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from e2evit.modeling import FAMILIES

__all__ = ["adapt_stem", "convert_reference", "read_state_dict"]

_STEM_KEYS = ("patch_embed.proj.0.0.weight", "downsample_layers.0.proj.proj.0.weight")

# (pattern, replacement) from reference keys to ours; the first that matches wins
_XCIT_KEYS = (
    (r"head\.(weight|bias)", r"head.classifier.\1"),
    (r"pos_embeder\.(.*)", r"xcit.pos_embed.\1"),
    (r"patch_embed\.proj\.(\d+)\.0\.(.*)", lambda m: f"xcit.patch_embed.convs.{int(m[1]) // 2}.{m[2]}"),
    (r"patch_embed\.proj\.(\d+)\.1\.(.*)", lambda m: f"xcit.patch_embed.norms.{int(m[1]) // 2}.{m[2]}"),
    (r"(.*)", r"xcit.\1"),
)
_LINEARVIT_KEYS = (
    (r"head\.(weight|bias)", r"head.classifier.\1"),
    (r"downsample_layers\.0\.proj\.proj\.(0|3)\.(.*)", r"linearvit.downsample_layers.0.proj.convs.\1.\2"),
    (r"downsample_layers\.0\.proj\.proj\.(1|4)\.(.*)", r"linearvit.downsample_layers.0.proj.norms.\1.\2"),
    (r"(stages\.\d+\.\d+)\.cpe\.(\d)\.proj\.(.*)", lambda m: f"linearvit.{m[1]}.cpe{int(m[2]) + 1}.proj.{m[3]}"),
    (r"(.*)", r"linearvit.\1"),
)


def _rename(key: str, patterns: tuple[tuple[str, str | Callable], ...]) -> str:
    for pattern, replacement in patterns:
        if re.fullmatch(pattern, key):
            key = re.sub(f"^{pattern}$", replacement, key)
            break
    # position in the authors' nn.Sequential (conv, norm, activation, conv, norm) -> position in our lists
    return re.sub(r"(0\.proj\.(?:convs|norms))\.([0134])\.", lambda m: f"{m[1]}.{int(m[2]) // 3}.", key)


# from our keys back to timm's and the L2ViT authors', for messages
_REFERENCE_KEYS = (
    (r"^(xcit|linearvit)\.", ""),
    (r"^head\.classifier\.", "head."),
    (r"^patch_embed\.convs\.(\d+)", lambda m: f"patch_embed.proj.{2 * int(m[1])}.0"),
    (r"^patch_embed\.norms\.(\d+)", lambda m: f"patch_embed.proj.{2 * int(m[1])}.1"),
    (r"^(downsample_layers\.0\.proj)\.convs\.(\d)", lambda m: f"{m[1]}.proj.{3 * int(m[2])}"),
    (r"^(downsample_layers\.0\.proj)\.norms\.(\d)", lambda m: f"{m[1]}.proj.{3 * int(m[2]) + 1}"),
    (r"\.cpe(\d)\.", lambda m: f".cpe.{int(m[1]) - 1}."),
)


def _reference_name(key: str) -> str:
    for pattern, replacement in _REFERENCE_KEYS:
        key = re.sub(pattern, replacement, key)
    return key


def _split_class_attention(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The XCiT authors fuse query, key and value of class attention; timm and we do not."""
    result = {}
    for key, tensor in state_dict.items():
        match = re.fullmatch(r"(cls_attn_blocks\.\d+\.attn)\.qkv\.(weight|bias)", key)
        if match:
            for name, part in zip("qkv", tensor.chunk(3)):
                result[f"{match[1]}.{name}.{match[2]}"] = part.clone()
        else:
            result[key] = tensor
    return result


def _count(state_dict: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest number that `pattern` captures in a key."""
    return 1 + max((int(match[1]) for key in state_dict if (match := re.match(pattern, key))), default=-1)


def _need(state_dict: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state_dict:
        raise KeyError(f"The state dict has no `{key}`, without which the configuration cannot be inferred.")
    return state_dict[key]


def _patch_size(stem: Tensor, num_convs: int) -> int:
    """A chain of 3 x 3 convolutions of stride 2, or one that sees exactly its patch."""
    return 2**num_convs if stem.shape[-1] == 3 else stem.shape[-1]


def _infer_xcit(state_dict: Mapping[str, Tensor]) -> dict:
    stem = _need(state_dict, "patch_embed.proj.0.0.weight")
    hidden_size = _need(state_dict, "cls_token").shape[-1]
    num_convs = (_count(state_dict, r"patch_embed\.proj\.(\d+)\.") + 1) // 2
    return {
        "num_channels": stem.shape[1],
        "patch_size": _patch_size(stem, num_convs),
        "token_stride": 1,
        "hidden_size": hidden_size,
        "num_hidden_layers": _count(state_dict, r"blocks\.(\d+)\."),
        "num_attention_heads": len(_need(state_dict, "blocks.0.attn.temperature")),
        "mlp_ratio": len(_need(state_dict, "blocks.0.mlp.fc1.weight")) / hidden_size,
        "num_class_attention_layers": _count(state_dict, r"cls_attn_blocks\.(\d+)\."),
    }


def _infer_linearvit(state_dict: Mapping[str, Tensor]) -> dict:
    num_stages = _count(state_dict, r"stages\.(\d+)\.")
    norms = [_need(state_dict, f"stages.{i}.0.norm1.weight") for i in range(num_stages)]
    hidden_sizes = [len(norm) for norm in norms]
    depths = [_count(state_dict, rf"stages\.{i}\.(\d+)\.") for i in range(num_stages)]
    stem = _need(state_dict, "downsample_layers.0.proj.proj.0.weight")
    config = {
        "num_channels": stem.shape[1],
        "patch_size": _patch_size(stem, num_convs=2),
        "token_stride": 1,
        "hidden_sizes": hidden_sizes,
        "depths": depths,
        "mlp_ratios": [
            len(_need(state_dict, f"stages.{i}.0.mlp.fc1.weight")) / hidden_sizes[i] for i in range(num_stages)
        ],
        "local_kernel_size": next(
            (t.shape[-1] for key, t in state_dict.items() if key.endswith("local_mp.conv1.weight")), 7
        ),
    }
    # a stage of one block has only local attention, whose shapes do not determine the number of heads
    if min(depths) > 1:
        temperatures = [f"stages.{i}.1.attn.temperature" for i in range(num_stages)]
        config["num_attention_heads"] = [len(_need(state_dict, key)) for key in temperatures]
    return config


def _published_xcit(inferred: dict) -> dict:
    """Whether all tokens are normalised leaves no trace in the shapes: the published nano models do not, others do."""
    sizes = {(128, 4): False, (192, 4): True, (384, 8): True, (512, 8): True, (768, 16): True}
    size = inferred["hidden_size"], inferred["num_attention_heads"]
    return {"tokens_norm": sizes[size]} if size in sizes else {}


@dataclass(frozen=True)
class _Reference:
    """A family's published weights.

    Args:
        infer: A state dict to the fields of our configuration that its shapes determine.
        keys: (pattern, replacement) from its keys to ours.
        defaults: The papers' values of fields whose defaults are made for detector images.
        published: Inferred fields to further ones of the published models of that size.
        unfuse: Splits tensors that the authors fuse and we do not.
        undetermined: Fields that `infer` and `published` may leave open, and why.
    """

    infer: Callable[[Mapping[str, Tensor]], dict]
    keys: tuple[tuple[str, str | Callable], ...]
    defaults: dict
    published: Callable[[dict], dict] = lambda inferred: {}
    unfuse: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict
    undetermined: Mapping[str, str] = field(default_factory=dict)


# by family; a test compares the names with those of `FAMILIES`
_REFERENCES = {
    "xcit": _Reference(
        _infer_xcit,
        _XCIT_KEYS,
        {"image_size": 224},
        published=_published_xcit,
        unfuse=_split_class_attention,
        undetermined={
            "tokens_norm": "Not a published size, so its weights do not tell whether all tokens are normalised"
        },
    ),
    "linearvit": _Reference(
        _infer_linearvit,
        _LINEARVIT_KEYS,
        {"image_size": 224, "window_size": 7, "denominator_floor": 100.0, "denominator_floor_per_token": False},
        undetermined={"num_attention_heads": "A stage has a single block, so its heads cannot be inferred"},
    ),
}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` file, or of a PyTorch file opened with `weights_only=True`.

    Unwraps what training scripts put around them (`{"model": ...}`, `{"state_dict": ...}`).

    Raises:
        ValueError: for a file that is neither, holds anything but tensors, or would run code.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as plain weights: {error}") from error
    for outer in ("model", "state_dict"):
        content = content.get(outer, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} does not hold a state dict of tensors.")
    return content


def adapt_stem(state_dict: Mapping[str, Tensor], num_channels: int) -> dict[str, Tensor]:
    """The state dict with a first convolution for `num_channels` detector layers instead of colours.

    Each layer gets the colours' mean kernel times colours / layers, so that an image with equal layers gives what a
    grey image gave. This is only a warm start: the layers measure different things.

    Raises:
        ValueError: if there is no first convolution with a known name.
    """
    key = next((key for key in _STEM_KEYS if key in state_dict), None)
    if key is None:
        raise ValueError(f"The state dict has none of the first convolutions {', '.join(_STEM_KEYS)}.")
    kernel = state_dict[key].sum(dim=1, keepdim=True) / num_channels
    return {**state_dict, key: kernel.expand(-1, num_channels, -1, -1).clone()}


def convert_reference(state_dict: Mapping[str, Tensor], model_type: str, **config):
    """Build a model with the weights of the authors' or timm's state dict.

    The mass head, which no reference has, is newly initialised (its parameters have `mass` in their names).

    Args:
        state_dict: Tensors under the authors' or timm's keys, without a checkpoint's outer `{"model": ...}`.
        model_type: `"xcit"` or `"linearvit"`.
        **config: Fields of our configuration that shapes do not determine, e.g. `window_size`, `tokens_norm`,
            `num_attention_heads`, `image_size`. Fields that they do determine must agree if given; `tokens_norm` of
            an XCiT is known for the published sizes and needed for others.

    Returns:
        `XCiTForImageClassification` or `LinearViTForImageClassification` in eval mode.

    Raises:
        ValueError: for an unknown `model_type` or field, and a field that contradicts the shapes or is needed.
        KeyError: for missing or unexpected keys; the message names them.
    """
    if model_type not in _REFERENCES:
        raise ValueError(f"`model_type` is one of {sorted(_REFERENCES)}, got {model_type!r}.")
    family, reference = FAMILIES[model_type], _REFERENCES[model_type]
    config_class = family.config
    unknown = sorted(set(config) - set(config_class.__dataclass_fields__))
    if unknown:
        raise ValueError(f"{config_class.__name__} has no field {', '.join(unknown)}.")
    state_dict = reference.unfuse(state_dict)
    inferred = reference.infer(state_dict) | {"num_labels": len(_need(state_dict, "head.weight"))}
    for name, value in config.items():
        known = inferred.get(name)
        if known is not None and (list(value) if isinstance(value, (list, tuple)) else value) != known:
            raise ValueError(f"`{name}={value}` contradicts the shapes of the state dict, which say {known}.")
    fields = reference.defaults | reference.published(inferred) | inferred | config
    for name, reason in reference.undetermined.items():
        if name not in fields:
            raise ValueError(f"{reason}: pass `{name}`.")

    model = family.classifier(config_class(**fields))
    sources = {_rename(key, reference.keys): key for key in state_dict}
    renamed = {ours: state_dict[theirs] for ours, theirs in sources.items()}
    ours = [key for key in model.state_dict() if ".mass_" not in key and ".aux_" not in key]
    missing = [_reference_name(key) for key in ours if key not in renamed]
    unexpected = [source for key, source in sources.items() if key not in ours]
    if missing or unexpected:
        raise KeyError(
            f"The state dict does not fit the {model_type} that its shapes describe: "
            f"missing {missing}, unexpected {unexpected}."
        )
    model.load_state_dict(renamed, strict=False)  # without the mass head
    return model.eval()
