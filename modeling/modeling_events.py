"""HitViT for whole events: jets are queries that look at the tokens of their event, all in one pass.

The encoder runs once over the event, 5000 to 60 000 tokens. Each jet then reads the tokens in its window as a model of
jets does, with their places relative to its axis, and looks at all tokens of the event, with a learned function of the
distance in its scores: a head may stay close to the jet, or see the whole event. The cost is linear in tokens.

Letters in shape comments, besides those of `modeling_tokens.py`: `J` jets of an event, `P` pairs of a jet and a token.
"""

from math import pi
from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from .modeling_activations import gelu
from .modeling_attention_pooling import MAX_SCORE
from .modeling_constants import constant
from .modeling_e2e import E2EForImageClassification, E2EOutput
from .modeling_hitvit import HitViTModel, HitViTPreTrainedModel, make_head
from .modeling_layers import Mlp
from .modeling_packed import sum_over_images
from .modeling_pooling import TokenAttentionPooling
from .modeling_precision import LayerNorm, no_autocast, widen
from .modeling_tokens import PIXEL, PackedTokens, pack
from .modeling_trainer import shown_to_trainer

__all__ = ["HitViTForJetsInEvents"]

RADII = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # in ΔR, of the bells of which a score's dependence on the distance is a sum
TYPICAL_PT = 500.0  # GeV


class JetWindows(NamedTuple):
    """The tokens around jets.

    Args:
        tokens: Those of B J windows, as if each were an image; they stay in one order.
        steps: `(P, 2)`, rows and columns from the jet's axis to each of them.
        origin: `(P,)`, their places among the tokens of events.
        place: `(P,)`, their places in `tokens`.
    """

    tokens: PackedTokens
    steps: torch.Tensor
    origin: torch.Tensor
    place: torch.Tensor


def steps_from_axes(tokens: PackedTokens, jets: torch.Tensor, width: int, periodic: bool) -> torch.Tensor:
    """Rows and columns from each jet's axis to the middle of each pixel, `(M, W, J, 2)`."""
    row, column = (axis.unsqueeze(1) for axis in jets[tokens.image][..., 1:].unbind(2))  # [M, 1, J]
    rows = (tokens.pixel // width).unsqueeze(2) + 0.5 - row
    columns = (tokens.pixel % width).unsqueeze(2) + 0.5 - column
    if periodic:
        columns = (columns + width / 2) % width - width / 2
    return torch.stack([rows, columns], dim=3)


@torch.compiler.disable  # the number of pairs is known only at run time
def make_windows(tokens: PackedTokens, steps: torch.Tensor, jets: torch.Tensor, reach: int) -> JetWindows:
    """The tokens at most `reach` rows and columns from each jet that has a pT."""
    is_near = (steps.abs().amax(3) <= reach) & tokens.is_token.unsqueeze(2)
    window, inside, jet = (is_near & (jets[..., 0] > 0)[tokens.image].unsqueeze(1)).nonzero(as_tuple=True)
    number = tokens.image[window] * jets.shape[1] + jet
    order = number.argsort(stable=True)
    window, inside, jet, number = (part[order] for part in (window, inside, jet, number))
    counts = torch.zeros(jets.shape[0] * jets.shape[1], dtype=torch.long, device=jets.device)
    counts = counts.index_add(0, number, torch.ones_like(number))
    place, image, starts = pack(number, counts, tokens.pixel.shape[1])
    shape = (len(image), tokens.pixel.shape[1])
    near = PackedTokens(
        values=_packed(tokens.values[window, inside], place, shape),
        is_token=_packed(torch.ones_like(place, dtype=torch.bool), place, shape),
        pixel=_packed(tokens.pixel[window, inside], place, shape),
        steps=_packed(steps[window, inside, jet], place, shape),
        image=image,
        counts=counts,
        starts=starts,
        to_second=place[:0],
        to_first=place[:0],
        neighbours=None,
    )
    return JetWindows(near, steps[window, inside, jet], window * tokens.pixel.shape[1] + inside, place)


def _packed(values: torch.Tensor, place: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    empty = values.new_zeros(shape[0] * shape[1], *values.shape[1:])
    return empty.index_put((place,), values).view(*shape, *values.shape[1:])


class JetAttention(nn.Module):
    """Each jet's mean of the tokens of its event, weighted with a softmax of scores that know the distance.

    A head adds to its scores Σ_i w_i exp(-(ΔR / r_i)²) with learned w_i. Scores are capped smoothly, as in
    [`AttentionPooling`].
    """

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.distance = nn.Parameter(torch.empty(self.num_heads, len(RADII)))
        self.reset_parameters()

    def reset_parameters(self):
        """The first head begins within ΔR of 0.2, further ones wider, and the last one sees the whole event."""
        init.zeros_(self.distance)
        for head in range(self.num_heads - 1):
            init.constant_(self.distance[head, min(1 + head, len(RADII) - 1)], MAX_SCORE / 2)

    def forward(self, queries, hidden_states, tokens: PackedTokens, bells: torch.Tensor) -> torch.Tensor:
        """`queries` `(B, J, D)`, tokens `(M, W, D)`, `bells` `(M, W, J, R)` of the distances, to `(B, J, D)`."""
        key, value = (
            part.unflatten(2, (self.num_heads, -1)).permute(0, 2, 1, 3)  # [M, h, W, d]
            for part in self.key_value(hidden_states).chunk(2, dim=-1)
        )
        query = self.query(queries).unflatten(2, (self.num_heads, -1)).transpose(1, 2)[tokens.image]  # [M, h, J, d]
        with no_autocast(hidden_states):
            scores, wide = widen(query * query.shape[-1] ** -0.5 @ key.transpose(2, 3), value)  # [M, h, J, W]
            scores = scores + (bells @ self.distance.t().to(bells.dtype)).permute(0, 3, 2, 1)
            weights = (MAX_SCORE * torch.tanh(scores / MAX_SCORE)).exp() * tokens.is_token[:, None, None]
            total = sum_over_images(weights.sum(3, keepdim=True), tokens)  # [B, h, J, 1]
            summed = sum_over_images(weights @ wide, tokens)
            context = summed / total.clamp(min=torch.finfo(summed.dtype).tiny)
        return self.proj(context.transpose(1, 2).flatten(2).to(queries.dtype))


class JetLayer(nn.Module):
    """Attention of jets to their event, and an MLP."""

    def __init__(self, config):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.norm1, self.norm2 = LayerNorm(width, eps=eps), LayerNorm(width, eps=eps)
        self.attn, self.mlp = JetAttention(config), Mlp(width, int(width * config.mlp_ratio))

    def forward(self, queries, hidden_states, tokens: PackedTokens, bells: torch.Tensor) -> torch.Tensor:
        queries = queries + self.attn(self.norm1(queries), hidden_states, tokens, bells)
        return queries + self.mlp(self.norm2(queries))


class JetDecoder(nn.Module):
    """From the tokens of events to one vector for each jet, and to the tokens of its window."""

    def __init__(self, config):
        super().__init__()
        width, self.periods = config.hidden_size, config.rotary_periods
        self.reach = config.jet_reach
        self.periodic, self.knows_column = config.periodic_columns, config.absolute_columns
        self.num_frequencies = width // config.num_attention_heads // 4
        self.embed = nn.Linear(4 if self.knows_column else 2, width)
        self.embed_mlp = Mlp(width, int(width * config.mlp_ratio))
        self.event = nn.Linear(width, width)
        self.place = nn.Linear(3 + 4 * self.num_frequencies, width)
        self.near = nn.Linear(width, width)
        self.near_output = nn.Linear(width, width)
        self.pooling = TokenAttentionPooling.of(config)
        self.layers = nn.ModuleList(JetLayer(config) for _ in range(config.num_query_layers))
        self.norm = LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, hidden_states, pooled, tokens: PackedTokens, jets: torch.Tensor, height: int, width: int):
        """Tokens `(M, W, D)` of events and a vector `(B, D)` of each, for `jets` `(B, J, 3)`, to jets `(B, J, D)`, and
        to tokens of B J windows."""
        dtype = hidden_states.dtype
        steps = steps_from_axes(tokens, jets, width, self.periodic)  # [M, W, J, 2]
        windows = make_windows(tokens, steps, jets, self.reach)  # pyright: ignore[reportCallIssue]
        seen = self._see(hidden_states, windows)
        features = [(jets[..., 0].clamp(min=1) / TYPICAL_PT).log(), (jets[..., 1] - height / 2) * (2 / height)]
        if self.knows_column:
            features += [(jets[..., 2] * (2 * pi / width)).cos(), (jets[..., 2] * (2 * pi / width)).sin()]
        queries = self.embed(torch.stack(features, dim=-1).to(dtype))
        queries = queries + self.embed_mlp(queries) + self.event(pooled).unsqueeze(1)
        queries = queries + self.pooling(seen, windows.tokens).view(queries.shape)
        radii = constant(RADII, steps.device) / PIXEL
        bells = (-steps.square().sum(3, keepdim=True) / radii.square()).exp()
        for layer in self.layers:
            queries = layer(queries, hidden_states, tokens, bells)
        return self.norm(queries), seen, windows.tokens

    def _see(self, hidden_states: torch.Tensor, windows: JetWindows) -> torch.Tensor:
        """The tokens of windows `(M', W, D)`, which know their places in them."""
        steps = windows.steps / self.reach  # [P, 2]
        periods = torch.linspace(0, 1, self.num_frequencies, device=steps.device)
        periods = self.periods[0] * (self.periods[1] / self.periods[0]) ** periods
        angles = (steps.unsqueeze(2) * (2 * pi * self.reach / periods)).flatten(1)
        places = torch.cat([steps, steps.norm(dim=1, keepdim=True), angles.cos(), angles.sin()], dim=1)
        seen = hidden_states.flatten(0, 1).index_select(0, windows.origin)
        seen = seen + self.near_output(gelu(self.near(seen) + self.place(places.to(seen.dtype))))
        return _packed(seen, windows.place, windows.tokens.pixel.shape)


def _checked_jets(jets: torch.Tensor | None, num_events: int) -> torch.Tensor:
    """In float32, with zeros where there is no jet; only a CPU refuses jets that are not finite."""
    if jets is None or jets.ndim != 3 or jets.shape[0] != num_events or jets.shape[2] != 3:
        got = "none" if jets is None else tuple(jets.shape)
        raise ValueError(f"Expected `jets` of shape ({num_events}, jets, 3): pT, row, column; got {got}.")
    jets = jets.float()
    is_known = jets.device.type == "cpu" and not torch.compiler.is_compiling()
    if is_known and not jets.isfinite().all():
        event, jet, _ = (~jets.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"`jets`: jet {jet} of event {event} is {jets[event, jet].tolist()} (pT, row, column); where an event has "
            "no such jet, all three are 0."
        )
    return jets.where(jets[..., :1] > 0, 0.0)


def _of_jets(name: str, values: torch.Tensor | None, jets: torch.Tensor, own: tuple = (), missing: bool = False):
    """Values of all jets one after the other, `(B J, ...)`.

    Args:
        own: Their shape for one jet.
        missing: Mark those of jets without a pT as missing.
    """
    if values is None:
        return None
    expected = (*jets.shape[:2], *own)
    if tuple(values.shape) != expected:
        raise ValueError(f"Expected `{name}` of shape {expected}, for each event and jet, got {tuple(values.shape)}.")
    values = values.flatten(0, 1)
    if not missing:
        return values
    is_jet = (jets[..., 0] > 0).view(-1, *[1] * len(own))
    return values.where(is_jet, float("nan") if values.is_floating_point() else -100)


class HitViTForJetsInEvents(HitViTPreTrainedModel, E2EForImageClassification):
    """HitViT with class and mass heads for each jet of an event."""

    def __init__(self, config):
        super().__init__(config)
        self.hitvit = HitViTModel(config)
        self.decoder = JetDecoder(config)
        self.head = make_head(config)
        self.post_init()

    @shown_to_trainer
    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        jets: torch.Tensor | None = None,
        aux_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        mass_labels: torch.Tensor | None = None,
        mass_weights: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        pixel_index: torch.Tensor | None = None,
        pixel_value: torch.Tensor | None = None,
        row_offsets: torch.Tensor | None = None,
        containment_labels: torch.Tensor | None = None,
        **kwargs,
    ) -> E2EOutput:
        r"""As [`HitViTForImageClassification`], for images of events, with one more axis in all targets and results:
        logits are `(B, J, num_labels)`, masses `(B, J)`.

        Args:
            jets (`torch.Tensor` of shape `(batch_size, num_jets, 3)`):
                pT [GeV], and row and column of the axis; the middle of the first pixel is at 0.5. Events with fewer
                jets are filled up with a pT of 0; what is returned for those means nothing, and they have no loss.

        Raises:
            ValueError: for jets or targets of another shape, a jet that is not finite (on CPUs), and as
                [`HitViTForImageClassification`].
        """
        tokens = self.base_model.make_tokens(pixel_values, pixel_index, pixel_value, row_offsets)
        jets = _checked_jets(jets, len(tokens.counts))
        outputs = self.base_outputs(
            pixel_values, output_hidden_states=output_hidden_states, packed=True, tokens=tokens, **kwargs
        )
        height, width = self.base_model.image_shape(pixel_values)
        queries, seen, near = self.decoder(
            outputs.last_hidden_state, outputs.pooler_output, tokens, jets, height, width
        )
        aux_values = _of_jets("aux_values", aux_values, jets, (self.config.num_aux_features,))
        predictions = self.head(queries.flatten(0, 1), aux_values, seen, near)
        several = () if labels is None or labels.ndim < 3 else (self.config.num_labels,)
        labels = _of_jets("labels", labels, jets, several, missing=True)
        mass_labels = _of_jets("mass_labels", mass_labels, jets, missing=True)
        mass_weights = _of_jets("mass_weights", mass_weights, jets)
        if containment_labels is not None:  # a missing target is NaN
            containment_labels = _of_jets("containment_labels", containment_labels.float(), jets, missing=True)
        result = self.with_losses(outputs, predictions, labels, mass_labels, mass_weights, containment_labels)
        for name in ("logits", "mass_preds", "mass_scale_preds", "mass_outputs", "containment_logits"):
            if name in result:
                result[name] = result[name].unflatten(0, jets.shape[:2])
        return result
